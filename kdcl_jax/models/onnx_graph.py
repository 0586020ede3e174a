"""Networks in ONNX files as functions of their arrays and a picture."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdcl_jax.models.onnx_operators import OPERATORS

TAKEN = (np.dtype(np.float32), np.dtype(np.uint8))
_FEW = 64  # numbers; what is smaller may be a shape, and is part of the graph


@dataclasses.dataclass(frozen=True)
class Graph:
  """A network with one input and its logits.

  Attributes:
    shape: of the input, the batch first; None for what is open.
    dtype: of the input, one of `TAKEN`.
    arrays: name -> weights, on the host.
    function: (arrays, x) -> logits.
  """

  shape: tuple[int | None, ...]
  dtype: np.dtype
  arrays: dict[str, np.ndarray]
  function: Callable[[Mapping[str, Any], Any], Any]


def load(path: pathlib.Path) -> Graph:
  """Reads an ONNX file.

  Args:
    path: the file. Nothing in it is run but the operators of `OPERATORS`.

  Returns:
    The network.

  Raises:
    ValueError: where it is none that can be called, the end of a sentence.
  """
  try:
    import onnx  # an extra
    import onnx.inliner
  except ImportError as error:
    raise ValueError(
      "for which the package onnx is needed: pip install 'kdcl_jax[onnx]', or"
      " export the model as StableHLO"
    ) from error
  try:
    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    if model.functions:
      model = onnx.inliner.inline_local_functions(model)
  except Exception as error:  # protobuf's, the checker's, the file system's
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ValueError(f"which is no readable ONNX file ({reason})") from error
  graph = model.graph
  unknown = {
    f"{node.domain}.{node.op_type}".lstrip(".")
    for node in graph.node
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS
  }
  if unknown:
    raise ValueError(
      f"whose operators {', '.join(sorted(unknown))} are not known here; export"
      " the model as StableHLO instead"
    )
  numbers = {
    one.name: np.array(onnx.numpy_helper.to_array(one))
    for one in graph.initializer
  }
  inputs = [one for one in graph.input if one.name not in numbers]
  if len(inputs) != 1 or _kind(onnx, inputs[0]) not in TAKEN:
    told = ", ".join(f"{one.name} ({_kind(onnx, one)})" for one in inputs)
    raise ValueError(
      f"which takes {told or 'nothing'}, expected one float32 or uint8"
    )
  versions = [s.version for s in model.opset_import if not s.domain]
  nodes = [_node(onnx, node, versions[0]) for node in graph.node]
  weights = {
    name: array
    for name, array in numbers.items()
    if array.dtype == np.float32 and array.size >= _FEW
  }
  fixed = {k: v for k, v in numbers.items() if k not in weights}
  own = {name: name.replace("/", "|") for name in weights}
  source, target = inputs[0].name, _target(graph)

  def function(arrays: Mapping[str, Any], x: Any) -> Any:
    values = {**fixed, source: x, "": None}
    values |= {name: jnp.asarray(arrays[ours]) for name, ours in own.items()}
    for operator, attributes, taken, given in nodes:
      found = OPERATORS[operator](attributes, *(values[n] for n in taken))
      several = found if isinstance(found, list | tuple) else [found]
      several = [  # NumPy turns arrays without axes into its numbers
        np.asarray(one) if isinstance(one, np.generic) else one
        for one in several
      ]
      values.update(zip(given, several, strict=False))
    return jnp.asarray(values[target])

  shape = tuple(
    dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim
  )
  arrays = {own[name]: array for name, array in weights.items()}
  return Graph(shape, _kind(onnx, inputs[0]), arrays, function)


def _target(graph: Any) -> str:
  """The output that holds the logits."""
  names = [one.name for one in graph.output]
  if "logits" in names:
    return "logits"
  if len(names) != 1:
    raise ValueError(
      f"which gives {', '.join(names)}, expected one output or 'logits'"
    )
  return names[0]


def _kind(onnx: Any, value: Any) -> Any:
  """The type of a graph's input."""
  number = value.type.tensor_type.elem_type
  return onnx.helper.tensor_dtype_to_np_dtype(number) if number else None


def _node(
  onnx: Any, node: Any, version: int
) -> tuple[str, dict[str, Any], list[str], list[str]]:
  """Operator, attributes, names of inputs and outputs."""
  attributes: dict[str, Any] = {"version": version, "outputs": len(node.output)}
  for one in node.attribute:
    value = onnx.helper.get_attribute_value(one)
    if isinstance(value, onnx.TensorProto):
      value = np.array(onnx.numpy_helper.to_array(value))
    elif isinstance(value, bytes):
      value = value.decode()
    elif node.op_type == "Constant":  # value_float, value_ints, ...
      kind = np.float32 if "float" in one.name else np.int64
      value = np.asarray(value, kind)
    attributes["value" if node.op_type == "Constant" else one.name] = value
  if node.op_type == "Cast":
    attributes["to"] = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
  if node.op_type == "BatchNormalization" and attributes.get("training_mode"):
    raise ValueError("whose batch normalisation is in training mode")
  taken = list(node.input)
  while taken and not taken[-1]:
    taken.pop()
  return node.op_type, attributes, taken, list(node.output)
