"""Batches of records for a range of steps, read ahead by Grain.

A stream is built at a step and for a lesson, from a plan that says which rows
each step has. It carries no state of its own: there is no iterator to save, and
nothing of the next lesson's subset can leak into the present one.
"""

import math
from collections.abc import Callable, Iterator

import grain
import numpy as np

from kdcl_jax.dataset import Split
from kdcl_jax.sources import ArraySource, patience
from kdcl_jax.sources.memory import DecodedSource

# step -> (record ids, visits, present), each [rows]
Plan = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]
# (rows, seed, progress) -> rows; `windows` of a `kdcl_jax.augment.Views` too.
Augment = Callable[[dict, int, float], dict]
Ranks = Callable[[np.ndarray], np.ndarray]  # record ids -> ranks in [0, 1]
_AHEAD = 2**31  # bytes that are read ahead, at most, but for a batch per thread


def stream(
  split: Split,
  plan: Plan,
  start: int,
  stop: int,
  *,
  augment: Augment | None = None,
  seed: int = 0,
  total_steps: int = 1,
  threads: int | None = None,
  rank: Ranks | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the batches of steps [start, stop) as dictionaries of arrays.

  Args:
    split: where the records come from.
    plan: the rows of a step, a pure function.
    start: the first step.
    stop: the step after the last one.
    augment: applied to each batch with `seed` and the progress of its step;
      views are keyed by (seed, record id, visit). It may have `windows`, which
      say what is read of each record.
    seed: the stage's seed.
    total_steps: length of the stage, of which `step / total_steps` is done.
    threads: reader threads; 0 reads in the caller's thread. None is 2, or 0
      where there is nothing to do but to take rows out of memory.
    rank: from `kdcl_jax.curriculum.Curriculum.ranks`; None to leave it out.

  Yields:
    The records' arrays and `label` [rows], with `id` and `visit` (int64),
    `weight` (float32, 0 for padding and unreadable records), `unreadable`
    (bool), and `rank` (float32) if asked for.
  """
  choose = getattr(augment, "windows", None)

  def batch(step: int) -> dict[str, np.ndarray]:
    ids, visits, present = plan(step)
    progress = step / total_steps
    windows = choose(ids, visits, seed, progress) if choose else None
    records, readable = split.fetch(ids, windows)
    rows = {
      **records,
      "id": ids,
      "visit": visits,
      "weight": (present & readable).astype(np.float32),
      "unreadable": present & ~readable,
    }
    if rank is not None:
      rows["rank"] = rank(ids)
    return augment(rows, seed, progress) if augment else rows

  if threads is None:
    threads = 0 if augment is None and _in_memory(split) else 2
  steps = grain.MapDataset.range(start, stop).map(batch)
  ahead = 4 * threads
  if threads and start < stop:  # fewer of large pictures; a float has 4 bytes
    size = 4 * len(plan(start)[0]) * math.prod(split.shape)
    ahead = min(max(_AHEAD // size, threads), ahead)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
  batches = iter(steps.to_iter_dataset(options))
  if not threads:
    return batches
  underway = getattr(split.source, "underway", list)
  return patience.watched(batches, split.patience, underway)


def _in_memory(split: Split) -> bool:
  source = split.source
  if isinstance(source, DecodedSource):
    return source.holds(split.ids)
  return isinstance(source, ArraySource)


def ordered(ids: np.ndarray, batch_size: int) -> tuple[Plan, int]:
  """A plan that visits ids once, in sequence, and its number of batches.

  The last batch is filled up with the first id, not present.

  Example:
    >>> plan, batches = ordered(np.arange(5), 4)
    >>> batches, plan(1)[2].tolist()
    (2, [True, False, False, False])
  """

  def plan(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    position = step * batch_size + np.arange(batch_size)
    present = position < len(ids)
    rows = ids[np.where(present, position, 0)]
    return rows, np.zeros(batch_size, np.int64), present

  return plan, -(-len(ids) // batch_size)
