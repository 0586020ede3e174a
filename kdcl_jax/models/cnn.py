"""A small convolutional network without normalisation."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.layers import Classifier, Conv, Dense


class CNN(nn.Module):
  """Convolutions of stride 2, the first 5 x 5, then one dense layer.

  Taps: `f0` ... the maps after each ReLU (`f0_pre` before), the last one the
  dense layer's activation.

  Attributes:
    num_classes: number of classes.
    widths: channels of the convolutions.
    hidden: size of the dense layer.
    dtype: compute type.
    axis_name: not used; there are no batch statistics.
  """

  num_classes: int
  widths: tuple[int, ...] = (32, 64)
  hidden: int = 128
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    del train, mask
    taps = {}
    for place, width in enumerate(self.widths):
      kernel = 5 if place == 0 else 3
      x = Conv(width, kernel, strides=2, use_bias=True, dtype=self.dtype)(x)
      taps[f"f{place}_pre"] = x
      x = nn.relu(x)
      taps[f"f{place}"] = x
    x = nn.relu(Dense(self.hidden, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
    taps[f"f{len(self.widths)}"] = x
    return {"logits": Classifier(self.num_classes)(x), "taps": taps}
