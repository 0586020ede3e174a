"""Networks in ONNX files give what ONNX's own reference evaluator gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax.models import onnx_graph
from kdcl_jax.models.onnx_operators import OPERATORS

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
reference = pytest.importorskip("onnx.reference")
h = onnx.helper

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def positive(*shape):
  return np.abs(array(*shape)) + 0.1


def whole(*numbers):
  return np.asarray(numbers, np.int64)


PICTURE = array(3, 4, 9, 7)
FLAT = array(3, 6)
# name -> (operator, x, further inputs, attributes)
CASES = {
  "convolution": ("Conv", PICTURE, [array(6, 4, 3, 3), array(6)], {}),
  "convolution, strided": (
    "Conv",
    PICTURE,
    [array(6, 4, 3, 3)],
    dict(strides=[2, 2], pads=[1, 0, 0, 1], dilations=[2, 1]),
  ),
  "convolution, depthwise": (
    "Conv",
    PICTURE,
    [array(8, 1, 3, 3)],
    dict(group=4, pads=[1, 1, 1, 1]),
  ),
  "convolution, same": (
    "Conv",
    PICTURE,
    [array(2, 4, 3, 2)],
    dict(auto_pad="SAME_UPPER", strides=[2, 2]),
  ),
  "convolution, same below": (
    "Conv",
    PICTURE,
    [array(2, 4, 3, 2)],
    dict(auto_pad="SAME_LOWER", strides=[2, 2]),
  ),
  "convolution of a line": ("Conv", array(2, 3, 8), [array(5, 3, 3)], {}),
  "batch norm": (
    "BatchNormalization",
    PICTURE,
    [array(4), array(4), array(4), positive(4)],
    dict(epsilon=1e-3),
  ),
  "layer norm": (
    "LayerNormalization",
    array(2, 5, 6),
    [array(6), array(6)],
    dict(epsilon=1e-6),
  ),
  "instance norm": (
    "InstanceNormalization",
    PICTURE,
    [array(4), array(4)],
    {},
  ),
  "max pool": (
    "MaxPool",
    PICTURE,
    [],
    dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
  ),
  "max pool, last windows not whole": (
    "MaxPool",
    PICTURE,
    [],
    dict(kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
  ),
  "average pool": (
    "AveragePool",
    PICTURE,
    [],
    dict(kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
  ),
  "average pool with the padding": (
    "AveragePool",
    PICTURE,
    [],
    dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
  ),
  "global average": ("GlobalAveragePool", PICTURE, [], {}),
  "global maximum": ("GlobalMaxPool", PICTURE, [], {}),
  "gemm": (
    "Gemm",
    FLAT,
    [array(5, 6), array(5)],
    dict(transB=1, alpha=0.5, beta=2.0),
  ),
  "matmul of a stack": ("MatMul", array(2, 3, 4, 5), [array(5, 6)], {}),
  "relu": ("Relu", FLAT, [], {}),
  "leaky relu": ("LeakyRelu", FLAT, [], dict(alpha=0.2)),
  "prelu": ("PRelu", PICTURE, [array(4, 1, 1)], {}),
  "elu": ("Elu", FLAT, [], dict(alpha=0.5)),
  "gelu": ("Gelu", FLAT, [], {}),
  "gelu by tanh": ("Gelu", FLAT, [], dict(approximate="tanh")),
  "erf": ("Erf", FLAT, [], {}),
  "sigmoid": ("Sigmoid", FLAT, [], {}),
  "hard sigmoid": ("HardSigmoid", FLAT, [], dict(alpha=0.3, beta=0.4)),
  "hard swish": ("HardSwish", FLAT, [], {}),
  "mish": ("Mish", FLAT, [], {}),
  "softplus": ("Softplus", FLAT, [], {}),
  "tanh": ("Tanh", FLAT, [], {}),
  "exp": ("Exp", FLAT, [], {}),
  "log": ("Log", positive(2, 3), [], {}),
  "square root": ("Sqrt", positive(2, 3), [], {}),
  "reciprocal": ("Reciprocal", positive(2, 3), [], {}),
  "clip": ("Clip", FLAT, [np.float32(-0.5), np.float32(0.5)], {}),
  "softmax": ("Softmax", array(2, 3, 4), [], dict(axis=1)),
  "log softmax": ("LogSoftmax", FLAT, [], {}),
  "add": ("Add", PICTURE, [array(4, 1, 1)], {}),
  "subtract": ("Sub", FLAT, [array(1)], {}),
  "multiply": ("Mul", FLAT, [array(6)], {}),
  "divide": ("Div", FLAT, [positive(6)], {}),
  "power": ("Pow", positive(2, 3), [np.float32(1.5)], {}),
  "remainder": ("Mod", FLAT, [positive(6)], dict(fmod=1)),
  "maximum": ("Max", FLAT, [array(6), array(3, 1)], {}),
  "sum": ("Sum", FLAT, [array(6), array(3, 1)], {}),
  "reshape": ("Reshape", PICTURE, [whole(0, -1, 7)], {}),
  "flatten": ("Flatten", PICTURE, [], dict(axis=2)),
  "transpose": ("Transpose", PICTURE, [], dict(perm=[0, 2, 3, 1])),
  "transpose, reversed": ("Transpose", FLAT, [], {}),
  "squeeze": ("Squeeze", array(2, 1, 3, 1), [whole(1, -1)], {}),
  "unsqueeze": ("Unsqueeze", FLAT, [whole(0, 2)], {}),
  "slice": ("Slice", PICTURE, [whole(1, -3), whole(9, -1), whole(2, 3)], {}),
  "slice backwards": (
    "Slice",
    FLAT,
    [whole(-1), whole(-99), whole(1), whole(-2)],
    {},
  ),
  "gather": ("Gather", FLAT, [whole(0, -1, 2)], dict(axis=1)),
  "concatenate": ("Concat", FLAT, [array(3, 2)], dict(axis=1)),
  "expand": ("Expand", array(3, 1), [whole(2, 1, 4)], {}),
  "tile": ("Tile", FLAT, [whole(2, 3)], {}),
  "pad": ("Pad", FLAT, [whole(1, 0, 0, 2), np.float32(0.5)], {}),
  "pad by reflection": ("Pad", FLAT, [whole(0, 1, 0, 2)], dict(mode="reflect")),
  "mean": ("ReduceMean", PICTURE, [whole(2, 3)], dict(keepdims=0)),
  "sum over all": ("ReduceSum", FLAT, [], {}),
  "largest": ("ReduceMax", FLAT, [whole(-1)], {}),
  "cast": ("Cast", FLAT, [], dict(to=onnx.TensorProto.FLOAT)),
  "dropout": ("Dropout", FLAT, [], {}),
}


def model_of(nodes, x, arrays, opset=21, *, free=False, kind=None):
  shape = ["n", *x.shape[1:]] if free else list(x.shape)
  graph = h.make_graph(
    nodes,
    "test",
    [h.make_tensor_value_info("x", kind or onnx.TensorProto.FLOAT, shape)],
    [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["?"])],
    [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
  )
  return h.make_model(
    graph, opset_imports=[h.make_opsetid("", opset)], ir_version=9
  )


def both(tmp_path, model, x):
  """What we make of a model, and what ONNX's reference makes of it."""
  path = tmp_path / "model.onnx"
  onnx.save(model, path)
  graph = onnx_graph.load(path)
  ours = jax.jit(graph.function)(graph.arrays, jnp.asarray(x))
  theirs = reference.ReferenceEvaluator(model).run(None, {"x": x})[0]
  return np.asarray(ours), theirs, graph


