"""The lessons that a course is cut into: when validation looks at the stage."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Pacing = Callable[[Any], Any]


def lesson_ends(
  pacing: Pacing, total_steps: int, lessons: int
) -> tuple[int, ...]:
  """The steps at which the lessons of a course end, the last being its end."""
  grid = np.unique(np.linspace(0, total_steps, 4097).astype(int))[:-1]
  fractions = np.asarray(pacing(grid / total_steps), float)
  fractions = np.broadcast_to(fractions, grid.shape)
  jumps: Sequence[int] = np.flatnonzero(np.diff(fractions))
  if 0 < len(jumps) <= min(2 * lessons, len(grid) // 8):
    ends = [
      _first_step(pacing, total_steps, grid[i], grid[i + 1]) for i in jumps
    ]
    return tuple(ends) + (total_steps,)
  ends = np.linspace(0, total_steps, lessons + 1).round().astype(int)[1:]
  return tuple(int(e) for e in np.unique(ends[ends > 0]))


def _first_step(pacing: Pacing, total_steps: int, low: int, high: int) -> int:
  """The first step in (low, high] at which the pacing has left its value."""
  before = float(pacing(low / total_steps))
  while high - low > 1:
    middle = (low + high) // 2
    if float(pacing(middle / total_steps)) == before:
      low = middle
    else:
      high = middle
  return int(high)
