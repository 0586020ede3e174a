"""Losses that keep the teacher's ranking of its most probable classes."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float, check_number


def _pairs(
  values: jax.Array, teacher_log_probs: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """All differences of the student's values, and which pairs are ranked.

  Args:
    values: the student's values of the stored classes, [..., k].
    teacher_log_probs: [..., k].

  Returns:
    values_a - values_b, [..., k, k], and whether the teacher has a above b.
  """
  log_p = as_float(jax.lax.stop_gradient(teacher_log_probs))
  chex.assert_equal_shape(
    [values, log_p],
    custom_message="teacher_indices and teacher_log_probs need one shape"
    " [..., k], with the student's tokens [...]",
  )
  above = log_p[..., :, None] > log_p[..., None, :]
  return values[..., :, None] - values[..., None, :], above


def _mean_pair(losses: jax.Array, above: jax.Array) -> jax.Array:
  total = jnp.sum(jnp.where(above, losses, 0), (-2, -1))
  return total / jnp.maximum(jnp.sum(above, (-2, -1)), 1).astype(losses.dtype)


def sparse_hinge_rank(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  margin: ArrayLike = 0.0,
) -> jax.Array:
  """Hinge loss on every pair of classes that the teacher ranks.

  The mean over pairs with p_a > p_b of `max(0, margin - (q_a - q_b))`, where q
  is the student's full softmax. DistillKit averages over the pairs of all
  tokens at once; this is the mean of one token's pairs, the same where all
  tokens have as many.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities (or logits), [..., k].
    margin: wanted difference of the probabilities, >= 0.

  Returns:
    One loss per token, [...]; 0 where the teacher ranks no pair.

  Raises:
    ValueError: if margin is a number below 0.

  Example:
    >>> import jax.numpy as jnp
    >>> indices, log_probs = jnp.array([1, 2]), jnp.array([-0.1, -2.0])
    >>> print(sparse_hinge_rank(jnp.zeros(3), indices, log_probs, margin=0.5))
    0.5

  Reference:
    Goddard et al., DistillKit, Arcee AI, 2024.
  """
  check_number("margin", margin, low=0)
  q = jax.nn.softmax(as_float(student_logits), -1)
  gaps, above = _pairs(
    jnp.take_along_axis(q, jnp.asarray(teacher_indices), -1), teacher_log_probs
  )
  return _mean_pair(jnp.maximum(margin - gaps, 0), above)


def sparse_logistic_rank(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
) -> jax.Array:
  """Logistic loss on every pair of classes that the teacher ranks.

  The mean over pairs with p_a > p_b of `log(1 + exp(-(z_a - z_b)))` of the
  student's logits z. Averaged per token, see `sparse_hinge_rank`.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities (or logits), [..., k].

  Returns:
    One loss per token, [...]; 0 where the teacher ranks no pair.

  Example:
    >>> import jax.numpy as jnp
    >>> indices, log_probs = jnp.array([1, 2]), jnp.array([-0.1, -2.0])
    >>> print(f"{sparse_logistic_rank(jnp.zeros(3), indices, log_probs):.4f}")
    0.6931

  Reference:
    Burges et al., "Learning to Rank using Gradient Descent", 2005, ICML.
  """
  z = as_float(student_logits)
  gaps, above = _pairs(
    jnp.take_along_axis(z, jnp.asarray(teacher_indices), -1), teacher_log_probs
  )
  return _mean_pair(jax.nn.softplus(-gaps), above)
