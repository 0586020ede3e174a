"""ShuffleNet, versions 1 and 2, for small images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.batch_norm import BatchNorm
from kdcl_jax.models.layers import Classifier, Conv, global_pool


def shuffle(x: jax.Array, groups: int) -> jax.Array:
  """Spreads the channels of each group over all groups."""
  *lead, channels = x.shape
  x = x.reshape(*lead, groups, channels // groups)
  return x.swapaxes(-1, -2).reshape(*lead, channels)


class _Block(nn.Module):
  """What the blocks share: BatchNorm and convolutions without a bias."""

  features: int
  strides: int = 1
  dtype: Any = jnp.float32
  axis_name: str | None = None

  def norm(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """BatchNorm, one more at each call."""
    layer = BatchNorm(dtype=self.dtype, axis_name=self.axis_name)
    return layer(x, train=train, mask=mask)

  def conv(self, x: jax.Array, *args: int, **kwargs: int) -> jax.Array:
    """A convolution, one more at each call."""
    return Conv(*args, dtype=self.dtype, **kwargs)(x)


class GroupedBlock(_Block):
  """ShuffleNetV1: grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1.

  Attributes:
    groups: groups of the 1 x 1 convolutions.
    first: whether it is the network's first, whose input is not grouped.
  """

  groups: int = 3
  first: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', features], before the last ReLU."""
    halves = self.strides == 2
    out = self.features - (x.shape[-1] if halves else 0)
    inside = out // 4
    groups = 1 if self.first else self.groups
    y = nn.relu(self.norm(self.conv(x, inside, 1, groups=groups), train, mask))
    y = shuffle(y, groups)
    y = self.conv(y, inside, 3, self.strides, groups=inside)
    y = self.norm(y, train, mask)
    y = self.norm(self.conv(y, out, 1, groups=self.groups), train, mask)
    if not halves:
      return x + y
    pooled = nn.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return jnp.concatenate([y, pooled], axis=-1)


class ShuffleNetV1(nn.Module):
  """ShuffleNet with three groups, as the CIFAR benchmarks use it.

  Taps: `f0` after the stem, `f1` ... `f3` after each stage (`f1_pre` ... before
  its last ReLU), `f4` the pooled feature.

  Attributes:
    num_classes: number of classes.
    groups: groups of the 1 x 1 convolutions.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: Zhang, Zhou, Lin and Sun, "ShuffleNet", 2018, arXiv:1707.01083.
  """

  num_classes: int
  groups: int = 3
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    shared = {"dtype": self.dtype, "axis_name": self.axis_name}
    x = Conv(24, 1, dtype=self.dtype)(x)
    x = nn.relu(BatchNorm(**shared)(x, train=train, mask=mask))
    taps = {"f0": x}
    for stage, (width, count) in enumerate(
      ((240, 4), (480, 8), (960, 4)), start=1
    ):
      for place in range(count):
        before = GroupedBlock(
          width,
          2 if place == 0 else 1,
          groups=self.groups,
          first=stage == 1 and place == 0,
          **shared,
        )(x, train, mask)
        x = nn.relu(before)
      taps[f"f{stage}_pre"] = before
      taps[f"f{stage}"] = x
    pooled = global_pool(x)
    taps["f4"] = pooled
    return {"logits": Classifier(self.num_classes)(pooled), "taps": taps}


class SplitBlock(_Block):
  """ShuffleNetV2: half of the channels pass, the other half is worked on.

  With stride 2 both halves see all channels.
  """

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', features]."""
    norm = lambda y: self.norm(y, train, mask)
    inside = self.features // 2
    if self.strides == 2:
      channels = x.shape[-1]
      left = norm(self.conv(x, channels, 3, 2, groups=channels))
      left = nn.relu(norm(self.conv(left, inside, 1)))
      right = x
    else:
      left, right = jnp.split(x, 2, axis=-1)
    right = nn.relu(norm(self.conv(right, inside, 1)))
    right = norm(self.conv(right, inside, 3, self.strides, groups=inside))
    right = nn.relu(norm(self.conv(right, inside, 1)))
    return shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV2(nn.Module):
  """ShuffleNetV2 of width 1, as the CIFAR benchmarks use it.

  Taps: `f0` after the stem, `f1` ... `f3` after each stage, `f4` the pooled
  feature.

  Attributes:
    num_classes: number of classes.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: Ma, Zhang, Zheng and Sun, "ShuffleNet V2", 2018, arXiv:1807.11164.
  """

  num_classes: int
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    shared = {"dtype": self.dtype, "axis_name": self.axis_name}
    norm = lambda y: BatchNorm(**shared)(y, train=train, mask=mask)
    x = nn.relu(norm(Conv(24, 1, dtype=self.dtype)(x)))
    taps = {"f0": x}
    for stage, (width, count) in enumerate(
      ((116, 4), (232, 8), (464, 4)), start=1
    ):
      for place in range(count):
        strides = 2 if place == 0 else 1
        x = SplitBlock(width, strides, **shared)(x, train, mask)
      taps[f"f{stage}"] = x
    x = nn.relu(norm(Conv(1024, 1, dtype=self.dtype)(x)))
    pooled = global_pool(x)
    taps["f4"] = pooled
    return {"logits": Classifier(self.num_classes)(pooled), "taps": taps}
