"""Losses on features that are reduced over the whole global batch.

With `axis_name` all sums run over the devices of that mapped axis: value and
gradient are those of one device holding every row.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import check_shapes, feature_pair, safe_sqrt
from kdcl_jax.losses.reductions import all_sum, check_number, row_mask


def _standardize(
  rows: jax.Array,
  where: jax.Array,
  count: jax.Array,
  eps: float,
  axis_name: str | None,
) -> jax.Array:
  """Zero mean and unit unbiased deviation per channel, [B, P, C]."""
  present = where[:, None, None]
  total = lambda x: all_sum(
    jnp.sum(jnp.where(present, x, 0), (0, 1), keepdims=True), axis_name
  )
  centred = rows - total(rows) / jnp.maximum(count, 1)
  variance = total(jnp.square(centred)) / jnp.maximum(count - 1, 1)
  return centred / (safe_sqrt(variance) + eps)


def pearson(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  eps: float = 1e-6,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """PKD: match features up to the scale and offset of each channel.

  `1/2 mean (S - T)^2`, S and T standardised per channel over the examples and
  positions of the global batch, `(F - mean) / (std + eps)` with the unbiased
  deviation. Up to eps and n / (n - 1) it is 1 minus Pearson's correlation.

  Args:
    student_features: [B, H, W, C] or [B, C].
    teacher_features: the same shape.
    eps: added to the standard deviation, > 0.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: for different shapes, or an eps that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0], [2.0], [3.0]])
    >>> print(f"{pearson(x, 10 * x + 7):.4f} {pearson(x, -x):.4f}")
    0.0000 1.3333

  Reference:
    Cao et al., "PKD: General Distillation Framework for Object Detectors via
    Pearson Correlation Coefficient", 2022, arXiv:2207.02039, equation 4.
  """
  check_number("eps", eps, above=0)
  student, teacher, _ = feature_pair(
    student_features, teacher_features, ranks=(2, 4), where=where
  )
  check_shapes(student, teacher)
  where = row_mask(where, student)
  rows = [x.reshape(x.shape[0], -1, x.shape[-1]) for x in (student, teacher)]
  positions, channels = rows[0].shape[1:]
  examples = all_sum(jnp.sum(where.astype(student.dtype)), axis_name)
  count = examples * positions
  s, t = (_standardize(x, where, count, eps, axis_name) for x in rows)
  squares = jnp.where(where[:, None, None], jnp.square(s - t), 0)
  total = all_sum(jnp.sum(squares), axis_name)
  return total / jnp.maximum(count * channels, 1) / 2


def srd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  exponent: float = 4.0,
  eps: float = 1e-12,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """The log-sum distance of projected features.

  `log sum |F_s - F_t|^a` over all elements of the global batch, computed
  without overflow. The student's features come out of a linear projector with
  BatchNorm. torchdistill takes twice this plus `kd` at temperature 1: give the
  two terms of the objective these coefficients.

  Args:
    student_features: [B, ...].
    teacher_features: the same shape.
    exponent: a >= 1.
    eps: distances whose largest element is below it count as that much, which
      bounds the logarithm and stops the gradient at agreement.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar. It falls with the batch size only as its logarithm.

  Raises:
    ValueError: for different shapes, or an exponent out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> print(f"{srd(jnp.full((2, 4), 2.0), jnp.zeros((2, 4))):.4f}")
    4.8520

  Reference:
    Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge
    Distillation", 2023, arXiv:2303.11098, section 3.
  """
  check_number("exponent", exponent, low=1)
  check_number("eps", eps, above=0)
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(2, 3, 4), where=where
  )
  check_shapes(student, teacher)
  gap = jnp.abs(student - teacher)
  largest = jax.lax.stop_gradient(jnp.max(gap))
  if axis_name is not None:
    largest = jax.lax.pmax(largest, axis_name)
  apart = largest > eps
  scale = jnp.where(apart, largest, 1)
  total = all_sum(jnp.sum((gap / scale) ** exponent), axis_name)
  scaled = jnp.log(jnp.where(apart, total, 1))
  return exponent * jnp.log(jnp.where(apart, largest, eps)) + scaled
