"""MobileNetV2 for small images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.batch_norm import BatchNorm
from kdcl_jax.models.layers import Classifier, Conv, global_pool

# (expanded, channels, blocks, strides) of each stage; the second keeps the map.
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
    expansion: factor on the input channels inside.
    strides: of the depthwise convolution.
    dtype: compute type.
    axis_name: see `BatchNorm`.
  """

  features: int
  expansion: int
  strides: int = 1
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
    inside = x.shape[-1] * self.expansion
    y = nn.relu(norm(conv(x, inside, 1)))
    y = nn.relu(norm(conv(y, inside, 3, self.strides, groups=inside)))
    y = norm(conv(y, self.features, 1))
    return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
  """MobileNetV2 as the CIFAR benchmarks of distillation use it.

  Taps: `f0` after the stem, `f1` ... `f4` where the map or its width changes
  (linear bottlenecks, without activation), `f5` the pooled feature.

  Attributes:
    num_classes: number of classes.
    expansion: T, factor inside the blocks.
    width: factor on the channels.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: inverted
  residuals and linear bottlenecks", 2018, arXiv:1801.04381.
  """

  num_classes: int
  expansion: int = 6
  width: float = 0.5
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    shared = {"dtype": self.dtype, "axis_name": self.axis_name}
    norm = lambda y: BatchNorm(**shared)(y, train=train, mask=mask)
    x = Conv(int(32 * self.width), strides=2, dtype=self.dtype)(x)
    x = nn.relu(norm(x))
    taps = {"f0": x}
    for place, (expanded, channels, count, strides) in enumerate(_STAGES):
      for block in range(count):
        x = InvertedResidual(
          int(channels * self.width),
          self.expansion if expanded else 1,
          strides if block == 0 else 1,
          **shared,
        )(x, train, mask)
      if place in _TAPPED:
        taps[_TAPPED[place]] = x
    head = int(1280 * max(self.width, 1.0))
    x = nn.relu(norm(Conv(head, 1, dtype=self.dtype)(x)))
    pooled = global_pool(x)
    taps["f5"] = pooled
    return {"logits": Classifier(self.num_classes)(pooled), "taps": taps}
