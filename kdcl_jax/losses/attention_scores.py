"""Losses on the attention scores of transformers, per query or pair.

`where` marks real positions, [B, L]; values at all others are 0, and the
published reductions are means over the rest.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import check_shapes
from kdcl_jax.losses.hidden_states import check_rank, position_mask
from kdcl_jax.losses.probabilities import expectation, present_only
from kdcl_jax.losses.reductions import as_float, check_choice

HEADS = ("each", "sum", "mean")


def _heads(scores: jax.Array, heads: str) -> jax.Array:
  if heads == "each":
    return scores
  return jnp.sum(scores, 1) if heads == "sum" else jnp.mean(scores, 1)


def _attention(
  student: ArrayLike,
  teacher: ArrayLike,
  heads: str,
  where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Scores [B, (H,) L, L] and the mask [B, (1,) L]."""
  check_choice("heads", heads, HEADS)
  student = as_float(student)
  teacher = as_float(jax.lax.stop_gradient(teacher))
  check_rank(student, teacher, "[B, H, L, L]")
  where = position_mask(where, (student.shape[0], student.shape[-1]))
  student, teacher = _heads(student, heads), _heads(teacher, heads)
  check_shapes(student, teacher)
  if where is not None and heads == "each":
    where = where[:, None]
  return student, teacher, where


def attention_mse(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  heads: str = "each",
  where: ArrayLike | None = None,
) -> jax.Array:
  """Squared error of attention scores.

  `(a_s - a_t)^2` for every pair of query and key. TextBrewer's `att_mse_loss`
  is the mean over heads and pairs of real positions, its `att_mse_sum_loss`
  that of `heads="sum"`. Without a mask TextBrewer takes scores <= -1e-3 for
  masked ones; this does not.

  Args:
    student_features: scores or weights, [B, H, L, L]; heads may differ in
      number where they are summed or averaged.
    teacher_features: [B, H, L, L].
    heads: "each", or "sum" or "mean" over the heads first.
    where: boolean [B, L], True for real positions.

  Returns:
    One loss per pair, [B, H, L, L] or [B, L, L]; 0 where a position is not
    real.

  Raises:
    ValueError: for shapes that do not fit, or an unknown treatment of heads.

  Example:
    >>> import jax.numpy as jnp
    >>> scores = jnp.full((1, 2, 3, 3), 2.0)
    >>> print(attention_mse(scores, 0 * scores, heads="sum").mean())
    16.0

  Reference:
    Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding",
    2019, arXiv:1909.10351, equation 7.
  """
  student, teacher, where = _attention(
    student_features, teacher_features, heads, where
  )
  if where is None:
    return jnp.square(student - teacher)
  pair = where[..., :, None] & where[..., None, :]
  pair = jnp.broadcast_to(pair, student.shape)
  # Masked scores are often -inf.
  student, teacher = (jnp.where(pair, x, 0) for x in (student, teacher))
  return jnp.square(student - teacher)


def attention_ce(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  heads: str = "each",
  masked_softmax: bool = False,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Cross-entropy of attention weights.

  `-sum_k softmax(a_t)_k log softmax(a_s)_k` over the real keys of a query.
  TextBrewer's `att_ce_loss` is the mean over heads and real queries, its
  `att_ce_mean_loss` that of `heads="mean"`. There the softmax runs over all
  keys, and terms of masked ones are dropped afterwards.

  Args:
    student_features: scores before the softmax, [B, H, L, L]; heads may differ
      in number where they are summed or averaged.
    teacher_features: [B, H, L, L].
    heads: "each", or "sum" or "mean" over the heads first.
    masked_softmax: takes masked keys out of the softmax, so that padding
      changes nothing. Needed where the scores are not already very negative
      there.
    where: boolean [B, L], True for real positions.

  Returns:
    One loss per query, [B, H, L] or [B, L]; 0 where it is not real.

  Raises:
    ValueError: for shapes that do not fit, or an unknown treatment of heads.

  Example:
    >>> import jax.numpy as jnp
    >>> scores = jnp.zeros((1, 2, 3, 3))
    >>> print(f"{attention_ce(scores, scores).mean():.4f}")
    1.0986

  Reference:
    Yang et al., "TextBrewer: An Open-Source Knowledge Distillation Toolkit for
    Natural Language Processing", 2020, arXiv:2002.12620.
  """
  student, teacher, where = _attention(
    student_features, teacher_features, heads, where
  )
  keys = None
  if where is not None:
    keys = jnp.broadcast_to(where[..., None, :], student.shape)
    if masked_softmax:
      student, teacher = (
        jnp.where(keys, x, -jnp.inf) for x in (student, teacher)
      )
    where = jnp.broadcast_to(where, student.shape[:-1])
    student, teacher = (
      jnp.where(where[..., None], x, 0) for x in (student, teacher)
    )
  log_q, log_p = (jax.nn.log_softmax(x, -1) for x in (student, teacher))
  if keys is not None:
    log_p = jnp.where(keys, log_p, -jnp.inf)
  return present_only(-expectation(log_p, log_q), where)
