"""Wrong labels on purpose, for experiments: seeded, never in the test split."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcl_jax.errors import UserError
from kdcl_jax.randomness import integers, uniform

_FLIP, _CLASS = 0xF11B, 0xC1A5


def symmetric(
  labels: np.ndarray, ids: np.ndarray, rate: float, classes: int, seed: int
) -> np.ndarray:
  """With probability `rate` a label becomes a uniformly chosen wrong class.

  A record's label depends on (seed, record id) alone, not on the other records.

  Args:
    labels: [N] int64 in [0, classes).
    ids: [N] record ids.
    rate: probability in [0, 1].
    classes: number of classes, at least 2.
    seed: keys the noise.

  Returns:
    [N] int64.

  Example:
    >>> noisy = symmetric(np.zeros(1000, int), np.arange(1000), 0.4, 10, 0)
    >>> bool(abs((noisy != 0).mean() - 0.4) < 0.05)
    True
  """
  flipped = uniform(seed, _FLIP, ids) < rate
  shift = 1 + integers(classes - 1, seed, _CLASS, ids)
  return np.where(flipped, (labels + shift) % classes, labels)


def pair_flip(
  labels: np.ndarray, ids: np.ndarray, rate: float, classes: int, seed: int
) -> np.ndarray:
  """With probability `rate` class c becomes class c + 1 (the last, class 0).

  Example:
    >>> pair_flip(np.array([0, 9]), np.arange(2), 1.0, 10, 0).tolist()
    [1, 0]
  """
  flipped = uniform(seed, _FLIP, ids) < rate
  return np.where(flipped, (labels + 1) % classes, labels)


def confusion(
  labels: np.ndarray, ids: np.ndarray, table: np.ndarray, seed: int
) -> np.ndarray:
  """Draws each label from its class's row of a confusion table.

  Args:
    labels: [N] int64.
    ids: [N] record ids.
    table: [K, K]; row c holds the probabilities of the observed classes of a
      record of class c, and sums to 1.
    seed: keys the noise.

  Returns:
    [N] int64.

  Example:
    >>> confusion(np.array([0, 1]), np.arange(2), np.eye(2)[::-1], 0).tolist()
    [1, 0]
  """
  cumulative = np.cumsum(table, axis=1)
  cumulative /= cumulative[:, -1:]  # a class of probability 0 is never drawn
  chance = uniform(seed, _FLIP, ids)
  drawn = np.empty(len(labels), np.int64)
  for label, row in enumerate(cumulative):  # [N, K] at once may not fit
    of_class = labels == label
    drawn[of_class] = np.searchsorted(row, chance[of_class], side="right")
  return drawn


def apply(
  labels: np.ndarray,
  ids: np.ndarray,
  section: Mapping[str, Any],
  classes: int,
  seed: int,
) -> np.ndarray:
  """The observed labels of some records, as `config.data.label_noise` says.

  Args:
    labels: [N] true labels.
    ids: [N] record ids.
    section: `kind`, `rate` and, for a confusion table, `table`.
    classes: number of classes.
    seed: the run's seed.

  Returns:
    [N] int64 observed labels.

  Raises:
    UserError: where the table is missing or is none.
  """
  kind, rate = section["kind"], section["rate"]
  if kind == "none":
    return labels
  if kind == "symmetric":
    return symmetric(labels, ids, rate, classes, seed)
  if kind == "pair_flip":
    return pair_flip(labels, ids, rate, classes, seed)
  return confusion(labels, ids, _table(section["table"], classes), seed)


def _table(value: str | Sequence[Sequence[float]], classes: int) -> np.ndarray:
  field = "config.data.label_noise.table"
  if isinstance(value, str):
    path = pathlib.Path(value).expanduser()
    if not value or not path.exists():
      raise UserError(
        f"{field} is {value!r}, expected a .csv file with a row of"
        " probabilities for each class, since the kind is 'confusion'."
      )
    try:
      table = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
      raise UserError(
        f"{field} is {value!r}, which is no table: {error}."
      ) from error
  else:
    table = np.asarray(value, float)
  if table.shape != (classes, classes):
    raise UserError(
      f"{field} has shape {table.shape}, expected ({classes}, {classes})."
    )
  if (table < 0).any() or not np.allclose(table.sum(axis=1), 1.0, atol=1e-6):
    raise UserError(f"{field} has rows that are no probabilities summing to 1.")
  return table
