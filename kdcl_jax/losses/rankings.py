"""Losses that keep the teacher's ranking of its most probable classes."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import present_only
from kdcl_jax.losses.reductions import check_number
from kdcl_jax.losses.stores import arrange_store


def _pairs(
  values: jax.Array, indices: jax.Array, log_p: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """All differences of the student's values, and which pairs are ranked.

  Args:
    values: the student's values of all classes, [..., K].
    indices: the stored classes, [..., k].
    log_p: the teacher's values of these, [..., k].

  Returns:
    values_a - values_b, [..., k, k], and whether the teacher has a above b.
  """
  values = jnp.take_along_axis(values, indices, -1)
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
  axis: int = -1,
  where: ArrayLike | None = None,
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
    margin: wanted difference of the probabilities, >= 0, a scalar or one number
      per token, [...].
    axis: the axis of the classes, in the logits and in the store.
    where: boolean [...], False for padded tokens, whose loss is 0.

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
  z, indices, log_p, present = arrange_store(
    student_logits, teacher_indices, teacher_log_probs, axis, where
  )
  gaps, above = _pairs(jax.nn.softmax(z, -1), indices, log_p)
  margin = jnp.asarray(margin, gaps.dtype)
  margin = margin[..., None, None] if margin.ndim else margin
  losses = _mean_pair(jnp.maximum(margin - gaps, 0), above)
  return present_only(losses, present)


def sparse_logistic_rank(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Logistic loss on every pair of classes that the teacher ranks.

  The mean over pairs with p_a > p_b of `log(1 + exp(-(z_a - z_b)))` of the
  student's logits z. Averaged per token, see `sparse_hinge_rank`.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities (or logits), [..., k].
    axis: the axis of the classes, in the logits and in the store.
    where: boolean [...], False for padded tokens, whose loss is 0.

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
  z, indices, log_p, present = arrange_store(
    student_logits, teacher_indices, teacher_log_probs, axis, where
  )
  gaps, above = _pairs(z, indices, log_p)
  return present_only(_mean_pair(jax.nn.softplus(-gaps), above), present)
