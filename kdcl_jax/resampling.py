"""Pictures with fewer pixels, and back to as many as before.

Plain NumPy in float64, element by element: a picture comes out the same to the
bit in any batch and on any host.
"""

import numpy as np

METHODS = ("bilinear", "nearest")


def averaged(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Fewer pixels, each the mean of the area that it covers.

  Pixel i of h covers the rows from i H / h to (i + 1) H / h of H; a row that it
  covers in part counts by that part.

  Args:
    image: [B, H, W, C].
    size: (h, w), 1 <= h <= H and 1 <= w <= W.

  Returns:
    [B, h, w, C] float64.

  Example:
    >>> picture = np.array([0.0, 3.0, 6.0]).reshape(1, 3, 1, 1)
    >>> averaged(picture, (2, 1)).ravel().tolist()
    [1.0, 5.0]
  """
  for axis, few in zip((1, 2), size, strict=True):
    image = _averaged(np.asarray(image, np.float64), few, axis)
  return image


def _averaged(image: np.ndarray, few: int, axis: int) -> np.ndarray:
  many = image.shape[axis]
  if few == many:
    return image
  zero = np.zeros_like(np.take(image, [0], axis))
  sums = np.concatenate([zero, np.cumsum(image, axis)], axis)
  edges = np.arange(few + 1) * many  # of the new pixels, in parts of 1 / few
  whole, part = edges // few, _along(edges % few / few, axis)
  upto = np.take(sums, whole, axis)
  upto += part * np.take(image, np.minimum(whole, many - 1), axis)
  return np.diff(upto, axis=axis) * (few / many)


def enlarged(
  image: np.ndarray, size: tuple[int, int], method: str = "bilinear"
) -> np.ndarray:
  """More pixels, centres to centres: pixel i of H lies at (i + 1/2) h / H.

  Args:
    image: [B, h, w, C].
    size: (H, W), h <= H and w <= W.
    method: 'bilinear', between the two nearest centres of each axis and
      constant outside of them, or 'nearest'.

  Returns:
    [B, H, W, C] float64.

  Example:
    >>> picture = np.array([0.0, 4.0]).reshape(1, 2, 1, 1)
    >>> enlarged(picture, (4, 1)).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    >>> enlarged(picture, (4, 1), "nearest").ravel().tolist()
    [0.0, 0.0, 4.0, 4.0]
  """
  for axis, many in zip((1, 2), size, strict=True):
    image = _enlarged(np.asarray(image, np.float64), many, axis, method)
  return image


def _enlarged(
  image: np.ndarray, many: int, axis: int, method: str
) -> np.ndarray:
  few = image.shape[axis]
  if few == many:
    return image
  # Whole numbers, in parts of 1 / (2 many), so that no rounding moves a centre.
  centre = (2 * np.arange(many) + 1) * few
  if method == "nearest":
    return np.take(image, centre // (2 * many), axis)
  place = np.clip(centre - many, 0, 2 * many * (few - 1))
  low, part = place // (2 * many), _along(place % (2 * many) / (2 * many), axis)
  first = np.take(image, low, axis)
  second = np.take(image, np.minimum(low + 1, few - 1), axis)
  return first + part * (second - first)


def _along(vector: np.ndarray, axis: int) -> np.ndarray:
  """[n] as an array of four axes that varies along one of them."""
  return vector.reshape([-1 if a == axis else 1 for a in range(4)])
