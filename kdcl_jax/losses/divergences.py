"""Divergences between the two networks, for classes and tokens alike.

All are true divergences: never negative, and 0 where the networks agree. None
has a factor T^2; `kd` has.
"""

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


def _log_pair(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  temperature: ArrayLike,
  axis: int,
  where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Student log q, teacher log p, and which examples are present."""
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  return log_q, log_p, present


def forward_kl(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Forward divergence `KL(p || q)` of the student q from the teacher p.

  It covers all modes of the teacher. DistiLLM's and other codes return only
  the cross-entropy, which has the same gradient but is not 0 at agreement.

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
    >>> print(f"{forward_kl(q, p)[0]:.4f}")
    0.2231

  Reference:
    Kullback, Leibler, "On Information and Sufficiency", 1951.
  """
  log_q, log_p, present = _log_pair(
    student_logits, teacher_logits, temperature, axis, where
  )
  return present_only(divergence(log_p, log_q), present)


def reverse_kl(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Reverse divergence `KL(q || p)` of the teacher p from the student q.

  It seeks the teacher's main modes. A class that the teacher rules out (logit
  -inf) but the student does not makes it infinite: mask such classes.

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
    >>> print(f"{reverse_kl(q, p)[0]:.4f}")
    0.1927

  Reference:
    Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", 2023,
    arXiv:2306.08543.
  """
  log_q, log_p, present = _log_pair(
    student_logits, teacher_logits, temperature, axis, where
  )
  return present_only(trained_divergence(log_q, log_p), present)


def symmetric_kl(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  reverse_weight: ArrayLike = 0.5,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """`(1 - r) KL(p || q) + r KL(q || p)`, teacher p and student q.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    reverse_weight: r in [0, 1], a scalar or one number per example, [...];
      DistiLLM's code has 0.9.
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
    >>> print(f"{symmetric_kl(q, p)[0]:.4f}")
    0.2079

  Reference:
    Jeffreys, "An invariant form for the prior probability in estimation
    problems", 1946.
  """
  check_number("reverse_weight", reverse_weight, low=0, high=1)
  log_q, log_p, present = _log_pair(
    student_logits, teacher_logits, temperature, axis, where
  )
  forward, reverse = divergence(log_p, log_q), trained_divergence(log_q, log_p)
  losses = (1 - reverse_weight) * forward + reverse_weight * reverse
  return present_only(losses, present)


def gkd(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  beta: ArrayLike = 0.5,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Generalised Jensen-Shannon divergence of GKD.

  `beta KL(p || m) + (1 - beta) KL(q || m)` with `m = beta p + (1 - beta) q`,
  teacher p and student q. By definition beta = 0 is `forward_kl` and beta = 1
  is `reverse_kl`: not limits, since the formula itself tends to 0 there.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    beta: weight of the teacher in [0, 1], a scalar or one number per example,
      [...]. An array is computed in all three forms, one of which is chosen.
    temperature: T > 0, a scalar or one number per example, [...]; TRL's trainer
      has 0.9.
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
    >>> print(f"{gkd(q, p)[0]:.4f}")
    0.0507

  Reference:
    Agarwal et al., "On-Policy Distillation of Language Models: Learning from
    Self-Generated Mistakes", 2023, arXiv:2306.13649, equation 1.
  """
  check_number("beta", beta, low=0, high=1)
  log_q, log_p, present = _log_pair(
    student_logits, teacher_logits, temperature, axis, where
  )
  if isinstance(beta, jax.Array | np.ndarray):
    inside = (beta > 0) & (beta < 1)
    losses = _mixed_divergence(log_p, log_q, jnp.where(inside, beta, 0.5))
    ends = jnp.where(
      beta > 0, trained_divergence(log_q, log_p), divergence(log_p, log_q)
    )
    losses = jnp.where(inside, losses, ends)
  elif beta == 0:
    losses = divergence(log_p, log_q)
  elif beta == 1:
    losses = trained_divergence(log_q, log_p)
  else:
    losses = _mixed_divergence(log_p, log_q, beta)
  return present_only(losses, present)


def _mixed_divergence(
  log_p: jax.Array, log_q: jax.Array, weight: ArrayLike
) -> jax.Array:
  """`w KL(p || m) + (1 - w) KL(q || m)`, `m = w p + (1 - w) q`, 0 < w < 1."""
  log_m = log_mixture(log_p, log_q, weight)
  return weight * divergence(log_p, log_m) + (1 - weight) * divergence(
    log_q, log_m
  )


def js(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  student_weight: float = 0.5,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Skewed Jensen-Shannon divergence, `gkd` with beta = 1 - student_weight.

  `w KL(q || m) + (1 - w) KL(p || m)` with `m = (1 - w) p + w q`, teacher p and
  student q. It is at most the entropy of (w, 1 - w), log 2 for w = 0.5.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    student_weight: w, a number in (0, 1); DistiLLM's code has 0.9.
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
    >>> print(f"{js(far, -far)[0]:.4f}")
    0.6931

  Reference:
    Lin, "Divergence measures based on the Shannon entropy", 1991.
  """
  check_number("student_weight", student_weight, above=0, high=1)
  if not isinstance(student_weight, jax.Array) and student_weight == 1:
    raise ValueError("student_weight is 1, expected a number below 1.")
  log_q, log_p, present = _log_pair(
    student_logits, teacher_logits, temperature, axis, where
  )
  losses = _mixed_divergence(log_q, log_p, student_weight)
  return present_only(losses, present)
