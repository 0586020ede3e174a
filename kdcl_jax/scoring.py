"""Difficulty by trained models: those that have not seen a record, or teachers.

The scorer is trained once for each fold, on the records of the other folds. Its
models say how hard the records left out are (scores, out of fold), and the
steps of its trainings how it went with the others (streams, in fold).
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdcl_jax import difficulty, examiner, lookup, npz, stages, tables, train
from kdcl_jax.dataset import Dataset, Split
from kdcl_jax.difficulty import Stream, data_map_of
from kdcl_jax.difficulty.requirements import Score
from kdcl_jax.difficulty.streams import DataMapState
from kdcl_jax.parallel import Parallel
from kdcl_jax.randomness import permute
from kdcl_jax.tables import Table
from kdcl_jax.train import Model
from kdcl_jax.writers import write_bytes

log = logging.getLogger(__name__)

_FOLDS = 0xF01D
_MAP = "data_map"


@dataclasses.dataclass(frozen=True)
class Scored:
  """What the scorer's models and trainings say of the records.

  Attributes:
    tables: file name without its ending -> table. `scorer_SCORE` has the
      training records and `scorer_SCORE_test` the test records (the mean over
      the folds' models, none of which has seen them); `stream_STREAM` has the
      training records (the mean over the trainings that have seen each).
    records: of the training records, [N]: `record_id`, `label` (observed),
      `readable`, and out of fold `prediction` and `confidence`, the largest
      probability.
    data_map: of the training records, [N]: `record_id`, `label`, `confidence`
      and `variability` (mean and standard deviation of the label's
      probability), `correctness` (share of the presentations) and
      `presentations`; {} without the stream 'data_map'.
    ledger: examples that went forward and backward through a model.
  """

  tables: dict[str, Table]
  records: dict[str, np.ndarray]
  data_map: dict[str, np.ndarray]
  ledger: dict[str, int]

  def save(self, folder: pathlib.Path, scores: Iterable[str]) -> None:
    """Writes the tables of some scores."""
    for name in scores:
      for file in (f"scorer_{name}", f"scorer_{name}_test"):
        self.tables[file].save(folder / f"{file}.npz")

  def save_all(self, folder: pathlib.Path) -> None:
    """Writes the tables, `records.npz` and, where there is one, `map.npz`."""
    for file, table in self.tables.items():
      table.save(folder / f"{file}.npz")
    write_bytes(folder / "records.npz", npz.to_bytes(**self.records))
    if self.data_map:
      write_bytes(folder / "map.npz", npz.to_bytes(**self.data_map))


def folds(ids: np.ndarray, count: int, seed: int) -> np.ndarray:
  """The fold of each record: a seeded split into parts of nearly equal size.

  Example:
    >>> np.bincount(folds(np.arange(10), 2, 0)).tolist()
    [5, 5]
  """
  return permute(np.arange(len(ids)), len(ids), seed, _FOLDS) % count


def uses_scorer(section: Mapping[str, Any]) -> bool:
  """Whether a stage's order needs the scorer's difficulties."""
  curriculum = section["curriculum"]
  ordered = curriculum["order"] in ("curriculum", "anti")
  return ordered and curriculum["difficulty"]["source"] == "scorer"


def outlet(
  config: Mapping[str, Any],
  folder: pathlib.Path,
  fold: int,
  interrupted: Callable[[], bool],
  *,
  quiet: bool,
) -> train.Outlet:
  """Where the training of a fold leaves its traces.

  Args:
    config: a resolved config.
    folder: the difficulties of a seed.
    fold: the number of the fold.
    interrupted: asked after each step; see `train.Outlet`.
    quiet: whether to leave the terminal alone.

  Returns:
    The outlet.
  """
  return train.Outlet(
    directory=folder / f"scorer_fold_{fold}",
    log_steps=config["log_steps"],
    checkpoint_steps=config["checkpoint_steps"],
    checkpoints_kept=config["checkpoints_kept"],
    quiet=quiet,
    interrupted=interrupted,
  )


def needed(config: Mapping[str, Any]) -> dict[str, Score]:
  """The scores, by name, that the orders of a config's stages need."""
  found = {}
  for stage in config["stages"]:
    if uses_scorer(config[stage]):
      name = config[stage]["curriculum"]["difficulty"]["score"]
      field = f"config.{stage}.curriculum.difficulty.score"
      found[name] = stages.score_of(name, field)
  return found


def scores_of(config: Mapping[str, Any]) -> dict[str, Score]:
  """The scores, by name, that the scorer's models give: its own and the needed.

  A run computes them all, although it keeps only those it needs, so that its
  tables are those of `kdcl_jax.score` to the last bit: the compiled forward
  pass is the same.
  """
  names = config["scorer"]["scores"] or tuple(difficulty.SCORES)
  field = "config.scorer.scores"
  return {n: stages.score_of(n, field) for n in names} | needed(config)


def streams_of(config: Mapping[str, Any]) -> dict[str, Stream]:
  """The streams, by name, that the scorer's trainings carry along."""
  section = config["scorer"]
  if not section["steps"] and not section["epochs"]:
    return {}  # pretrained, so there is nothing to follow
  names = section["streams"] or tuple(difficulty.STREAMS)
  field = "config.scorer.streams"
  return {n: lookup.find(difficulty.STREAMS, n, field)() for n in names}


def cross_fitted(
  config: Mapping[str, Any],
  datasets: Mapping[int, Dataset],
  parallel: Parallel,
  *,
  streams: Mapping[str, Stream] | None = None,
  outlets: Callable[[int, int], train.Outlet | None] = lambda seed, fold: None,
  width: int = 0,
) -> dict[int, Scored]:
  """Difficulty by the scorer, trained anew for each fold on the other folds.

  A model that has been trained on a record has memorised some of its label; a
  wrong label is only found by one that has not.

  Args:
    config: a resolved config.
    datasets: seed -> the data with that seed; it also keys the folds and the
      trainings. Those of a fold train together.
    parallel: where to run.
    streams: name -> what the train steps carry along.
    outlets: (seed, fold) -> where that training leaves its traces.
    width: see `kdcl_jax.lanes.Lanes`.

  Returns:
    For each seed the tables of `scores_of(config)` and of the streams, and what
    else the models say of the records.

  Raises:
    train.Interrupted: after saving, where an outlet was asked to stop.
  """
  if not datasets:
    return {}
  section, streams = config["scorer"], dict(streams or {})
  scores = scores_of(config)
  fittings = {
    seed: _Fitting(config, data, parallel, seed, streams, scores)
    for seed, data in datasets.items()
  }
  for fold in range(section["folds"]):
    log.info(
      "scoring with seed %s: fold %d of %d",
      ", ".join(map(str, fittings)),
      fold + 1,
      section["folds"],
    )
    trainings = [one.training(fold) for one in fittings.values()]
    places = [outlets(seed, fold) for seed in fittings]
    outcomes = train.fit_together(trainings, parallel, places, width=width)
    for one, training, outcome in zip(
      fittings.values(), trainings, outcomes, strict=True
    ):
      one.add(fold, training, outcome)
  return {seed: one.scored() for seed, one in fittings.items()}


class _Fitting:
  """The cross-fitting of one seed."""

  def __init__(
    self,
    config: Mapping[str, Any],
    dataset: Dataset,
    parallel: Parallel,
    seed: int,
    streams: Mapping[str, Stream],
    scores: Mapping[str, Score],
  ):
    self._section, self._dataset = config["scorer"], dataset
    self._parallel, self._streams, self._scores = parallel, streams, scores
    self._new = stages.scorer_trainings(config, dataset, parallel, seed)
    data = dataset.train
    self._part = folds(data.ids, self._section["folds"], seed)
    self._own: list[dict[str, np.ndarray]] = []
    self._test: list[dict[str, np.ndarray]] = []
    self._in_fold = {name: _InFold(data) for name in streams}
    self._spent = {"training_forwards": 0, "training_backwards": 0}

  def training(self, fold: int) -> train.Training:
    """The training on the records of the other folds."""
    data = self._dataset.train
    others = dataclasses.replace(data, ids=data.ids[self._part != fold])
    return dataclasses.replace(self._new(others, fold), streams=self._streams)

  def add(
    self, fold: int, training: train.Training, outcome: train.Outcome
  ) -> None:
    """Adds what the model of a fold says of the records left out."""
    data, scores, place = self._dataset.train, self._scores, self._parallel
    model = dataclasses.replace(training.model, variables=outcome.variables)
    left_out = data.ids[self._part == fold]
    trained_on = data, data.ids[self._part != fold]
    looking = examiner.Examiner(model, scores, place, support=trained_on)
    self._own.append(looking.rows(data, left_out))
    self._test.append(looking.rows(self._dataset.test))
    for name, stream in self._streams.items():
      self._in_fold[name].add(
        self._part != fold, stream, place.get(outcome.dynamics[name])
      )
    ledger = training.ledger(outcome.totals)
    self._spent["training_forwards"] += ledger["example_forwards"]
    self._spent["training_backwards"] += ledger["example_backwards"]

  def scored(self) -> Scored:
    """What all folds say together."""
    data, test = self._dataset.train, self._dataset.test
    rows = _in_sequence(self._own, data.ids)
    section, models = self._section, len(self._test)
    facts = {
      "model": section["model"],
      "steps": section["steps"],
      "epochs": section["epochs"],
      "fingerprint": self._dataset.fingerprint,
      "folds": section["folds"],
      "ledger": self._cost({}),
    }
    made = {}
    for name, score in self._scores.items():
      about = facts | {"score": name, "ledger": self._cost({name: score})}
      key = examiner.key(name)
      mean = sum(of[key] / models for of in self._test)
      made |= {
        f"scorer_{name}": tables.of_split(data, rows.pop(key), about),
        f"scorer_{name}_test": tables.of_split(test, mean, about),
      }
    for name, seen in self._in_fold.items():
      about = facts | {"score": name, "in_fold": True}
      made[f"stream_{name}"] = tables.of_split(data, seen.mean("score"), about)
    return Scored(
      tables=made,
      records=rows,
      data_map=self._in_fold[_MAP].map() if _MAP in self._in_fold else {},
      ledger=self._ledger(models * len(test.ids)),
    )

  def _cost(self, scores: Mapping[str, Score]) -> dict[str, int]:
    """What the training records' scores cost, with the trainings."""
    records = len(self._dataset.train.ids)
    others = (self._section["folds"] - 1) * records
    forwards, backwards = examiner.further_passes(scores, records, others)
    backwards += self._spent["training_backwards"]
    return {
      "scoring_forwards": records + forwards,
      "scoring_backwards": backwards,
    }

  def _ledger(self, tested: int) -> dict[str, int]:
    """Everything that went through the models, with no column of zeros."""
    cost = self._cost(self._scores)
    backwards = cost["scoring_backwards"] - self._spent["training_backwards"]
    further = examiner.further_passes(self._scores, tested, 0)
    ledger = self._spent | {"scoring_forwards": cost["scoring_forwards"]}
    ledger |= {"scoring_backwards": backwards} if backwards else {}
    ledger |= {"test_forwards": tested + further[0]}
    return ledger | ({"test_backwards": further[1]} if further[1] else {})


def by_models(
  models: Sequence[Model],
  split: Split,
  *,
  score: str,
  function: Score,
  parallel: Parallel,
  provenance: dict[str, Any],
) -> Table:
  """Difficulty by trained models, the mean over them where they are several.

  A score that compares with the records trained on takes those of the split,
  each without itself.
  """
  total = np.zeros(len(split.ids))
  support = split, split.ids
  for model in models:
    looking = examiner.Examiner(
      model, {score: function}, parallel, support=support
    )
    total += looking.rows(split)[examiner.key(score)]
  provenance = provenance | {
    "score": score,
    "models": [model.name for model in models],
  }
  return tables.of_split(split, total / len(models), provenance)


def _in_sequence(
  parts: Sequence[Mapping[str, np.ndarray]], ids: np.ndarray
) -> dict[str, np.ndarray]:
  """The rows of all folds, in the sequence of the (sorted) ids."""
  place = np.argsort(np.concatenate([part["record_id"] for part in parts]))
  rows = {
    key: np.concatenate([part[key] for part in parts])[place]
    for key in parts[0]
  }
  assert np.array_equal(rows["record_id"], ids)
  return rows


class _InFold:
  """What the trainings of the folds know of the records, put together."""

  def __init__(self, split: Split):
    self._split = split
    self._sums: dict[str, np.ndarray] = {}

  def add(self, where: np.ndarray, stream: Stream, state: Any) -> None:
    """Adds what one training knows of the records that it was given."""
    ids = self._split.ids[where]
    score = np.asarray(stream.score(state), np.float64)[ids]
    known = np.isfinite(score)
    values = {"known": known, "score": np.where(known, score, 0)}
    if isinstance(state, DataMapState):
      values |= {
        "presentations": np.asarray(state.presentations)[ids],
        **{
          name: np.asarray(value, np.float64)[ids]
          for name, value in data_map_of(state)._asdict().items()
        },
      }
    for name, value in values.items():
      empty = np.zeros(len(self._split.ids))
      self._sums.setdefault(name, empty)[where] += value

  def mean(self, name: str) -> np.ndarray:
    """The mean over the trainings that know the record; inf where none does."""
    known = self._sums["known"]
    mean = self._sums[name] / np.maximum(known, 1)
    return np.where(known > 0, mean, np.inf)

  def map(self) -> dict[str, np.ndarray]:
    """The data map; see `Scored`."""
    seen = self._sums["presentations"].astype(np.int64)
    known = np.maximum(self._sums["known"], 1)
    return {
      "record_id": self._split.ids,
      "label": self._split.labels[self._split.ids],
      "confidence": self._sums["confidence"] / known,
      "variability": self._sums["variability"] / known,
      "correctness": self._sums["correctness"] / np.maximum(seen, 1),
      "presentations": seen,
    }
