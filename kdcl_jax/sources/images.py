"""Decoding of PNG and JPEG files, bounded in size."""

import io
import pathlib
import warnings

import numpy as np
from PIL import Image

from kdcl_jax.sources import UnreadableRecord

MAX_PIXELS = 100_000_000
_GREY = ("1", "L", "I", "I;16", "F", "LA")


def shape_of(path: pathlib.Path) -> tuple[int, int, int]:
  """Height, width and channels (1 or 3) as a file's header gives them.

  Args:
    path: a PNG or JPEG file; its pixels are not read.

  Returns:
    (height, width, channels).

  Raises:
    UnreadableRecord: where the header is damaged, or `decode` would refuse.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      with Image.open(path, formats=("PNG", "JPEG")) as picture:
        if picture.width * picture.height > MAX_PIXELS:
          raise UnreadableRecord(f"{picture.width} x {picture.height} pixels")
        channels = 1 if picture.mode in _GREY else 3
        return picture.height, picture.width, channels
  except UnreadableRecord:
    raise
  except Exception as error:  # Pillow raises whatever a damaged file leads to
    raise UnreadableRecord(f"{type(error).__name__}: {error}") from error


def decode(content: bytes, *, size: int = 0, channels: int = 0) -> np.ndarray:
  """Decodes a picture.

  Args:
    content: a PNG or JPEG file.
    size: height and width to resize to; 0 keeps those of the file.
    channels: 1 or 3; 0 keeps grey or colour as in the file.

  Returns:
    [H, W, C] uint8.

  Raises:
    UnreadableRecord: where the file is damaged, or has over 100 million pixels.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
      if picture.width * picture.height > MAX_PIXELS:
        raise UnreadableRecord(f"{picture.width} x {picture.height} pixels")
      wanted = channels or (1 if picture.mode in _GREY else 3)
      if picture.mode in ("I", "I;16"):  # 16 bits; convert() would clip them
        wide = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
      picture = picture.convert("L" if wanted == 1 else "RGB")
      if size:
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
      pixels = np.asarray(picture, np.uint8)
  except UnreadableRecord:
    raise
  except Exception as error:  # Pillow raises whatever a damaged file leads to
    raise UnreadableRecord(f"{type(error).__name__}: {error}") from error
  return pixels[..., None] if pixels.ndim == 2 else pixels
