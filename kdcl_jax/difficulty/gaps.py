"""Difficulty for one model of what another one knows."""

import jax
from jax.typing import ArrayLike

from kdcl_jax.difficulty.confidence import loss


def reducible_loss(
  student_logits: ArrayLike, teacher_logits: ArrayLike, labels: ArrayLike
) -> jax.Array:
  """What the student has yet to learn: `loss(student) - loss(teacher)`.

  A record that is hard for both is noise, or out of reach: its gap is small. A
  large gap is a record that the teacher shows can be learned. RHO takes a small
  model trained on held-out data for the reference; here it is the teacher.

  Args:
    student_logits: [N, K].
    teacher_logits: [N, K], of a model that has not memorised the records.
    labels: [N] integers in [0, K).

  Returns:
    [N] in nats; larger is harder for the student than for the teacher. Below 0
    the student knows the record better. The teacher gets no gradient.

  Example:
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.zeros((1, 2)), jnp.array([[9.0, -9.0]])
    >>> round(float(reducible_loss(student, teacher, jnp.array([0]))[0]), 4)
    0.6931

  Reference: Mindermann et al., "Prioritized training on points that are
  learnable, worth learning, and not yet learnt", 2022, arXiv:2206.07137,
  equation 3.
  """
  reference = jax.lax.stop_gradient(loss(teacher_logits, labels))
  return loss(student_logits, labels) - reference
