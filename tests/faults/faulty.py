"""Sources at fault, for runs of the whole command and for short trainings."""

import errno
import time

import numpy as np

from kdcl_jax.sources import ArraySource, UnreadableRecord

SHAPE = (4, 4, 1)
CLASSES = 3


def arrays(count, seed=0):
  """Records whose class is easily seen."""
  chance = np.random.default_rng(seed)
  label = np.arange(count) % CLASSES
  image = chance.integers(0, 100, (count, *SHAPE)).astype(np.uint8)
  image[np.arange(count), 0, label] += 150
  return image, label.astype(np.int64)


class Slow:
  """Records that are read one by one, some of them not at once or never.

  Attributes:
    tries: record id -> how often it was asked for.
  """

  def __init__(self, count, faults=None):
    self._image, self._label = arrays(count)
    self._faults = faults or {}
    self.tries = {}

  def __len__(self):
    return len(self._label)

  def labels(self):
    return self._label

  def __getitem__(self, record_id):
    tried = self.tries[record_id] = self.tries.get(record_id, 0) + 1
    fault = self._faults.get(record_id)
    if fault is not None:
      fault(tried)
    return {"image": self._image[record_id], "label": self._label[record_id]}


def shaky(times):
  """Fails so often with an error that may pass."""

  def fault(tried):
    if tried <= times:
      raise OSError(errno.EIO, "Input/output error")

  return fault


def gone(tried):
  raise FileNotFoundError(errno.ENOENT, "No such file or directory")


def damaged(tried):
  raise UnreadableRecord("not a picture")


def hanging(tried):
  time.sleep(3600)


def load(kind="", share=0.1, **unused):
  """What `config.data.source` can name, with the kind of fault."""
  kinds = {"shaky": shaky(1), "away": shaky(10**6), "gone": gone}
  kinds |= {"hanging": hanging, "damaged": damaged}
  faults = {}
  if kind:
    some = np.random.default_rng(1).random(300) < share
    faults = dict.fromkeys(np.flatnonzero(some).tolist(), kinds[kind])
    faults.pop(0, None)  # looked at before the run begins
    for record in np.linspace(0, 299, 8).astype(int):
      faults.pop(int(record), None)
  return {"train": Slow(300, faults), "test": Slow(60)}


def not_a_number(bad=(), **unused):
  """Float records, some of which are NaN."""
  image, label = arrays(360)
  image = (image / 100).astype(np.float32)
  image[list(bad)] = np.nan
  train = ArraySource(image[:300], label[:300])
  test, seen = np.nan_to_num(image[300:]), label[300:]
  return {"train": train, "test": ArraySource(test, seen)}
