"""Pacing functions: the active fraction of the order as training goes on.

A factory such as `linear(start=0.2, reach=0.8)` returns a function of progress
in [0, 1] (share of the stage that is done). It gives the same number for a
Python float, a NumPy array and a traced value, without touching a device for
the first two, and is clamped to [start, end]. `start` is the fraction at the
beginning (b in the literature), `reach` the progress at which everything is
active (a), above 1 for a course that never gets there; `reach=0` or `start=1`
is training on everything.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Pacing = Callable[[Any], Any]


def _in_kind(function: Callable[[Any, Any], Any]) -> Pacing:
  """Evaluates with NumPy, or with jax.numpy where progress is a jax array."""

  def pace(progress: Any) -> Any:
    if isinstance(progress, jax.Array):
      return function(jnp.asarray(progress), jnp)
    value = function(np.asarray(progress, float), np)
    return float(value) if np.ndim(progress) == 0 else value

  return pace


def _check(name: str, value: Any, valid: bool, expected: str) -> None:
  if isinstance(value, bool) or not isinstance(value, int | float) or not valid:
    raise ValueError(f"{name} is {value!r}, expected {expected}")


def _check_ends(start: float, end: float) -> None:
  _check("start", start, 0 < start <= 1, "a fraction in (0, 1]")
  _check("end", end, start <= end <= 1, f"a fraction in [start, 1], {start} ..")


def _shaped(
  curve: Callable[[Any, Any], Any], start: float, reach: float, end: float
) -> Pacing:
  """The value b + (1 - b) curve(u), u = progress / a, clamped to [b, end]."""
  _check_ends(start, end)
  _check("reach", reach, reach >= 0, "a share of the training >= 0")
  if reach == 0:
    return constant(fraction=end)

  def pace(progress: Any, xp: Any) -> Any:
    return xp.clip(
      start + (1 - start) * curve(progress / reach, xp), start, end
    )

  return _in_kind(pace)


def constant(*, fraction: float = 1.0) -> Pacing:
  """The same fraction throughout; 1, the default, is standard training.

  Example:
    >>> constant()(0.3)
    1.0
  """
  _check("fraction", fraction, 0 < fraction <= 1, "a fraction in (0, 1]")
  return _in_kind(lambda progress, xp: xp.full_like(progress, fraction))


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
  arXiv:2012.03107, figure 4, as are the five that follow.
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
  _check("p", p, p > 0, "a number > 0")
  return _shaped(lambda u, xp: u ** (1 / p), start, reach, end)


def exponential(
  *, start: float = 0.2, reach: float = 0.8, end: float = 1.0
) -> Pacing:
  """Grows late: `b + (1 - b) (e^(10 u) - 1) / (e^10 - 1)`; see `linear`.

  Example:
    >>> exponential(start=0.2, reach=0.8)(0.8)
    1.0
  """

  def curve(u: Any, xp: Any) -> Any:
    # Beyond 1 it is clamped anyway; unclipped it would overflow.
    return xp.expm1(10 * xp.minimum(u, 1.0)) / math.expm1(10)

  return _shaped(curve, start, reach, end)


def log(*, start: float = 0.2, reach: float = 0.8, end: float = 1.0) -> Pacing:
  """Grows early: `b + (1 - b) (1 + ln(u + e^-10) / 10)`; see `linear`.

  Example:
    >>> round(log(start=0.2, reach=0.8)(0.8), 3)
    1.0
  """
  curve = lambda u, xp: 1 + 0.1 * xp.log(u + math.exp(-10))
  return _shaped(curve, start, reach, end)


def step(*, start: float = 0.2, reach: float = 0.8, end: float = 1.0) -> Pacing:
  """Everything at once: b until progress is a, then 1; see `linear`.

  Example:
    >>> step(start=0.2, reach=0.5)(0.4), step(start=0.2, reach=0.5)(0.5)
    (0.2, 1.0)
  """
  return _shaped(lambda u, xp: xp.floor(u), start, reach, end)


def competence(
  *, start: float = 0.01, p: float = 2.0, reach: float = 1.0, end: float = 1.0
) -> Pacing:
  """Competence: `(u (1 - c^p) + c^p)^(1/p)`, u = progress / reach.

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
  equation 7 (which gives p = 2).
  """
  _check_ends(start, end)
  _check("p", p, p > 0, "a number > 0")
  _check("reach", reach, reach > 0, "a share of the training > 0")
  base = start**p

  def pace(progress: Any, xp: Any) -> Any:
    share = xp.minimum(progress / reach, 1.0)
    return xp.clip((share * (1 - base) + base) ** (1 / p), start, end)

  return _in_kind(pace)


def stairs(*, ends: Sequence[float], fractions: Sequence[float]) -> Pacing:
  """Constant between given moments: any course by hand.

  Args:
    ends: increasing shares of the training in (0, 1) at which it grows.
    fractions: one more than the ends, each in (0, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: where they do not fit together.

  Example:
    >>> stairs(ends=(0.5,), fractions=(0.25, 1.0))(0.5)
    1.0
  """
  ends, fractions = tuple(ends), tuple(fractions)
  if len(fractions) != len(ends) + 1:
    raise ValueError(
      f"fractions has {len(fractions)} numbers, expected {len(ends) + 1}, one"
      " more than ends"
    )
  if not all(0 < f <= 1 for f in fractions):
    raise ValueError(f"fractions is {fractions!r}, expected all in (0, 1]")
  if list(ends) != sorted(set(ends)) or not all(0 < e < 1 for e in ends):
    raise ValueError(f"ends is {ends!r}, expected increasing shares in (0, 1)")

  def pace(progress: Any, xp: Any) -> Any:
    place = xp.searchsorted(xp.asarray(ends), progress, side="right")
    return xp.asarray(fractions)[place]

  if not ends:
    return constant(fraction=fractions[0])
  return _in_kind(pace)


def fixed_exponential(
  *,
  start: float = 0.04,
  factor: float = 1.9,
  interval: float = 0.07,
  end: float = 1.0,
) -> Pacing:
  """Multiplies by a factor at fixed intervals: `min(b q^floor(t / L), 1)`.

  Args:
    start: b, in (0, 1].
    factor: q, > 1.
    interval: L as a share of the training, > 0.
    end: the largest fraction, in [start, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> fixed_exponential(start=0.1, factor=2.0, interval=0.1)(0.25)
    0.4

  Reference: Hacohen and Weinshall, "On the power of curriculum learning in
  training deep networks", 2019, arXiv:1904.03626, section 3.1.
  """
  _check_ends(start, end)
  _check("factor", factor, factor > 1, "a number > 1")
  _check("interval", interval, interval > 0, "a share of the training > 0")
  # Beyond this many the fraction is at its end; q^k would overflow.
  most = math.ceil(math.log(end / start) / math.log(factor)) + 1

  def pace(progress: Any, xp: Any) -> Any:
    # 0.3 / 0.1 is a rounding step below 3.
    times = xp.minimum(xp.floor(progress / interval * (1 + 1e-9)), most)
    return xp.clip(start * xp.power(float(factor), times), start, end)

  return _in_kind(pace)


def single_step(*, start: float = 0.04, at: float = 0.3) -> Pacing:
  """The fraction b until a moment, everything after it.

  Example:
    >>> single_step(start=0.1, at=0.5)(0.6)
    1.0

  Reference: as `fixed_exponential`.
  """
  return step(start=start, reach=at)


PACINGS: dict[str, Callable[..., Pacing]] = {
  "constant": constant,
  "linear": linear,
  "quadratic": quadratic,
  "root": root,
  "exponential": exponential,
  "log": log,
  "step": step,
  "competence": competence,
  "stairs": stairs,
  "fixed_exponential": fixed_exponential,
  "single_step": single_step,
}
