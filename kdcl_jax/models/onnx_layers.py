"""Layers of ONNX as JAX has them: convolutions, pools, normalisations.

Each takes a node's attributes and inputs; pictures are [B, C, H, W].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Attributes = Mapping[str, Any]


def aligned(*arrays: Any) -> list[Any]:
  """With leading axes of 1, so that all have as many axes."""
  rank = max(a.ndim for a in arrays)
  return [a.reshape((1,) * (rank - a.ndim) + a.shape) for a in arrays]


def _padding(
  attributes: Attributes,
  sides: Sequence[int],
  kernel: Sequence[int],
  strides: Sequence[int],
  dilations: Sequence[int],
) -> list[tuple[int, int]]:
  """Zeros before and after each side of a picture."""
  kind = attributes.get("auto_pad", "NOTSET")
  rank = len(sides)
  if kind == "NOTSET":
    pads = attributes.get("pads", (0,) * (2 * rank))
    return list(zip(pads[:rank], pads[rank:], strict=True))
  if kind == "VALID":
    return [(0, 0)] * rank
  padding = []
  for side, size, stride, dilation in zip(
    sides, kernel, strides, dilations, strict=True
  ):
    covered = (-(-side // stride) - 1) * stride + (size - 1) * dilation + 1
    total = max(covered - side, 0)
    less, more = total // 2, total - total // 2
    padding.append((less, more) if kind == "SAME_UPPER" else (more, less))
  return padding


def conv(attributes: Attributes, x: Any, kernel: Any, bias: Any = None) -> Any:
  """A convolution of any rank, in groups."""
  rank = x.ndim - 2
  strides = attributes.get("strides", (1,) * rank)
  dilations = attributes.get("dilations", (1,) * rank)
  padding = _padding(
    attributes, x.shape[2:], kernel.shape[2:], strides, dilations
  )
  letters = "DHW"[-rank:]
  layout = (f"NC{letters}", f"OI{letters}", f"NC{letters}")
  y = jax.lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    rhs_dilation=dilations,
    dimension_numbers=layout,
    feature_group_count=attributes.get("group", 1),
  )
  return y if bias is None else y + bias.reshape((1, -1) + (1,) * rank)


def pool(kind: str) -> Callable[..., Any]:
  """Windows of a picture: 'max', or 'mean'."""

  def apply(attributes: Attributes, x: Any) -> Any:
    rank = x.ndim - 2
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides", (1,) * rank)
    dilations = attributes.get("dilations", (1,) * rank)
    padding = _padding(attributes, x.shape[2:], kernel, strides, dilations)
    inside = list(padding)
    if attributes.get("ceil_mode"):
      for i in range(rank):
        padding[i] = _ceiled(
          x.shape[2 + i], kernel[i], strides[i], dilations[i], padding[i]
        )

    def windows(x: Any, start: float, reducer: Any, padding: Any) -> Any:
      return jax.lax.reduce_window(
        x,
        np.asarray(start, x.dtype),
        reducer,
        (1, 1, *kernel),
        (1, 1, *strides),
        ((0, 0), (0, 0), *padding),
        window_dilation=(1, 1, *dilations),
      )

    if kind == "max":
      return windows(x, -np.inf, jax.lax.max, padding)
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    if attributes.get("count_include_pad"):  # but not what ceil_mode adds
      ones = jnp.pad(ones, ((0, 0), (0, 0), *inside), constant_values=1.0)
      padding = [
        (a - c, b - d) for (a, b), (c, d) in zip(padding, inside, strict=True)
      ]
      x = jnp.pad(x, ((0, 0), (0, 0), *inside))
    counts = windows(ones, 0.0, jax.lax.add, padding)
    return windows(x, 0.0, jax.lax.add, padding) / counts

  return apply


def _ceiled(
  side: int, size: int, stride: int, dilation: int, pads: tuple[int, int]
) -> tuple[int, int]:
  """Pads with room for a last window that is not whole."""
  covered = side + sum(pads) - (dilation * (size - 1) + 1)
  places = -(-covered // stride)
  if places * stride >= side + pads[0]:  # it would begin in the padding
    places -= 1
  return pads[0], pads[1] + max(places * stride - covered, 0)


def global_pool(name: str) -> Callable[..., Any]:
  """The `max` or `mean` of each channel."""

  def apply(attributes: Attributes, x: Any) -> Any:
    return getattr(jnp, name)(x, axis=tuple(range(2, x.ndim)), keepdims=True)

  return apply


def batch_norm(
  attributes: Attributes, x: Any, scale: Any, bias: Any, mean: Any, var: Any
) -> Any:
  """With the statistics of the training."""
  shape = (1, -1) + (1,) * (x.ndim - 2)
  factor = scale * jax.lax.rsqrt(var + attributes.get("epsilon", 1e-5))
  return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


def layer_norm(
  attributes: Attributes, x: Any, scale: Any, bias: Any = None
) -> Any:
  """Over the last axes."""
  axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
  y = _normal(x, axes, attributes.get("epsilon", 1e-5))
  y = jnp.multiply(*aligned(y, scale))
  return y if bias is None else jnp.add(*aligned(y, bias))


def instance_norm(attributes: Attributes, x: Any, scale: Any, bias: Any) -> Any:
  """Over the places of each channel of each picture."""
  shape = (1, -1) + (1,) * (x.ndim - 2)
  axes = tuple(range(2, x.ndim))
  y = _normal(x, axes, attributes.get("epsilon", 1e-5))
  return y * scale.reshape(shape) + bias.reshape(shape)


def _normal(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
  mean = jnp.mean(x, axis=axes, keepdims=True)
  var = jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(var + epsilon)
