"""What an exported file is worth: its answers on the test split, its speed."""

import time
from collections.abc import Mapping

import numpy as np

from kdcl_jax.dataset import Split
from kdcl_jax.runtimes import Function

WARM = 10  # runs that are not counted


def answers(function: Function, split: Split, *, rows: int = 256) -> np.ndarray:
  """The logits of the records of a split that can be read.

  Args:
    function: pictures [B, ...] -> logits [B, K].
    split: the records.
    rows: pictures at a time.

  Returns:
    [N, K + 1]: the logits and, in the last column, the label.
  """
  found = []
  for start in range(0, len(split.ids), rows):
    records, readable = split.fetch(split.ids[start : start + rows])
    if readable.any():
      logits = function(records["image"][readable])
      labels = records["label"][readable]
      found.append(np.column_stack([logits, labels]))
  return np.concatenate(found)


def measure(answered: np.ndarray, source: np.ndarray) -> dict[str, float]:
  """How right a model is, and how much it is what it was made from.

  Args:
    answered: [N, K + 1] from `answers`.
    source: [N, K + 1] of the model that was exported, in float32.

  Returns:
    `accuracy` in [0, 1], `agreement`: share of equal predictions, and
    `max_logit_difference`.

  Example:
    >>> measure(np.array([[0.0, 2.0, 1]]), np.array([[0.0, 1.0, 1]]))[
    ...   "max_logit_difference"]
    1.0
  """
  prediction = answered[:, :-1].argmax(-1)
  difference = np.abs(answered[:, :-1] - source[:, :-1])
  return {
    "accuracy": float(np.mean(prediction == answered[:, -1])),
    "agreement": float(np.mean(prediction == source[:, :-1].argmax(-1))),
    "max_logit_difference": float(difference.max()),
  }


def latencies(
  functions: Mapping[str, Function], picture: np.ndarray, *, runs: int
) -> dict[str, float]:
  """Median milliseconds for one picture.

  All are asked in turn, run after run, so that what else the machine does
  meets them alike.

  Args:
    functions: by name, each with one thread.
    picture: one input.
    runs: how many are counted, after `WARM` that are not.

  Returns:
    Milliseconds by name.
  """
  taken: dict[str, list[float]] = {name: [] for name in functions}
  batch = picture[None]
  for run in range(WARM + runs):
    for name, function in functions.items():
      started = time.perf_counter()
      function(batch)
      if run >= WARM:
        taken[name].append(time.perf_counter() - started)
  return {name: 1e3 * float(np.median(all_)) for name, all_ in taken.items()}
