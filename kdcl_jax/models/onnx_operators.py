"""Operators of ONNX as JAX has them, for networks that classify.

https://onnx.ai/onnx/operators says what each does. What only depends on shapes
is computed at once, with NumPy: arrays of NumPy in, an array of NumPy out.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax.models import onnx_layers as layers
from kdcl_jax.models.onnx_layers import aligned

Operator = Callable[..., Any]
Attributes = Mapping[str, Any]


def _library(*arrays: Any) -> Any:
  """NumPy where everything is known already, else jax.numpy."""
  return np if all(isinstance(a, np.ndarray) for a in arrays) else jnp


def _elementwise(name: str) -> Operator:
  def apply(attributes: Attributes, *arrays: Any) -> Any:
    function = getattr(_library(*arrays), name)
    return functools.reduce(lambda a, b: function(*aligned(a, b)), arrays)

  return apply


def _unary(function: Callable[[Any], Any]) -> Operator:
  return lambda attributes, x: function(x)


def _named(name: str) -> Operator:
  return lambda attributes, x: getattr(_library(x), name)(x)


def _divide(attributes: Attributes, a: Any, b: Any) -> Any:
  library = _library(a, b)
  a, b = aligned(a, b)
  if np.issubdtype(a.dtype, np.integer):
    return library.trunc(library.true_divide(a, b)).astype(a.dtype)
  return library.true_divide(a, b)


def _modulo(attributes: Attributes, a: Any, b: Any) -> Any:
  name = "fmod" if attributes.get("fmod") else "mod"
  return getattr(_library(a, b), name)(*aligned(a, b))


def _numbers(values: Any, what: str) -> list[int]:
  """An input that has to be known when the graph is built."""
  if not isinstance(values, np.ndarray):
    raise ValueError(f"{what} depends on the picture, which is not supported")
  return [int(v) for v in values.ravel()]


def _axes(
  attributes: Attributes, given: Sequence[Any]
) -> tuple[int, ...] | None:
  """Axes, an input in newer versions and an attribute in older ones."""
  if given and given[0] is not None:
    return tuple(_numbers(given[0], "an axis"))
  return tuple(attributes["axes"]) if "axes" in attributes else None


def _reduce(name: str) -> Operator:
  def apply(attributes: Attributes, x: Any, *given: Any) -> Any:
    axes = _axes(attributes, given)
    if axes == () or (axes is None and attributes.get("noop_with_empty_axes")):
      return x
    keep = bool(attributes.get("keepdims", 1))
    return getattr(_library(x), name)(x, axis=axes, keepdims=keep)

  return apply


def _clip(
  attributes: Attributes, x: Any, low: Any = None, high: Any = None
) -> Any:
  low = attributes.get("min") if low is None else low.reshape(())
  high = attributes.get("max") if high is None else high.reshape(())
  return jnp.clip(x, low, high)


def _cast(attributes: Attributes, x: Any) -> Any:
  kind = attributes["to"]
  if isinstance(x, np.ndarray):
    return x.astype(kind)
  return x.astype(jax.dtypes.canonicalize_dtype(kind))


def _reshape(attributes: Attributes, x: Any, shape: Any) -> Any:
  sides = _numbers(shape, "a shape")
  if not attributes.get("allowzero"):
    sides = [x.shape[i] if n == 0 else n for i, n in enumerate(sides)]
  return x.reshape(sides)


def _flatten(attributes: Attributes, x: Any) -> Any:
  axis = attributes.get("axis", 1) % (x.ndim + 1)
  return x.reshape((math.prod(x.shape[:axis]), -1))


def _transpose(attributes: Attributes, x: Any) -> Any:
  return x.transpose(attributes.get("perm", tuple(range(x.ndim))[::-1]))


def _squeeze(attributes: Attributes, x: Any, *given: Any) -> Any:
  return _library(x).squeeze(x, axis=_axes(attributes, given))


def _unsqueeze(attributes: Attributes, x: Any, *given: Any) -> Any:
  return _library(x).expand_dims(x, _axes(attributes, given))


def _concat(attributes: Attributes, *arrays: Any) -> Any:
  return _library(*arrays).concatenate(arrays, attributes["axis"])


def _split(attributes: Attributes, x: Any, sizes: Any = None) -> Any:
  axis = attributes.get("axis", 0)
  if sizes is not None or "split" in attributes:
    parts = attributes.get("split") if sizes is None else None
    parts = _numbers(sizes, "a split") if parts is None else parts
  else:
    count = attributes.get("num_outputs", attributes["outputs"])
    whole = -(-x.shape[axis] // count)
    parts = [whole] * (count - 1) + [x.shape[axis] - whole * (count - 1)]
  return _library(x).split(x, np.cumsum(parts)[:-1], axis)


def _slice(attributes: Attributes, x: Any, *given: Any) -> Any:
  if given:
    starts, ends = (_numbers(one, "a slice") for one in given[:2])
    axes = _numbers(given[2], "a slice") if len(given) > 2 else None
    steps = _numbers(given[3], "a slice") if len(given) > 3 else None
  else:
    starts, ends = attributes["starts"], attributes["ends"]
    axes, steps = attributes.get("axes"), None
  places = [slice(None)] * x.ndim
  axes = range(len(starts)) if axes is None else axes
  steps = [1] * len(starts) if steps is None else steps
  for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
    if step < 0 and end < -x.shape[axis]:
      end = None  # before the first one
    places[axis] = slice(start, end, step)
  return x[tuple(places)]


def _gather(attributes: Attributes, x: Any, index: Any) -> Any:
  axis = attributes.get("axis", 0)
  library = _library(x, index)
  if isinstance(index, np.ndarray):
    index = np.where(index < 0, index + x.shape[axis], index)
  return library.take(x, index, axis=axis)


def _expand(attributes: Attributes, x: Any, shape: Any) -> Any:
  wanted = tuple(_numbers(shape, "a shape"))
  return _library(x).broadcast_to(
    x.reshape((1,) * (len(wanted) - x.ndim) + x.shape),
    np.broadcast_shapes(x.shape, wanted),
  )


def _pad(
  attributes: Attributes,
  x: Any,
  pads: Any = None,
  value: Any = None,
  axes: Any = None,
) -> Any:
  mode = attributes.get("mode", "constant")
  widths = attributes.get("pads") if pads is None else _numbers(pads, "a pad")
  axes = range(x.ndim) if axes is None else _numbers(axes, "an axis")
  pairs = [(0, 0)] * x.ndim
  for place, axis in enumerate(axes):
    pairs[axis] = (widths[place], widths[place + len(widths) // 2])
  if mode == "constant":
    fill = attributes.get("value", 0.0) if value is None else value
    return jnp.pad(x, pairs, constant_values=fill)
  return jnp.pad(x, pairs, mode=mode)


def _matmul(attributes: Attributes, a: Any, b: Any) -> Any:
  if a.ndim < 2 or b.ndim < 2:
    return jnp.matmul(a, b)
  return jnp.matmul(*aligned(a, b))


def _gemm(attributes: Attributes, a: Any, b: Any, c: Any = None) -> Any:
  a = a.T if attributes.get("transA") else a
  b = b.T if attributes.get("transB") else b
  product = attributes.get("alpha", 1.0) * (a @ b)
  if c is None:
    return product
  return jnp.add(*aligned(product, attributes.get("beta", 1.0) * c))


def _softmax(function: Callable[..., Any]) -> Operator:
  def apply(attributes: Attributes, x: Any) -> Any:
    if attributes["version"] >= 13:
      return function(x, axis=attributes.get("axis", -1))
    axis = attributes.get("axis", 1) % x.ndim  # it and all after it are one
    flat = x.reshape((math.prod(x.shape[:axis]), -1))
    return function(flat, axis=-1).reshape(x.shape)

  return apply


def _constant_of_shape(attributes: Attributes, shape: Any) -> np.ndarray:
  value = attributes.get("value", np.zeros(1, np.float32))
  return np.full(_numbers(shape, "a shape"), value.ravel()[0], value.dtype)


def _where(attributes: Attributes, *arrays: Any) -> Any:
  return _library(*arrays).where(*aligned(*arrays))


def _gelu(attributes: Attributes, x: Any) -> Any:
  return jax.nn.gelu(x, approximate=attributes.get("approximate") == "tanh")


def _hard_sigmoid(attributes: Attributes, x: Any) -> Any:
  slope = attributes.get("alpha", 0.2)
  return jnp.clip(slope * x + attributes.get("beta", 0.5), 0.0, 1.0)


def _leaky_relu(attributes: Attributes, x: Any) -> Any:
  return jax.nn.leaky_relu(x, attributes.get("alpha", 0.01))


def _prelu(attributes: Attributes, x: Any, slope: Any) -> Any:
  x, slope = aligned(x, slope)
  return jnp.where(x < 0, slope * x, x)


def _tile(attributes: Attributes, x: Any, repeats: Any) -> Any:
  return _library(x).tile(x, _numbers(repeats, "a repeat"))


# Each takes attributes (with `version` of the operator set and the number of
# `outputs`) and the inputs, None for one that is left out.
OPERATORS: dict[str, Operator] = {
  "Abs": _named("abs"),
  "Add": _elementwise("add"),
  "And": _elementwise("logical_and"),
  "AveragePool": layers.pool("mean"),
  "BatchNormalization": layers.batch_norm,
  "Cast": _cast,
  "Ceil": _named("ceil"),
  "Clip": _clip,
  "Concat": _concat,
  "Constant": lambda attributes: attributes["value"],
  "ConstantOfShape": _constant_of_shape,
  "Conv": layers.conv,
  "Cos": _named("cos"),
  "Div": _divide,
  "Dropout": lambda attributes, x, *_: x,
  "Elu": lambda attributes, x: jax.nn.elu(x, attributes.get("alpha", 1.0)),
  "Equal": _elementwise("equal"),
  "Erf": _unary(jax.lax.erf),
  "Exp": _named("exp"),
  "Expand": _expand,
  "Flatten": _flatten,
  "Floor": _named("floor"),
  "Gather": _gather,
  "Gelu": _gelu,
  "Gemm": _gemm,
  "GlobalAveragePool": layers.global_pool("mean"),
  "GlobalMaxPool": layers.global_pool("max"),
  "Greater": _elementwise("greater"),
  "GreaterOrEqual": _elementwise("greater_equal"),
  "HardSigmoid": _hard_sigmoid,
  "HardSwish": _unary(jax.nn.hard_swish),
  "Identity": _unary(lambda x: x),
  "InstanceNormalization": layers.instance_norm,
  "LayerNormalization": layers.layer_norm,
  "LeakyRelu": _leaky_relu,
  "Less": _elementwise("less"),
  "LessOrEqual": _elementwise("less_equal"),
  "Log": _named("log"),
  "LogSoftmax": _softmax(jax.nn.log_softmax),
  "MatMul": _matmul,
  "Max": _elementwise("maximum"),
  "MaxPool": layers.pool("max"),
  "Min": _elementwise("minimum"),
  "Mish": _unary(jax.nn.mish),
  "Mod": _modulo,
  "Mul": _elementwise("multiply"),
  "Neg": _named("negative"),
  "Not": _named("logical_not"),
  "Or": _elementwise("logical_or"),
  "PRelu": _prelu,
  "Pad": _pad,
  "Pow": _elementwise("power"),
  "Range": lambda attributes, *ends: np.arange(*(one.item() for one in ends)),
  "Reciprocal": _named("reciprocal"),
  "ReduceMax": _reduce("max"),
  "ReduceMean": _reduce("mean"),
  "ReduceMin": _reduce("min"),
  "ReduceProd": _reduce("prod"),
  "ReduceSum": _reduce("sum"),
  "Relu": _unary(jax.nn.relu),
  "Reshape": _reshape,
  "Shape": lambda attributes, x: np.asarray(x.shape, np.int64)[
    attributes.get("start", 0) : attributes.get("end")
  ],
  "Sigmoid": _unary(jax.nn.sigmoid),
  "Sin": _named("sin"),
  "Slice": _slice,
  "Softmax": _softmax(jax.nn.softmax),
  "Softplus": _unary(jax.nn.softplus),
  "Split": _split,
  "Sqrt": _named("sqrt"),
  "Squeeze": _squeeze,
  "Sub": _elementwise("subtract"),
  "Sum": _elementwise("add"),
  "Tanh": _named("tanh"),
  "Tile": _tile,
  "Transpose": _transpose,
  "Unsqueeze": _unsqueeze,
  "Where": _where,
}
