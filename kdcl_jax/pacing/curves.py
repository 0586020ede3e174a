"""Pacing that grows at every step, along a curve."""

import math
from collections.abc import Callable
from typing import Any

from kdcl_jax.pacing.progress import (
  Pacing,
  check,
  check_ends,
  check_reach,
  has_come,
  in_kind,
)


def _curved(
  value: Callable[[Any, Any], Any], start: float, reach: float, end: float
) -> Pacing:
  """The value at u = min(progress / a, 1), clamped; b at 0 and 1 from a on."""
  check_ends(start, end)
  check_reach(reach)
  if reach == 0:
    return constant(fraction=end)

  def pace(progress: Any, xp: Any) -> Any:
    fraction = value(xp.minimum(progress / reach, 1.0), xp)
    # Rounding leaves the ends of a curve a little off.
    fraction = xp.where(progress <= 0, start, fraction)
    fraction = xp.where(has_come(progress, reach), 1.0, fraction)
    return xp.clip(fraction, start, end)

  return in_kind(pace)


def _shaped(
  curve: Callable[[Any, Any], Any], start: float, reach: float, end: float
) -> Pacing:
  """The value b + (1 - b) curve(u) of Wu et al."""
  check_ends(start, end)
  value = lambda u, xp: start + (1 - start) * curve(u, xp)
  return _curved(value, start, reach, end)


def constant(*, fraction: float = 1.0) -> Pacing:
  """The same fraction throughout; 1, the default, is standard training.

  Args:
    fraction: in (0, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for another fraction.

  Example:
    >>> constant()(0.3)
    1.0
  """
  check("fraction", fraction, lambda v: 0 < v <= 1, "a fraction in (0, 1]")
  return in_kind(lambda progress, xp: xp.full_like(progress, fraction))


def linear(
  *, start: float = 0.2, reach: float = 0.8, end: float = 1.0
) -> Pacing:
  """Grows evenly: `b + (1 - b) u`, u = progress / a.

  Args:
    start: b, fraction at the beginning, in (0, 1].
    reach: a, progress at which the fraction is 1, >= 0.
    end: the largest fraction, in [start, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> linear(start=0.5, reach=0.5)(0.25)
    0.75

  Reference: Wu, Dyer and Neyshabur, "When do curricula work?", 2021,
  arXiv:2012.03107, figure 4, as are `quadratic`, `root`, `exponential`, `log`
  and `step`.
  """
  return _shaped(lambda u, xp: u, start, reach, end)


def quadratic(
  *, start: float = 0.2, reach: float = 0.8, end: float = 1.0
) -> Pacing:
  """Grows slowly at first: `b + (1 - b) u^2`; see `linear`.

  Example:
    >>> quadratic(start=0.2, reach=0.8)(0.4)
    0.4
  """
  return _shaped(lambda u, xp: u**2, start, reach, end)


def root(
  *, start: float = 0.2, reach: float = 0.8, p: float = 2.0, end: float = 1.0
) -> Pacing:
  """Grows fast at first: `b + (1 - b) u^(1/p)`; see `linear`.

  Example:
    >>> root(start=0.5, reach=1.0)(0.25)
    0.75
  """
  check("p", p, lambda v: v > 0, "a number > 0")
  return _shaped(lambda u, xp: u ** (1 / p), start, reach, end)


def exponential(
  *, start: float = 0.2, reach: float = 0.8, end: float = 1.0
) -> Pacing:
  """Grows late: `b + (1 - b) (e^(10 u) - 1) / (e^10 - 1)`; see `linear`.

  Example:
    >>> exponential(start=0.2, reach=0.8)(0.8)
    1.0
  """
  curve = lambda u, xp: xp.expm1(10 * u) / math.expm1(10)
  return _shaped(curve, start, reach, end)


def log(*, start: float = 0.2, reach: float = 0.8, end: float = 1.0) -> Pacing:
  """Grows early: `b + (1 - b) (1 + ln(u + e^-10) / 10)`; see `linear`.

  Example:
    >>> round(log(start=0.2, reach=0.8)(0.8), 3)
    1.0
  """
  curve = lambda u, xp: 1 + 0.1 * xp.log(u + math.exp(-10))
  return _shaped(curve, start, reach, end)


def geometric(
  *, start: float = 0.2, reach: float = 0.8, end: float = 1.0
) -> Pacing:
  """Grows by the same factor in the same time: `b^(1 - u)`, u = progress / a.

  Args:
    start: b, fraction at the beginning, in (0, 1].
    reach: a, progress at which the fraction is 1, >= 0.
    end: the largest fraction, in [start, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> geometric(start=0.25, reach=1.0)(0.5)
    0.5

  Reference: Penha and Hauff, "Curriculum learning strategies for IR", 2020,
  arXiv:1912.08555, where it is "geom-progression".
  """
  return _curved(lambda u, xp: start ** (1.0 - u), start, reach, end)


def competence(
  *, start: float = 0.01, p: float = 2.0, reach: float = 1.0, end: float = 1.0
) -> Pacing:
  """Competence: `(u (1 - c^p) + c^p)^(1/p)`, u = progress / reach.

  The root is the p-th. CurML and CurBench take the square root for every p, so
  that theirs does not begin at c.

  Args:
    start: c, competence at the beginning, in (0, 1].
    p: 1 is linear, 2 the square root of the paper; > 0.
    reach: progress at which competence is 1, > 0.
    end: the largest fraction, in [start, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> competence(start=0.5, p=1.0)(0.5)
    0.75

  Reference: Platanios, Stretcu, Neubig, Poczos and Mitchell, "Competence-based
  curriculum learning for neural machine translation", 2019, arXiv:1903.09848,
  equation 7 (which gives p = 2) and 8.
  """
  check_ends(start, end)
  check("p", p, lambda v: v > 0, "a number > 0")
  check("reach", reach, lambda v: v > 0, "a share of the training > 0")
  base = start**p
  value = lambda u, xp: (u * (1 - base) + base) ** (1 / p)
  return _curved(value, start, reach, end)
