"""A folder with one sub-folder of pictures for each class."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax.errors import UserError
from kdcl_jax.randomness import permute
from kdcl_jax.sources import Splits, UnreadableRecord
from kdcl_jax.sources.images import decode

_ENDINGS = (".png", ".jpg", ".jpeg")
_SPLIT = 0xF01DE4


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
    path = self.paths[record_id]
    try:
      content = path.read_bytes()
    except OSError as error:
      raise UnreadableRecord(str(error)) from error
    image = decode(content, size=self.size, channels=self.channels)
    return {"image": image, "label": self.label[record_id]}

  def labels(self) -> np.ndarray:
    """[N] int64."""
    return self.label


def load(section: Mapping[str, Any], *, seed: int) -> Splits:
  """Reads `path/train/CLASS/*` and `path/test/CLASS/*`, or `path/CLASS/*`.

  In the second form a seeded share of the records, `options.test` (0.2), is the
  test split.

  Args:
    section: `config.data`: `path`, `image_size`, `channels`, `options`.
    seed: draws the test records of the second form.

  Returns:
    The splits.

  Raises:
    UserError: where there are no pictures, or their sizes differ.
  """
  root = pathlib.Path(section["path"]).expanduser()
  if not section["path"] or not root.is_dir():
    raise UserError(
      f"config.data.path is {str(root)!r}, which is no folder; expected one"
      " with a sub-folder of PNG or JPEG files for each class."
    )
  divided = (root / "train").is_dir() and (root / "test").is_dir()
  folder = root / "train" if divided else root
  names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
  made = _found(folder, names)
  if divided:
    train, test = made, _found(root / "test", names)
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
  shape, channels = _shape(train, size, channels)
  source = lambda files: FolderSource(
    tuple(path for path, _ in files),
    np.array([label for _, label in files], np.int64),
    size,
    channels,
  )
  return Splits(source(train), source(test), names, shape)


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
  files: list[tuple[pathlib.Path, int]], size: int, channels: int
) -> tuple[tuple[int, ...], int]:
  """The shape of the first pictures that can be read, and their channels."""
  shapes = set()
  for path, _ in files[:100]:
    try:
      image = decode(path.read_bytes(), size=size, channels=channels)
    except (UnreadableRecord, OSError):
      continue
    shapes.add(image.shape)
  if not shapes:
    raise UserError(
      f"config.data.path holds {len(files)} pictures of which none of the first"
      " hundred can be read; expected PNG or JPEG files."
    )
  if len({shape[-1] for shape in shapes}) > 1:  # some grey, some in colour
    return _shape(files, size, 3)
  if len(shapes) > 1:
    raise UserError(
      "config.data.image_size is 0, but the pictures have different sizes"
      f" ({', '.join(map(str, sorted(shapes)[:3]))}, ...); give the height and"
      " width that they are resized to."
    )
  shape = shapes.pop()
  return shape, shape[-1]
