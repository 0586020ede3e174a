"""A model as an ONNX graph, in float32 and quantised to int8."""

import collections
import contextlib
import io
import logging
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import export

from kdcl_jax.errors import UserError
from kdcl_jax.export.subject import Subject

OPSET = 21  # of ONNX Runtime 1.20 and later


def convert(subject: Subject, *, folded: bool = True) -> bytes:
  """Converts a model, with a free batch size.

  Args:
    subject: the model.
    folded: whether constants are computed beforehand and each BatchNorm becomes
      part of the convolution before it.

  Returns:
    The content of an .onnx file: `image` [batch, ...] -> `logits` [batch, K].

  Raises:
    UserError: where an operation of the model has no translation.
  """
  import jax2onnx

  rows = export.symbolic_shape("batch")[0]
  pictures = jax.ShapeDtypeStruct((rows, *subject.shape), subject.dtype)
  try:
    with _quiet(), jax.numpy_rank_promotion("allow"):
      graph = jax2onnx.to_onnx(
        subject.logits,
        [pictures],
        model_name=subject.name,
        opset=OPSET,
        input_names=["image"],
        output_names=["logits"],
      )
  except Exception as error:  # jax2onnx raises whatever it fails at
    reason = (str(error).strip().splitlines() or [""])[0]
    raise UserError(
      f"--to=onnx: jax2onnx cannot translate the model of stage"
      f" {subject.name!r} ({type(error).__name__}: {reason[:200]}); expected"
      " another format, such as stablehlo."
    ) from error
  content = graph.SerializeToString()
  return _folded(content) if folded else content


def _folded(content: bytes) -> bytes:
  """What ONNX Runtime's basic optimisations make of a graph.

  They are those that stay within ONNX, so that any runtime takes the result:
  constants are folded, a product and a sum after a convolution become part of
  its weights and bias, transpositions that undo each other go.
  """
  import onnx
  import onnxruntime

  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = (
      onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    )
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
      content, options, providers=["CPUExecutionProvider"]
    )
    graph = onnx.load(path)
  _absorb(graph.graph)
  used = {node.domain for node in graph.graph.node} | {""}
  versions = [one for one in graph.opset_import if one.domain in used]
  del graph.opset_import[:]
  graph.opset_import.extend(versions)
  onnx.checker.check_model(graph)
  return graph.SerializeToString()


def _absorb(graph: Any) -> None:
  """Puts what is left of a BatchNorm into the convolution before it.

  ONNX Runtime does not look past a transposition: of a convolution, a
  transposition that brings the channels last, a product and a sum, with a
  constant for each channel, the last two become weights and bias.
  """
  from onnx import numpy_helper

  constants = {one.name: one for one in graph.initializer}
  makers = {name: node for node in graph.node for name in node.output}
  uses = collections.Counter(n for node in graph.node for n in node.input)
  for node in list(graph.node):
    names = [name for name in node.input if name in constants]
    if node.op_type not in ("Mul", "Add") or len(names) != 1:
      continue
    (given,) = (name for name in node.input if name not in constants)
    turn = makers.get(given)
    conv = makers.get(turn.input[0]) if turn is not None else None
    if conv is None or (turn.op_type, conv.op_type) != ("Transpose", "Conv"):
      continue
    value = numpy_helper.to_array(constants[names[0]]).reshape(-1)
    weights = numpy_helper.to_array(constants[conv.input[1]])
    has_bias = len(conv.input) > 2
    bias = np.zeros(len(weights), weights.dtype)
    if has_bias:
      bias = numpy_helper.to_array(constants[conv.input[2]])
    if (
      turn.attribute[0].ints[-1] != 1  # the channels are not the last
      or value.shape != bias.shape
      or any(uses[name] > 1 for name in (given, *turn.input, *conv.input[1:]))
    ):
      continue
    if node.op_type == "Mul":
      weights = weights * value.reshape(-1, *[1] * (weights.ndim - 1))
      bias = bias * value
    else:
      bias = bias + value
    for place, array in ((1, weights), (2, bias)):
      name = f"{conv.output[0]}_{('weights', 'bias')[place - 1]}"
      if len(conv.input) > place:
        graph.initializer.remove(constants.pop(conv.input[place]))
        conv.input[place] = name
      else:
        conv.input.append(name)
      constants[name] = numpy_helper.from_array(array, name)
      graph.initializer.append(constants[name])
      uses[name] = 1
    turn.output[0] = node.output[0]
    makers[node.output[0]] = turn
    graph.node.remove(node)
    graph.initializer.remove(constants.pop(names[0]))


def quantize(content: bytes, pictures: np.ndarray) -> bytes:
  """Quantises a graph to int8, weights for each channel by itself.

  The ranges of the activations are those that the calibration pictures span.

  Args:
    content: of a float32 file, folded.
    pictures: [N, ...] to calibrate with.

  Returns:
    The content of an .onnx file with quantise and dequantise nodes (QDQ).
  """
  from onnxruntime import quantization

  with tempfile.TemporaryDirectory() as folder, _quiet():
    before = pathlib.Path(folder) / "float32.onnx"
    after = pathlib.Path(folder) / "int8.onnx"
    before.write_bytes(content)
    quantization.quantize_static(
      str(before),
      str(after),
      _Pictures(pictures),
      quant_format=quantization.QuantFormat.QDQ,
      activation_type=quantization.QuantType.QInt8,
      weight_type=quantization.QuantType.QInt8,
      per_channel=True,
    )
    return after.read_bytes()


class _Pictures:
  """Hands the calibration pictures over, a few at a time."""

  def __init__(self, pictures: np.ndarray, rows: int = 32):
    self._batches = iter(
      pictures[start : start + rows] for start in range(0, len(pictures), rows)
    )

  def get_next(self) -> dict[str, np.ndarray] | None:
    """The next batch; None after the last."""
    batch = next(self._batches, None)
    return None if batch is None else {"image": batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps what the converters print about themselves from the terminal."""
  before = logging.root.manager.disable
  logging.disable(logging.ERROR)
  printed: Any = io.StringIO()
  try:
    with (
      contextlib.redirect_stdout(printed),
      contextlib.redirect_stderr(printed),
      warnings.catch_warnings(),
    ):
      warnings.simplefilter("ignore")
      yield
  finally:
    logging.disable(before)
