"""Counter-based randomness for the host: each number is a function of its key.

Nothing here holds state. The same (seed, record id, visit) gives the same view
on every host, in every process and after every restart, and a row of a batch
does not depend on the rows beside it.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash64(*keys: int | np.ndarray) -> np.ndarray:
  """Mixes integer keys into uniform 64-bit words, element by element.

  The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
  pseudorandom number generators", OOPSLA 2014) is applied after each key.

  Args:
    *keys: integers or integer arrays that broadcast against each other. The
      order matters: `hash64(1, 2) != hash64(2, 1)`.

  Returns:
    A uint64 array of the broadcast shape.

  Example:
    >>> int(hash64(0, 1)) == int(hash64(0, 1)), hash64(7, np.arange(3)).shape
    (True, (3,))
  """
  with np.errstate(over="ignore"):
    word = np.uint64(0)
    for key in keys:
      key = np.asarray(key).astype(np.int64).astype(np.uint64)
      word = (word ^ key) + _GOLDEN
      word = (word ^ (word >> np.uint64(30))) * _MIX_1
      word = (word ^ (word >> np.uint64(27))) * _MIX_2
      word = word ^ (word >> np.uint64(31))
  return word


def uniform(*keys: int | np.ndarray) -> np.ndarray:
  """Uniform float64 in [0, 1), one for each element of the broadcast keys.

  Example:
    >>> u = uniform(0, np.arange(1000))
    >>> bool(abs(u.mean() - 0.5) < 0.05)
    True
  """
  return (hash64(*keys) >> np.uint64(11)) * 2.0**-53


def integers(high: int, *keys: int | np.ndarray) -> np.ndarray:
  """Uniform int64 in [0, high), one for each element of the broadcast keys."""
  return (uniform(*keys) * high).astype(np.int64)


def permute(position: np.ndarray, size: int, *key: int) -> np.ndarray:
  """Applies a keyed pseudo-random permutation of range(size) to positions.

  An alternating Feistel network over the next power of two, walked until the
  image falls inside the range (Black and Rogaway, "Ciphers with arbitrary
  finite domains", CT-RSA 2002): no table, O(len(position)) whatever the size.

  Args:
    position: [n] integers in [0, size).
    size: how many items are permuted, at least 1.
    *key: integers; every key is another permutation.

  Returns:
    [n] int64 images, all different where the positions are.

  Example:
    >>> sorted(permute(np.arange(5), 5, 42).tolist())
    [0, 1, 2, 3, 4]
  """
  position = np.asarray(position, np.int64)
  if size <= 1:
    return np.zeros_like(position)
  bits = max(2, (size - 1).bit_length())
  low_bits = bits // 2
  high_bits = bits - low_bits
  round_keys = hash64(*key, np.arange(8))
  image = position.astype(np.uint64)
  walking = np.ones(image.shape, bool)
  while walking.any():
    word = image[walking]
    widths = (high_bits, low_bits)
    left, right = word >> np.uint64(low_bits), word & _ones(low_bits)
    for round_key in round_keys:
      # (left, right) -> (right, left ^ f(right)); the widths swap with them.
      left, right = right, left ^ (hash64(round_key, right) & _ones(widths[0]))
      widths = widths[::-1]
    image[walking] = (left << np.uint64(widths[1])) | right
    walking[walking] = image[walking] >= np.uint64(size)
  return image.astype(np.int64)


def _ones(bits: int) -> np.uint64:
  return np.uint64((1 << bits) - 1)
