"""A data set with its three splits, what is observed of it and what is true."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import augment, label_noise, sources
from kdcl_jax.errors import UserError
from kdcl_jax.randomness import hash64
from kdcl_jax.sources.memory import DecodedSource

_SUBSET, _VALIDATION = 0x5AB5E7, 0x7A11DA


@dataclasses.dataclass(frozen=True)
class Split:
  """Some records of a source.

  Attributes:
    name: 'train', 'validation' or 'test'.
    source: where the records are.
    ids: [n] sorted record ids.
    labels: [N] observed labels of all records of the source, noise included.
    true_labels: [N] labels as the source has them; only reports read these.
    shape: shape of an input.
  """

  name: str
  source: sources.Source
  ids: np.ndarray
  labels: np.ndarray
  true_labels: np.ndarray
  shape: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.ids)

  def fetch(self, ids: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Reads records; one that cannot be read is zeros and not readable.

    Args:
      ids: [m] record ids.

    Returns:
      `image` [m, ...] and `label` [m] int32 (observed), and readable [m] bool.
    """
    labels = self.labels[ids].astype(np.int32)
    if hasattr(self.source, "batch"):
      images, readable = self.source.batch(ids)
      return {"image": images, "label": labels}, readable
    readable = np.ones(len(ids), bool)
    rows = [None] * len(ids)
    for row, record in enumerate(ids):
      try:
        image = self.source[int(record)]["image"]
      except sources.UnreadableRecord:
        readable[row] = False
        continue
      if image.shape == self.shape:
        rows[row] = image
      else:
        readable[row] = False
    some = next((r for r in rows if r is not None), None)
    if some is None:  # so that every batch has the same type
      some = (sources.first_readable(self.source) or {}).get("image")
    empty = np.zeros(self.shape, np.uint8 if some is None else some.dtype)
    images = np.stack([empty if r is None else r for r in rows])
    return {"image": images, "label": labels}, readable


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set, split.

  Attributes:
    name: as in the config.
    train: what is trained on.
    validation: held out of the training records.
    test: the test records, always with true labels.
    num_classes: number of classes.
    label_names: a name for each class.
    shape: shape of an input.
    fingerprint: changes with the records, their sequence and their labels.
  """

  name: str
  train: Split
  validation: Split
  test: Split
  num_classes: int
  label_names: tuple[str, ...]
  shape: tuple[int, ...]
  fingerprint: str


def load(section: Mapping[str, Any], *, seed: int) -> Dataset:
  """Opens the data of a run.

  Args:
    section: `config.data`; see `kdcl_jax.fields.DATA`.
    seed: draws the subset, the validation split and the noise; the same seed
      gives the same, whatever else changes.

  Returns:
    The data set.

  Raises:
    UserError: where it cannot be opened or is too small for what is asked.
  """
  # A source without test records draws the same ones for every seed of a run.
  train, test, names, shape = sources.load(section, 0)
  augment.check(section["augment"], shape)
  true_train, true_test = train.labels(), test.labels()
  classes = len(names)
  for split, labels in (("training", true_train), ("test", true_test)):
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
      raise UserError(
        f"config.data.source is {section['source']!r}, whose {split} labels are"
        f" not all in 0 ... {classes - 1}."
      )
  ids = _subset(len(true_train), section["train_size"], seed, "train_size")
  test_ids = _subset(len(true_test), section["test_size"], 0, "test_size")
  everything = np.arange(len(true_train))
  noise = section["label_noise"]
  observed = label_noise.apply(true_train, everything, noise, classes, seed)
  held = _validation(ids, observed, section["validation"], seed)
  seen = observed if noise["validation"] else true_train
  train_kept = _kept(train, shape, section["memory_gb"])
  test_kept = _kept(test, shape, section["memory_gb"])
  split = lambda name, source, chosen, labels, true: Split(
    name, source, chosen, labels, true, shape
  )
  rest = np.setdiff1d(ids, held)
  return Dataset(
    name=section["source"],
    train=split("train", train_kept, rest, observed, true_train),
    validation=split("validation", train_kept, held, seen, true_train),
    test=split("test", test_kept, test_ids, true_test, true_test),
    num_classes=classes,
    label_names=tuple(names),
    shape=tuple(shape),
    fingerprint=_fingerprint(train, test, rest, held, observed),
  )


def _kept(
  source: sources.Source, shape: tuple[int, ...], limit: float
) -> sources.Source:
  """The source, its decoded pictures kept in memory where they are small."""
  size = len(source) * float(np.prod(shape)) / 2**30
  if hasattr(source, "batch") or size > limit:
    return source
  first = sources.first_readable(source)
  if first is None or first["image"].dtype != np.uint8:
    return source
  return DecodedSource(source, shape)


def _subset(count: int, limit: int, seed: int, field: str) -> np.ndarray:
  if not limit:
    return np.arange(count)
  if limit > count:
    raise UserError(
      f"config.data.{field} is {limit}, but there are only {count} records."
    )
  return np.sort(np.argsort(hash64(seed, _SUBSET, np.arange(count)))[:limit])


def _validation(
  ids: np.ndarray, labels: np.ndarray, size: float, seed: int
) -> np.ndarray:
  """A seeded part of the ids, with the observed classes' shares."""
  wanted = size if isinstance(size, int) else round(size * len(ids))
  if not 1 <= wanted < len(ids):
    raise UserError(
      f"config.data.validation is {size}, which makes {wanted} of the"
      f" {len(ids)} training records; expected at least 1 and fewer than all."
    )
  # Sorted by class and, within it, at random: every k-th record is a sample
  # with the classes' shares.
  key = hash64(seed, _VALIDATION, ids)
  ordered = ids[np.lexsort((key, labels[ids]))]
  places = np.floor((np.arange(wanted) + 0.5) * len(ids) / wanted).astype(int)
  return np.sort(ordered[places])


def _fingerprint(
  train: sources.Source,
  test: sources.Source,
  ids: np.ndarray,
  held: np.ndarray,
  observed: np.ndarray,
) -> str:
  """A hash of sizes, labels, the split and content.

  All of the content where it is in memory, else of a few records.
  """
  digest = hashlib.sha256()
  for array in (ids, held, observed, test.labels()):
    digest.update(np.ascontiguousarray(array, np.int64).tobytes())
  for source in (train, test):
    if isinstance(source, sources.ArraySource):
      digest.update(f"{source.image.dtype} {source.image.shape}".encode())
      digest.update(np.ascontiguousarray(source.image).data)
      continue
    for record in np.linspace(0, len(source) - 1, 8).astype(int):
      try:
        image = source[int(record)]["image"]
      except sources.UnreadableRecord:
        digest.update(b"unreadable")
        continue
      digest.update(np.ascontiguousarray(image).tobytes())
  return digest.hexdigest()[:16]
