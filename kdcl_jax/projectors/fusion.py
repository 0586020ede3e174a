"""ReviewKD's attention based fusion of a student's maps, deep into shallow."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.projectors.projector import Projector, conv, nearest

_KAIMING = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Fusion(Projector):
  """Attention based fusion (ABF) over all levels, from the deepest upwards.

  Each level's map goes through a 1 x 1 convolution and BatchNorm; the fused map
  of the level below, resized, is added with an attention between both; the sum
  is resized to the teacher's map and a 3 x 3 convolution with BatchNorm gives
  it the teacher's channels. Pooled features [B, C] count as 1 x 1 maps.

  Attributes:
    hidden: channels in between; 0 for the least of 512 and the student's
      deepest.

  Reference: Chen et al., "Distilling Knowledge via Knowledge Review", 2021,
  arXiv:2104.09044, section 3.2; sizes are the published code's.
  """

  hidden: int = 0

  @nn.compact
  def __call__(
    self,
    student_features: Sequence[jax.Array],
    teacher_features: Sequence[jax.Array],
    train: bool,
    mask: jax.Array | None,
  ) -> dict[str, list[jax.Array]]:
    """Lists of maps, shallowest first -> the student's, in teacher shapes."""
    if not isinstance(student_features, list | tuple):
      student_features, teacher_features = (
        [student_features],
        [teacher_features],
      )
    if len(student_features) != len(teacher_features):
      raise ValueError(
        f"the projector 'fusion' got {len(student_features)} student taps and"
        f" {len(teacher_features)} teacher taps, expected as many of both."
      )
    hidden = self.hidden or min(512, student_features[-1].shape[-1])
    fused, outputs = None, []
    for student, teacher in zip(
      reversed(student_features), reversed(teacher_features), strict=True
    ):
      x = student.astype(jnp.float32)
      x = x if x.ndim == 4 else x[:, None, None]
      size = teacher.shape[1:3] if teacher.ndim == 4 else (1, 1)
      x = conv(x, hidden, use_bias=False, init=_KAIMING)
      x = self.norm(x, train, mask)
      if fused is not None:
        fused = nearest(fused, x.shape[1:3])
        both = jnp.concatenate([x, fused], -1)
        attention = jax.nn.sigmoid(conv(both, 2))
        x = x * attention[..., :1] + fused * attention[..., 1:]
      fused = x = nearest(x, size)
      x = conv(
        x, teacher.shape[-1], 3, padding=1, use_bias=False, init=_KAIMING
      )
      x = self.norm(x, train, mask)
      outputs.append(x if teacher.ndim == 4 else x[:, 0, 0])
    return {"student_features": outputs[::-1]}
