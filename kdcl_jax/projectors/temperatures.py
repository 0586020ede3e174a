"""Temperatures that are learned, or that follow from the logits."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.losses import (
  ctkd_schedule,
  ctkd_temperature,
  cwsm_temperature,
  flsw_temperature,
)
from kdcl_jax.projectors.projector import Projector


class Ctkd(Projector):
  """CTKD's learned global temperature, trained against the student.

  `T = start + end sigmoid(theta)`; theta's gradient is multiplied by a factor
  that goes from 0 to -1 on half a cosine, over the share `reach` of the stage.

  Attributes:
    start: smallest temperature.
    end: width of the range.
    theta: theta at the start.
    reach: share of the stage at which the factor arrives at -1; the published
      code has 10 epochs of 240.

  Reference: Li et al., "Curriculum Temperature for Knowledge Distillation",
  2022, arXiv:2211.16231.
  """

  start: float = 1.0
  end: float = 20.0
  theta: float = 1.0
  reach: float = 10 / 240

  makes = ("temperature",)

  @nn.compact
  def __call__(self, progress: jax.Array) -> dict[str, jax.Array]:
    """The temperature, a scalar."""
    theta = self.param("theta", nn.initializers.constant(self.theta), ())
    scale = ctkd_schedule(progress, loops=self.reach)
    return {
      "temperature": ctkd_temperature(
        theta, scale, start=self.start, end=self.end
      )
    }


class Flsw(Projector):
  """TextBrewer's FLSW: lower temperatures where the networks disagree.

  Attributes:
    temperature: the base.
    beta: strength.
    gamma: exponent.
  """

  temperature: float = 4.0
  beta: float = 1.0
  gamma: float = 1.0

  makes = ("temperature",)

  @nn.compact
  def __call__(
    self,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    mask: jax.Array | None,
  ) -> dict[str, jax.Array]:
    """One temperature per example, [B]."""
    return {
      "temperature": flsw_temperature(
        student_logits,
        teacher_logits,
        temperature=self.temperature,
        beta=self.beta,
        gamma=self.gamma,
        where=mask,
        axis_name=self.axis,
      )
    }


class Cwsm(Projector):
  """TextBrewer's CWSM: lower temperatures where the student is unsure.

  `1 / confidence` goes up to the number of classes, so T is kept above `least`.

  Attributes:
    temperature: the base.
    beta: strength.
    least: smallest temperature.
  """

  temperature: float = 4.0
  beta: float = 1.0
  least: float = 1.0

  makes = ("temperature",)

  @nn.compact
  def __call__(
    self, student_logits: jax.Array, mask: jax.Array | None
  ) -> dict[str, jax.Array]:
    """One temperature per example, [B]."""
    values = cwsm_temperature(
      student_logits,
      temperature=self.temperature,
      beta=self.beta,
      where=mask,
      axis_name=self.axis,
    )
    return {"temperature": jnp.maximum(values, self.least)}
