"""An order that follows the learner: its own view ranks the records anew."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from kdcl_jax import difficulty, evaluate
from kdcl_jax.curriculum import Curriculum, reranked
from kdcl_jax.dataset import Split
from kdcl_jax.difficulty import Stream


@dataclasses.dataclass(frozen=True)
class Reranking:
  """When, which records and by what they are ranked anew.

  Attributes:
    every: lessons from one ranking to the next.
    score: (logits, labels) -> [B], for the model as it evaluates records then.
    stream: what the train step has kept of each record, in place of `score`.
    everything: whether all records are ranked, or those not active yet.
    anti: whether the hardest come first.
    order: [N] the order at the start, which the new ones are compared with.
  """

  every: int
  score: Callable[..., Any]
  stream: Stream | None
  everything: bool
  anti: bool
  order: np.ndarray

  def due(self, lesson: int) -> bool:
    """Whether a ranking is due after so many lessons."""
    return lesson % self.every == 0

  def difficulties(
    self,
    dynamics: Any,
    evaluator: evaluate.Evaluator | None,
    variables: Any,
    split: Split,
  ) -> np.ndarray:
    """The learner's difficulties of the records in the order at the start.

    Args:
      dynamics: the state of the stream.
      evaluator: one that computes `score` as "rerank"; not used with a stream.
      variables: the model's variables.
      split: the training records.

    Returns:
      [N] float64. A record that cannot be read, or that a stream has not seen,
      is the hardest.
    """
    if self.stream is not None:
      return np.asarray(self.stream.score(dynamics), np.float64)[self.order]
    rows = evaluator.records(variables, split, self.order)
    return np.where(rows["readable"], rows["rerank"], np.inf)

  def apply(
    self, curriculum: Curriculum, active: int, values: np.ndarray
  ) -> tuple[Curriculum, float]:
    """The curriculum with the new order, and how much it is the first one.

    Args:
      curriculum: the present one.
      active: how many ranks are active.
      values: from `difficulties`.

    Returns:
      The new curriculum, and Spearman's correlation of the values with the
      difficulties that made the order at the start, over the records that have
      a value.
    """
    place = np.argsort(self.order)
    present = values[
      place[np.searchsorted(self.order[place], curriculum.order)]
    ]
    first = 0 if self.everything else active
    order = reranked(curriculum.order, first, present, anti=self.anti)
    ranks = np.arange(len(self.order)) * (-1.0 if self.anti else 1.0)
    known = np.isfinite(values)
    correlation = 0.0
    if known.any():
      correlation = float(difficulty.spearman(values[known], ranks[known]))
    return dataclasses.replace(curriculum, order=order), correlation
