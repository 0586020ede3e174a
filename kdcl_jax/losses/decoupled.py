"""Losses that treat the labelled class and the other classes apart."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import (
  arrange_pair,
  at_labels,
  check_labels,
  divergence,
  expectation,
  log_sum_where,
  present_only,
  soft_log_probabilities,
  spread,
)
from kdcl_jax.losses.reductions import check_number


def _split(
  log_p: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Takes a distribution apart at the labelled class.

  Args:
    log_p: log-probabilities, [..., K].
    labels: [...].

  Returns:
    log p_y, log(1 - p_y), and the distribution over the other classes, [..., K]
    with -inf at the label. Nothing is subtracted from 1, so nothing cancels
    or underflows when p_y is close to 1.
  """
  classes = jax.lax.broadcasted_iota(jnp.int32, log_p.shape, log_p.ndim - 1)
  other = (classes != labels[..., None]) & (log_p > -jnp.inf)
  log_rest = log_sum_where(log_p, other)
  safe_rest = jnp.where(log_rest > -jnp.inf, log_rest, 0)[..., None]
  log_others = jnp.where(other, log_p, 0) - safe_rest
  log_others = jnp.where(other, log_others, -jnp.inf)
  return at_labels(log_p, labels), log_rest, log_others


def _labels(labels: ArrayLike, logits: jax.Array, present: jax.Array | None):
  labels = check_labels(labels, logits)
  return labels if present is None else jnp.where(present, labels, 0)


def dkd(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  labels: ArrayLike,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 8.0,
  temperature: ArrayLike = 4.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Decoupled knowledge distillation.

  `T^2 (alpha KL(b_t || b_s) + beta KL(p~_t || p~_s))`: b = (p_y, 1 - p_y) is
  the labelled class against the rest, p~ the distribution over the other
  classes. With beta = 1 - p_y of the teacher this would be `kd`. The published
  code masks the label by subtracting 1000 from its logit and takes logarithms
  of probabilities that can underflow; this stays in log space throughout. The
  code's warm-up, `min(epoch / 20, 1)`, belongs to the coefficient.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    labels: integer classes, [...].
    alpha: factor of the labelled class against the rest, >= 0.
    beta: factor of the other classes, >= 0; 2, 6 or 8 in the paper.
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> teacher = jnp.array([[2.0, 1.0, 0.0]])
    >>> print(f"{dkd(jnp.zeros((1, 3)), teacher, jnp.array([0]))[0]:.3f}")
    1.248

  Reference:
    Zhao et al., "Decoupled Knowledge Distillation", 2022, arXiv:2203.08679,
    equation 7.
  """
  check_number("alpha", alpha, low=0)
  check_number("beta", beta, low=0)
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  labels = _labels(labels, student, present)
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  q_label, q_rest, q_others = _split(log_q, labels)
  p_label, p_rest, p_others = _split(log_p, labels)
  target = divergence(
    jnp.stack([p_label, p_rest], -1), jnp.stack([q_label, q_rest], -1)
  )
  others = divergence(p_others, q_others)
  factor = spread(temperature, student)
  factor = jnp.square(factor[..., 0] if factor.ndim else factor)
  return present_only(factor * (alpha * target + beta * others), present)


def nkd(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  labels: ArrayLike,
  *,
  gamma: ArrayLike = 1.5,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Normalised knowledge distillation.

  `-p_y log q_y - gamma T^2 sum_{c != y} p~_c log q~_c`: the first term at
  temperature 1, p~ and q~ softmaxes over the other classes at T. Both are
  cross-entropies, so equal logits do not give 0. Added to the cross-entropy on
  labels, with temperature 1 and gamma 1.5 in the paper.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    labels: integer classes, [...].
    gamma: factor of the other classes, >= 0.
    temperature: T > 0 of the other classes, a scalar or one per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> z = jnp.zeros((1, 3))
    >>> print(f"{nkd(z, z, jnp.array([0]), gamma=1.0)[0]:.4f}")
    1.0594

  Reference:
    Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A
    Unified Approach with Normalized Loss and Customized Soft Labels", 2023,
    arXiv:2303.13005.
  """
  check_number("gamma", gamma, low=0)
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  labels = _labels(labels, student, present)
  q_label = at_labels(soft_log_probabilities(student), labels)
  p_label = jnp.exp(at_labels(soft_log_probabilities(teacher), labels))
  supported = p_label > 0
  target = -p_label * jnp.where(supported, q_label, 0)
  _, _, q_others = _split(soft_log_probabilities(student, temperature), labels)
  _, _, p_others = _split(soft_log_probabilities(teacher, temperature), labels)
  factor = spread(temperature, student)
  factor = jnp.square(factor[..., 0] if factor.ndim else factor)
  others = -expectation(p_others, q_others)
  return present_only(target + gamma * factor * others, present)
