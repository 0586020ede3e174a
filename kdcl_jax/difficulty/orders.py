"""From difficulties to an order: a permutation of record ids, easiest first."""

import chex
import numpy as np
from numpy.typing import ArrayLike

KINDS = ("none", "curriculum", "anti", "random")


def order(
  difficulty: ArrayLike,
  *,
  kind: str = "curriculum",
  ids: ArrayLike | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Sorts record ids for a curriculum or one of its controls.

  Args:
    difficulty: [N], larger is harder.
    kind: 'curriculum' (easiest first), 'anti' (hardest first), 'random' (a
      seeded permutation) or 'none' (by id).
    ids: [N] record ids, 0 ... N-1 where not given.
    seed: for 'random'.

  Returns:
    [N] int64, each id once. Ties are broken by id, so 'anti' is exactly the
    reverse of 'curriculum'.

  Raises:
    ValueError: for an unknown kind, or a difficulty that is NaN.

  Example:
    >>> order([0.3, 0.1, 0.2]).tolist()
    [1, 2, 0]
  """
  difficulty = np.asarray(difficulty, np.float64)
  chex.assert_rank(difficulty, 1)
  ids = np.arange(len(difficulty)) if ids is None else np.asarray(ids, np.int64)
  chex.assert_equal_shape([difficulty, ids])
  if kind not in KINDS:
    raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
  if kind == "none":
    return np.sort(ids)
  if kind == "random":
    shuffle = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return shuffle.permutation(np.sort(ids))
  if np.isnan(difficulty).any():
    bad = int(ids[np.flatnonzero(np.isnan(difficulty))[0]])
    raise ValueError(
      f"the difficulty of record {bad} is NaN, expected a number"
    )
  easiest_first = ids[np.lexsort((ids, difficulty))]
  return easiest_first if kind == "curriculum" else easiest_first[::-1]
