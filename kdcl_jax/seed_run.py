"""One seed of a run: its stages prepared and concluded, its files."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdcl_jax import (
  evaluate,
  examiner,
  hosts,
  metrics,
  models,
  npz,
  pretrained,
  scoring,
  screening,
  stages,
  tables,
  train,
  weights,
)
from kdcl_jax.curriculum import stage_seed
from kdcl_jax.dataset import Dataset
from kdcl_jax.parallel import Parallel
from kdcl_jax.tally import Totals
from kdcl_jax.writers import write_bytes, write_sealed


class Prepared(NamedTuple):
  """A stage that can be trained: how, and what its order has cost."""

  training: train.Training
  scoring: Mapping[str, int]
  started: float


@dataclasses.dataclass
class SeedRun:
  """The stages of a run for one seed.

  Attributes:
    config: the resolved config.
    workdir: the run's directory.
    dataset: the data with this seed.
    parallel: on which devices.
    seed: the seed.
  """

  config: Mapping[str, Any]
  workdir: pathlib.Path
  dataset: Dataset
  parallel: Parallel
  seed: int
  _models: dict[str, train.Model] = dataclasses.field(default_factory=dict)

  def directory(self, stage: str) -> pathlib.Path:
    """Where a stage leaves what it makes."""
    return self.workdir / stage / f"seed_{self.seed}"

  def is_done(self, name: str) -> bool:
    """Whether a stage's result has been written."""
    return hosts.told_by_lead((self.directory(name) / "result.json").exists())

  def prepare(self, name: str) -> Prepared:
    """Everything that decides the outcome of a stage."""
    started = time.perf_counter()
    section = self.config[name]
    teachers = [self._model(teacher) for teacher in section["teachers"]]
    table, scoring = self._table(name, section, teachers)
    training = stages.training_of(
      name,
      section,
      self.config,
      self.dataset,
      self.parallel,
      seed=self.seed,
      teachers=teachers,
      difficulties=table,
    )
    return Prepared(training, scoring, started)

  def conclude(
    self, name: str, prepared: Prepared, outcome: train.Outcome | None
  ) -> None:
    """Writes the model of a stage and what it is worth.

    Args:
      name: the stage.
      prepared: what `prepare` gave.
      outcome: of its training; None where there was none.
    """
    training = prepared.training
    variables = outcome.variables if outcome else training.model.variables
    hosts.meet()  # the lead has written the snapshots
    model = dataclasses.replace(
      training.model,
      variables=variables,
      snapshots=self._snapshots(name, variables),
    )
    self._models[name] = model
    weights.save(
      self.directory(name) / "weights.safetensors",
      self.parallel.get(variables),
      {"stage": name} | self._header(name),
    )
    self._result(name, prepared, model, outcome)
    hosts.meet()  # before anyone reads them

  def _header(self, name: str) -> dict[str, str]:
    """What the weights of a stage are of, for who takes them elsewhere."""
    section = self.config[name]
    view = pretrained.input_of(section, self.config["data"], f"config.{name}")
    return pretrained.header(section, view, self.dataset.shape)

  def screen(self) -> None:
    """Looks at the models that come trained, before any step is taken.

    Raises:
      UserError: where one knows nothing; see `kdcl_jax.screening`.
    """
    validation = self.dataset.validation
    for name in self.config["stages"]:
      section = self.config[name]
      if not screening.is_given(section) or self.is_done(name):
        continue
      model = self._built(name, section)
      evaluator = evaluate.Evaluator(
        model.forward,
        self.parallel,
        batch_size=min(512, len(validation.ids)),
      )
      seen = evaluate.readable(evaluator.records(model.variables, validation))
      screening.check_accuracy(name, section, seen, self.seed)

  def outlet(
    self, name: str, interrupted: Callable[[], bool], *, quiet: bool
  ) -> train.Outlet:
    """Where a stage leaves its traces."""
    return train.Outlet(
      directory=self.directory(name),
      log_steps=self.config["log_steps"],
      checkpoint_steps=self.config["checkpoint_steps"],
      checkpoints_kept=self.config["checkpoints_kept"],
      tensorboard=self.config["tensorboard"],
      quiet=quiet,
      interrupted=interrupted,
    )

  def _built(self, name: str, section: Mapping[str, Any]) -> train.Model:
    """A stage's model with the variables that its section names."""
    return stages.model_of(
      name,
      section,
      self.config["data"],
      self.dataset,
      self.parallel,
      stage_seed(self.seed, name),
    )

  def _model(self, name: str) -> train.Model:
    """The model of a stage that is done."""
    if name not in self._models:
      section = self.config[name] | {
        "weights": str(self.directory(name) / "weights.safetensors")
      }
      model = self._built(name, section)
      self._models[name] = dataclasses.replace(
        model, snapshots=self._snapshots(name, model.variables)
      )
    return self._models[name]

  def _snapshots(self, name: str, like: Any) -> dict[float, Any]:
    """What a stage was after shares of its training; a stopped one has less."""
    found = {}
    for share in self.config[name]["snapshots"]:
      path = weights.snapshot_path(self.directory(name), share)
      if hosts.told_by_lead(path.exists()):
        loaded = weights.load(path, f"config.{name}.snapshots")
        fitting = weights.fit(loaded, self.parallel.get(like), str(path))
        found[share] = self.parallel.put(fitting)
    return found

  def _table(
    self, name: str, section: Mapping[str, Any], teachers: list[train.Model]
  ) -> tuple[np.ndarray | None, dict[str, int]]:
    """The difficulties that a stage's order needs, and what they cost."""
    options = section["curriculum"]["difficulty"]
    if section["curriculum"]["order"] in ("none", "random"):
      return None, {}
    ids = self.dataset.train.ids
    field = f"config.{name}.curriculum.difficulty"
    if options["source"] == "file":
      return tables.load(options["path"], f"{field}.path").of(ids, field), {}
    if options["source"] == "scorer":
      table, _ = self._scored(options["score"])
      return table.of(ids, field), table.provenance["ledger"]
    table = scoring.by_models(
      teachers,
      self.dataset.train,
      score=options["score"],
      function=stages.score_of(options["score"], field),
      parallel=self.parallel,
      provenance={"fingerprint": self.dataset.fingerprint},
    )
    table.save(self._tables / f"{name}.npz")
    score = stages.score_of(options["score"], field)
    further = examiner.further_passes(
      {options["score"]: score}, len(ids), len(ids)
    )
    forwards, backwards = (passes * len(teachers) for passes in further)
    cost = {
      "scoring_forwards": len(ids) * len(teachers) + forwards,
      "scoring_backwards": backwards,
    }
    return table.of(ids, field), cost

  @property
  def _tables(self) -> pathlib.Path:
    return self.workdir / "difficulty" / f"seed_{self.seed}"

  def is_scored(self) -> bool:
    """Whether the tables that the orders need of the scorer are there."""
    needed = scoring.needed(self.config)
    paths = [path for name in needed for path in self._scorer_tables(name)]
    return hosts.told_by_lead(all(path.exists() for path in paths))

  def scorer_outlet(
    self, fold: int, interrupted: Callable[[], bool], *, quiet: bool
  ) -> train.Outlet:
    """Where the scorer's training of a fold leaves its traces."""
    return scoring.outlet(
      self.config, self._tables, fold, interrupted, quiet=quiet
    )

  def take_scores(self, scored: scoring.Scored) -> None:
    """Saves the tables that the orders need of the scorer."""
    scored.save(self._tables, scoring.needed(self.config))
    hosts.meet()

  def _scorer_tables(self, name: str) -> list[pathlib.Path]:
    """The files of a score, of the training and the test records."""
    return [self._tables / f"scorer_{name}{part}.npz" for part in ("", "_test")]

  def _scored(self, name: str) -> tuple[tables.Table, tables.Table]:
    paths = self._scorer_tables(name)
    return tuple(tables.load(path, str(path)) for path in paths)

  def _test_difficulty(self) -> np.ndarray:
    """By what the report sorts the test records: the scorer where there is one.

    Otherwise the loss of the first stage's model, which is then also saved as
    the training records' table.
    """
    test = self.dataset.test
    for name in self.config["stages"]:
      section = self.config[name]
      if scoring.uses_scorer(section):
        options = section["curriculum"]["difficulty"]
        return self._scored(options["score"])[1].of(test.ids, name)
    path = self._tables / "first_stage_test.npz"
    if not hosts.told_by_lead(path.exists()):
      model = self._model(self.config["stages"][0])
      for split, target in (
        (self.dataset.train, self._tables / "first_stage.npz"),
        (test, path),
      ):
        scoring.by_models(
          [model],
          split,
          score="loss",
          function=stages.score_of("loss", "loss"),
          parallel=self.parallel,
          provenance={"fingerprint": self.dataset.fingerprint},
        ).save(target)
      hosts.meet()
    return tables.load(path, str(path)).of(test.ids, str(path))

  def _result(
    self,
    name: str,
    prepared: Prepared,
    model: train.Model,
    outcome: train.Outcome | None,
  ) -> None:
    """Evaluates the stage on validation and test and writes what is known."""
    section = self.config[name]
    directory = self.directory(name)
    test = self.dataset.test
    evaluator = evaluate.Evaluator(
      model.forward, self.parallel, batch_size=min(512, len(test.ids))
    )
    rows = evaluate.readable(evaluator.records(model.variables, test))
    kept = ("record_id", "label", "prediction", "confidence", "loss")
    write_bytes(
      directory / "test_predictions.npz",
      npz.to_bytes(**{key: rows[key] for key in kept}),
    )
    hard = dict(zip(test.ids, self._test_difficulty(), strict=True))
    measured = metrics.summary(rows) | {
      "agreement": {
        teacher: metrics.agreement(
          rows["prediction"], self._predictions(teacher, rows["record_id"])
        )
        for teacher in section["teachers"]
      },
      "accuracy_by_difficulty": metrics.accuracy_by_difficulty(
        rows["prediction"] == rows["label"],
        np.array([hard[record] for record in rows["record_id"]]),
      ),
    }
    seen = evaluator.records(model.variables, self.dataset.validation)
    totals = outcome.totals if outcome else Totals()
    write_sealed(
      directory / "result.json",
      {
        "stage": name,
        "seed": self.seed,
        "model": section["model"],
        "teachers": list(section["teachers"]),
        "trained": outcome is not None,
        "parameters": models.parameter_count(model.variables),
        "flops_per_example": flops_per_example(model, self.dataset.shape),
        "steps": outcome.steps if outcome else 0,
        "traces": outcome.traces if outcome else 0,
        "train_seconds": totals.seconds,
        "total_seconds": time.perf_counter() - prepared.started,
        "final_fraction": outcome.course.fraction if outcome else 1.0,
        "kept": section["keep"],
        "unreadable": len(totals.unreadable),
        "unreadable_records": totals.unreadable,
        "skipped_steps": totals.skipped,
        "ledger": {
          **prepared.training.ledger(totals),
          "validation_forwards": totals.validated,
          "rescoring_forwards": totals.rescored,
          "scoring_forwards": 0,
          "scoring_backwards": 0,
        }
        | prepared.scoring,
        "validation": evaluate.measure(seen),
        "test": measured,
      },
    )

  def _predictions(self, stage: str, ids: np.ndarray) -> np.ndarray:
    path = self.directory(stage) / "test_predictions.npz"
    rows = npz.read_own(path, "record_id", "prediction")
    place = {record: i for i, record in enumerate(rows["record_id"])}
    return rows["prediction"][[place[record] for record in ids]]


def flops_per_example(model: train.Model, shape: tuple[int, ...]) -> float:
  """FLOPs of a forward pass of one example, by XLA's cost analysis."""
  batch = {
    "image": jax.ShapeDtypeStruct((1, *shape), np.float32),
    "weight": jax.ShapeDtypeStruct((1,), np.float32),
  }
  forward = jax.jit(lambda v, b: model.forward(v, b)[0]["logits"])
  variables = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), model.variables
  )
  lowered = forward.lower(variables, batch)
  try:
    cost = lowered.cost_analysis() or {}
  except jax.errors.JaxRuntimeError:  # a called model, its shapes still open
    cost = lowered.compile().cost_analysis() or {}
  return float(cost.get("flops", 0.0))
