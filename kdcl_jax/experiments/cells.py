"""The cells of an experiment: what is still to be done, and doing it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdcl_jax import dataset, environment, run, train, validation
from kdcl_jax.experiments import definition, tuning
from kdcl_jax.writers import read_json

Experiment = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
  """A piece of work that a process does by itself.

  Attributes:
    kind: 'check' the config with the data, 'tune' a cell, or 'run' it.
    cell: which.
    needs: the tasks that must be done before.
  """

  kind: str
  cell: str
  needs: tuple["Task", ...] = ()

  def __str__(self) -> str:
    return f"{self.kind} {self.cell}"


def tasks(
  experiment: Experiment, workdir: pathlib.Path, names: Sequence[str]
) -> list[Task]:
  """What is still to be done for some cells, in a sequence that can be kept.

  Args:
    experiment: a resolved experiment.
    workdir: its directory.
    names: of the cells.

  Returns:
    The tasks; each comes after those that it needs.

  Raises:
    UserError: where a directory was begun with another config.
  """
  at = experiment["tuning"]["at"]
  to_run = [name for name in names if not _run_done(experiment, workdir, name)]
  sources = dict.fromkeys(at.get(name, name) for name in to_run)
  to_tune = [n for n in sources if choices(experiment, workdir, n) is None]
  checks = tuple(
    Task("check", name) for name in dict.fromkeys([*to_run, *to_tune])
  )
  tunes = {name: Task("tune", name, checks) for name in to_tune}
  found = [*checks]
  for name in to_run:
    first = tunes.get(at.get(name, name))
    if first and first not in found:
      found.append(first)
    found.append(Task("run", name, (first,) if first else checks))
  return found


def perform(
  task: Task,
  experiment: Experiment,
  workdir: pathlib.Path,
  interrupted: Callable[[], bool],
) -> None:
  """Does a task, or goes on with it.

  Args:
    task: what to do; what it needs is done.
    experiment: a resolved experiment.
    workdir: its directory.
    interrupted: whether to save and end.

  Raises:
    UserError: for a mistake in the config that shows with the data.
    train.Interrupted: after saving, when asked to end.
  """

  def execute(config: Mapping[str, Any], place: pathlib.Path) -> None:
    if interrupted():
      raise train.Interrupted
    reported = task.kind == "run"
    run.execute(config, place, reported=reported, interrupted=interrupted)

  if task.kind == "tune":
    tuning.tune(experiment, task.cell, workdir, execute)
    return
  config = experiment["runs"][task.cell]
  with definition.named(task.cell):
    if task.kind == "check":
      data = dataset.load(config["data"], seed=config["seed"])
      validation.check_data(config, data)
    else:
      chosen = tuning.tune(experiment, task.cell, workdir, tuning.unfinished)
      place = place_of(workdir, task.cell)
      execute(final(experiment, task.cell, chosen), place)


def place_of(workdir: pathlib.Path, cell: str) -> pathlib.Path:
  """The directory of a cell's run."""
  return workdir / "runs" / cell


def final(
  experiment: Experiment, cell: str, chosen: Mapping[str, tuning.Choice]
) -> dict[str, Any]:
  """The config of a cell's run, with the values that were chosen."""
  field = experiment["tuning"]["field"]
  return tuning.tuned(experiment["runs"][cell], field, chosen)


def choices(
  experiment: Experiment, workdir: pathlib.Path, cell: str
) -> dict[str, tuning.Choice] | None:
  """What was chosen for a cell; None where its tuning is not done."""
  try:
    return tuning.tune(experiment, cell, workdir, tuning.unfinished)
  except tuning.Unfinished:
    return None


def _run_done(experiment: Experiment, workdir: pathlib.Path, cell: str) -> bool:
  """Whether a cell has all its results, and the report of them."""
  chosen = choices(experiment, workdir, cell)
  if chosen is None:
    return False
  config, place = final(experiment, cell, chosen), place_of(workdir, cell)
  with definition.named(cell):
    environment.check_unchanged(config, place)
  seeds = tuning.seeds_of(config)
  if not all((place / n).exists() for n in ("results.json", "report.html")):
    return False
  found = read_json(place / "results.json")
  return (
    found["seeds"] == seeds
    and set(found["stages"]) == set(config["stages"])
    and tuning.is_done(config, place)
  )
