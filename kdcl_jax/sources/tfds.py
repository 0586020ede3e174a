"""Any prepared tfds data set, read by `tfds.data_source` without TensorFlow."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import lookup
from kdcl_jax.errors import UserError
from kdcl_jax.sources import Splits, UnreadableRecord, labels, reading
from kdcl_jax.sources.images import decode, seen, view
from kdcl_jax.sources.windows import Window


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """One split of a tfds data set, its pictures decoded by Pillow.

  Attributes:
    records: a data source whose `image` is the undecoded file, or an array.
    label: [N] int64.
    size: height and width of the pictures; 0 for those of the records.
    channels: channels of the pictures.
  """

  records: Any
  label: np.ndarray
  size: int
  channels: int

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, record_id: int) -> dict[str, np.ndarray]:
    image = self._stored(record_id)
    if isinstance(image, bytes):
      image = decode(image, size=self.size, channels=self.channels)
    return {"image": image, "label": self.label[record_id]}

  def view(
    self, record_id: int, window: Window, size: tuple[int, int]
  ) -> np.ndarray:
    """A part of the picture, resized; see `kdcl_jax.sources.Source`."""
    image = self._stored(record_id)
    if isinstance(image, bytes):
      return view(image, window, size, channels=self.channels)
    return seen(image, window, size)

  def labels(self) -> np.ndarray:
    """[N] int64."""
    return self.label

  def _stored(self, record_id: int) -> bytes | np.ndarray:
    try:
      return self.records[int(record_id)]["image"]
    except Exception as error:  # whatever a damaged shard raises
      raise UnreadableRecord(f"{type(error).__name__}: {error}") from error


_LABELS: dict[tuple[str, str, str], np.ndarray] = {}


def load(name: str, section: Mapping[str, Any]) -> Splits:
  """Opens a prepared tfds data set of labelled pictures.

  Args:
    name: the name in tfds, such as 'fashion_mnist' or 'cifar10:3.0.2'.
    section: `config.data`: `data_dir` ('' for the default of tfds),
      `image_size`, `channels`, and `options` with `train_split`, `test_split`,
      `image` and `label` (names of splits and features).

  Returns:
    The splits.

  Raises:
    UserError: where it does not exist or is not prepared.
  """
  import tensorflow_datasets as tfds  # seconds to import

  usual = {
    "train_split": "train",
    "test_split": "test",
    "image": "image",
    "label": "label",
  }
  lookup.check_names(
    section["options"], usual, f"tfds:{name}", "config.data.options"
  )
  options = usual | dict(section["options"])
  # A shell leaves the ~ of --config.data.data_dir=~/x to the program.
  data_dir = os.path.expanduser(section["data_dir"]) or None
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except Exception as error:  # tfds has many names for "not found"
    raise UserError(
      f"config.data.source is 'tfds:{name}', which tfds cannot find"
      f" ({str(error).strip().splitlines()[0]})."
    ) from error
  if not builder.data_path.exists():
    raise UserError(_not_prepared(name, builder))
  if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
    raise UserError(
      f"config.data.source is 'tfds:{name}', which is prepared in"
      f" {builder.data_path} as {builder.info.file_format.value}, expected"
      " array_record (random access); prepare it in another data_dir by tfds"
      f" build {name} --file_format=array_record."
    )
  features = builder.info.features
  for field in ("image", "label"):
    if options[field] not in features:
      raise UserError(
        f"config.data.options.{field} is {options[field]!r}, which is no"
        f" feature of 'tfds:{name}'; it has {', '.join(features)}."
      )
  if not hasattr(features[options["label"]], "names"):
    raise UserError(
      f"config.data.options.label is {options['label']!r}, which is a"
      f" {type(features[options['label']]).__name__} of 'tfds:{name}', expected"
      " a ClassLabel."
    )
  for field in ("train_split", "test_split"):
    try:
      builder.info.splits[options[field]]
    except (KeyError, ValueError, AssertionError) as error:
      raise UserError(
        f"config.data.options.{field} is {options[field]!r}, which is no split"
        f" of 'tfds:{name}'; it has {', '.join(builder.info.splits)}, and"
        " parts of them such as 'train[:10%]'."
      ) from error
  shape = tuple(features[options["image"]].shape)
  channels = section["channels"] or shape[-1] or 3
  size = section["image_size"]
  if size:
    shape = (size, size, channels)
  elif None in shape:
    raise UserError(
      f"config.data.image_size is 0, but the pictures of 'tfds:{name}' have"
      " different sizes; give the height and width they are resized to."
    )
  else:
    shape = (*shape[:-1], channels)
  source = lambda split: _source(
    builder, split, options["image"], options["label"], size, channels
  )
  label = features[options["label"]]
  return Splits(
    train=source(options["train_split"]),
    test=source(options["test_split"]),
    label_names=tuple(label.names),
    shape=shape,
  )


@dataclasses.dataclass(frozen=True)
class _Renamed:
  """Records whose picture is called `image`, whatever its feature's name."""

  records: Any
  image: str

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, record_id: int) -> dict[str, Any]:
    return {"image": self.records[record_id][self.image]}


def _source(
  builder: Any, split: str, image: str, label: str, size: int, channels: int
) -> TfdsSource:
  import tensorflow_datasets as tfds

  # Not decoded here: labels need no pictures, and `decode` is bounded.
  records = builder.as_data_source(
    split=split, decoders={image: tfds.decode.SkipDecoding()}
  )
  key = (str(builder.data_path), split, label)
  if key not in _LABELS:  # read once, not for each seed of a run
    try:
      found = labels.kept(
        records, label, builder.data_path, split, reading.cores()
      )
    except (RuntimeError, IndexError, ValueError) as error:
      raise UserError(
        f"config.data.source has damaged files in {builder.data_path}"
        f" ({str(error).splitlines()[0]}); delete the directory and prepare it"
        " again."
      ) from error
    _LABELS[key] = found
  return TfdsSource(_Renamed(records, image), _LABELS[key], size, channels)


def _not_prepared(name: str, builder: Any) -> str:
  base = name.split(":")[0].split("/")[0]
  how = (
    "python -m kdcl_jax.prepare fashion_mnist --from=DIR (from local files), or"
    if base == "fashion_mnist"
    else ""
  )
  return (
    f"config.data.source is 'tfds:{name}', which is not prepared in"
    f" {builder.data_path}; prepare it by {how} tfds build {name}"
    " --file_format=array_record (needs tensorflow and a network)."
  )
