"""A trained model's view of records, and every score of them in one pass."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdcl_jax import difficulty
from kdcl_jax.dataset import Split
from kdcl_jax.difficulty.requirements import Score
from kdcl_jax.evaluate import Evaluator
from kdcl_jax.parallel import Parallel
from kdcl_jax.train import Model

_KEPT = ("record_id", "label", "readable", "prediction", "confidence")


@difficulty.needs("logits")
def _logits(logits: jax.Array) -> jax.Array:
  return logits


@difficulty.needs("layers")
def _layers(layers: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
  return layers


def key(name: str) -> str:
  """The row of a score, which may have the name of another row."""
  return f"score/{name}"


class Examiner:
  """Scores records by a model, some by what the model was trained on.

  Scores of a batch are computed with the forward pass. Where some compare with
  the records that the model was trained on, the layers of these and of the
  records in question are kept in the host's memory, up to 4 KB for each record
  and layer (see `kdcl_jax.difficulty.layers_of`).
  """

  def __init__(
    self,
    model: Model,
    scores: Mapping[str, Score],
    parallel: Parallel,
    *,
    support: tuple[Split, np.ndarray],
  ):
    """Computes nothing yet.

    Args:
      model: the model.
      scores: name -> score.
      parallel: where to run.
      support: the split and the sorted ids of the records that the model was
        trained on; they are read where a score compares with them.
    """
    self._model, self._parallel = model, parallel
    self._source, self._trained_on = support[0], support[1]
    compares = difficulty.compares
    self._passing = {n: s for n, s in scores.items() if not compares(s)}
    self._comparing = {n: s for n, s in scores.items() if compares(s)}
    self._names = tuple(scores)

  def rows(
    self, split: Split, ids: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """What the model says of records.

    Args:
      split: where the records are.
      ids: record ids, all of the split's where not given.

    Returns:
      Arrays [N]: `record_id`, `label`, `readable`, `prediction`, `confidence`,
      and `key(name)` for each score; inf for what cannot be read, which ranks
      last and is never seen.
    """
    ids = split.ids if ids is None else ids
    wanted = {key(name): score for name, score in self._passing.items()}
    if self._comparing:
      wanted |= {"logits": _logits, "layers": _layers}
    rows = self._records(wanted, split, ids)
    values = {name: rows[key(name)] for name in self._passing}
    if self._comparing:
      values |= self._compared(rows, split)
    return {name: rows[name] for name in _KEPT} | {
      key(name): np.where(rows["readable"], values[name], np.inf)
      for name in self._names
    }

  def _records(
    self, scores: Mapping[str, Score], split: Split, ids: np.ndarray
  ) -> dict[str, Any]:
    evaluator = Evaluator(
      self._model.forward,
      self._parallel,
      batch_size=min(512, len(ids)),
      scores=scores,
    )
    return evaluator.records(self._model.variables, split, ids)

  @functools.cached_property
  def _support(self) -> dict[str, Any]:
    """The records trained on that could be read."""
    rows = self._records({"layers": _layers}, self._source, self._trained_on)
    kept = {name: rows[name] for name in ("record_id", "label", "layers")}
    return jax.tree.map(lambda row: row[rows["readable"]], kept)

  def _compared(
    self, rows: Mapping[str, Any], split: Split
  ) -> dict[str, np.ndarray]:
    """The scores that compare with the records trained on."""
    support, ids = self._support, rows["record_id"]
    place = np.searchsorted(support["record_id"], ids)
    found = np.minimum(place, len(support["record_id"]) - 1)
    inside = support["record_id"][found] == ids
    # The same number is another record in another source.
    inside &= split.source is self._source.source
    given = {
      "logits": rows["logits"],
      "labels": rows["label"],
      "layers": rows["layers"],
      "support_layers": support["layers"],
      "support_labels": support["label"],
      "support_index": np.where(inside, found, -1),
    }
    return {
      name: np.asarray(
        score(*(given[need] for need in difficulty.needs_of(score)))
      )
      for name, score in self._comparing.items()
    }


def further_passes(
  scores: Mapping[str, Score], records: int, trained_on: int
) -> tuple[int, int]:
  """What scores cost beside the pass of each record that gives its logits.

  Args:
    scores: name -> score, of one model or of one for each fold.
    records: how many records are scored.
    trained_on: how many the model was trained on, or the models together.

  Returns:
    Examples that go forward and examples that go backward.
  """
  forwards = records * sum(getattr(s, "forwards", 0) for s in scores.values())
  backwards = records * sum(getattr(s, "backwards", 0) for s in scores.values())
  if any(difficulty.compares(score) for score in scores.values()):
    forwards += trained_on
  return forwards, backwards
