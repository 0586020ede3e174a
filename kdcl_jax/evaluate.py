"""A model's view of every record of a split, exact for any split size."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kdcl_jax import difficulty, metrics, pipeline, step
from kdcl_jax.dataset import Split
from kdcl_jax.parallel import Parallel


@functools.lru_cache(maxsize=64)
def _compiled(
  forward: step.Forward,
  scores: tuple[tuple[str, Callable[..., jax.Array]], ...],
  parallel: Parallel,
) -> Callable[..., Any]:
  """What equal models share, such as those of several seeds."""
  asked = {need for _, score in scores for need in difficulty.needs_of(score)}
  if "forward" in asked and parallel.devices > 1:
    # XLA splits the gradients of single examples through convolutions wrongly
    # over devices (seen with JAX 0.10), and each device has its own anyway.
    parallel = dataclasses.replace(parallel, mode="shard_map", fsdp=0)
  body = step.record_body(forward, dict(scores), parallel.axis_name)
  return parallel.partition(body, constants=1, row_outputs=True)


class Evaluator:
  """Runs one model over records, in evaluation mode, without augmentation.

  The last batch is padded with weight 0, so that one compiled shape serves any
  split. Results come back in the sequence of the ids, on every host.
  """

  def __init__(
    self,
    forward: step.Forward,
    parallel: Parallel,
    *,
    batch_size: int,
    scores: Mapping[str, Callable[..., jax.Array]] | None = None,
  ):
    """Compiles lazily, at the first call.

    Args:
      forward: the model's forward pass; see `kdcl_jax.step.forward_of`.
      parallel: where to run.
      batch_size: rows of the global batch; rounded up to the devices.
      scores: further values for each record; see `kdcl_jax.step.record_body`.
    """
    self._parallel = parallel
    self._batch_size = -(-batch_size // parallel.devices) * parallel.devices
    scored = tuple((scores or {}).items())
    try:
      self._run = _compiled(forward, scored, parallel)
    except TypeError:  # a user's module that cannot be hashed
      self._run = _compiled.__wrapped__(forward, scored, parallel)

  def records(
    self, variables: Any, split: Split, ids: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """One row for each record.

    Args:
      variables: the model's variables, on the devices.
      split: where the records are.
      ids: record ids, all of the split's where not given.

    Returns:
      Arrays [N]: `record_id`, `label` (observed), `readable`, `prediction`,
      `confidence`, `loss`, and the scores.
    """
    ids = split.ids if ids is None else ids
    plan, batches = pipeline.ordered(ids, self._batch_size)
    rows = self._parallel.local_rows(self._batch_size)
    local = lambda index: tuple(array[rows] for array in plan(index))
    results = []
    for batch in pipeline.stream(split, local, 0, batches):
      batch = self._parallel.put_batch(step.device_batch(batch))
      results.append(self._run(variables, batch))
      if len(results) > 1:  # the devices keep one batch of rows
        results[-2] = jax.device_get(results[-2])
    results[-1] = jax.device_get(results[-1])
    gathered = jax.tree.map(
      lambda *parts: np.concatenate(parts)[: len(ids)], *results
    )
    return {
      "record_id": ids,
      "label": split.labels[ids],
      **gathered,
    }


def readable(records: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The rows of the records that could be read."""
  return {name: rows[records["readable"]] for name, rows in records.items()}


def measure(records: Mapping[str, np.ndarray]) -> dict[str, float]:
  """`kdcl_jax.metrics.summary` of the records that could be read."""
  return metrics.summary(readable(records))
