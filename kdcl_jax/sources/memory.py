"""Records that are decoded once and then kept in memory."""

import numpy as np

from kdcl_jax.sources import Source, UnreadableRecord


class DecodedSource:
  """A source whose decoded inputs stay in memory, as far as they were read.

  Decoding a small picture takes longer than a step of a small model. Threads
  may read at the same time: a record that two of them decode is the same twice.
  """

  def __init__(self, source: Source, shape: tuple[int, ...]):
    """Reserves the memory; it is taken as records are read.

    Args:
      source: where the records come from.
      shape: shape of an input; other shapes are unreadable.
    """
    self._source = source
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

  def batch(self, record_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, ...], zeros where unreadable, and readable [n] bool."""
    for record in record_ids[~self._read[record_ids]]:
      try:
        image = self._source[int(record)]["image"]
        if image.shape == self._images.shape[1:]:
          self._images[record] = image
          self._readable[record] = True
      except UnreadableRecord:
        pass
      self._read[record] = True  # last, so that no other thread is too early
    return self._images[record_ids], self._readable[record_ids]
