"""Difficulty of records: by models that have not seen them, or by a teacher.

A table of difficulties is a file: `record_id`, `difficulty` and the observed
`label` of the training records, with its provenance beside it as JSON. Any run
can take its order from it (`curriculum.difficulty.source = 'file'`).
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdcl_jax import evaluate, npz
from kdcl_jax.dataset import Dataset, Split
from kdcl_jax.errors import UserError
from kdcl_jax.parallel import Parallel
from kdcl_jax.randomness import permute
from kdcl_jax.train import Model
from kdcl_jax.writers import write_bytes, write_json

_FOLDS = 0xF01D


@dataclasses.dataclass(frozen=True)
class Table:
  """Difficulties of records.

  Attributes:
    record_id: [N] int64.
    difficulty: [N] float64, larger is harder.
    label: [N] int64 observed labels.
    provenance: what made it: score, model, steps, data fingerprint.
  """

  record_id: np.ndarray
  difficulty: np.ndarray
  label: np.ndarray
  provenance: dict[str, Any]

  def of(self, ids: np.ndarray, where: str) -> np.ndarray:
    """The difficulties of some records, in their sequence.

    Args:
      ids: [M] record ids.
      where: the config field that the table stands for, for messages.

    Raises:
      UserError: where a record is missing.
    """
    place = {int(r): i for i, r in enumerate(self.record_id)}
    missing = [int(r) for r in ids if int(r) not in place]
    if missing:
      raise UserError(
        f"{where} has no difficulty for {len(missing)} of {len(ids)} records,"
        f" the first being record {missing[0]}; score this data set, with this"
        " validation split."
      )
    return self.difficulty[[place[int(r)] for r in ids]]

  def save(self, path: pathlib.Path) -> None:
    """Writes `path` (npz) and, beside it, the provenance (json)."""
    content = npz.to_bytes(
      record_id=self.record_id, difficulty=self.difficulty, label=self.label
    )
    write_bytes(path, content)
    write_json(path.with_suffix(".json"), self.provenance)


def load(path: str | pathlib.Path, field: str) -> Table:
  """Reads a table.

  Args:
    path: the npz file.
    field: the config field that names it, for messages.

  Raises:
    UserError: where the file is missing or is no such table.
  """
  path = pathlib.Path(path).expanduser()
  arrays = npz.read(path, field)
  if not {"record_id", "difficulty"} <= set(arrays):
    raise UserError(
      f"{field} is {str(path)!r}, which has the arrays"
      f" {', '.join(arrays) or 'none'}; expected record_id and difficulty."
    )
  record_id = arrays["record_id"].astype(np.int64)
  difficulty = arrays["difficulty"].astype(np.float64)
  label = arrays.get("label", np.full(len(record_id), -1))
  if record_id.shape != difficulty.shape or record_id.ndim != 1:
    raise UserError(
      f"{field} is {str(path)!r}, whose record_id has shape {record_id.shape}"
      f" and difficulty {difficulty.shape}; expected two vectors of one length."
    )
  beside = path.with_suffix(".json")
  provenance = json.loads(beside.read_text()) if beside.exists() else {}
  return Table(record_id, difficulty, label, provenance)


def folds(ids: np.ndarray, count: int, seed: int) -> np.ndarray:
  """The fold of each record: a seeded split into parts of nearly equal size.

  Example:
    >>> np.bincount(folds(np.arange(10), 2, 0)).tolist()
    [5, 5]
  """
  return permute(np.arange(len(ids)), len(ids), seed, _FOLDS) % count


def cross_fitted(
  train_fold: Callable[[Split, int], Model],
  dataset: Dataset,
  *,
  count: int,
  seed: int,
  score: str,
  function: Callable[..., Any],
  parallel: Parallel,
  provenance: dict[str, Any],
) -> tuple[Table, Table]:
  """Difficulty out of fold, by models trained on the other folds.

  A model that has been trained on a record has memorised some of its label; a
  wrong label is only found by one that has not.

  Args:
    train_fold: (split to train on, fold) -> a trained model.
    dataset: the data.
    count: number of folds.
    seed: keys the folds.
    score: the score's name.
    function: the score, (logits, labels) -> [B].
    parallel: where to run.
    provenance: what the tables say of their making.

  Returns:
    The table of the training records, and that of the test records (the mean
    over the folds' models, none of which has seen them).
  """
  train, test = dataset.train, dataset.test
  part = folds(train.ids, count, seed)
  difficulty = np.zeros(len(train.ids))
  test_difficulty = np.zeros(len(test.ids))
  for fold in range(count):
    others = dataclasses.replace(train, ids=train.ids[part != fold])
    model = train_fold(others, fold)
    values = lambda split, ids, model=model: _scored(
      [model], split, ids, score, function, parallel
    )
    difficulty[part == fold] = values(train, train.ids[part == fold])
    test_difficulty += values(test, test.ids) / count
  provenance = provenance | {"score": score, "folds": count}
  return (
    _table(train, difficulty, provenance),
    _table(test, test_difficulty, provenance),
  )


def by_models(
  models: Sequence[Model],
  split: Split,
  *,
  score: str,
  function: Callable[..., Any],
  parallel: Parallel,
  provenance: dict[str, Any],
) -> Table:
  """Difficulty by trained models, the mean over them where they are several."""
  difficulty = _scored(models, split, split.ids, score, function, parallel)
  provenance = provenance | {
    "score": score,
    "models": [model.name for model in models],
  }
  return _table(split, difficulty, provenance)


def _scored(
  models: Sequence[Model],
  split: Split,
  ids: np.ndarray,
  score: str,
  function: Callable[..., Any],
  parallel: Parallel,
) -> np.ndarray:
  total = np.zeros(len(ids))
  for model in models:
    evaluator = evaluate.Evaluator(
      model.forward,
      parallel,
      batch_size=min(512, len(ids)),
      scores={score: function},
    )
    rows = evaluator.records(model.variables, split, ids)
    # What cannot be read has no difficulty; it ranks last and is never seen.
    total += np.where(rows["readable"], rows[score], np.inf)
  return total / len(models)


def _table(
  split: Split, difficulty: np.ndarray, provenance: dict[str, Any]
) -> Table:
  finite = np.isfinite(difficulty)
  worst = difficulty[finite].max() if finite.any() else 0.0
  return Table(
    record_id=split.ids,
    difficulty=np.where(finite, difficulty, worst + 1.0),
    label=split.labels[split.ids],
    provenance=provenance | {"split": split.name, "records": len(split.ids)},
  )
