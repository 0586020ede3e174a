"""MobileNetV1: depthwise and pointwise convolutions in turn."""

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

# (channels, strides) of each block; the last of each stage is tapped.
_STAGES = (
  ((64, 1), (128, 2), (128, 1)),
  ((256, 2), (256, 1)),
  ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
  ((1024, 2), (1024, 1)),
)


class SeparableConv(nn.Module):
  """Filters each channel by itself, then mixes the channels.

  Attributes:
    features: output channels.
    strides: of the depthwise convolution.
    relu6: whether the activation between them ends at 6.
    dtype: compute type.
    axis_name: see `BatchNorm`.
  """

  features: int
  strides: int = 1
  relu6: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', features], before the last activation."""
    norm = lambda y: BatchNorm(dtype=self.dtype, axis_name=self.axis_name)(
      y, train=train, mask=mask
    )
    channels = x.shape[-1]
    x = norm(
      Conv(channels, 3, self.strides, groups=channels, dtype=self.dtype)(x)
    )
    x = nn.relu6(x) if self.relu6 else nn.relu(x)
    return norm(Conv(self.features, 1, dtype=self.dtype)(x))


class MobileNetV1(nn.Module):
  """MobileNetV1, the usual student of ImageNet benchmarks of distillation.

  Taps: `f0` after the stem, `f1` ... `f4` at the end of strides 4, 8, 16 and 32
  (`f1_pre` ... before the last activation), `f5` the pooled feature.

  Attributes:
    num_classes: number of classes.
    width: factor on the channels, which are then rounded to multiples of 8.
    relu6: whether activations end at 6, as timm's do; else they are ReLU.
    dropout: rate before the classifier, in training.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto and Adam,
  "MobileNets: efficient convolutional neural networks for mobile vision
  applications", 2017, arXiv:1704.04861, table 1.
  """

  num_classes: int
  width: float = 1.0
  relu6: bool = False
  dropout: float = 0.0
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    shared = {"dtype": self.dtype, "axis_name": self.axis_name}
    active = nn.relu6 if self.relu6 else nn.relu
    x = Conv(multiple_of_8(32 * self.width), strides=2, dtype=self.dtype)(x)
    x = active(BatchNorm(**shared)(x, train=train, mask=mask))
    taps = {"f0": x}
    for stage, blocks in enumerate(_STAGES, start=1):
      for channels, strides in blocks:
        before = SeparableConv(
          multiple_of_8(channels * self.width), strides, self.relu6, **shared
        )(x, train, mask)
        x = active(before)
      taps[f"f{stage}_pre"] = before
      taps[f"f{stage}"] = x
    pooled = global_pool(x)
    taps["f5"] = pooled
    x = nn.Dropout(self.dropout, deterministic=not train)(pooled)
    return {"logits": Classifier(self.num_classes)(x), "taps": taps}
