"""From several scores to one: ranks, their agreement, and their mean.

NumPy arrays give NumPy arrays in float64; jax arrays, traced ones included,
give jax arrays.
"""

from types import ModuleType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import safe_sqrt
from kdcl_jax.losses.reductions import as_float, check_number

Array = np.ndarray | jax.Array


def _arrays(rank: int, **arrays: ArrayLike) -> tuple[ModuleType, list[Any]]:
  """The arrays in floating point, with the module that computes on them."""
  traced = any(isinstance(x, jax.Array) for x in arrays.values())
  out = []
  for name, array in arrays.items():
    values = as_float(array) if traced else np.asarray(array, np.float64)
    chex.assert_rank(values, rank)
    if values.size == 0:
      raise ValueError(f"{name} is empty, expected at least one record.")
    if not traced and np.isnan(values).any():
      raise ValueError(f"{name} has a NaN, expected numbers.")
    out.append(values)
  return (jnp if traced else np), out


def _places(xp: ModuleType, scores: Any) -> tuple[Any, Any]:
  """How many scores are smaller than each, and how many are not larger."""
  ordered = xp.sort(scores)
  return tuple(
    xp.searchsorted(ordered, scores, side=side).astype(scores.dtype)
    for side in ("left", "right")
  )


def rank(scores: ArrayLike) -> Array:
  """Places from 1, the smallest score, to N; ties share their mean place.

  Args:
    scores: [N], no NaN.

  Returns:
    [N] in [1, N].

  Raises:
    ValueError: for a NaN, or no record.

  Example:
    >>> rank([0.3, 0.1, 0.3]).tolist()
    [2.5, 1.0, 2.5]
  """
  xp, (scores,) = _arrays(1, scores=scores)
  below, not_above = _places(xp, scores)
  return (below + not_above + 1) / 2


def cdf(scores: ArrayLike) -> Array:
  """The share of records that are no harder: `#{j: d_j <= d_i} / N`.

  Puts any score on the scale of a pacing function: competence c admits the
  records whose value is at most c.

  Args:
    scores: [N], no NaN.

  Returns:
    [N] in (0, 1]; ties share the larger value. The order stays.

  Raises:
    ValueError: for a NaN, or no record.

  Example:
    >>> cdf([5, 7, 5, 30]).tolist()
    [0.5, 0.75, 0.5, 1.0]

  Reference: Platanios, Stretcu, Neubig, Poczos and Mitchell, "Competence-based
  curriculum learning for neural machine translation", 2019, arXiv:1903.09848.
  """
  xp, (scores,) = _arrays(1, scores=scores)
  return _places(xp, scores)[1] / scores.shape[0]


def spearman(a: ArrayLike, b: ArrayLike) -> Any:
  """Rank correlation: whether two scores order the records alike.

  Args:
    a: [N], no NaN.
    b: [N], no NaN.

  Returns:
    A scalar in [-1, 1]; 0 where one of them is the same for all records.

  Raises:
    ValueError: for a NaN, or no record.

  Example:
    >>> round(float(spearman([1, 2, 3, 4], [10, 20, 40, 30])), 4)
    0.8

  Reference: Spearman, "The proof and measurement of association between two
  things", 1904; ties by mean ranks.
  """
  xp, (a, b) = _arrays(1, a=a, b=b)
  chex.assert_equal_shape([a, b])
  size = a.shape[0]
  # Halves of whole numbers, exact, and small enough to be squared.
  a, b = ((2 * rank(x) - (size + 1)) / size for x in (a, b))
  power = xp.sum(a * a) * xp.sum(b * b)
  return xp.where(
    power > 0, xp.sum(a * b) / xp.sqrt(xp.where(power > 0, power, 1)), 0.0
  )


def fuse_ranks(scores: ArrayLike, *, k: float = 60.0) -> Array:
  """Reciprocal rank fusion of several scores: `-sum_m 1 / (k + rank_m)`.

  rank_m is 1 for the record that score m finds the easiest. Scales do not
  matter, and a record that one score puts far in front stays in front.

  Args:
    scores: [M, N], larger is harder in each; no NaN.
    k: > 0; the larger, the less the first places stand out.

  Returns:
    [N] in (-M / k, 0); larger is harder (the published sum is larger for easy
    records, hence the minus).

  Raises:
    ValueError: for a NaN, no record, or k out of range.

  Example:
    >>> fuse_ranks([[0.1, 0.9, 0.5], [3, 8, 5]], k=1.0).round(4).tolist()
    [-1.0, -0.5, -0.6667]

  Reference: Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms
  Condorcet and individual rank learning methods", 2009, SIGIR.
  """
  check_number("k", k, above=0)
  xp, (scores,) = _arrays(2, scores=scores)
  return -xp.sum(xp.stack([1 / (k + rank(row)) for row in scores]), 0)


def mean_over_seeds(scores: ArrayLike, *, ranks: bool = False) -> Array:
  """One score of several trainings' that differ in their seed.

  Args:
    scores: [M, N], of M trainings.
    ranks: whether to average `cdf` values instead of the scores, which lets
      every training count alike where their scales differ.

  Returns:
    [N]: the mean score, or with `ranks` the mean share in (0, 1]. Larger is
    harder.

  Raises:
    ValueError: for a NaN, or no record.

  Example:
    >>> mean_over_seeds([[1.0, 2.0], [3.0, 8.0]]).tolist()
    [2.0, 5.0]

  Reference: Paul, Ganguli and Dziugaite, "Deep learning on a data diet", 2021,
  arXiv:2107.07075 (10 trainings).
  """
  xp, (scores,) = _arrays(2, scores=scores)
  return xp.mean(xp.stack([cdf(row) for row in scores]) if ranks else scores, 0)


def normalize_by_class(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Standardises scores within each class: `(s - mean_y) / std_y`.

  Args:
    scores: [N].
    labels: [N] integers, any.

  Returns:
    [N] with mean 0 and (population) standard deviation 1 in every class; 0
    where all scores of a class are the same. Larger is harder for its class.

  Example:
    >>> normalize_by_class([1.0, 3.0, 10.0, 30.0], [0, 0, 7, 7]).tolist()
    [-1.0, 1.0, -1.0, 1.0]

  Reference: Agarwal, D'souza and Hooker, "Estimating example difficulty using
  variance of gradients", 2022, arXiv:2008.11600.
  """
  scores, labels = as_float(scores), jnp.asarray(labels)
  chex.assert_rank([scores, labels], 1)
  chex.assert_equal_shape([scores, labels])
  size = scores.shape[0]
  # At most as many classes as records, so that the shapes are known.
  group = jnp.unique(labels, return_inverse=True, size=size)[1].reshape(size)
  total = lambda x: jax.ops.segment_sum(x, group, size)
  count = jnp.maximum(total(jnp.ones_like(scores)), 1)
  mean = (total(scores) / count)[group]
  deviation = scores - mean
  spread = safe_sqrt((total(jnp.square(deviation)) / count)[group])
  # What rounding leaves of equal scores is no spread.
  least = 8 * jnp.finfo(scores.dtype).eps * jnp.abs(mean)
  present = spread > least
  return jnp.where(present, deviation / jnp.where(present, spread, 1), 0)
