"""MGD's generator: the teacher's map out of a masked one of the student."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.losses import mgd_mask
from kdcl_jax.projectors.projector import Projector, conv


class Generator(Projector):
  """Masks the student's map, then 3 x 3 convolution, ReLU, 3 x 3 convolution.

  A 1 x 1 convolution comes first where the numbers of channels differ. Every
  record draws its own mask, from the step and its id.

  Attributes:
    mask: 'channels' (classification) or 'positions' (detection).
    mask_ratio: expected share that is dropped.

  Reference: Yang et al., "Masked Generative Distillation", 2022,
  arXiv:2205.01529, section 3.2.
  """

  mask: str = "channels"
  mask_ratio: float = 0.15

  @nn.compact
  def __call__(
    self,
    student_features: jax.Array,
    teacher_features: jax.Array,
    keys: jax.Array,
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H, W, C']."""
    channels = teacher_features.shape[-1]
    x = student_features.astype(jnp.float32)
    if x.shape[-1] != channels:
      x = conv(x, channels)
    draw = lambda key: mgd_mask(
      key, (1, *x.shape[1:]), mask=self.mask, mask_ratio=self.mask_ratio
    )[0]
    x = x * jax.vmap(draw)(keys)
    x = nn.relu(conv(x, channels, 3, padding=1))
    return conv(x, channels, 3, padding=1)
