"""Correlation congruence, in the two forms that go by this name.

`cc` is what RepDistiller runs (and took from the paper's authors), `cckd` the
kernel form that the paper describes. With `axis_name` the batch is the global
batch.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  EXACT,
  FORMS,
  check_shapes,
  feature_pair,
  l2_normalize,
  safe_sqrt,
)
from kdcl_jax.losses.reductions import (
  all_sum,
  check_choice,
  check_number,
  gather_rows,
  row_mask,
)

KERNELS = ("gaussian", "bilinear")


def row_numbers(rows: jax.Array, axis_name: str | None = None) -> jax.Array:
  """The numbers of this device's rows in the global batch, [b]."""
  numbers = jnp.arange(rows.shape[0])
  if axis_name is None:
    return numbers
  return numbers + jax.lax.axis_index(axis_name) * rows.shape[0]


def cc(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  teacher_gradient: bool = False,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Correlation of the errors of consecutive examples.

  `1/(B-1) sum_i sum_d |s_i - t_i|_d |s_i+1 - t_i+1|_d`: depends on the order of
  the batch. Zero for fewer than two examples. With padding, "consecutive" means
  among the present examples; across devices, device by device.

  Args:
    student_features: [B, D], an embedding of the student's feature.
    teacher_features: [B, D], an embedding of the teacher's.
    teacher_gradient: lets the gradient pass to the teacher's side. The
      published code trains a linear embedding of either frozen feature this
      way; by default the teacher's side is a constant.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: for different shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> print(cc(jnp.full((3, 4), 2.0), jnp.zeros((3, 4))))
    16.0

  Reference:
    Peng et al., "Correlation Congruence for Knowledge Distillation", 2019,
    arXiv:1904.01802; this is the form of RepDistiller's `Correlation`.
  """
  student, teacher, _ = feature_pair(
    student_features,
    teacher_features,
    ranks=(2,),
    where=where,
    teacher_gradient=teacher_gradient,
  )
  check_shapes(student, teacher)
  where = row_mask(where, student)
  delta = jnp.abs(student - teacher)
  all_deltas = gather_rows(delta, axis_name)
  present = gather_rows(where, axis_name)
  batch = present.shape[0]
  # next_present[i]: the first present row at i or after it, or `batch`.
  numbers = jnp.where(present, jnp.arange(batch), batch)
  next_present = jax.lax.cummin(numbers, reverse=True)
  next_present = jnp.append(next_present, batch)
  partner = next_present[row_numbers(delta, axis_name) + 1]
  paired = where & (partner < batch)
  products = delta * all_deltas[jnp.minimum(partner, batch - 1)]
  local = jnp.sum(jnp.where(paired[:, None], products, 0))
  count = all_sum(jnp.sum(paired.astype(delta.dtype)), axis_name)
  return all_sum(local, axis_name) / jnp.maximum(count, 1)


def cckd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  kernel: str = "gaussian",
  gamma: float = 0.4,
  max_p: int = 2,
  normalize: bool = True,
  form: str = "code",
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Correlation congruence with a kernel between examples.

  "code": `|K_s - K_t|_F / B^2`; "paper": `|K_s - K_t|_F^2 / B^2`. K_ij is `x_i
  . x_j` (bilinear), or the Taylor series of the Gaussian kernel of vectors of
  length 1, `exp(-2 g) sum_{p <= P} (2 g)^p / p! (x_i . x_j)^p`.

  Args:
    student_features: [B, D].
    teacher_features: [B, D'].
    kernel: "gaussian" or "bilinear".
    gamma: g >= 0 of the Gaussian kernel.
    max_p: P >= 0, order of its series.
    normalize: scales the rows to length 1; False where they already have it.
    form: "code" (torchdistill) or "paper".
    where: boolean [B], False for padded examples; B counts the present ones.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: for an unknown kernel or form, or a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> x, y = jnp.eye(2), jnp.ones((2, 2))
    >>> print(f"{cckd(x, y, kernel='bilinear', form='paper'):.4f}")
    0.5000

  Reference:
    Peng et al., "Correlation Congruence for Knowledge Distillation", 2019,
    arXiv:1904.01802, equations 4 to 8.
  """
  check_choice("kernel", kernel, KERNELS)
  check_choice("form", form, FORMS)
  check_number("gamma", gamma, low=0)
  check_number("max_p", max_p, low=0)
  student, teacher, _ = feature_pair(
    student_features, teacher_features, ranks=(2,), where=where
  )
  where = row_mask(where, student)
  pair = where[:, None] & gather_rows(where, axis_name)[None]

  def matrix(rows: jax.Array) -> jax.Array:
    rows = l2_normalize(rows) if normalize else rows
    columns = gather_rows(rows, axis_name)
    dot = jnp.matmul(rows, columns.T, precision=EXACT)
    if kernel == "bilinear":
      return dot
    # Horner's scheme of the series.
    series = jnp.ones_like(dot)
    for p in range(int(max_p), 0, -1):
      series = 1 + series * dot * (2 * gamma / p)
    return math.exp(-2 * gamma) * series

  gap = jnp.where(pair, matrix(student) - matrix(teacher), 0)
  total = all_sum(jnp.sum(jnp.square(gap)), axis_name)
  count = all_sum(jnp.sum(where.astype(gap.dtype)), axis_name)
  distance = safe_sqrt(total) if form == "code" else total
  return distance / jnp.square(jnp.maximum(count, 1))
