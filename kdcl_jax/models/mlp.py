"""A multi-layer perceptron."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.layers import Classifier, Dense


class MLP(nn.Module):
  """Dense layers with ReLU on the flattened input.

  Taps: `f0` ... the hidden activations, `f0_pre` ... before their ReLU.

  Attributes:
    num_classes: number of classes.
    widths: sizes of the hidden layers.
    dtype: compute type.
    axis_name: not used; there are no batch statistics.
  """

  num_classes: int
  widths: tuple[int, ...] = (256, 256)
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, ...] -> logits [B, num_classes] and taps [B, width]."""
    del train, mask
    x = x.reshape(x.shape[0], -1)
    taps = {}
    for place, width in enumerate(self.widths):
      x = Dense(width, dtype=self.dtype)(x)
      taps[f"f{place}_pre"] = x
      x = nn.relu(x)
      taps[f"f{place}"] = x
    return {"logits": Classifier(self.num_classes)(x), "taps": taps}
