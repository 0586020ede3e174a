"""What a stage may see at a step: the record ids of each batch, as pure maths.

The active subset at step t is exactly the records whose rank in the order is
below n(t) (and, for a course that leaves the easiest behind, not below m(t)).
Within it the stage makes passes: a pass visits every active record
once, in a keyed pseudo-random sequence, in batches of which only the last may
be short. The ids of step t depend on (seed, t, order, n(t)) and on nothing
else, take O(batch) time to find, and are the same for every number of hosts.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kdcl_jax.controller import Controller
from kdcl_jax.course import CourseState
from kdcl_jax.randomness import hash64, permute

# Keeps the permutations apart from every other use of a seed.
_STREAM = 0x5E1EC7
_BLOCK = 64  # steps whose rows are found at a time


class Selection(NamedTuple):
  """The rows of one batch, before any record is read.

  Attributes:
    rank: [batch] int64 ranks in the order, below n(t); 0 where not present.
    visit: [batch] int64, the pass over the active subset; keys augmentation.
    present: [batch] bool, False for the padding of a pass's last batch.

  Of several steps: [steps, batch].
  """

  rank: np.ndarray
  visit: np.ndarray
  present: np.ndarray


def active_count(fraction: float, size: int) -> int:
  """Number of active records: `ceil(fraction * size)`, within [1, size].

  Args:
    fraction: share of the order, in (0, 1].
    size: records in the order.

  Returns:
    n(t), an int.

  Example:
    >>> active_count(0.25, 10), active_count(1.0, 10)
    (3, 10)
  """
  # 0.3 * 10 is a rounding step above 3.
  return int(min(max(math.ceil(fraction * size * (1 - 1e-12)), 1), size))


def select(
  seed: int,
  step: int | np.ndarray,
  active: int | np.ndarray,
  batch_size: int,
) -> Selection:
  """Picks the rows of the batch at a step, or of those at several steps.

  With K = ceil(active / batch_size) batches to a pass, step t is batch t mod K
  of pass t div K, and the pass is a permutation of the active ranks keyed by
  (seed, pass, active). At a constant fraction of 1 each K steps visit every
  record exactly once.

  Args:
    seed: the stage's seed.
    step: the step, >= 0, or [steps].
    active: n(t), the number of active records, >= 1; or [steps].
    batch_size: rows of the global batch, >= 1.

  Returns:
    A `Selection` of `batch_size` rows; present rows have different ranks.

  Example:
    >>> rows = select(seed=0, step=1, active=5, batch_size=3)
    >>> rows.present.tolist(), len(set(rows.rank[rows.present].tolist()))
    ([True, True, False], 2)
  """
  step, active = np.asarray(step)[..., None], np.asarray(active)[..., None]
  visit, batch = np.divmod(step, -(-active // batch_size))
  position = batch * batch_size + np.arange(batch_size)
  present = position < active
  # Wrapped, so that padding is permuted too and nothing is out of range.
  rank = permute(position % active, active, seed, _STREAM, visit, active)
  return Selection(
    rank=np.where(present, rank, 0),
    visit=np.broadcast_to(visit, rank.shape).astype(np.int64),
    present=present,
  )


def present_rows(
  step: np.ndarray | int, active: np.ndarray | int, batch_size: int
) -> np.ndarray:
  """How many of the rows that `select` picks are present.

  Args:
    step: steps, >= 0.
    active: n(t) at each, >= 1.
    batch_size: rows of the global batch, >= 1.

  Returns:
    int64, of the shape of steps and active numbers.

  Example:
    >>> present_rows(np.arange(4), 5, 3).tolist()
    [3, 2, 3, 2]
  """
  step, active = np.asarray(step, np.int64), np.asarray(active, np.int64)
  batch = step % -(-active // batch_size)
  return np.minimum(active - batch * batch_size, batch_size)


@dataclasses.dataclass(frozen=True)
class Curriculum:
  """An order and a course: everything that decides what a step may see.

  Attributes:
    order: [N] int64 record ids, easiest first.
    controller: the pacing and what validation does to it.
    seed: keys the passes and the augmentation.
    batch_size: rows of the global batch.
    anti: whether the hardest come first.
  """

  order: np.ndarray
  controller: Controller
  seed: int
  batch_size: int
  anti: bool = False

  def window(self, state: CourseState, step: int) -> tuple[int, int]:
    """m(t) and n(t): active are the ranks from m(t) to below n(t)."""
    low, high = self.controller.window(state, step)
    last = active_count(high, len(self.order))
    first = active_count(low, len(self.order)) if low > 0 else 0
    return min(first, last - 1), last

  def active(self, state: CourseState, step: int) -> int:
    """How many records are active at a step of the present lesson."""
    first, last = self.window(state, step)
    return last - first

  def batch(
    self,
    state: CourseState,
    step: int | np.ndarray,
    rows: slice | np.ndarray = slice(None),
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Record ids, visits and presence of (some rows of) the batch at a step.

    Arrays [rows], or [steps, rows] of several steps of the present lesson.
    """
    steps = np.asarray(step, np.int64)
    windows = np.array([self.window(state, int(t)) for t in steps.flat])
    first, last = windows.reshape(*steps.shape, 2).astype(np.int64).T
    chosen = select(self.seed, steps, last - first, self.batch_size)
    ids = self.order[first[..., None] + chosen.rank[..., rows]]
    return ids, chosen.visit[..., rows], chosen.present[..., rows]

  def plan(
    self,
    state: CourseState,
    start: int,
    stop: int,
    rows: slice | np.ndarray = slice(None),
  ) -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`batch` as a function of the step, for steps [start, stop) of a lesson.

    Finds the rows of several steps at a time, which takes much less time.
    """

    @functools.lru_cache(maxsize=4)
    def block(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
      low = start + index * _BLOCK
      steps = np.arange(low, min(low + _BLOCK, stop))
      return self.batch(state, steps, rows)

    def at(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
      index, row = divmod(step - start, _BLOCK)
      ids, visits, present = block(index)
      return ids[row], visits[row], present[row]

    return at

  def ranks(self) -> Callable[[np.ndarray], np.ndarray]:
    """Record ids -> float32 ranks by the present order.

    0 is the easiest and 1 the hardest, which an `anti` order has first.
    """
    size = len(self.order)
    share = np.arange(size) / max(size - 1, 1)
    known = np.zeros(int(self.order.max()) + 1, np.float32)
    known[self.order] = 1 - share if self.anti else share
    return known.__getitem__


def reranked(
  order: np.ndarray, first: int, difficulty: np.ndarray, *, anti: bool = False
) -> np.ndarray:
  """An order of which the end is ranked anew.

  Args:
    order: [N] record ids.
    first: how many ranks stay as they are.
    difficulty: [N] new difficulties of the records in `order`, in its sequence.
    anti: whether the hardest come first.

  Returns:
    [N] the same ids. Ties keep the sequence that they have.

  Example:
    >>> reranked(np.array([4, 5, 6, 7]), 1, np.array([9, 3, 1, 2.0])).tolist()
    [4, 6, 7, 5]
  """
  values = -difficulty[first:] if anti else difficulty[first:]
  place = np.argsort(values, kind="stable")
  return np.concatenate([order[:first], order[first:][place]])


def stage_seed(seed: int, stage: str) -> int:
  """A seed of its own for each stage of a run, from the run's seed.

  Example:
    >>> stage_seed(0, "teacher") != stage_seed(0, "student")
    True
  """
  return int(hash64(seed, *stage.encode()) >> np.uint64(33))
