"""MobileNetV2, for small and for large images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.batch_norm import BatchNorm
from kdcl_jax.models.layers import (
  Classifier,
  Conv,
  global_pool,
  multiple_of_8,
)

# (expanded, channels, blocks, strides) of each stage, for small images.
_STAGES = (
  (False, 16, 1, 1),
  (True, 24, 2, 1),
  (True, 32, 3, 2),
  (True, 64, 4, 2),
  (True, 96, 3, 1),
  (True, 160, 3, 2),
  (True, 320, 1, 1),
)
_TAPPED = {1: "f1", 2: "f2", 4: "f3", 6: "f4"}


class InvertedResidual(nn.Module):
  """Expands, filters each channel by itself, projects; adds where it can.

  Attributes:
    features: output channels.
    expansion: factor on the input channels inside; None leaves the expanding
      convolution out.
    strides: of the depthwise convolution.
    relu6: whether activations end at 6.
    dtype: compute type.
    axis_name: see `BatchNorm`.
  """

  features: int
  expansion: int | None
  strides: int = 1
  relu6: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', features]."""
    norm = lambda y: BatchNorm(dtype=self.dtype, axis_name=self.axis_name)(
      y, train=train, mask=mask
    )
    conv = lambda y, *args, **kw: Conv(*args, dtype=self.dtype, **kw)(y)
    active = nn.relu6 if self.relu6 else nn.relu
    y, inside = x, x.shape[-1] * (self.expansion or 1)
    if self.expansion is not None:
      y = active(norm(conv(y, inside, 1)))
    y = active(norm(conv(y, inside, 3, self.strides, groups=inside)))
    y = norm(conv(y, self.features, 1))
    return x + y if self.strides == 1 and x.shape == y.shape else y


class MobileNetV2(nn.Module):
  """MobileNetV2 as CIFAR benchmarks of distillation use it, or as published.

  For large images the activation is ReLU6, the second stage halves the map, the
  first block does not expand, and channels are multiples of 8.

  Taps: `f0` after the stem, `f1` ... `f4` where the map or its width changes
  (linear bottlenecks, without activation), `f5` the pooled feature.

  Attributes:
    num_classes: number of classes.
    expansion: T, factor inside the blocks.
    width: factor on the channels.
    large: whether images are large, as ImageNet's.
    dropout: rate before the classifier, in training.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: inverted
  residuals and linear bottlenecks", 2018, arXiv:1801.04381.
  """

  num_classes: int
  expansion: int = 6
  width: float = 0.5
  large: bool = False
  dropout: float = 0.0
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    shared = {"dtype": self.dtype, "axis_name": self.axis_name}
    norm = lambda y: BatchNorm(**shared)(y, train=train, mask=mask)
    active = nn.relu6 if self.large else nn.relu
    round_to = multiple_of_8 if self.large else int
    stem = round_to(32 * self.width)
    x = active(norm(Conv(stem, strides=2, dtype=self.dtype)(x)))
    taps = {"f0": x}
    for place, (expanded, channels, count, strides) in enumerate(_STAGES):
      if place == 1 and self.large:
        strides = 2
      expansion = self.expansion if expanded else None if self.large else 1
      for block in range(count):
        x = InvertedResidual(
          round_to(channels * self.width),
          expansion,
          strides if block == 0 else 1,
          self.large,
          **shared,
        )(x, train, mask)
      if place in _TAPPED:
        taps[_TAPPED[place]] = x
    head = round_to(1280 * max(self.width, 1.0))
    x = active(norm(Conv(head, 1, dtype=self.dtype)(x)))
    pooled = global_pool(x)
    taps["f5"] = pooled
    x = nn.Dropout(self.dropout, deterministic=not train)(pooled)
    return {"logits": Classifier(self.num_classes)(x), "taps": taps}
