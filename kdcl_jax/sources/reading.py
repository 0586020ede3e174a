"""Records of a source read in sequence, by several threads at a time.

Decoders release Python's lock, so threads share the work without a copy of it.
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kdcl_jax.sources import Source, UnreadableRecord
from kdcl_jax.sources.windows import Window

_ROWS = 16  # that a thread reads at a time, at most


def cores() -> int:
  """The cores that this process may use."""
  return len(os.sched_getaffinity(0))


def view(
  source: Source, record_id: int, window: Window | None, size: tuple[int, int]
) -> np.ndarray:
  """A record's input, or the part of a picture that a window names.

  Args:
    source: where the record is.
    record_id: the record.
    window: chooses the part; None for the input as the source has it.
    size: height and width that the part is resized to.

  Returns:
    The input.

  Raises:
    UnreadableRecord: where it cannot be decoded.
  """
  if window is None:
    return source[record_id]["image"]
  if hasattr(source, "view"):
    return source.view(record_id, window, size)
  from kdcl_jax.sources.images import seen  # Pillow, which few sources need

  return seen(source[record_id]["image"], window, size)


def rows(
  source: Source,
  record_ids: np.ndarray,
  windows: Sequence[Window | None] | None,
  shape: tuple[int, ...],
  threads: int,
) -> list[np.ndarray | None]:
  """The inputs of several records.

  Args:
    source: where the records are.
    record_ids: [n] the records.
    windows: of each, its part; None for all of all.
    shape: of an input; one of another shape counts as unreadable.
    threads: how many read at a time; with 1 the caller does.

  Returns:
    [n] inputs, None where unreadable; the same for any number of threads.
  """
  windows = windows or [None] * len(record_ids)

  def read(some: slice) -> list[np.ndarray | None]:
    found = []
    for record, window in zip(record_ids[some], windows[some], strict=True):
      try:
        image = view(source, int(record), window, shape[:2])
      except UnreadableRecord:
        image = None
      found.append(None if image is None or image.shape != shape else image)
    return found

  if threads <= 1 or len(record_ids) <= 1:
    return read(slice(None))
  step = min(max(len(record_ids) // (4 * threads), 1), _ROWS)
  parts = [slice(i, i + step) for i in range(0, len(record_ids), step)]
  return [row for part in _pool(threads).map(read, parts) for row in part]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
  """Threads that live as long as the process."""
  return ThreadPoolExecutor(threads, thread_name_prefix="reader")
