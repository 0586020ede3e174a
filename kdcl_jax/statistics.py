"""Means over seeds, and whether a difference is more than chance."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def summary(values: Sequence[float]) -> dict:
  """Mean, sample standard deviation (0 for one value) and the values.

  Example:
    >>> summary([1.0, 3.0])["mean"], round(summary([1.0, 3.0])["std"], 3)
    (2.0, 1.414)
  """
  numbers = np.asarray(values, float)
  std = float(np.std(numbers, axis=0, ddof=1)) if len(numbers) > 1 else 0.0
  return {
    "mean": float(np.mean(numbers)),
    "std": std,
    "values": [float(v) for v in numbers],
  }


def paired_t_interval(
  differences: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
  """The t interval of a mean of paired differences.

  `mean +- t_(n-1) std / sqrt(n)`, over seeds.

  Args:
    differences: n >= 2 numbers.
    confidence: in (0, 1).

  Returns:
    (low, high).

  Example:
    >>> [round(x, 2) for x in paired_t_interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
  """
  d = np.asarray(differences, float)
  error = d.std(ddof=1) / math.sqrt(len(d))
  half = _stats().t.ppf((1 + confidence) / 2, len(d) - 1) * error
  return float(d.mean() - half), float(d.mean() + half)


def paired_records_interval(
  correct: np.ndarray, other: np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
  """The interval of a difference of accuracies on the same records.

  With b records that only the first has right and c that only the other has,
  of n, the difference is `(b - c) / n` and its standard error
  `sqrt(b + c - (b - c)^2 / n) / n`; the interval is normal. It says how much
  the test records leave open, not how much another training would change.

  Args:
    correct: [n] bool.
    other: [n] bool, of the same records.
    confidence: in (0, 1).

  Returns:
    (low, high).

  Example:
    >>> same = np.array([True, False])
    >>> paired_records_interval(same, same)
    (0.0, 0.0)

  Reference: Agresti, "Categorical data analysis", 2nd edition, 2002, section
  10.1.1.
  """
  n = len(correct)
  only_first = int(np.sum(correct & ~other))
  only_other = int(np.sum(other & ~correct))
  difference = (only_first - only_other) / n
  variance = only_first + only_other - (only_first - only_other) ** 2 / n
  half = _stats().norm.ppf((1 + confidence) / 2) * math.sqrt(variance) / n
  return float(difference - half), float(difference + half)


def verdict(interval: tuple[float, float]) -> str:
  """What an interval of a difference says: better, worse or neither."""
  low, high = interval
  if low > 0:
    return "better"
  return "worse" if high < 0 else "no difference shown"


def _stats() -> Any:
  from scipy import stats  # slow to import

  return stats
