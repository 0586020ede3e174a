"""Sources whose reads fail for a moment, for good, or never end.

An input or output error that may pass is tried again; a record that stays
unreadable is counted by those who read; where nothing can be read any more, the
run ends with a sentence rather than on ever fewer records.
"""

import errno
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from kdcl_jax.errors import Stuck, UserError
from kdcl_jax.sources import Source, UnreadableRecord

log = logging.getLogger(__name__)

DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds before a read is tried again
OUTAGE = 16  # records in a row that failed at every try: the storage is away
WARNING = 60.0  # seconds without a batch until it is said what is waited for
_FOR_GOOD = (
  errno.ENOENT,
  errno.EISDIR,
  errno.ENOTDIR,
  errno.EACCES,
  errno.EPERM,
  errno.ENAMETOOLONG,
  errno.ELOOP,
)

T = TypeVar("T")


class PatientSource:
  """A source that is asked again where reading fails for a moment.

  Everything else about it is that of the source itself.
  """

  def __init__(self, source: Source):
    """Wraps a source.

    Args:
      source: where the records are. An `OSError` of its reads, or behind an
        `UnreadableRecord` of theirs, is one of the storage.
    """
    self._source = source
    self._failed = 0
    self._reading: dict[int, tuple[int, float]] = {}

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, record_id: int) -> dict[str, np.ndarray]:
    return self._read(record_id, lambda: self._source[record_id])

  def __getattr__(self, name: str) -> Any:
    if name.startswith("_"):
      raise AttributeError(name)
    value = getattr(self._source, name)
    if name != "view":
      return value
    return lambda record_id, *how: self._read(
      record_id, lambda: value(record_id, *how)
    )

  def labels(self) -> np.ndarray:
    """[N] int64."""
    return self._source.labels()

  def underway(self) -> list[int]:
    """The records that are being read, the one that takes longest first."""
    reading = sorted(self._reading.copy().values(), key=lambda one: one[1])
    return [record for record, _ in reading]

  def _read(self, record_id: int, read: Callable[[], T]) -> T:
    thread = threading.get_ident()
    self._reading[thread] = record_id, time.monotonic()
    try:
      value = self._tried(record_id, read)
    finally:
      self._reading.pop(thread, None)
    self._failed = 0
    return value

  def _tried(self, record_id: int, read: Callable[[], T]) -> T:
    for delay in (*DELAYS, None):
      try:
        return read()
      except (OSError, UnreadableRecord) as error:
        fault = error if isinstance(error, OSError) else error.__cause__
        passing = isinstance(fault, OSError) and fault.errno not in _FOR_GOOD
        if delay is None and passing:
          self._give_up(record_id, fault)
        if delay is None or not passing:
          raise UnreadableRecord(str(error)) from error
      time.sleep(delay)
    raise AssertionError("the last try returns or raises")

  def _give_up(self, record_id: int, fault: OSError) -> None:
    self._failed += 1
    log.warning(
      "Record %d cannot be read (%s), tried %d times; it is left out.",
      record_id,
      fault,
      1 + len(DELAYS),
    )
    if self._failed >= OUTAGE:
      raise UserError(
        f"config.data: the last {self._failed} records could not be read"
        f" ({fault}), each tried {1 + len(DELAYS)} times; see that the storage"
        " can be reached, and the same command goes on from the last"
        " checkpoint."
      ) from fault


def patient(source: Source) -> Source:
  """The source, patient where its records are read one by one."""
  return source if hasattr(source, "batch") else PatientSource(source)


def watched(
  batches: Iterator[T], limit: float, underway: Callable[[], list[int]]
) -> Iterator[T]:
  """Yields the same, and ends a run that waits in vain.

  Args:
    batches: what other threads read.
    limit: seconds to wait for the next one; 0 waits for ever.
    underway: the records that are being read.

  Raises:
    Stuck: where the next one does not come in time.
  """
  wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
  found: queue.SimpleQueue[tuple] = queue.SimpleQueue()

  def pull() -> None:
    while wanted.get():
      try:
        found.put((next(batches), None))
      except BaseException as error:  # is raised where it is waited for
        found.put((None, error))
        return

  threading.Thread(target=pull, daemon=True, name="batches").start()
  try:
    while True:
      wanted.put(True)
      batch, error = _soon(found, limit, underway)
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield batch
  finally:
    wanted.put(False)


def _soon(
  found: queue.SimpleQueue, limit: float, underway: Callable[[], list[int]]
) -> tuple:
  """The next of a queue; says what is waited for when that takes long."""
  waited, limit = 0.0, limit or float("inf")
  while True:
    patience = min(WARNING, limit - waited)
    try:
      return found.get(timeout=patience)
    except queue.Empty:
      waited += patience
    records = underway()
    named = ", ".join(map(str, records[:5])) + (", ..." * (len(records) > 5))
    if waited >= limit:
      raise Stuck(
        f"config.data.patience is {limit:g}, and no batch could be read for so"
        f" many seconds (records being read: {named or 'unknown'}); see that"
        " the storage can be reached, and the same command goes on."
      )
    log.warning(
      "No batch for %.0f s; records being read: %s.", waited, named or "unknown"
    )
