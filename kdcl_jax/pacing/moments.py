"""Pacing that grows at certain moments and is constant between them."""

import math
from collections.abc import Sequence
from typing import Any

from kdcl_jax.pacing.curves import constant
from kdcl_jax.pacing.progress import (
  Pacing,
  check,
  check_ends,
  check_moments,
  check_reach,
  edges_of,
  floored,
  has_come,
  in_kind,
  stepwise,
)


def step(*, start: float = 0.2, reach: float = 0.8, end: float = 1.0) -> Pacing:
  """Everything at once: b until progress is a, then 1; see `linear`.

  Example:
    >>> step(start=0.2, reach=0.5)(0.4), step(start=0.2, reach=0.5)(0.5)
    (0.2, 1.0)
  """
  check_ends(start, end)
  check_reach(reach)
  return in_kind(
    lambda progress, xp: xp.where(has_come(progress, reach), end, start).astype(
      progress.dtype
    )
  )


def single_step(*, start: float = 0.04, at: float = 0.3) -> Pacing:
  """The fraction b until a moment, everything after it.

  Args:
    start: b, in (0, 1].
    at: the moment as a share of the training, >= 0.

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> single_step(start=0.1, at=0.5)(0.6)
    1.0

  Reference: as `fixed_exponential`.
  """
  check("at", at, lambda v: 0 <= v < math.inf, "a share of the training >= 0")
  return step(start=start, reach=at)


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
  return stepwise(check_moments("ends", ends), fractions)


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
  check_ends(start, end)
  check("factor", factor, lambda v: v > 1, "a number > 1")
  check("interval", interval, lambda v: v > 0, "a share of the training > 0")
  # From this many on the fraction is at its end; q^k would overflow.
  most = math.ceil(math.log(end / start) / math.log(factor) - 1e-9)

  def pace(progress: Any, xp: Any) -> Any:
    times = xp.minimum(floored(progress / interval, xp), most)
    grown = start * xp.power(float(factor), times)
    return xp.clip(xp.where(times >= most, end, grown), start, end)

  return in_kind(pace)


def varied_exponential(
  *,
  moments: Sequence[float],
  start: float = 0.04,
  factor: float = 1.9,
  end: float = 1.0,
) -> Pacing:
  """Multiplies by a factor at given moments: `min(b q^k, 1)`, k have come.

  Args:
    moments: increasing shares of the training in (0, 1).
    start: b, in (0, 1].
    factor: q, > 1.
    end: the largest fraction, in [start, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> varied_exponential(moments=(0.1, 0.5), start=0.25, factor=2.0)(0.1)
    0.5

  Reference: as `fixed_exponential`.
  """
  check_ends(start, end)
  check("factor", factor, lambda v: v > 1, "a number > 1")
  moments = check_moments("moments", moments)
  fractions = [float(start)]
  for _ in moments:
    fractions.append(min(fractions[-1] * factor, float(end)))
  return stepwise(moments, fractions)


def baby_steps(
  buckets: int | Sequence[float] = 5, *, reach: float = 0.8, end: float = 1.0
) -> Pacing:
  """Baby steps: one bucket more, from easy to hard, at equal intervals.

  Bucket j of K joins those before it when progress is `j a / (K - 1)`, j = 0
  .. K - 1; with a = (K - 1) / K, as by default, all stages are equally long.

  Args:
    buckets: how many of equal size, or the share of the records in each.
    reach: a, progress at which the last bucket joins, >= 0.
    end: the largest fraction, in (0, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> baby_steps(4, reach=0.75)(0.3), baby_steps((0.1, 0.9))(0.3)
    (0.5, 0.1)

  Reference: Spitkovsky, Alshawi and Jurafsky, "From baby steps to leapfrog: how
  'less is more' in unsupervised dependency parsing", NAACL 2010; Cirik, Hovy
  and Morency, "Visualizing and understanding curriculum learning for long
  short-term memory networks", 2016, arXiv:1611.06204, algorithm 2.
  """
  fractions = [min(edge, end) for edge in edges_of(buckets)[1:]]
  check("end", end, lambda v: 0 < v <= 1, "a fraction in (0, 1]")
  check_reach(reach)
  if len(fractions) == 1 or reach == 0:
    return constant(fraction=fractions[-1])
  last = len(fractions) - 1
  return stepwise([j * reach / last for j in range(1, last + 1)], fractions)


def grow(
  *,
  start: float = 0.0,
  by: float = 0.1,
  interval: float = 0.08,
  end: float = 1.0,
) -> Pacing:
  """Adds the same at fixed intervals: `min(s + g (floor(t / L) + 1), 1)`.

  The first interval has one increment already. In epochs, as CurML has it, t is
  the number of epochs done and L how many make an interval.

  Args:
    start: s, in [0, 1), the fraction before the first increment.
    by: g, > 0.
    interval: L as a share of the training, > 0.
    end: the largest fraction, in (0, 1].

  Returns:
    progress -> fraction.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> pace = grow(by=0.25, interval=0.1)
    >>> pace(0.0), pace(0.1), pace(0.3)
    (0.25, 0.5, 1.0)

  Reference: Zhou et al., "CurML: a curriculum machine learning library", ACM
  Multimedia 2022, its `BabyStep`.
  """
  check("start", start, lambda v: 0 <= v < 1, "a fraction in [0, 1)")
  check("by", by, lambda v: 0 < v < math.inf, "a number > 0")
  check("interval", interval, lambda v: v > 0, "a share of the training > 0")
  check("end", end, lambda v: 0 < v <= 1, "a fraction in (0, 1]")
  most = math.ceil((end - start) / by - 1e-9)  # increments until the end

  def pace(progress: Any, xp: Any) -> Any:
    times = floored(progress / interval, xp) + 1
    grown = start + by * xp.minimum(times, most)
    return xp.where(times >= most, end, xp.minimum(grown, end))

  return in_kind(pace)