@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_what_the_reference_gives(case, tmp_path):
  operator, x, further, attributes = CASES[case]
  arrays = {f"a{i}": array for i, array in enumerate(further)}
  node = h.make_node(operator, ["x", *arrays], ["y"], **attributes)
  ours, theirs, _ = both(tmp_path, model_of([node], x, arrays), x)
  assert ours.shape == theirs.shape
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_split_gives_its_parts(tmp_path):
  for attributes, arrays in (
    (dict(num_outputs=2), {}),
    ({}, {"sizes": whole(4, 2)}),
  ):
    nodes = [
      h.make_node("Split", ["x", *arrays], ["a", "b"], axis=1, **attributes),
      h.make_node("Concat", ["b", "a"], ["y"], axis=1),
    ]
    ours, theirs, _ = both(tmp_path, model_of(nodes, FLAT, arrays), FLAT)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rows", [1, 3])
def test_what_only_depends_on_shapes_is_known_in_time(rows, tmp_path):
  """As torch exports `x.view(x.shape[0], -1)` and a class token."""
  nodes = [
    h.make_node("Shape", ["x"], ["shape"]),
    h.make_node("Gather", ["shape", "zero"], ["rows"], axis=0),
    h.make_node("Unsqueeze", ["rows", "axis"], ["first"]),
    h.make_node("Mul", ["width", "two"], ["twice"]),
    h.make_node("Div", ["twice", "two"], ["half"]),
    h.make_node("Concat", ["first", "half"], ["wanted"], axis=0),
    h.make_node("ConstantOfShape", ["wanted"], ["zeros"]),
    h.make_node("Equal", ["wanted", "half"], ["same"]),
    h.make_node("Where", ["same", "half", "wanted"], ["again"]),
    h.make_node("Reshape", ["x", "again"], ["flat"]),
    h.make_node("Add", ["flat", "zeros"], ["y"]),
  ]
  arrays = {
    "zero": np.int64(0),
    "axis": whole(0),
    "width": whole(252),
    "two": whole(2),
  }
  model = model_of(nodes, PICTURE, arrays, free=True)
  ours, theirs, graph = both(tmp_path, model, PICTURE[:rows])
  assert graph.shape == (None, 4, 9, 7)
  np.testing.assert_array_equal(ours, theirs)


