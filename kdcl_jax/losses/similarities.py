"""Losses on the similarity of examples, as each network sees it.

The batch is the global batch: with `axis_name`, every device holds its own rows
of the [B, B] matrices and gathers the columns; value and gradient are those of
one device holding every row. A padded example (`where`) is neither row nor
column.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  EXACT,
  feature_pair,
  l2_normalize,
  safe_norm,
)
from kdcl_jax.losses.reductions import (
  all_sum,
  check_number,
  gather_rows,
  row_mask,
)


def _gram(rows: jax.Array, axis_name: str | None) -> jax.Array:
  """Products of this device's rows with all rows, [b, D] -> [b, B]."""
  columns = gather_rows(rows, axis_name)
  return jnp.matmul(rows, columns.T, precision=EXACT)


def sp(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Similarity preservation: examples alike to the teacher stay alike.

  `1/B^2 |G_s - G_t|_F^2`, the rows of `G = F F'` [B, B] normalised to length 1,
  F the flattened features. Zero for a batch of one.

  Args:
    student_features: [B, ...].
    teacher_features: [B, ...], of any other shape.
    where: boolean [B], False for padded examples; B counts the present ones.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: for batches of different lengths.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(f"{sp(x, 5 * x):.4f} {sp(x, jnp.ones((2, 3))):.4f}")
    0.0000 0.2929

  Reference:
    Tung, Mori, "Similarity-Preserving Knowledge Distillation", 2019,
    arXiv:1907.09682, equations 2 to 4.
  """
  student, teacher, _ = feature_pair(
    student_features, teacher_features, ranks=(2, 3, 4), where=where
  )
  where = row_mask(where, student)
  rows = (x.reshape(x.shape[0], -1) for x in (student, teacher))
  s, t = (l2_normalize(_gram(x, axis_name)) for x in rows)
  total = all_sum(jnp.sum(jnp.square(s - t)), axis_name)
  count = all_sum(jnp.sum(where.astype(s.dtype)), axis_name)
  return total / jnp.square(jnp.maximum(count, 1))


def pkt(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  eps: float = 1e-7,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Probabilistic knowledge transfer: who is whose neighbour.

  `mean_ij T_ij log((T_ij + eps) / (S_ij + eps))` over the B^2 entries, the rows
  of `(1 + cos(x_i, x_j)) / 2` scaled to sum 1, i = j included. The paper sums
  over j, the published code takes the mean, and so does this; weights are
  accordingly large (30,000 in RepDistiller).

  Args:
    student_features: [B, D].
    teacher_features: [B, D'].
    eps: added to the lengths and inside the logarithms, > 0.
    where: boolean [B], False for padded examples; B counts the present ones.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: for features that are no [B, D], or an eps that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(f"{pkt(jnp.ones((2, 3)), x):.4f}")
    0.0283

  Reference:
    Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge
    Transfer", 2018, arXiv:1803.10837, equations 6 to 8, cosine similarity.
  """
  check_number("eps", eps, above=0)
  student, teacher, _ = feature_pair(
    student_features, teacher_features, ranks=(2,), where=where
  )
  where = row_mask(where, student)
  pair = where[:, None] & gather_rows(where, axis_name)[None]

  def neighbours(rows: jax.Array) -> jax.Array:
    unit = rows / (safe_norm(rows, keepdims=True) + eps)
    kernel = jnp.where(pair, (_gram(unit, axis_name) + 1) / 2, 0)
    mass = jnp.sum(kernel, -1, keepdims=True)
    # One example pointing away from all others still has itself.
    return kernel / jnp.where(mass > 0, mass, 1)

  s, t = neighbours(student), neighbours(teacher)
  # Rounding can leave the kernel of opposite vectors a little below 0.
  ratio = jnp.log(jnp.maximum(t, 0) + eps) - jnp.log(jnp.maximum(s, 0) + eps)
  total = all_sum(jnp.sum(t * ratio), axis_name)
  count = all_sum(jnp.sum(where.astype(s.dtype)), axis_name)
  return total / jnp.square(jnp.maximum(count, 1))
