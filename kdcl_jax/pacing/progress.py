"""Progress in its three kinds, and the checks that all factories share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Pacing = Callable[[Any], Any]
Window = Callable[[Any], tuple[Any, Any]]

# A moment has come when progress is this near, so that float32 on a device and
# float64 on the host grow at the same step: in one of them 0.3 / 0.1 is a
# rounding step below 3. It is less than a step for the first 4 million.
NEAR = 2.0**-22


def in_kind(function: Callable[[Any, Any], Any]) -> Pacing:
  """Evaluates with NumPy, or with jax.numpy where progress is a jax array.

  Args:
    function: (progress, numpy or jax.numpy) -> fraction, for progress >= 0 in
      float64, or in at least float32 on a device.

  Returns:
    progress -> fraction, a Python float for a number.
  """

  def pace(progress: Any) -> Any:
    if isinstance(progress, jax.Array):
      dtype = jnp.promote_types(progress.dtype, jnp.float32)
      return function(jnp.maximum(progress.astype(dtype), 0), jnp)
    # A number as an array of one: NumPy's powers of both differ in a last bit.
    array = np.maximum(np.atleast_1d(np.asarray(progress, float)), 0)
    value = np.asarray(function(array, np))
    return float(value[0]) if np.ndim(progress) == 0 else value

  return pace


def has_come(progress: Any, moment: float) -> Any:
  """Whether a moment has come: `progress >= moment`, up to rounding."""
  return progress * (1 + NEAR) >= moment


def floored(number: Any, xp: Any) -> Any:
  """The largest whole number that is not above `number`, up to rounding."""
  return xp.floor(number * (1 + NEAR))


def stepwise(moments: Sequence[float], fractions: Sequence[float]) -> Pacing:
  """The fraction after the moments that have come, of one more than those."""

  def pace(progress: Any, xp: Any) -> Any:
    edges = xp.asarray(moments, progress.dtype)
    place = xp.searchsorted(edges, progress * (1 + NEAR), side="right")
    return xp.asarray(fractions, progress.dtype)[place]

  return in_kind(pace)


def check(
  name: str, value: Any, valid: Callable[[float], bool], expected: str
) -> None:
  """Refuses what is no number, or not a valid one."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not valid(value):
    raise ValueError(f"{name} is {value!r}, expected {expected}")


def check_ends(start: float, end: float) -> None:
  """Refuses fractions that are not 0 < start <= end <= 1."""
  check("start", start, lambda v: 0 < v <= 1, "a fraction in (0, 1]")
  check(
    "end",
    end,
    lambda v: start <= v <= 1,
    f"a fraction in [start, 1], {start} .. 1",
  )


def check_reach(reach: float) -> None:
  """Refuses a share of the training that is negative or infinite."""
  finite = lambda v: 0 <= v < float("inf")
  check("reach", reach, finite, "a share of the training >= 0")


def check_moments(name: str, moments: Sequence[float]) -> tuple[float, ...]:
  """Refuses moments that do not increase strictly within (0, 1)."""
  moments = tuple(moments)
  for moment in moments:
    check(name, moment, lambda v: True, "increasing shares in (0, 1)")
  if list(moments) != sorted(set(moments)) or not all(
    0 < moment < 1 for moment in moments
  ):
    raise ValueError(
      f"{name} is {moments!r}, expected increasing shares in (0, 1)"
    )
  return moments


def edges_of(buckets: int | Sequence[float]) -> tuple[float, ...]:
  """The fractions between buckets, from 0 to 1.

  Args:
    buckets: how many of equal size, or the share of the records in each.

  Returns:
    One fraction more than there are buckets, increasing from 0 to exactly 1.

  Raises:
    ValueError: for no bucket, an empty one, or shares that are not 1 together.
  """
  if isinstance(buckets, int):
    check("buckets", buckets, lambda v: v >= 1, "at least 1 bucket")
    return tuple(i / buckets for i in range(buckets + 1))
  good = isinstance(buckets, Sequence) and not isinstance(buckets, str)
  sizes = tuple(buckets) if good else ()
  good = all(isinstance(size, int | float) and size > 0 for size in sizes)
  if not good or abs(sum(sizes) - 1) > 1e-6:
    raise ValueError(
      f"buckets is {buckets!r}, expected a number of buckets, or the share of"
      " each, all > 0 and 1 together"
    )
  return (0.0, *np.cumsum(sizes)[:-1].tolist(), 1.0)
