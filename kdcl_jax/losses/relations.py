"""Relational knowledge distillation: distances and angles between examples.

The batch is the global batch: with `axis_name`, every device takes its own rows
as anchors and gathers all others. A padded example (`where`) is in no pair.

Distances come from differences, not from a Gram matrix: duplicates are exactly
0 apart, and close examples keep their digits. Differences [n, B, D] and cosines
[n, B, B] exist for n anchors at a time only (`chunk_size`), and the backward
pass makes them again. At B = 1,024 and D = 128 in float32 the default holds 8
anchors: about 0.2 GB for value and gradient, where all cosines of both
networks, the rest of the arithmetic aside, would be 8 GB.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  EXACT,
  feature_pair,
  l2_normalize,
)
from kdcl_jax.losses.congruence import row_numbers
from kdcl_jax.losses.reductions import (
  all_sum,
  check_number,
  gather_rows,
  row_mask,
)

CHUNK_FLOATS = 2**23  # of one array of a chunk: 32 MiB in float32


def _over_anchors(
  of_anchor: Callable[..., jax.Array],
  anchors: tuple[jax.Array, ...],
  chunk_size: int | None,
  floats: int,
) -> jax.Array:
  """Maps a function over anchors, `chunk_size` of them at a time."""
  if chunk_size is not None and (
    not isinstance(chunk_size, int) or chunk_size < 1
  ):
    raise ValueError(
      f"chunk_size is {chunk_size!r}, expected a whole number >= 1 or None."
    )
  count = anchors[0].shape[0]
  chunk_size = min(chunk_size or max(CHUNK_FLOATS // floats, 1), count)
  if chunk_size == count:
    return jax.vmap(of_anchor)(*anchors)
  return jax.lax.map(
    jax.checkpoint(lambda anchor: of_anchor(*anchor)),
    anchors,
    batch_size=chunk_size,
  )


def _huber(gap: jax.Array) -> jax.Array:
  """Smooth L1 with the bend at 1."""
  size = jnp.abs(gap)
  return jnp.where(size < 1, jnp.square(gap) / 2, size - 0.5)


def _embeddings(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  normalize: bool,
  where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  student, teacher, _ = feature_pair(
    student_features, teacher_features, ranks=(2,), where=where
  )
  if normalize:
    student, teacher = l2_normalize(student), l2_normalize(teacher)
  return student, teacher, row_mask(where, student)


def _distances(
  rows: jax.Array,
  pair: jax.Array,
  chunk_size: int | None,
  axis_name: str | None,
) -> jax.Array:
  """Distances over their mean, 0 where there is no pair, [b, B]."""
  columns = gather_rows(rows, axis_name)

  def of_anchor(anchor: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(columns - anchor[None]), -1)
    return jnp.sqrt(jnp.maximum(squares, 1e-12))

  distances = _over_anchors(of_anchor, (rows,), chunk_size, columns.size)
  distances = jnp.where(pair, distances, 0)
  count = all_sum(jnp.sum(pair.astype(rows.dtype)), axis_name)
  total = all_sum(jnp.sum(distances), axis_name)
  mean = total / jnp.maximum(count, 1)
  return distances / jnp.where(count > 0, mean, 1)


def rkd_distance(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  normalize: bool = False,
  chunk_size: int | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """RKD, distances: how far two examples are apart.

  `1/B^2 sum_ij h(d_ij(s) / mean d(s) - d_ij(t) / mean d(t))`, h the Huber loss
  with the bend at 1, the means over pairs i != j. Distances below 1e-6 count as
  1e-6. The sum is divided by B^2, not by the number of pairs, as in the
  published code.

  Args:
    student_features: [B, D].
    teacher_features: [B, D'].
    normalize: scales embeddings to length 1 first, mmrazor's default; the
      authors' code does not.
    chunk_size: anchors at a time; None for as many as stay below 32 MiB.
    where: boolean [B], False for padded examples; B counts the present ones.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar; 0 for fewer than two examples. Duplicates have no gradient.

  Raises:
    ValueError: for features that are no [B, D], or a chunk_size that is no
      whole number >= 1.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [1.0], [3.0]])
    >>> print(f"{rkd_distance(x, 5 * x):.4f} {rkd_distance(x, x**2):.4f}")
    0.0000 0.0247

  Reference:
    Park et al., "Relational Knowledge Distillation", 2019, arXiv:1904.05068,
    equations 6 to 8.
  """
  student, teacher, where = _embeddings(
    student_features, teacher_features, normalize, where
  )
  columns = gather_rows(where, axis_name)
  number = row_numbers(where, axis_name)
  pair = where[:, None] & columns[None]
  pair &= number[:, None] != jnp.arange(columns.shape[0])[None]
  s, t = (
    _distances(x, pair, chunk_size, axis_name) for x in (student, teacher)
  )
  total = all_sum(jnp.sum(_huber(s - t)), axis_name)
  count = all_sum(jnp.sum(where.astype(s.dtype)), axis_name)
  return total / jnp.square(jnp.maximum(count, 1))


def rkd_angle(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  normalize: bool = False,
  chunk_size: int | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """RKD, angles: under which angle an example sees two others.

  `1/B^3 sum_ijk h(cos_ijk(s) - cos_ijk(t))`, cos_ijk the cosine of the angle at
  example i between j and k, 0 where j or k is i (or its duplicate), h the Huber
  loss with the bend at 1.

  Args:
    student_features: [B, D].
    teacher_features: [B, D'].
    normalize: scales embeddings to length 1 first, mmrazor's default; the
      authors' code does not.
    chunk_size: anchors i at a time, n; the [n, B, B] cosines of only these
      exist. None for as many as stay below 32 MiB.
    where: boolean [B], False for padded examples; B counts the present ones.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: for features that are no [B, D], or a chunk_size that is no
      whole number >= 1.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> print(f"{rkd_angle(x, 5 * x):.4f} {rkd_angle(x, x[:, :1]):.4f}")
    0.0000 0.0587

  Reference:
    Park et al., "Relational Knowledge Distillation", 2019, arXiv:1904.05068,
    equations 9 to 11.
  """
  student, teacher, where = _embeddings(
    student_features, teacher_features, normalize, where
  )
  present = gather_rows(where, axis_name)
  columns = [gather_rows(x, axis_name) for x in (student, teacher)]

  def cosines(anchor: jax.Array, others: jax.Array) -> jax.Array:
    rays = jnp.where(present[:, None], others - anchor[None], 0)
    rays = l2_normalize(rays)
    return jnp.matmul(rays, rays.T, precision=EXACT)

  def of_anchor(s: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.sum(_huber(cosines(s, columns[0]) - cosines(t, columns[1])))

  widest = max(present.size, *(x.shape[1] for x in columns))
  sums = _over_anchors(
    of_anchor, (student, teacher), chunk_size, present.size * widest
  )
  total = all_sum(jnp.sum(jnp.where(where, sums, 0)), axis_name)
  count = all_sum(jnp.sum(where.astype(sums.dtype)), axis_name)
  return total / jnp.maximum(count, 1) ** 3


def rkd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  distance_weight: ArrayLike = 25.0,
  angle_weight: ArrayLike = 50.0,
  normalize: bool = False,
  chunk_size: int | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Relational knowledge distillation: distances and angles.

  `distance_weight * rkd_distance + angle_weight * rkd_angle`

  Args:
    student_features: [B, D].
    teacher_features: [B, D'].
    distance_weight: >= 0.
    angle_weight: >= 0.
    normalize: scales embeddings to length 1 first, mmrazor's default; the
      authors' code does not.
    chunk_size: anchors at a time, see `rkd_angle`.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: for features that are no [B, D], or a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> print(f"{rkd(x, x[:, :1]):.4f}")
    6.3376

  Reference:
    Park et al., "Relational Knowledge Distillation", 2019, arXiv:1904.05068.
    The weights are RepDistiller's and mdistiller's.
  """
  check_number("distance_weight", distance_weight, low=0)
  check_number("angle_weight", angle_weight, low=0)
  options = {
    "normalize": normalize,
    "chunk_size": chunk_size,
    "where": where,
    "axis_name": axis_name,
  }
  distance = rkd_distance(student_features, teacher_features, **options)
  angle = rkd_angle(student_features, teacher_features, **options)
  return distance_weight * distance + angle_weight * angle
