"""Where records come from: random access, stable ids, one small interface."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from kdcl_jax import lookup
from kdcl_jax.errors import UserError


class UnreadableRecord(Exception):
  """A record that is there but cannot be decoded."""


class Source(Protocol):
  """Records 0 ... N-1; the same id is the same record, in every process.

  Several threads read at a time. A source may also have two more methods:

  - `batch(record_ids) -> (images [n, ...], readable [n])`, which is used
    instead of single reads of whole inputs where it exists;
  - `view(record_id, window, size) -> image`, the part of a picture that
    `window(height, width)` names (a `kdcl_jax.sources.windows.Box`), resized to
    `size`; for sources that need not decode all of it. It is made of the whole
    picture where there is no such method.
  """

  def __len__(self) -> int:
    """Number of records."""

  def __getitem__(self, record_id: int) -> dict[str, np.ndarray]:
    """A record: `image` (uint8 or float32) and `label` (int).

    Raises:
      UnreadableRecord: where it cannot be decoded.
    """

  def labels(self) -> np.ndarray:
    """[N] int64, without decoding inputs."""


class Splits(NamedTuple):
  """A data set as its source has it.

  Attributes:
    train: the training records.
    test: the test records.
    label_names: a name for each class.
    shape: shape of an input.
  """

  train: Source
  test: Source
  label_names: tuple[str, ...]
  shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ArraySource:
  """Records in memory.

  Attributes:
    image: [N, ...] uint8 or float32.
    label: [N] int64.
  """

  image: np.ndarray
  label: np.ndarray

  def __len__(self) -> int:
    return len(self.label)

  def __getitem__(self, record_id: int) -> dict[str, np.ndarray]:
    return {"image": self.image[record_id], "label": self.label[record_id]}

  def batch(self, record_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, ...] and readable [n] bool."""
    return self.image[record_ids], np.ones(len(record_ids), bool)

  def labels(self) -> np.ndarray:
    """[N] int64."""
    return self.label


def first_readable(source: Source) -> dict[str, np.ndarray] | None:
  """The first record that can be read; None where there is none."""
  for record_id in range(len(source)):
    try:
      return source[record_id]
    except UnreadableRecord:
      continue
  return None


def _sources() -> dict[str, Callable[..., Splits]]:
  from kdcl_jax.sources import arrays, digits, folder

  return {"digits": digits.load, "npz": arrays.load, "folder": folder.load}


def load(section: Mapping[str, Any], seed: int) -> Splits:
  """Opens the source that `config.data` names.

  Args:
    section: `source`, `path`, `data_dir`, `image_size`, `channels`, `options`.
    seed: for sources that have no test records of their own.

  Returns:
    The splits.

  Raises:
    UserError: where the source does not exist or cannot be read.
  """
  name = section["source"]
  if name.startswith("tfds:"):
    from kdcl_jax.sources import tfds

    return tfds.load(name.removeprefix("tfds:"), section)
  table = _sources()
  if name in table:
    return table[name](section, seed=seed)
  if "." not in name:
    lookup.find(table | {"tfds:NAME": None}, name, "config.data.source")
  function = lookup.find({}, name, "config.data.source")
  try:
    made = lookup.call(
      function, dict(section["options"]), "config.data.options"
    )
  except OSError as error:
    raise UserError(
      f"config.data.source is {name!r}, which raised"
      f" {type(error).__name__}: {error}."
    ) from error
  return _own(made, name)


def _own(made: Any, name: str) -> Splits:
  """What a user's callable returned, as splits."""
  from kdcl_jax.sources import arrays

  if isinstance(made, Splits):
    return made
  if isinstance(made, Mapping) and "train_image" in made:
    return arrays.splits(made, f"config.data.source ({name!r})")
  if isinstance(made, tuple) and len(made) == 2:
    made = {"train": made[0], "test": made[1]}
  if isinstance(made, Mapping) and {"train", "test"} <= set(made):
    train, test = made["train"], made["test"]
    top = max(_top(train, "train", name), _top(test, "test", name))
    names = tuple(made.get("label_names", map(str, range(top + 1))))
    first = first_readable(train)
    if first is None:
      raise UserError(
        f"config.data.source is {name!r}, of whose training records none can be"
        " read."
      )
    return Splits(train, test, names, np.shape(first["image"]))
  raise UserError(
    f"config.data.source is {name!r}, which returned"
    f" {type(made).__name__}; expected a pair (train, test) of sources, a"
    " mapping with 'train' and 'test', or a mapping of the arrays train_image,"
    " train_label, test_image and test_label."
  )


def _top(source: Source, split: str, name: str) -> int:
  """The highest label of a user's source, once it is known to be one."""
  lacking = [
    method
    for method in ("__len__", "__getitem__", "labels")
    if not hasattr(source, method)
  ]
  if lacking:
    raise UserError(
      f"config.data.source is {name!r}, whose {split} source"
      f" ({type(source).__name__}) has no {', '.join(lacking)}; see"
      " `kdcl_jax.sources.Source`."
    )
  labels = source.labels()
  if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
    raise UserError(
      f"config.data.source is {name!r}, whose {split} labels() are"
      f" {getattr(labels, 'dtype', type(labels).__name__)}, expected a NumPy"
      " array of whole numbers."
    )
  if labels.shape != (len(source),) or not len(labels):
    raise UserError(
      f"config.data.source is {name!r}, whose {split} source has {len(source)}"
      f" records and labels() of shape {labels.shape}, expected one label for"
      " each of at least one record."
    )
  return int(labels.max())