def test_older_operator_sets_have_their_axes_as_attributes(tmp_path):
  nodes = [
    h.make_node("Unsqueeze", ["x"], ["a"], axes=[1]),
    h.make_node("ReduceMean", ["a"], ["b"], axes=[2], keepdims=1),
    h.make_node("Squeeze", ["b"], ["c"], axes=[1]),
    h.make_node("Clip", ["x"], ["d"], min=-0.5, max=0.5),
    h.make_node("Pad", ["d"], ["e"], pads=[0, 0, 0, 1]),
    h.make_node("Slice", ["e"], ["f"], starts=[0], ends=[6], axes=[1]),
    h.make_node("Softmax", ["f"], ["g"], axis=0),
    h.make_node("Add", ["g", "c"], ["y"]),
  ]
  model = model_of(nodes, FLAT, {}, opset=9)
  ours, _, _ = both(tmp_path, model, FLAT)
  # The reference evaluator has forgotten what softmax was before version 13.
  runtime = pytest.importorskip("onnxruntime", reason="it is not installed")
  session = runtime.InferenceSession(model.SerializeToString())
  (theirs,) = session.run(None, {"x": FLAT})
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_weights_are_apart_from_the_graph_and_small_arrays_are_not(tmp_path):
  arrays = {"layer/w": array(6, 20), "small": array(20)}
  nodes = [
    h.make_node("MatMul", ["x", "layer/w"], ["a"]),
    h.make_node("Add", ["a", "small"], ["y"]),
  ]
  ours, theirs, graph = both(tmp_path, model_of(nodes, FLAT, arrays), FLAT)
  assert list(graph.arrays) == ["layer|w"]
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  none = {name: np.zeros_like(a) for name, a in graph.arrays.items()}
  np.testing.assert_allclose(
    graph.function(none, FLAT), np.tile(arrays["small"], (3, 1))
  )


def test_functions_of_a_model_are_inlined(tmp_path):
  node = h.make_node("Relu", ["a"], ["b"])
  own = h.make_function(
    "mine", "Rectified", ["a"], ["b"], [node], [h.make_opsetid("", 21)]
  )
  model = model_of(
    [h.make_node("Rectified", ["x"], ["y"], domain="mine")], FLAT, {}
  )
  model.functions.append(own)
  model.opset_import.append(h.make_opsetid("mine", 1))
  ours, theirs, _ = both(tmp_path, model, FLAT)
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
  ("node", "words"),
  [
    (h.make_node("Det", ["x"], ["y"]), "operators Det"),
    (h.make_node("Fast", ["x"], ["y"], domain="com.me"), "com.me.Fast"),
  ],
)
def test_an_unknown_operator_is_named(node, words, tmp_path):
  model = model_of([node], array(3, 3), {})
  model.opset_import.append(h.make_opsetid("com.me", 1))
  onnx.save(model, tmp_path / "model.onnx")
  with pytest.raises(ValueError, match=words):
    onnx_graph.load(tmp_path / "model.onnx")


def test_a_file_of_something_else_is_refused(tmp_path):
  path = tmp_path / "model.onnx"
  path.write_bytes(b"no network at all")
  with pytest.raises(ValueError, match="no readable ONNX file"):
    onnx_graph.load(path)


def test_inputs_of_other_types_are_refused(tmp_path):
  node = h.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)
  model = model_of([node], FLAT, {}, kind=onnx.TensorProto.DOUBLE)
  onnx.save(model, tmp_path / "model.onnx")
  with pytest.raises(ValueError, match="float64.*expected one float32"):
    onnx_graph.load(tmp_path / "model.onnx")


def test_every_operator_is_one_of_onnx():
  known = {one.name for one in onnx.defs.get_all_schemas()}
  assert set(OPERATORS) <= known
