"""Wide residual networks, with activation before convolution."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.batch_norm import BatchNorm
from kdcl_jax.models.layers import Classifier, Conv, global_pool


class WideBlock(nn.Module):
  """BatchNorm, ReLU and a 3 x 3 convolution, twice, and a shortcut.

  Attributes:
    features: output channels.
    strides: of the first convolution.
    dropout: rate between the convolutions.
    dtype: compute type.
    axis_name: see `BatchNorm`.
  """

  features: int
  strides: int = 1
  dropout: float = 0.0
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
    conv = lambda y, *args: Conv(*args, dtype=self.dtype)(y)
    active = nn.relu(norm(x))
    y = nn.relu(norm(conv(active, self.features, 3, self.strides)))
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    y = conv(y, self.features, 3)
    if x.shape[-1] != self.features:  # the shortcut starts after the ReLU
      x = conv(active, self.features, 1, self.strides)
    return x + y


class WideResNet(nn.Module):
  """A wide residual network of depth 6n + 4.

  Taps: `f0` after the first convolution, `f1` ... `f3` after each stage, before
  BatchNorm and ReLU, `f4` the pooled feature.

  Attributes:
    num_classes: number of classes.
    depth: 10, 16, 22, 28, 34, 40, ...
    width: factor on the channels 16, 32, 64.
    dropout: rate inside the blocks.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: Zagoruyko and Komodakis, "Wide residual networks", 2016,
  arXiv:1605.07146.
  """

  num_classes: int
  depth: int = 16
  width: int = 2
  dropout: float = 0.0
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    if self.depth < 10 or (self.depth - 4) % 6:
      raise ValueError(f"depth is {self.depth}, expected 6n + 4 with n >= 1")
    shared = {"dtype": self.dtype, "axis_name": self.axis_name}
    x = Conv(16, dtype=self.dtype)(x)
    taps = {"f0": x}
    for stage, channels in enumerate((16, 32, 64), start=1):
      for place in range((self.depth - 4) // 6):
        strides = 2 if stage > 1 and place == 0 else 1
        block = WideBlock(
          channels * self.width, strides, self.dropout, **shared
        )
        x = block(x, train, mask)
      taps[f"f{stage}"] = x
    x = nn.relu(BatchNorm(**shared)(x, train=train, mask=mask))
    pooled = global_pool(x)
    taps["f4"] = pooled
    return {"logits": Classifier(self.num_classes)(pooled), "taps": taps}
