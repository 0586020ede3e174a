"""From difficulties to an order: a permutation of record ids, easiest first."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

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


def balance_order(
  order: ArrayLike, labels: ArrayLike
) -> np.ndarray | jax.Array:
  """Spreads the classes over an order: the easiest of each class, the next ...

  Round after round takes one record of every class that is left; within a round
  and within a class the order stays. So any first part of it has, as far as
  there are records, as many of one class as of another.

  Args:
    order: [N] record ids, easiest first.
    labels: the label of each record id, [M]; every id is below M.

  Returns:
    [N] the same ids, balanced; int64, or a jax array where one was given.

  Raises:
    ValueError: for an id that has no label.

  Example:
    >>> balance_order([3, 2, 1, 0], [1, 0, 0, 0]).tolist()
    [3, 0, 2, 1]

  Reference: Wu, Dyer and Neyshabur, "When do curricula work?", 2021,
  arXiv:2012.03107; a function of its published code.
  """
  traced = isinstance(order, jax.Array) or isinstance(labels, jax.Array)
  xp = jnp if traced else np
  order = jnp.asarray(order) if traced else np.asarray(order, np.int64)
  labels = xp.asarray(labels)
  chex.assert_rank([order, labels], 1)
  if not traced and order.size:
    bad = order[(order < 0) | (order >= len(labels))]
    if bad.size:
      raise ValueError(
        f"order has record {bad[0]}, expected ids from 0 to {len(labels) - 1},"
        " the records that have a label."
      )
  classes = labels[order]
  by_class = xp.argsort(classes, stable=True)
  grouped = classes[by_class]
  # The place of each record among those of its class.
  first = xp.searchsorted(grouped, grouped, side="left")
  turn = (xp.arange(len(order)) - first)[xp.argsort(by_class)]
  return order[xp.argsort(turn, stable=True)]
