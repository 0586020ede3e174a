"""Tuning: each stage's value of a field, chosen by validation accuracy alone.

A cell is tuned level by level over the graph of its teachers, so that a student
is tuned under teachers that have been. What a lower level has trained with the
value that won is copied, not trained again: a stage's seed comes of the run's
seed and the stage's name, so that it would be the same.
"""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kdcl_jax import environment
from kdcl_jax.experiments import definition
from kdcl_jax.writers import read_sealed

Run = Mapping[str, Any]
Execute = Callable[[Run, pathlib.Path], Any]

_UNNEEDED = shutil.ignore_patterns("checkpoints", "tensorboard")


class Unfinished(Exception):
  """Something has not been computed yet."""


@dataclasses.dataclass(frozen=True)
class Choice:
  """What was chosen for a stage.

  Attributes:
    value: the value with the highest mean, the smallest of several.
    tried: value -> validation accuracy with each seed.
    at_edge: whether it is the smallest or largest of those tried, so that a
      still smaller or larger one might do better.
    directory: of the trial with this value.
  """

  value: float
  tried: Mapping[float, list[float]]
  at_edge: bool
  directory: pathlib.Path

  def to_json(self) -> dict[str, Any]:
    """As `tuned.json` has it."""
    return {
      "value": self.value,
      "at_edge": self.at_edge,
      "tried": [
        {
          "value": value,
          "validation_accuracy": mean(accuracies),
          "values": list(accuracies),
        }
        for value, accuracies in self.tried.items()
      ],
    }


def unfinished(config: Run, workdir: pathlib.Path) -> None:
  """In place of a run's execution: says that it is still to be done."""
  raise Unfinished(str(workdir))


def tune(
  experiment: Mapping[str, Any],
  cell: str,
  workdir: pathlib.Path,
  execute: Execute,
) -> dict[str, Choice]:
  """Chooses the value of each trained stage of a cell.

  Args:
    experiment: a resolved experiment.
    cell: the name of a cell.
    workdir: the experiment's directory; trials that are done in it are read.
    execute: does a trial that is not done; `unfinished` only reads.

  Returns:
    A choice for each stage for which values are given.
  """
  source = experiment["tuning"]["at"].get(cell, cell)
  run = experiment["runs"][source]
  folder = workdir / "tuning" / source
  chosen: dict[str, Choice] = {}
  trials: list[pathlib.Path] = []
  for number, level in enumerate(definition.levels(run)):
    places = {}
    ranges = {name: definition.values_of(experiment, name) for name in level}
    for value in sorted({v for values in ranges.values() for v in values}):
      names = [name for name in level if value in ranges[name]]
      trial = _trial(experiment, run, chosen, names, value)
      place = folder / f"level_{number}" / repr(value)
      with definition.named(source):
        environment.check_unchanged(trial, place)
        if not is_done(trial, place):
          if execute is not unfinished:
            _take_over(trial, chosen, trials, place)
          execute(trial, place)
      trials.append(place)
      places[value] = place
    for name in level:
      if ranges[name]:
        chosen[name] = _choice(experiment, name, places, ranges[name])
  return chosen


def tuned(run: Run, field: str, chosen: Mapping[str, Choice]) -> dict[str, Any]:
  """A run's config with the values that were chosen for its stages."""
  for name, choice in chosen.items():
    if name in run["stages"]:
      run = definition.with_value(run, name, field, choice.value)
  return dict(run)


def seeds_of(run: Run) -> list[int]:
  """The seeds of a run, or of the tuning."""
  return list(range(run["seed"], run["seed"] + run["seeds"]))


def result_of(workdir: pathlib.Path, stage: str, seed: int) -> pathlib.Path:
  """The file of a stage's numbers, the last that it writes."""
  return workdir / stage / f"seed_{seed}" / "result.json"


def is_done(run: Run, workdir: pathlib.Path) -> bool:
  """Whether a run's stages are done for all seeds."""
  return all(
    result_of(workdir, stage, seed).exists()
    for stage in run["stages"]
    for seed in seeds_of(run)
  )


def mean(accuracies: Sequence[float]) -> float:
  """The mean, rounded so that those that are equal on paper tie."""
  return round(math.fsum(accuracies) / len(accuracies), 12)


def _trial(
  experiment: Mapping[str, Any],
  run: Run,
  chosen: Mapping[str, Choice],
  names: Iterable[str],
  value: float,
) -> dict[str, Any]:
  """The config of a trial: some stages at a value, and their teachers."""
  tuning = experiment["tuning"]
  trial = tuned(run, tuning["field"], chosen)
  needed: set[str] = set()
  for name in reversed(run["stages"]):
    if name in names:
      trial = definition.with_value(trial, name, tuning["field"], value)
    if name in names or name in needed:
      needed |= {name, *run[name]["teachers"]}
    else:
      del trial[name]
  return trial | {
    "stages": tuple(name for name in run["stages"] if name in needed),
    "seed": tuning["seed"],
    "seeds": tuning["seeds"],
    "export": "",
    "tensorboard": False,
  }


def _take_over(
  trial: Run,
  chosen: Mapping[str, Choice],
  earlier: Sequence[pathlib.Path],
  target: pathlib.Path,
) -> None:
  """Copies what a trial needs and earlier ones have computed."""
  for seed in seeds_of(trial):
    for stage in trial["stages"]:
      if stage in chosen and not result_of(target, stage, seed).exists():
        place = pathlib.Path(stage) / f"seed_{seed}"
        _copy(chosen[stage].directory / place, target / place)
    # The scorer is not tuned, so that its tables are those of every trial.
    place = pathlib.Path("difficulty") / f"seed_{seed}"
    for folder in earlier:
      for path in sorted((folder / place).glob("scorer_*")):
        if not (target / place / path.name).exists():
          _copy(path, target / place / path.name)


def _copy(old: pathlib.Path, new: pathlib.Path) -> None:
  """Copies a file or a directory, whole or not at all."""
  new.parent.mkdir(parents=True, exist_ok=True)
  part = new.with_name(f".{new.name}.copy")
  if old.is_file():
    shutil.copyfile(old, part)
  else:
    for unfinished_copy in (part, new):
      shutil.rmtree(unfinished_copy, ignore_errors=True)
    shutil.copytree(old, part, ignore=_UNNEEDED)
  part.replace(new)


def _choice(
  experiment: Mapping[str, Any],
  stage: str,
  places: Mapping[float, pathlib.Path],
  values: Sequence[float],
) -> Choice:
  accuracies = {
    value: [
      read_sealed(result_of(places[value], stage, seed))["validation"][
        "accuracy"
      ]
      for seed in seeds_of(experiment["tuning"])
    ]
    for value in values
  }
  best = max(values, key=lambda v: (mean(accuracies[v]), -v))
  edge = len(values) > 1 and best in (values[0], values[-1])
  return Choice(best, accuracies, edge, places[best])
