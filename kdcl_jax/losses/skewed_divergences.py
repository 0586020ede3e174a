"""Divergences that soften what the forward and the reverse one overdo."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import (
  arrange_pair,
  divergence,
  log_mixture,
  present_only,
  soft_log_probabilities,
  trained_divergence,
)
from kdcl_jax.losses.reductions import check_number


def _check_skew(skew: ArrayLike) -> None:
  check_number("skew", skew, above=0, high=1)
  if not isinstance(skew, jax.Array | np.ndarray) and skew == 1:
    raise ValueError("skew is 1, expected a number below 1.")


def skew_forward_kl(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  skew: ArrayLike = 0.1,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """DistiLLM's skew divergence `KL(p || skew p + (1 - skew) q)`.

  Teacher p, student q. Never above -log(skew), so a token that the student
  finds impossible does not dominate. This is the paper's divergence; the
  published code drops the teacher's entropy, which changes the value and not
  the gradient.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    skew: share of the teacher in the mixture, in (0, 1), a scalar or one number
      per example, [...].
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example or token, [...].

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> far = jnp.array([[99.0, 0.0]])
    >>> print(f"{skew_forward_kl(far, -far)[0]:.4f}")  # -log 0.1
    2.3026

  Reference:
    Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language
    Models", 2024, arXiv:2402.03898, section 3.1.
  """
  _check_skew(skew)
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  losses = divergence(log_p, log_mixture(log_p, log_q, skew))
  return present_only(losses, present)


def skew_reverse_kl(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  skew: ArrayLike = 0.1,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """DistiLLM's skew reverse divergence `KL(q || (1 - skew) p + skew q)`.

  Teacher p, student q: here skew is the share of the student. Never above
  -log(skew), so a class that the teacher rules out is allowed.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    skew: share of the student in the mixture, in (0, 1), a scalar or one number
      per example, [...].
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example or token, [...].

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> far = jnp.array([[99.0, 0.0]])
    >>> print(f"{skew_reverse_kl(far, -far)[0]:.4f}")  # -log 0.1
    2.3026

  Reference:
    Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language
    Models", 2024, arXiv:2402.03898, section 3.1.
  """
  _check_skew(skew)
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  losses = divergence(log_q, log_mixture(log_q, log_p, skew))
  return present_only(losses, present)


def total_variation(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Total variation distance `(1/2) sum_c |p_c - q_c|`, in [0, 1].

  The gradient of a class with p_c = q_c is 0.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example or token, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([[0.5, 0.5]]))
    >>> q = jnp.log(jnp.array([[0.8, 0.2]]))
    >>> print(f"{total_variation(q, p)[0]:.4f}")
    0.3000

  Reference:
    Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge
    Distillation", 2023, arXiv:2307.15190.
  """
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  q = jnp.exp(soft_log_probabilities(student, temperature))
  p = jnp.exp(soft_log_probabilities(teacher, temperature))
  return present_only(jnp.sum(jnp.abs(p - q), -1) / 2, present)


def adaptive_kl(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  mu: float = 0.5,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Adaptive divergence: forward where the head is wrong, reverse for the tail.

  `(g_h KL(p || q) + g_t KL(q || p)) / (g_h + g_t)`, with g the sum of
  |p - q| over the head and the tail. The head is the teacher's most probable
  class and every further one, in order, while the cumulative probability is at
  most mu: the class that crosses mu belongs to the tail. The weights carry no
  gradient. Where student and teacher agree both weigh 1/2.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    mu: share of probability in the head, in [0, 1].
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example or token, [...].

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([[0.5, 0.5]]))
    >>> q = jnp.log(jnp.array([[0.8, 0.2]]))
    >>> print(f"{adaptive_kl(q, p)[0]:.4f}")
    0.2079

  Reference:
    Wu et al., "Rethinking Kullback-Leibler Divergence in Knowledge Distillation
    for Large Language Models", 2024, arXiv:2404.02657.
  """
  check_number("mu", mu, low=0, high=1)
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  weight = _head_share(*jax.lax.stop_gradient((log_p, log_q)), mu)
  losses = weight * divergence(log_p, log_q)
  losses += (1 - weight) * trained_divergence(log_q, log_p)
  return present_only(losses, present)


def _head_share(log_p: jax.Array, log_q: jax.Array, mu: float) -> jax.Array:
  """The head's share of |p - q|, [..., K] -> [...]; 1/2 where all is equal."""
  gap = jnp.abs(jnp.exp(log_p) - jnp.exp(log_q))
  # Sorting the gap along saves the vocabulary-sized gather of an argsort.
  descending, gap = jax.lax.sort((-log_p, gap), dimension=-1, num_keys=1)
  head = jnp.cumsum(jnp.exp(-descending), axis=-1) <= mu
  head = head.at[..., 0].set(True)
  total = jnp.sum(gap, -1)
  in_head = jnp.sum(jnp.where(head, gap, 0), -1)
  agree = total == 0
  return jnp.where(agree, 0.5, in_head / jnp.where(agree, 1, total))
