"""Windows of pictures: which part of one is seen, known before it is decoded.

A window is chosen from height and width alone, so that a reader may decode no
more detail than the window needs; see `kdcl_jax.sources.Source`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kdcl_jax.randomness import uniform

_CROP = 0xA10
_TRIES = 10


class Box(NamedTuple):
  """A part of a picture in its pixels; not more than the picture.

  Attributes:
    top: rows above it, >= 0.
    left: columns before it, >= 0.
    height: > 0.
    width: > 0.
  """

  top: float
  left: float
  height: float
  width: float


Window = Callable[[int, int], Box]  # height, width of the picture -> its part
# record ids, visits, seed -> a window for each row
Windows = Callable[[np.ndarray, np.ndarray, int], Sequence[Window]]


def centre(share: float, shape: tuple[int, int]) -> Window:
  """The middle of a picture, of the proportions of what is made of it.

  With 0.875 and 224 x 224, what is left of a picture whose shorter side has
  been brought to 256 pixels.

  Args:
    share: of the largest such part, in (0, 1].
    shape: height and width of what is made of it.

  Returns:
    The window.

  Example:
    >>> centre(0.5, (8, 8))(100, 200)
    Box(top=25.0, left=75.0, height=50.0, width=50.0)
  """

  def window(height: int, width: int) -> Box:
    scale = share * min(height / shape[0], width / shape[1])
    tall, wide = scale * shape[0], scale * shape[1]
    return Box((height - tall) / 2, (width - wide) / 2, tall, wide)

  return window


def random_resized_crop(
  *, smallest: float = 0.08, largest: float = 1.0, ratio: float = 4 / 3
) -> Windows:
  """Windows of a random area and aspect ratio at a random place.

  Ten times an area and a ratio of width and height (uniform in its logarithm)
  are drawn; the first that fits into the picture is placed at random. Where
  none fits, the window is the middle of the picture, cut to the nearest of the
  ratios.

  Args:
    smallest: least area, as a share of the picture's, in (0, largest].
    largest: the largest, in (0, 1].
    ratio: width over height is between 1 / ratio and this, >= 1.

  Returns:
    (record ids [B], visits [B], seed) -> a window for each; that of a row
    depends on nothing but (seed, record id, visit).

  Raises:
    ValueError: for a number out of range.

  Reference: Szegedy et al., "Going deeper with convolutions", 2015,
  arXiv:1409.4842, section 6; as in torchvision's `RandomResizedCrop`.
  """
  if not 0 < largest <= 1:
    raise ValueError(f"largest is {largest!r}, expected it in (0, 1]")
  if not 0 < smallest <= largest:
    raise ValueError(
      f"smallest is {smallest!r}, expected it in (0, {largest!r}]"
    )
  if not 1 <= ratio < math.inf:
    raise ValueError(f"ratio is {ratio!r}, expected a number >= 1")

  def windows(
    ids: np.ndarray, visits: np.ndarray, seed: int
  ) -> Sequence[Window]:
    keys = (seed, _CROP, ids[:, None], visits[:, None])
    draws = uniform(*keys, np.arange(4 * _TRIES)[None])
    draws = draws.reshape(len(ids), _TRIES, 4).tolist()
    return [
      lambda height, width, own=own: _drawn(
        own, height, width, (smallest, largest), ratio
      )
      for own in draws
    ]

  return windows


def _drawn(
  draws: Sequence[Sequence[float]],
  height: int,
  width: int,
  areas: tuple[float, float],
  ratio: float,
) -> Box:
  """The window of one row; see `random_resized_crop`."""
  least, most = areas
  for area, shape, down, right in draws:
    pixels = height * width * (least + (most - least) * area)
    aspect = ratio ** (2 * shape - 1)
    wide = round(math.sqrt(pixels * aspect))
    tall = round(math.sqrt(pixels / aspect))
    if 0 < wide <= width and 0 < tall <= height:
      top = math.floor(down * (height - tall + 1))
      left = math.floor(right * (width - wide + 1))
      return Box(top, left, tall, wide)
  tall = min(height, round(width * ratio))
  wide = min(width, round(height * ratio))
  return Box((height - tall) // 2, (width - wide) // 2, tall, wide)
