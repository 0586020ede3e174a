"""What a projector is: a module between two networks' outputs and a loss."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.batch_norm import BatchNorm
from kdcl_jax.models.layers import uniform_fan_in

# What the pipeline can hand to a projector, by the name of the parameter.
ARRAYS = (
  "student_features",
  "teacher_features",
  "student_logits",
  "teacher_logits",
  "labels",
  "inputs",
  "ids",
  "keys",
  "teacher_variables",
  "progress",
  "train",
  "mask",
)


class Projector(nn.Module):
  """A learned part of the student's stage that stands in front of a loss.

  `__call__` names what it needs by its parameters, out of `ARRAYS`: the
  features of the term's taps, logits, labels [B], the preprocessed `inputs`,
  record `ids` [B], one PRNG key for each record [B], the variables of the
  teacher, `progress` in [0, 1], whether this is training, and the mask of
  present rows [B]. It returns the student's features for the loss, or a
  dictionary: name of a parameter of the loss -> what is to stand there. An
  entry `auxiliary` [B] is added to the stage's loss; it must depend on the
  projector's own parameters alone.

  Its parameters and state are trained and saved with the student's stage, and
  are no part of the student. A user's projector is any linen module with such
  a `__call__`; it gets `axis_name`, `num_classes` and `data` (a `Records`) if
  it has fields of these names.

  Attributes:
    axis_name: the mesh axis over which batches are split, under `shard_map`.
    makes: the parameters of a loss that it provides.
    has_auxiliary: whether it returns an auxiliary loss.
  """

  axis_name: str | None = None

  makes: ClassVar[tuple[str, ...]] = ("student_features",)
  has_auxiliary: ClassVar[bool] = False

  @property
  def axis(self) -> str | None:
    """The axis to sum over; none while variables are made."""
    return None if self.is_initializing() else self.axis_name

  def norm(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """Batch normalisation over the global batch."""
    return BatchNorm(axis_name=self.axis_name)(x, train=train, mask=mask)


def conv(
  x: jax.Array,
  features: int,
  kernel: int | tuple[int, int] = 1,
  *,
  strides: int = 1,
  padding: Any = 0,
  use_bias: bool = True,
  init: Any = None,
) -> jax.Array:
  """A convolution with torch's padding and initial values, inside a module."""
  size = (kernel, kernel) if isinstance(kernel, int) else kernel
  own = uniform_fan_in(size[0] * size[1] * x.shape[-1])
  return nn.Conv(
    features,
    size,
    strides=(strides, strides),
    padding=((padding, padding), (padding, padding)),
    use_bias=use_bias,
    kernel_init=init or own,
    bias_init=own,
  )(x)


def nearest(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes [B, H, W, C] as torch does: row i of h is row floor(i H / h)."""
  for axis, wanted in zip((1, 2), size, strict=True):
    have = maps.shape[axis]
    if have != wanted:
      rows = jnp.arange(wanted) * have // wanted
      maps = jnp.take(maps, rows, axis)
  return maps
