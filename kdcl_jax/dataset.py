"""A data set with its three splits, what is observed of it and what is true."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcl_jax import augment, label_noise, sources
from kdcl_jax.errors import UserError
from kdcl_jax.randomness import hash64
from kdcl_jax.sources import patience, reading
from kdcl_jax.sources.memory import DecodedSource
from kdcl_jax.sources.windows import Window, centre

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
    window: the part of a picture that is read unless others are asked for;
      None for the input as the source has it.
    threads: how many read at a time.
    patience: seconds to wait for a batch; 0 to wait for ever.
  """

  name: str
  source: sources.Source
  ids: np.ndarray
  labels: np.ndarray
  true_labels: np.ndarray
  shape: tuple[int, ...]
  window: Window | None = None
  threads: int = 1
  patience: float = 0.0

  def __len__(self) -> int:
    return len(self.ids)

  def fetch(
    self, ids: np.ndarray, windows: Sequence[Window] | None = None
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Reads records; one that cannot be read is zeros and not readable.

    Args:
      ids: [m] record ids.
      windows: [m] the part of each picture that is read; `window` where None.

    Returns:
      `image` [m, ...] and `label` [m] int32 (observed), and readable [m] bool.
    """
    labels = self.labels[ids].astype(np.int32)
    if windows is None and self.window is not None:
      windows = [self.window] * len(ids)
    if windows is None and hasattr(self.source, "batch"):
      images, readable = self.source.batch(ids)
      return {"image": images, "label": labels}, readable
    rows = reading.rows(self.source, ids, windows, self.shape, self.threads)
    readable = np.array([row is not None for row in rows])
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
  train, test = patience.patient(train), patience.patient(test)
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
  threads = section["threads"] or reading.cores()
  window = _window(section["crop"], shape)
  train_kept = _kept(train, shape, section, window, threads)
  test_kept = _kept(test, shape, section, window, threads)

  def split(name, source, chosen, labels, true) -> Split:
    own = None if isinstance(source, DecodedSource) else window
    most = section["patience"]
    return Split(name, source, chosen, labels, true, shape, own, threads, most)

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


def _window(share: float, shape: tuple[int, ...]) -> Window | None:
  """What is seen of a picture where nothing is drawn at random."""
  if not share:
    return None
  if len(shape) != 3:
    raise UserError(
      f"config.data.crop is {share}, which needs pictures of shape (height,"
      f" width, channels), but the inputs have shape {shape}."
    )
  return centre(share, shape[:2])


def _kept(
  source: sources.Source,
  shape: tuple[int, ...],
  section: Mapping[str, Any],
  window: Window | None,
  threads: int,
) -> sources.Source:
  """The source, its decoded pictures kept in memory where they are small."""
  size = len(source) * float(np.prod(shape)) / 2**30
  if hasattr(source, "batch") or size > section["memory_gb"]:
    return source
  first = sources.first_readable(source)
  if first is None or first["image"].dtype != np.uint8:
    return source
  whole = not section["image_size"]
  return DecodedSource(
    source, shape, window=window, whole=whole, threads=threads
  )


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
