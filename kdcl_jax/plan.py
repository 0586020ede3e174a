"""What a run is going to do: courses, schedules and compute, before any of it.

Everything comes from the trainings that the run itself will make, with shapes
in place of their arrays; nothing is trained.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import (
  controller,
  examiner,
  forecast,
  models,
  parallel,
  scoring,
  stages,
  trajectories,
)
from kdcl_jax.dataset import Dataset
from kdcl_jax.forecast import Forecast
from kdcl_jax.seed_run import flops_per_example
from kdcl_jax.training import Model, Training
from kdcl_jax.trajectories import Trajectories

Section = Mapping[str, Any]
BACKWARD = 2  # a backward pass counts as so many forward passes
_MAY = {
  "freeze": "freeze may end the growth early",
  "hold": "hold may keep a share for longer",
  "reduce_learning_rate": "reduce_learning_rate may lower the learning rate",
  "stop": "stop may end the stage early, which takes less",
  "advance_teacher": "advance_teacher lets validation decide which snapshot of"
  " its teachers teaches",
  "bandit": "the bandit chooses the windows, of which one course is drawn",
  "rerank": "rerank changes the order; the classes are those of the first one",
}


@dataclasses.dataclass(frozen=True)
class Compute:
  """What one stage takes.

  Attributes:
    parameters: of the model.
    flops_per_example: of a forward pass of the model.
    ledger: examples, as in the result of the stage; see docs/results.md.
    flops: 'training', 'teachers', 'validation', 'rescoring' and 'scoring' ->
      FLOPs; a backward pass counts as `BACKWARD` forward passes.
    shared: whether an earlier stage has paid for its scoring, which is in the
      ledger and not in the FLOPs.
  """

  parameters: int
  flops_per_example: float
  ledger: dict[str, int]
  flops: dict[str, float]
  shared: bool


@dataclasses.dataclass(frozen=True)
class StagePlan:
  """What one stage is going to do.

  Attributes:
    name: the stage, or 'scorer' for the training of the scorer's first fold.
    records: in its order.
    course: windows, learning rate and lessons.
    over: what changes over the steps.
    moments: [M] the steps at which classes are counted.
    classes: [M, K] the share of each class, by observed label, among the active
      records; None where the order is only known after scoring.
    actions: what may change this course, a sentence each.
    compute: what it takes.
  """

  name: str
  records: int
  course: Forecast
  over: Trajectories
  moments: np.ndarray
  classes: np.ndarray | None
  actions: tuple[str, ...]
  compute: Compute


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run is going to do.

  Attributes:
    stages: in their sequence.
    scorer: the training of its first fold; None where it is not used. Its
      compute is in the first stage that needs it.
    folds: trainings of the scorer.
    seeds: how often all of this is done.
  """

  stages: tuple[StagePlan, ...]
  scorer: StagePlan | None
  folds: int
  seeds: int

  def totals(self) -> tuple[dict[str, int], float]:
    """The examples and FLOPs of all stages for one seed, scoring once."""
    sums: dict[str, int] = {}
    flops = 0.0
    for stage in self.stages:
      flops += sum(stage.compute.flops.values())
      for name, count in stage.compute.ledger.items():
        paid = stage.compute.shared and name.startswith("scoring")
        sums[name] = sums.get(name, 0) + (0 if paid else count)
    return sums, flops


def make(
  config: Section,
  dataset: Dataset,
  *,
  seed: int,
  tables: Mapping[str, np.ndarray] | None = None,
) -> Plan:
  """Plans a run.

  Args:
    config: a resolved config that `kdcl_jax.validation` has passed.
    dataset: its data for the seed.
    seed: one of the run's.
    tables: stage -> [N] difficulties of `dataset.train.ids`, where its order
      needs them and they are known.

  Returns:
    The plan.
  """
  planner = _Planner(config, dataset, seed)
  tables = tables or {}
  made = [planner.stage(name, tables.get(name)) for name in config["stages"]]
  return Plan(
    stages=tuple(made),
    scorer=planner.scorer,
    folds=config["scorer"]["folds"],
    seeds=config["seeds"],
  )


def passes_of(scoring: Mapping[str, int]) -> int:
  """Forward passes that what scoring takes amounts to."""
  return scoring["scoring_forwards"] + BACKWARD * scoring["scoring_backwards"]


def needs_table(section: Section) -> bool:
  """Whether a stage's order comes from difficulties."""
  return section["curriculum"]["order"] not in ("none", "random")


