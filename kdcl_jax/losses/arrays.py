"""Norms, pooling and shapes: what the losses on features are made of."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float, row_mask

FORMS = ("code", "paper")  # of a loss whose paper and published code differ

# Products in a TPU's default bfloat16 lose the small differences that losses
# between similar features are made of.
EXACT = jax.lax.Precision.HIGHEST


def safe_sqrt(squares: jax.Array) -> jax.Array:
  """The square root, with gradient 0 instead of infinity at 0."""
  positive = squares > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def safe_norm(
  array: jax.Array, axis: int | tuple[int, ...] = -1, *, keepdims: bool = False
) -> jax.Array:
  """The Euclidean norm, free of overflow, with gradient 0 at 0.

  Args:
    array: any shape, floating.
    axis: the axes that the norm is taken over.
    keepdims: whether they stay, with length 1.

  Returns:
    The norms, the shape of `array` without `axis`.
  """
  largest = jnp.max(jnp.abs(array), axis, keepdims=True)
  largest = jax.lax.stop_gradient(largest)
  scale = jnp.where(largest > 1e-30, largest, 1)
  squares = jnp.sum(jnp.square(array / scale), axis, keepdims=True)
  norm = scale * safe_sqrt(squares)
  return norm if keepdims else jnp.squeeze(norm, axis)


def l2_normalize(
  array: jax.Array,
  axis: int | tuple[int, ...] = -1,
  *,
  least: float = 1e-12,
) -> jax.Array:
  """`x / max(|x|, least)`; zeros stay zeros, with a finite gradient."""
  return array / jnp.maximum(safe_norm(array, axis, keepdims=True), least)


def _pooling_matrix(size: int, target: int) -> np.ndarray:
  """Averages over the windows floor(i s/t) .. ceil((i+1) s/t), [t, s]."""
  matrix = np.zeros((target, size))
  for i in range(target):
    window = slice(i * size // target, -(-(i + 1) * size // target))
    matrix[i, window] = 1 / (window.stop - window.start)
  return matrix


def adaptive_avg_pool(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Average pooling to a given size, PyTorch's `adaptive_avg_pool2d`.

  Window i of h windows over H rows is floor(i H / h) .. ceil((i + 1) H / h), so
  windows overlap where h does not divide H.

  Args:
    maps: [B, H, W, C].
    size: the height and width wanted, (h, w).

  Returns:
    [B, h, w, C].
  """
  chex.assert_rank(maps, 4)
  rows, columns = (
    None
    if have == want
    else jnp.asarray(_pooling_matrix(have, want), maps.dtype)
    for have, want in zip(maps.shape[1:3], size, strict=True)
  )
  if rows is not None:
    maps = jnp.einsum("yh,bhwc->bywc", rows, maps, precision=EXACT)
  if columns is not None:
    maps = jnp.einsum("xw,bhwc->bhxc", columns, maps, precision=EXACT)
  return maps


def match_sizes(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pools the larger of two maps [B, H, W, C] to the height of the smaller."""
  size = tuple(min(a.shape[i], b.shape[i]) for i in (1, 2))
  return adaptive_avg_pool(a, size), adaptive_avg_pool(b, size)


def as_layers(features: Any) -> list[Any]:
  """The features of several layers, one layer where one array is given."""
  return list(features) if isinstance(features, list | tuple) else [features]


def check_layers(
  student: Sequence[Any], teacher: Sequence[Any], *, least: int = 1
) -> None:
  """Refuses lists of features of different or too small a length."""
  if len(student) != len(teacher) or len(student) < least:
    raise ValueError(
      f"student_features has {len(student)} layers and teacher_features"
      f" {len(teacher)}, expected as many of both, at least {least}."
    )


def per_example(values: jax.Array, reduce: Any = jnp.mean) -> jax.Array:
  """Reduces all axes but the first, [B, ...] -> [B]."""
  return reduce(values.reshape(values.shape[0], -1), -1)


def check_shapes(
  student: jax.Array, teacher: jax.Array, *axes: int, names: str = "features"
) -> None:
  """Refuses features of different shapes, and says what would fit them.

  Args:
    student: the student's features, [B, ...].
    teacher: the teacher's features.
    *axes: the axes whose lengths have to agree; all of them where none given.
    names: the arrays are called `student_<names>` and `teacher_<names>`.

  Raises:
    ValueError: with both shapes.
  """
  s, t = student.shape, teacher.shape
  if (s == t) if not axes else all(s[i : i + 1] == t[i : i + 1] for i in axes):
    return
  which = (
    "one shape"
    if not axes
    else "equal lengths of axis " + ", ".join(str(i) for i in axes)
  )
  cure = "the two batches have to hold the same examples"
  if s[:1] == t[:1]:
    cure = (
      "put a projector (a conv regressor) on the student's feature"
      if len(s) == 4
      else "put a projector (a linear regressor) on the student's feature"
    )
  raise ValueError(
    f"student_{names} {s} and teacher_{names} {t} need {which}: {cure}."
  )


def feature_pair(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  ranks: tuple[int, ...],
  where: ArrayLike | None = None,
  teacher_gradient: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Both networks' features, in the form that the losses compute in.

  Args:
    student_features: [B, ...].
    teacher_features: [B, ...]; a constant unless `teacher_gradient`.
    ranks: the ranks that the loss takes, 4 for maps [B, H, W, C].
    where: boolean [B], False for padded examples.
    teacher_gradient: whether the gradient passes to the teacher's side.

  Returns:
    The features in at least float32, zeros in the rows of padded examples; and
    the boolean mask of the present ones, [B], or None for all.

  Raises:
    ValueError: for another rank, or batches of different lengths.
  """
  if not teacher_gradient:
    teacher_features = jax.lax.stop_gradient(teacher_features)
  pair = [as_float(student_features), as_float(teacher_features)]
  for side, array in zip(("student", "teacher"), pair):
    if array.ndim not in ranks:
      shapes = {2: "[B, D]", 3: "[B, L, D]", 4: "[B, H, W, C]"}
      raise ValueError(
        f"{side}_features has the shape {array.shape}, expected"
        f" {' or '.join(shapes[rank] for rank in ranks)}."
      )
  check_shapes(*pair, 0)
  if where is None:
    return *pair, None
  where = row_mask(where, pair[0])
  student, teacher = (
    jnp.where(where.reshape(-1, *[1] * (array.ndim - 1)), array, 0)
    for array in pair
  )
  return student, teacher, where
