"""The labels of stored records, read once and then kept in a file beside them.

A store of records has a label next to its picture, so that reading the labels
means reading everything: minutes for a million records, at every start.
"""

import hashlib
import logging
import os
import pathlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

LEAST = 10_000  # records that are worth a file
_BLOCK = 256  # records that a thread reads at a time


def read(records: Sequence[Any], feature: str, threads: int) -> np.ndarray:
  """Reads the label of every record.

  Args:
    records: dictionaries, which several threads may read.
    feature: the name of the label.
    threads: how many read; they wait for a disk together.

  Returns:
    [N] int64.
  """
  blocks = range(0, len(records), _BLOCK)

  def block(start: int) -> list[int]:
    stop = min(start + _BLOCK, len(records))
    return [records[record][feature] for record in range(start, stop)]

  with ThreadPoolExecutor(threads) as pool:
    parts = list(pool.map(block, blocks))
  return np.array([label for part in parts for label in part], np.int64)


def kept(
  records: Sequence[Any],
  feature: str,
  folder: str | os.PathLike[str],
  split: str,
  threads: int,
) -> np.ndarray:
  """The same, from a file where it has been written before.

  The file belongs to the data files' names, sizes and times of change: where
  one of these is another, the labels are read again. A folder that cannot be
  written, or is not on this machine, is left as it is.

  Args:
    records: see `read`.
    feature: see `read`.
    folder: of the data files, and of the file.
    split: which records of the folder these are.
    threads: see `read`.

  Returns:
    [N] int64.
  """
  path = _path(pathlib.Path(folder), feature, split)
  if len(records) < LEAST or path is None:
    return read(records, feature, threads)
  try:
    found = np.load(path, allow_pickle=False)
    if found.shape == (len(records),) and found.dtype == np.int64:
      return found
  except (OSError, ValueError, EOFError):  # not there, or damaged
    pass
  log.info("reading the labels of %d records (once)", len(records))
  found = read(records, feature, threads)
  try:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
      np.save(file, found)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
  except OSError as error:
    log.info("the labels are read at every start (%s)", error)
  return found


def _path(
  folder: pathlib.Path, feature: str, split: str
) -> pathlib.Path | None:
  """The file for these labels; None where the folder is not of this machine."""
  digest = hashlib.sha256(repr((feature, split)).encode())
  try:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
      if ".array_record" in entry.name:
        facts = entry.stat()
        words = entry.name, facts.st_size, facts.st_mtime_ns
        digest.update(repr(words).encode())
  except OSError:
    return None
  return folder / f"kdcl_jax_labels_{digest.hexdigest()[:16]}.npy"
