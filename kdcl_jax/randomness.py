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
      word = _absorbed(word, _word(key))
  return word


def _word(key: int | np.ndarray) -> np.ndarray:
  return np.asarray(key).astype(np.int64).astype(np.uint64)


def _absorbed(word: np.ndarray, key: np.ndarray) -> np.ndarray:
  word = (word ^ key) + _GOLDEN
  word = (word ^ (word >> np.uint64(30))) * _MIX_1
  word = (word ^ (word >> np.uint64(27))) * _MIX_2
  return word ^ (word >> np.uint64(31))


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


def permute(
  position: np.ndarray, size: int | np.ndarray, *key: int | np.ndarray
) -> np.ndarray:
  """Applies a keyed pseudo-random permutation of range(size) to positions.

  An alternating Feistel network over the next power of two, walked until the
  image falls inside the range (Black and Rogaway, "Ciphers with arbitrary
  finite domains", CT-RSA 2002): no table, O(len(position)) whatever the size.

  Args:
    position: [n] integers in [0, size), or of any shape.
    size: how many items are permuted, at least 1; may broadcast, as may the
      keys: another permutation for each row of [rows, 1] with [rows, n].
    *key: integers; every key is another permutation.

  Returns:
    int64 images of the shape of the positions, all different where those of one
    permutation are.

  Example:
    >>> sorted(permute(np.arange(5), 5, 42).tolist())
    [0, 1, 2, 3, 4]
  """
  image = np.asarray(position, np.int64).astype(np.uint64)
  size = np.asarray(size, np.int64)
  # The exponent of a float is the bit length of an integer below 2**53.
  bits = np.maximum(np.frexp(np.asarray(size - 1, np.float64))[1], 2)
  low = bits.astype(np.uint64) // np.uint64(2)
  high = bits.astype(np.uint64) - low
  with np.errstate(over="ignore"):
    root = hash64(*key)
    rounds = [
      _absorbed(np.uint64(0), _absorbed(root, np.uint64(i))) for i in range(8)
    ]
    walking = np.ones(image.shape, bool)
    while walking.any():
      at = lambda array, where=walking: np.broadcast_to(array, where.shape)[
        where
      ]
      image[walking] = _feistel(
        image[walking], at(low), at(high), [at(one) for one in rounds]
      )
      walking &= image >= size.astype(np.uint64)
  return image.astype(np.int64)


def _feistel(
  word: np.ndarray,
  low: np.ndarray,
  high: np.ndarray,
  rounds: list[np.ndarray],
) -> np.ndarray:
  """A permutation of the words of `low + high` bits."""
  widths = (high, low)
  left, right = word >> low, word & _ones(low)
  for key in rounds:
    # (left, right) -> (right, left ^ f(right)); the widths swap with them.
    left, right = right, left ^ (_absorbed(key, right) & _ones(widths[0]))
    widths = widths[::-1]
  return (left << widths[1]) | right


def _ones(bits: np.ndarray) -> np.ndarray:
  return (np.uint64(1) << bits) - np.uint64(1)
