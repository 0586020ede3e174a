"""Dtypes, masks and sums over the global batch, shared by every loss."""

import numbers

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def as_float(array: ArrayLike) -> jax.Array:
  """The array in float32, or in float64 where it already is float64."""
  array = jnp.asarray(array)
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def check_number(
  name: str,
  value: ArrayLike,
  *,
  above: float | None = None,
  low: float | None = None,
  high: float | None = None,
) -> None:
  """Refuses a hyper-parameter out of range; traced values pass unseen.

  Args:
    name: the keyword, for the message.
    value: a number or an array. Only Python numbers and NumPy arrays are
      looked at, so that nothing waits for a device.
    above: the value must be larger than this.
    low: the value must be at least this.
    high: the value must be at most this.

  Raises:
    ValueError: with one sentence that names the keyword, its value and what
      is valid.
  """
  if isinstance(value, jax.Array):
    return
  if isinstance(value, bool) or not isinstance(
    value, numbers.Real | np.ndarray
  ):
    raise ValueError(f"{name} is {value!r}, expected a number.")
  array = np.asarray(value)
  good = np.isfinite(array)
  valid = []
  if above is not None:
    good &= array > above
    valid.append(f"> {above:g}")
  if low is not None:
    good &= array >= low
    valid.append(f">= {low:g}")
  if high is not None:
    good &= array <= high
    valid.append(f"<= {high:g}")
  if not np.all(good):
    raise ValueError(
      f"{name} is {value!r}, expected a finite number"
      f" {' and '.join(valid)}".rstrip()
      + "."
    )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Refuses a word that is none of the choices, and lists them."""
  if value not in choices:
    raise ValueError(
      f"{name} is {value!r}, expected one of {', '.join(choices)}."
    )


def all_sum(value: jax.Array, axis_name: str | None = None) -> jax.Array:
  """The sum over devices where an axis is named, the value itself otherwise."""
  return value if axis_name is None else jax.lax.psum(value, axis_name)


def gather_rows(rows: jax.Array, axis_name: str | None = None) -> jax.Array:
  """Every device's rows, [b, ...] -> [B, ...]; differentiable."""
  if axis_name is None:
    return rows
  return jax.lax.all_gather(rows, axis_name, axis=0, tiled=True)


def row_mask(where: ArrayLike | None, rows: jax.Array) -> jax.Array:
  """The boolean mask of present rows, [B], all of them where None is given."""
  if where is None:
    return jnp.ones(rows.shape[:1], bool)
  where = jnp.asarray(where, bool)
  chex.assert_shape(
    where,
    rows.shape[:1],
    custom_message="where of a loss over pairs marks present examples, [B]",
  )
  return where


def global_mean(
  values: jax.Array,
  where: jax.Array | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """The mean of the present values of the global batch; 0 where none is.

  Args:
    values: one number per example, [B].
    where: boolean [B], False for padded examples.
    axis_name: the mapped axis over which the batch is spread, if any.

  Returns:
    A scalar, the same on every device.
  """
  where = row_mask(where, values)
  total = all_sum(jnp.sum(jnp.where(where, values, 0)), axis_name)
  count = all_sum(jnp.sum(where.astype(values.dtype)), axis_name)
  return total / jnp.maximum(count, 1)
