"""Decoding of PNG and JPEG files, bounded in size.

The orientation that a camera has noted (EXIF) is ignored, as torchvision and
tfds do.
"""

import io
import math
import pathlib
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from kdcl_jax.sources import UnreadableRecord
from kdcl_jax.sources.windows import Box, Window

MAX_PIXELS = 100_000_000
_GREY = ("1", "L", "I", "I;16", "F", "LA")
_KINDS = {
  b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
  b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
}
_REDUCTIONS = (8, 4, 2)  # that a JPEG decoder can decode at


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
    picture = _opened(content)
    picture = _converted(picture, channels)
    if size:
      picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return _pixels(picture)
  except UnreadableRecord:
    raise
  except Exception as error:  # Pillow raises whatever a damaged file leads to
    raise _damaged(error) from None


def view(
  content: bytes, window: Window, size: tuple[int, int], *, channels: int = 0
) -> np.ndarray:
  """Decodes a part of a picture, in no more detail than is wanted of it.

  A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the window is still as
  large as what is made of it.

  Args:
    content: a PNG or JPEG file.
    window: chooses the part.
    size: height and width that it is resized to.
    channels: 1 or 3; 0 keeps grey or colour as in the file.

  Returns:
    [H, W, C] uint8.

  Raises:
    UnreadableRecord: as `decode`.
  """
  try:
    picture = _opened(content)
    width, height = picture.size
    box = window(height, width)
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
      enough = min(box.height / size[0], box.width / size[1])
      by = next((r for r in _REDUCTIONS if r <= enough), 1)
      if by > 1:
        picture.draft(None, (width // by, height // by))
        # Of an odd number of pixels half of the last one is padding.
        box = Box(*(number / by for number in box))
    convert = lambda part: _converted(part, channels)
    return _pixels(_resized(picture, box, size, convert))
  except UnreadableRecord:
    raise
  except Exception as error:  # Pillow raises whatever a damaged file leads to
    raise _damaged(error) from None


def seen(
  image: np.ndarray, window: Window, size: tuple[int, int]
) -> np.ndarray:
  """The same of a picture that is decoded already.

  Args:
    image: [H, W, C].
    window: chooses the part.
    size: height and width that it is resized to.

  Returns:
    [*size, C] of the same type.
  """
  box = window(*image.shape[:2])
  if image.dtype == np.uint8 and image.shape[2] in (1, 3):
    flat = image[..., 0] if image.shape[2] == 1 else image
    return _pixels(_resized(Image.fromarray(flat), box, size, _as_it_is))
  layers = [
    np.asarray(_resized(Image.fromarray(layer), box, size, _as_it_is))
    for layer in np.moveaxis(image.astype(np.float32), 2, 0)
  ]
  found = np.stack(layers, 2)
  if np.issubdtype(image.dtype, np.integer):
    found = np.rint(found)
  return found.astype(image.dtype)


def _damaged(error: Exception) -> UnreadableRecord:
  """Says so; without its cause, whose `OSError` is not one of the storage."""
  return UnreadableRecord(f"{type(error).__name__}: {error}")


def _as_it_is(picture: Image.Image) -> Image.Image:
  return picture


def _opened(content: bytes) -> Image.Image:
  """A file whose header has been read, not larger than is allowed."""
  # Not by Image.open(), whose warnings cannot be silenced in threads.
  kind = next((k for k in _KINDS if content.startswith(k)), None)
  if kind is None:
    raise UnreadableRecord("neither a PNG nor a JPEG file")
  picture = _KINDS[kind](io.BytesIO(content))
  if picture.width * picture.height > MAX_PIXELS:
    raise UnreadableRecord(
      f"{picture.width} x {picture.height} pixels, a decompression bomb"
    )
  return picture


def _converted(picture: Image.Image, channels: int) -> Image.Image:
  """In grey or in colour."""
  wanted = channels or (1 if picture.mode in _GREY else 3)
  if picture.mode in ("I", "I;16"):  # 16 bits; convert() would clip them
    wide = np.asarray(picture).astype(np.int64)
    picture = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
  return picture.convert("L" if wanted == 1 else "RGB")


def _resized(
  picture: Image.Image,
  box: Box,
  size: tuple[int, int],
  convert: Callable[[Image.Image], Image.Image],
) -> Image.Image:
  """A part of a picture, converted, smoothed and brought to a size."""
  left, top = math.floor(box.left), math.floor(box.top)
  right, bottom = box.left + box.width, box.top + box.height
  # Rounding must not make the part reach beyond the picture.
  corners = (left, top, math.ceil(right - 1e-9), math.ceil(bottom - 1e-9))
  part = convert(picture.crop(corners))
  inside = (
    box.left - left,
    box.top - top,
    min(right - left, part.width),
    min(bottom - top, part.height),
  )
  return part.resize(size[::-1], Image.Resampling.BILINEAR, box=inside)


def _pixels(picture: Image.Image) -> np.ndarray:
  pixels = np.asarray(picture, np.uint8)
  return pixels[..., None] if pixels.ndim == 2 else pixels
