"""Prepares a tfds data set from local files, for machines without a network.

  python -m kdcl_jax.prepare fashion_mnist --from=DIR [--data_dir=DIR]

DIR holds the four idx.gz files (Debian's package `dataset-fashion-mnist` puts
them in /usr/share/datasets/fashion-mnist). The result is the directory that
tfds itself would have prepared in the ArrayRecord format, read back by
`tfds.data_source('fashion_mnist')`. TensorFlow is not needed: pictures are
encoded by Pillow.
"""

import argparse
import gzip
import io
import math
import os
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from kdcl_jax.errors import UserError

_FILES = {"train": "train", "test": "t10k"}
_MOST = 2**30  # bytes that a file may hold, 20 times those of Fashion-MNIST


def fashion_mnist(folder: pathlib.Path, data_dir: str | None) -> pathlib.Path:
  """Prepares Fashion-MNIST from its four idx.gz files.

  Args:
    folder: where the files are.
    data_dir: where tfds keeps its data; None for its default.

  Returns:
    The prepared directory.

  Raises:
    UserError: where a file is missing or is no idx file.

  Reference: Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017, arXiv:1708.07747.
  """
  import tensorflow_datasets as tfds  # seconds to import

  arrays = {
    split: (
      read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", 3),
      read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1),
    )
    for split, prefix in _FILES.items()
  }
  for split, (images, labels) in arrays.items():
    if len(labels) and labels.max() > 9:
      raise UserError(
        f"--from is {str(folder)!r}, whose {split} files hold the label"
        f" {labels.max()}, expected 0 ... 9."
      )
    if len(images) != len(labels) or images.shape[1:] != (28, 28):
      raise UserError(
        f"--from is {str(folder)!r}, whose {split} files hold {images.shape}"
        f" pictures and {labels.shape} labels, expected as many of 28 x 28."
      )
  try:
    builder = tfds.builder(
      "fashion_mnist", data_dir=data_dir, file_format="array_record"
    )
  except ValueError as error:  # it is there in another format
    raise UserError(
      f"--data_dir is {data_dir or '~/tensorflow_datasets'!r}, where"
      " fashion_mnist is already prepared in another format than array_record;"
      " expected another directory."
    ) from error
  # Only where the records come from differs from the builder of tfds.
  builder._split_generators = lambda manager: {
    split: _records(images, labels)
    for split, (images, labels) in arrays.items()
  }
  builder.download_and_prepare()
  return pathlib.Path(builder.data_path)


def _records(
  images: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[int, dict[str, Any]]]:
  for key, (pixels, label) in enumerate(zip(images, labels, strict=True)):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    yield key, {"image": file, "label": int(label)}


def read_idx(path: pathlib.Path, axes: int) -> np.ndarray:
  """Reads a gzipped idx file of bytes.

  Args:
    path: the file.
    axes: how many axes it must have.

  Returns:
    A uint8 array.

  Raises:
    UserError: where it is missing, damaged or of another form.
  """
  if not path.exists():
    raise UserError(f"--from lacks the file {str(path)!r}.")
  try:
    with gzip.open(path) as file:
      magic, sizes = file.read(4), file.read(4 * axes)
      if magic != bytes([0, 0, 8, axes]) or len(sizes) < 4 * axes:
        raise ValueError(f"it begins with {magic.hex()}")
      shape = np.frombuffer(sizes, ">u4").tolist()
      count = math.prod(shape)
      if count > _MOST:
        raise ValueError(f"its header promises {count} bytes")
      content = file.read(count + 1)  # to the end, where the checksum is
    if len(content) != count:
      raise ValueError(
        f"it holds other than the {count} bytes that it promises"
      )
    return np.frombuffer(content, np.uint8).reshape(shape)
  except (OSError, EOFError, ValueError, zlib.error) as error:
    raise UserError(
      f"--from holds {str(path)!r}, which is no idx file of bytes with {axes}"
      f" axes ({error})."
    ) from error


DATASETS: dict[str, Callable[[pathlib.Path, str | None], pathlib.Path]] = {
  "fashion_mnist": fashion_mnist,
}


def main(argv: Sequence[str]) -> int:
  """Prepares what the command line names; returns the exit code."""
  parser = argparse.ArgumentParser(prog="python -m kdcl_jax.prepare")
  parser.add_argument("name", choices=sorted(DATASETS))
  parser.add_argument("--from", dest="folder", type=pathlib.Path, required=True)
  parser.add_argument("--data_dir", help="of tfds; ~/tensorflow_datasets")
  arguments = parser.parse_args(argv)
  try:
    # A shell leaves the ~ of --from=~/x to the program.
    data_dir = arguments.data_dir and os.path.expanduser(arguments.data_dir)
    path = DATASETS[arguments.name](arguments.folder.expanduser(), data_dir)
  except OSError as error:
    print(f"kdcl_jax: --data_dir cannot be written: {error}.", file=sys.stderr)
    return 2
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr)
    return 2
  print(f"{arguments.name} is prepared in {path}.")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
