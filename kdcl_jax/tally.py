"""Running sums of a stage: fetched one interval late, so no step waits."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax import hosts
from kdcl_jax.errors import UserError
from kdcl_jax.state import TrainState

log = logging.getLogger(__name__)

Sums = dict[str, jax.Array]


@jax.jit
def _taken(sums: Sums, marks: Any) -> tuple[Sums, Any, Sums]:
  """Copies, which outlive the donation of the state, and new zeros."""
  copies = jax.tree.map(jnp.copy, sums)
  marks = jax.tree.map(jnp.copy, marks)
  return copies, marks, jax.tree.map(jnp.zeros_like, sums)


@dataclasses.dataclass
class Totals:
  """What has been counted on the host, as saved in a checkpoint.

  Attributes:
    rows: records read so far.
    kept: records trained on so far, fewer than read ones where a selection
      chooses among them.
    validated: records evaluated on the validation split so far.
    rescored: records evaluated to rank them anew so far.
    seconds: time spent in the stage so far.
    unreadable: record ids that could not be read.
    skipped: steps whose loss or gradient was not finite, and which changed
      nothing.
  """

  rows: int = 0
  kept: int = 0
  validated: int = 0
  rescored: int = 0
  seconds: float = 0.0
  unreadable: list[int] = dataclasses.field(default_factory=list)
  skipped: int = 0
  _lost: list[tuple] = dataclasses.field(default_factory=list, repr=False)

  def count(
    self, step: int, batch: dict[str, np.ndarray], present: int, keep: int
  ) -> None:
    """Counts the rows of a batch, of which at most `keep` are trained on.

    Args:
      step: the batch's step.
      batch: this host's rows.
      present: rows of the global batch that are there, readable or not.
      keep: rows that are trained on.
    """
    self.rows += present
    self.kept += min(present, keep)
    if batch["unreadable"].any():
      lost = batch["id"][batch["unreadable"]].tolist()
      self._lost.append((step, present, keep, lost))

  def settle(self) -> None:
    """Takes back what no host could read; all hosts call it at the same step.

    Before, `rows` and `kept` count unreadable records too.
    """
    lost: dict[int, tuple[int, int, list[int]]] = {}
    for host in hosts.gathered(self._lost):
      for step, present, keep, ids in host:
        others = lost[step][2] if step in lost else []
        lost[step] = (present, keep, others + ids)
    for present, keep, ids in lost.values():
      self.rows -= len(ids)
      self.kept += min(present - len(ids), keep) - min(present, keep)
      self.unreadable = sorted({*self.unreadable, *ids})
    self._lost = []


class Tally:
  """Takes the sums of the steps off the device and makes log lines of them."""

  def __init__(
    self,
    totals: Totals,
    name: str,
    emit: Callable[[dict], None],
    interval: Mapping[str, Any] | None = None,
  ):
    """Starts with what a checkpoint knew.

    Args:
      totals: changed in place.
      name: the stage's name, for messages.
      emit: what is done with a log line.
      interval: what `facts` said of the interval so far; None for nothing.
    """
    self.totals = totals
    self._name = name
    self._emit = emit
    self._interval = {k: np.array(v) for k, v in (interval or {}).items()}
    self._pending: tuple | None = None
    self._clock = time.perf_counter()
    self._logged = (self._clock, totals.rows)

  def take(self, state: TrainState, note: dict | None = None) -> TrainState:
    """Takes the sums from the state, which goes on with zeros.

    They are fetched by the next `take` or `drain`, when the device has long
    computed them.

    Args:
      state: the present state.
      note: what a log line says besides, where an interval ends here.

    Returns:
      The state to go on with.
    """
    self.drain()
    if note is not None:
      now = time.perf_counter()
      seconds = max(now - self._logged[0], 1e-9)
      rate = (self.totals.rows - self._logged[1]) / seconds
      self._logged = (now, self.totals.rows)
      note = note | {"examples_per_second": rate}
    marks = (state.bad_step, state.skips)
    sums, marks, zeros = _taken(state.sums, marks)
    self._pending = ((sums, marks), note)
    return state.replace(sums=zeros)

  def drain(self) -> None:
    """Fetches what was taken before, and emits its line if it ends an interval.

    Raises:
      UserError: where the loss or the gradient was not finite.
    """
    if self._pending is None:
      return
    arrays, note = self._pending
    self._pending = None
    sums, (bad_step, skips) = jax.device_get(arrays)
    self.check(bad_step)
    self._count_skips(int(skips[0]))
    for name, value in sums.items():
      value = value.astype(np.float64)
      self._interval[name] = self._interval.get(name, 0.0) + value
    if note is not None:
      self._emit({"kind": "train", **note, **self._means()})

  def _count_skips(self, skipped: int) -> None:
    if skipped > self.totals.skipped:
      log.warning(
        "%s: steps skipped, whose loss or gradient was NaN or infinite: %d"
        " more, %d so far.",
        self._name,
        skipped - self.totals.skipped,
        skipped,
      )
    self.totals.skipped = skipped

  def _means(self) -> dict:
    means = {
      name: float(value[0] / max(value[1], 1e-12))
      for name, value in self._interval.items()
    }
    self._interval = {}
    terms = {
      name.removeprefix("terms/"): means.pop(name)
      for name in list(means)
      if name.startswith("terms/")
    }
    return means | {"terms": terms}

  def check(self, bad_step: Any) -> None:
    """Stops a training whose loss or gradient was not finite.

    Raises:
      UserError: where `bad_step` is a step.
    """
    if bad_step >= 0:
      raise UserError(
        f"the loss or its gradient became NaN or infinite in stage"
        f" {self._name!r} at step {int(bad_step)}; the last good checkpoint is"
        " kept. A lower learning rate"
        f" (config.{self._name}.optimizer.learning_rate) or gradient clipping"
        f" (config.{self._name}.optimizer.clip) usually cures it; a positive"
        f" config.{self._name}.skip_not_finite skips so many such steps in a"
        " row, and counts them."
      )

  def facts(self) -> dict:
    """The totals, time included, and the interval so far, for a checkpoint."""
    now = time.perf_counter()
    self.totals.seconds += now - self._clock
    self._clock = now
    self.totals.settle()
    totals = dataclasses.asdict(self.totals)
    del totals["_lost"]
    interval = {name: v.tolist() for name, v in self._interval.items()}
    return {"totals": totals, "interval": interval}
