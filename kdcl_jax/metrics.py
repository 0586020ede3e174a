"""Numbers about predictions on a split, exact, from one row per record."""

from collections.abc import Mapping

import numpy as np


def summary(records: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Accuracy, loss and calibration error of a split.

  Args:
    records: `prediction`, `label`, `confidence`, `loss`, each [N], of the
      readable records.

  Returns:
    `accuracy` in [0, 1], `loss` in nats, `calibration_error` in [0, 1] and
    `count`.

  Example:
    >>> summary({"prediction": np.array([1, 0]), "label": np.array([1, 1]),
    ...          "confidence": np.array([0.5, 0.5]),
    ...          "loss": np.array([1.0, 2.0])})["accuracy"]
    0.5
  """
  correct = records["prediction"] == records["label"]
  return {
    "accuracy": float(np.mean(correct)),
    "loss": float(np.mean(records["loss"], dtype=np.float64)),
    "calibration_error": calibration_error(records["confidence"], correct),
    "count": len(correct),
  }


def calibration_error(
  confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> float:
  """Expected calibration error: `sum_b n_b / N |accuracy_b - confidence_b|`.

  Args:
    confidence: [N] largest probability of each prediction, in [0, 1].
    correct: [N] bool.
    bins: equal intervals of confidence.

  Returns:
    A float in [0, 1].

  Example:
    >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4

  Reference: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural
  networks", 2017, arXiv:1706.04599, equation 3.
  """
  place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  gap = np.bincount(place, correct - confidence.astype(np.float64), bins)
  return float(np.abs(gap).sum() / len(confidence))


def agreement(prediction: np.ndarray, other: np.ndarray) -> float:
  """Share of records on which two models predict the same class."""
  return float(np.mean(prediction == other))


def accuracy_by_difficulty(
  correct: np.ndarray, difficulty: np.ndarray, parts: int = 10
) -> list[float]:
  """Accuracy in each tenth of the difficulty order, the easiest first.

  Args:
    correct: [N] bool.
    difficulty: [N], larger is harder; ties keep their sequence.
    parts: number of parts, of nearly equal size.

  Returns:
    `parts` floats; None for a part without records.

  Example:
    >>> accuracy_by_difficulty(np.array([False, True]), np.array([2.0, 1.0]), 2)
    [1.0, 0.0]
  """
  order = np.argsort(difficulty, kind="stable")
  return [
    float(np.mean(part)) if len(part) else None
    for part in np.array_split(correct[order], parts)
  ]


def auc(values: np.ndarray, positive: np.ndarray) -> float:
  """The probability that a positive has the larger value, ties half.

  It is the area under the receiver operating characteristic: 1 where the values
  separate the positives from the others, 0.5 where they say nothing.

  Args:
    values: [N].
    positive: [N] bool, some True and some False.

  Returns:
    A float in [0, 1].

  Example:
    >>> auc(np.array([1.0, 2.0, 2.0]), np.array([False, False, True]))
    0.75

  Reference: Hanley and McNeil, "The meaning and use of the area under a
  receiver operating characteristic (ROC) curve", 1982.
  """
  from scipy import stats  # slow to import

  ranks = stats.rankdata(values)
  n, m = positive.sum(), (~positive).sum()
  return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