class _Planner:
  """Plans the stages of a run, one after the other."""

  def __init__(self, config: Section, dataset: Dataset, seed: int):
    self.config = config
    self.dataset = dataset
    self.seed = seed
    self.parallel = parallel.create(config["parallel"]["mode"], 1)
    self.scorer: StagePlan | None = None
    self._models: dict[str, Model] = {}
    self._known_flops: dict[str, float] = {}
    self._scored = ({}, 0.0)

  def stage(self, name: str, difficulties: np.ndarray | None) -> StagePlan:
    section = self.config[name]
    training = stages.training_of(
      name,
      section,
      self.config,
      self.dataset,
      self.parallel,
      seed=self.seed,
      teachers=[self._models[teacher] for teacher in section["teachers"]],
      difficulties=difficulties,
      shapes_only=True,
    )
    self._models[name] = dataclasses.replace(
      training.model, snapshots=dict.fromkeys(section["snapshots"])
    )
    shared = scoring.uses_scorer(section) and self.scorer is not None
    known = difficulties is not None or not needs_table(section)
    return self._planned(
      training, section, known, self._scoring(section, training), shared
    )

  def _scoring(
    self, section: Section, training: Training
  ) -> tuple[dict[str, int], float]:
    """What a stage's difficulties cost, as `kdcl_jax.run` has it."""
    if not needs_table(section):
      return {}, 0.0
    if scoring.uses_scorer(section):
      if self.scorer is None:
        self._scored = self._cross_fitting()
      ledger, flops = self._scored
      others = self.config["scorer"]["folds"] - 1
      more = self._further(section, others)
      each = self.scorer.compute.flops_per_example
      return (
        {kind: ledger[kind] + more[kind] for kind in ledger},
        flops + each * passes_of(more),
      )
    if section["curriculum"]["difficulty"]["source"] == "file":
      return {}, 0.0
    more = self._further(section, 1)
    more["scoring_forwards"] += len(self.dataset.train.ids)
    each = [self._flops(teacher) for teacher in training.teachers]
    cost = {kind: count * len(each) for kind, count in more.items() if count}
    return cost, float(passes_of(more) * sum(each))

  def _further(self, section: Section, models: int) -> dict[str, int]:
    """What a stage's score costs beside a pass of each record.

    The records that some models together were trained on are `models` times
    those of the data.
    """
    name = section["curriculum"]["difficulty"]["score"]
    records = len(self.dataset.train.ids)
    passes = examiner.further_passes(
      {name: stages.score_of(name, name)}, records, models * records
    )
    kinds = "scoring_forwards", "scoring_backwards"
    return dict(zip(kinds, passes, strict=True))

  def _cross_fitting(self) -> tuple[dict[str, int], float]:
    """Plans the scorer; returns what all its folds cost."""
    section, data = self.config["scorer"], self.dataset.train
    new = stages.scorer_trainings(
      self.config, self.dataset, self.parallel, self.seed, shapes_only=True
    )
    part = scoring.folds(data.ids, section["folds"], self.seed)
    forwards, backwards, flops = 0, 0, 0.0
    for fold in range(section["folds"]):
      others = dataclasses.replace(data, ids=data.ids[part != fold])
      training = new(others, fold)
      planned = self._planned(
        training, section, not needs_table(section), ({}, 0.0), False
      )
      self.scorer = self.scorer or planned
      forwards += planned.compute.ledger["example_forwards"]
      backwards += planned.compute.ledger["example_backwards"]
      flops = planned.compute.flops_per_example
    passes = len(data.ids) + forwards + BACKWARD * backwards
    return (
      {"scoring_forwards": len(data.ids), "scoring_backwards": backwards},
      flops * passes,
    )

  def _planned(
    self,
    training: Training,
    section: Section,
    known: bool,
    scored: tuple[dict[str, int], float],
    shared: bool,
  ) -> StagePlan:
    course = forecast.of(training)
    moments, classes = trajectories.classes(
      course,
      training.curriculum.order,
      training.train.labels,
      self.dataset.num_classes,
    )
    options = section["curriculum"]
    return StagePlan(
      name=training.model.name,
      records=len(training.curriculum.order),
      course=course,
      over=trajectories.of(training, course, self.config["data"]["augment"]),
      moments=moments,
      classes=classes if known else None,
      actions=tuple(
        _MAY[name]
        for name in (*controller.OPTIONS, "rerank")
        if name in _MAY and options[name]["on"] and course.steps
      ),
      compute=self._compute(training, course, scored, shared),
    )

  def _compute(
    self,
    training: Training,
    course: Forecast,
    scored: tuple[dict[str, int], float],
    shared: bool,
  ) -> Compute:
    totals, each = course.totals, self._flops(training.model)
    ledger = training.ledger(totals)
    taught = [self._flops(teacher) for teacher in training.teachers]
    asked = ledger["teacher_forwards"] // max(len(taught), 1)
    passes = ledger["example_forwards"]
    passes += BACKWARD * ledger["example_backwards"]
    return Compute(
      parameters=models.parameter_count(training.model.variables),
      flops_per_example=each,
      ledger={
        **ledger,
        "validation_forwards": totals.validated,
        "rescoring_forwards": totals.rescored,
        "scoring_forwards": 0,
        "scoring_backwards": 0,
      }
      | scored[0],
      flops={
        "training": each * passes,
        "teachers": float(asked * sum(taught)),
        "validation": each * totals.validated,
        "rescoring": each * totals.rescored,
        "scoring": 0.0 if shared else scored[1],
      },
      shared=shared,
    )

  def _flops(self, model: Model) -> float:
    if model.name not in self._known_flops:
      found = flops_per_example(model, self.dataset.shape)
      self._known_flops[model.name] = found
    return self._known_flops[model.name]
