"""A folder with one sub-folder of pictures for each class."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import lookup
from kdcl_jax.errors import UserError
from kdcl_jax.randomness import permute
from kdcl_jax.sources import Splits, UnreadableRecord
from kdcl_jax.sources.images import decode, shape_of, view
from kdcl_jax.sources.windows import Window

_ENDINGS = (".png", ".jpg", ".jpeg")
_HELD = ("test", "val")
_SPLIT = 0xF01DE4
_LOOKED_AT = 1000  # headers read of each split to learn the shape


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """Picture files, sorted by class and name.

  Attributes:
    paths: the files.
    label: [N] int64.
    size: height and width of the pictures; 0 for those of the files.
    channels: 1 or 3; 0 for those of the files.
  """

  paths: tuple[pathlib.Path, ...]
  label: np.ndarray
  size: int
  channels: int

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, record_id: int) -> dict[str, np.ndarray]:
    content = self._content(record_id)
    image = decode(content, size=self.size, channels=self.channels)
    return {"image": image, "label": self.label[record_id]}

  def view(
    self, record_id: int, window: Window, size: tuple[int, int]
  ) -> np.ndarray:
    """A part of the picture, resized; see `kdcl_jax.sources.Source`."""
    content = self._content(record_id)
    return view(content, window, size, channels=self.channels)

  def _content(self, record_id: int) -> bytes:
    try:
      return self.paths[record_id].read_bytes()
    except OSError as error:
      raise UnreadableRecord(str(error)) from error

  def labels(self) -> np.ndarray:
    """[N] int64."""
    return self.label


def load(section: Mapping[str, Any], *, seed: int) -> Splits:
  """Reads `path/train/CLASS/*` and `path/test/CLASS/*`, or `path/CLASS/*`.

  The folder of the test split may also be called `val`. In the second form a
  seeded share of the records, `options.test` (0.2), is the test split.

  Args:
    section: `config.data`: `path`, `image_size`, `channels`, `options`.
    seed: draws the test records of the second form.

  Returns:
    The splits.

  Raises:
    UserError: where there are no pictures, or their sizes differ.
  """
  lookup.check_names(
    section["options"], ("test",), "folder", "config.data.options"
  )
  root = pathlib.Path(section["path"]).expanduser()
  if not section["path"] or not root.is_dir():
    raise UserError(
      f"config.data.path is {str(root)!r}, which is no folder; expected one"
      " with a sub-folder of PNG or JPEG files for each class."
    )
  held = next((root / n for n in _HELD if (root / n).is_dir()), None)
  divided = held is not None and (root / "train").is_dir()
  folder = root / "train" if divided else root
  names = _classes(folder)
  made = _found(folder, names)
  if divided:
    unknown = sorted(set(_classes(held)) - set(names))
    if unknown:
      raise UserError(
        f"config.data.path is {str(root)!r}, whose {held.name} folder has the"
        f" class {unknown[0]!r}, which its train folder has not; it has"
        f" {', '.join(names)}."
      )
    train, test = made, _found(held, names)
  else:
    share = section["options"].get("test", 0.2)
    if not isinstance(share, float) or not 0 < share < 1:
      raise UserError(
        f"config.data.options.test is {share!r}, expected a share in (0, 1)."
      )
    shuffled = permute(np.arange(len(made)), len(made), seed, _SPLIT)
    cut = max(1, round(share * len(made)))
    test = [made[i] for i in np.sort(shuffled[:cut])]
    train = [made[i] for i in np.sort(shuffled[cut:])]
  for split, files in (("train", train), ("test", test)):
    if not files:
      raise UserError(
        f"config.data.path is {str(root)!r}, which has no PNG or JPEG file for"
        f" the {split} split; expected sub-folders of classes with pictures."
      )
  size, channels = section["image_size"], section["channels"]
  shape, channels = _shape(train, test, size, channels)
  source = lambda files: FolderSource(
    tuple(path for path, _ in files),
    np.array([label for _, label in files], np.int64),
    size,
    channels,
  )
  return Splits(source(train), source(test), names, shape)


def _classes(folder: pathlib.Path) -> tuple[str, ...]:
  """Names of the sub-folders, without hidden ones such as checkpoints."""
  return tuple(
    sorted(
      path.name
      for path in folder.iterdir()
      if path.is_dir() and not path.name.startswith(".")
    )
  )


def _found(
  folder: pathlib.Path, names: tuple[str, ...]
) -> list[tuple[pathlib.Path, int]]:
  return [
    (path, label)
    for label, name in enumerate(names)
    for path in sorted((folder / name).glob("*"))
    if path.suffix.lower() in _ENDINGS
  ]


def _shape(
  train: list[tuple[pathlib.Path, int]],
  test: list[tuple[pathlib.Path, int]],
  size: int,
  channels: int,
) -> tuple[tuple[int, ...], int]:
  """The shape of the pictures, and their channels, from a sample's headers.

  The sample is spread over all classes of both splits. Some grey and some in
  colour are read in colour.
  """
  seen = set()
  for files in (train, test):
    for path, _ in files[:: -(-len(files) // _LOOKED_AT)]:
      try:
        seen.add(shape_of(path))
      except UnreadableRecord:
        continue
  if not seen:
    raise UserError(
      f"config.data.path holds {len(train) + len(test)} pictures of which none"
      " that was tried can be read; expected PNG or JPEG files."
    )
  channels = channels or max(shape[-1] for shape in seen)
  if size:
    return (size, size, channels), channels
  sizes = sorted({shape[:2] for shape in seen})
  if len(sizes) > 1:
    raise UserError(
      "config.data.image_size is 0, but the pictures have different sizes"
      f" ({', '.join(map(str, sizes[:3]))}, ...); give the height and width"
      " that they are resized to."
    )
  return (*sizes[0], channels), channels
