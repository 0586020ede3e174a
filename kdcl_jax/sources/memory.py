"""Records that are decoded once and then kept in memory."""

import numpy as np

from kdcl_jax.sources import Source, UnreadableRecord, reading
from kdcl_jax.sources.windows import Window


class DecodedSource:
  """A source whose decoded inputs stay in memory, as far as they were read.

  Decoding a small picture takes longer than a step of a small model. Threads
  may read at the same time: a record that two of them decode is the same twice.
  """

  def __init__(
    self,
    source: Source,
    shape: tuple[int, ...],
    *,
    window: Window | None = None,
    whole: bool = False,
    threads: int = 1,
  ):
    """Reserves the memory; it is taken as records are read.

    Args:
      source: where the records come from.
      shape: shape of an input; other shapes are unreadable.
      window: the part of each picture that is kept; None for whole inputs.
      whole: whether inputs are the pictures as they are, not resized: windows
        of them are then taken from memory, too.
      threads: how many read at a time.
    """
    self._source = source
    self._window, self._threads = window, threads
    self._whole = whole and window is None
    self._images = np.zeros((len(source), *shape), np.uint8)
    self._read = np.zeros(len(source), bool)
    self._readable = np.zeros(len(source), bool)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, record_id: int) -> dict[str, np.ndarray]:
    return self._source[record_id]

  def labels(self) -> np.ndarray:
    """[N] int64."""
    return self._source.labels()

  def holds(self, record_ids: np.ndarray) -> bool:
    """Whether records have been read, so that none needs to be waited for."""
    return bool(self._read[record_ids].all())

  def underway(self) -> list[int]:
    """See `kdcl_jax.sources.patience.PatientSource`."""
    return getattr(self._source, "underway", list)()

  def batch(self, record_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, ...], zeros where unreadable, and readable [n] bool."""
    missing = record_ids[~self._read[record_ids]]
    windows = None if self._window is None else [self._window] * len(missing)
    shape = self._images.shape[1:]
    images = reading.rows(self._source, missing, windows, shape, self._threads)
    for record, image in zip(missing, images, strict=True):
      if image is not None:
        self._images[record] = image
        self._readable[record] = True
      self._read[record] = True  # last, so that no other thread is too early
    return self._images[record_ids], self._readable[record_ids]

  def view(
    self, record_id: int, window: Window, size: tuple[int, int]
  ) -> np.ndarray:
    """A part of the picture, resized; see `kdcl_jax.sources.Source`."""
    if not self._whole:
      return reading.view(self._source, record_id, window, size)
    from kdcl_jax.sources.images import seen

    images, readable = self.batch(np.array([record_id]))
    if not readable[0]:
      raise UnreadableRecord(f"record {record_id}")
    return seen(images[0], window, size)
