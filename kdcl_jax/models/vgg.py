"""VGG networks with batch normalisation, for small images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.batch_norm import BatchNorm
from kdcl_jax.models.layers import Classifier, Conv, global_pool, max_pool


class VGG(nn.Module):
  """Five blocks of 3 x 3 convolutions, pooled by two after the first three.

  Taps: `f0` ... `f4` after each block (`f0_pre` ... before its last ReLU), `f5`
  the pooled feature.

  Attributes:
    num_classes: number of classes.
    blocks: convolutions in each block.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: Simonyan and Zisserman, "Very deep convolutional networks for
  large-scale image recognition", 2015, arXiv:1409.1556.
  """

  num_classes: int
  blocks: tuple[int, ...] = (1, 1, 1, 1, 1)
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    taps = {}
    for place, (count, width) in enumerate(
      zip(self.blocks, (64, 128, 256, 512, 512), strict=True)
    ):
      for _ in range(count):
        x = Conv(width, use_bias=True, dtype=self.dtype)(x)
        norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name)
        before = norm(x, train=train, mask=mask)
        x = nn.relu(before)
      taps[f"f{place}_pre"] = before
      taps[f"f{place}"] = x
      if place < 3:
        x = max_pool(x)
    pooled = global_pool(x)
    taps["f5"] = pooled
    return {"logits": Classifier(self.num_classes)(pooled), "taps": taps}
