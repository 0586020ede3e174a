"""What an experiment is: its config, checked without the data."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcl_jax import config as configs
from kdcl_jax import validation
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.experiments.schema import CLAIM, EXPERIMENT

DEFAULT = "default"

Experiment = Mapping[str, Any]


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
  """Checks an experiment and each of its runs, without the data.

  Args:
    config: what a config file's `get_config` returned, overrides included.

  Returns:
    The whole as nested plain dictionaries and tuples; `runs` are resolved, with
    the experiment's number of seeds where it gives one.

  Raises:
    UserError: for the first mistake, before any device work.
  """
  given = configs.plain(config)
  if "runs" not in given and "stages" in given:
    raise UserError(
      "--config is the config of one run; give it to kdcl_jax.main, or make an"
      " experiment of it with kdcl_jax.config.experiment(runs=...)."
    )
  found = configs.checked(given, EXPERIMENT, "config")
  if not found["runs"]:
    raise UserError(
      "config.runs is empty, expected a run config under the name of each cell."
    )
  found["runs"] = _in_sequence(found["runs"], found["cells"])
  for cell, run in found["runs"].items():
    if not re.fullmatch(r"\w[\w-]*", cell):
      raise UserError(
        f"config.runs has the name {cell!r}, expected letters, digits, '_' and"
        " '-', since it names a directory."
      )
    if not isinstance(run, dict):
      raise UserError(
        f"config.runs.{cell} is {run!r}, expected a run's config."
      )
    with named(cell):
      if found["seeds"]:
        run = run | {"seeds": found["seeds"]}
      found["runs"][cell] = configs.resolve(run)
      validation.check(found["runs"][cell])
  _check_tuning(found)
  _check_claims(found)
  _check_groups(found)
  return found


def _in_sequence(
  runs: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
  for name in names:
    if name not in runs:
      raise UserError(
        f"config.cells names {name!r}, which is no run"
        f"{did_you_mean(name, runs)}; the runs are {', '.join(runs)}."
      )
  return {name: runs[name] for name in names or runs}


@contextlib.contextmanager
def named(cell: str) -> Iterator[None]:
  """Has the sentences on a run's config say of which cell it is."""
  try:
    yield
  except UserError as error:
    path = f"config.runs.{cell}"
    text, found = re.subn(r"(?<![\w./])config(?=[. ])", path, str(error))
    if not found:
      text = f"{path}: {text}"
    raise UserError(text) from error


def picked(experiment: Experiment, only: Sequence[str]) -> list[str]:
  """The cells that a command is for; all where none is named.

  Raises:
    UserError: for a name that is no cell.
  """
  cells = list(experiment["runs"])
  for name in only:
    if name not in cells:
      raise UserError(
        f"--only names {name!r}, which is no cell{did_you_mean(name, cells)};"
        f" the cells are {', '.join(cells)}."
      )
  return [cell for cell in cells if cell in only or not only]


def trained(run: Mapping[str, Any]) -> list[str]:
  """The stages of a run that are trained."""
  return [
    name for name in run["stages"] if run[name]["steps"] or run[name]["epochs"]
  ]


def levels(run: Mapping[str, Any]) -> list[list[str]]:
  """The trained stages by how many trained teachers stand above each other.

  Example:
    >>> from kdcl_jax import config as kdcl
    >>> a, b = kdcl.stage(steps=1), kdcl.stage(steps=1, teachers=("a",))
    >>> levels(kdcl.run(stages=("a", "b", "c"), a=a, b=b, c=a).to_dict())
    [['a', 'c'], ['b']]
  """
  depth: dict[str, int] = {}
  found: list[list[str]] = []
  several = trained(run)
  for name in run["stages"]:
    above = [depth[t] + (t in several) for t in run[name]["teachers"]]
    depth[name] = max(above, default=0)
    if name in several:
      found += [[]] * (depth[name] + 1 - len(found))
      found[depth[name]] = [*found[depth[name]], name]
  return found


def values_of(experiment: Experiment, stage: str) -> tuple[float, ...]:
  """The values that are tried for a stage, the smallest first."""
  values = experiment["tuning"]["values"]
  if isinstance(values, dict):
    values = values.get(stage, values.get(DEFAULT, ()))
  return tuple(sorted(values))


def with_value(
  run: Mapping[str, Any], stage: str, field: str, value: float
) -> dict[str, Any]:
  """A run's config in which a field of a stage, by dotted path, has a value."""

  def put(section: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    inner = put(section[path[0]], path[1:]) if path[1:] else value
    return {**section, path[0]: inner}

  return put(run, [stage, *field.split(".")])


def _check_tuning(experiment: Experiment) -> None:
  tuning, runs = experiment["tuning"], experiment["runs"]
  values = tuning["values"]
  everywhere = {name for run in runs.values() for name in trained(run)}
  if isinstance(values, dict):
    for name in values:
      if name != DEFAULT and name not in everywhere:
        raise UserError(
          f"config.tuning.values names {name!r}, which is no trained stage of"
          f" any run{did_you_mean(name, everywhere)}; expected 'default' or one"
          f" of {', '.join(sorted(everywhere))}."
        )
  if not any(values_of(experiment, name) for name in everywhere):
    return
  for cell, run in runs.items():
    _check_seeds(tuning, cell, run)
    for name in trained(run):
      tried = values_of(experiment, name)
      if tried:
        _check_field(run, cell, name, tuning["field"])
      for value in tried:
        with named(cell):
          changed = with_value(run, name, tuning["field"], value)
          validation.check(configs.resolve(changed))
  _check_taken_over(experiment)


def _check_seeds(
  tuning: Mapping[str, Any], cell: str, run: Mapping[str, Any]
) -> None:
  first, last = tuning["seed"], tuning["seed"] + tuning["seeds"] - 1
  end = run["seed"] + run["seeds"] - 1
  if first <= end and run["seed"] <= last:
    raise UserError(
      f"config.tuning.seed is {first}, so that seeds {first} to {last} tune,"
      f" but config.runs.{cell} reports seeds {run['seed']} to {end}; give"
      " seeds that no run has."
    )


def _check_field(
  run: Mapping[str, Any], cell: str, stage: str, field: str
) -> None:
  section: Any = run[stage]
  for key in field.split("."):
    if not isinstance(section, dict) or key not in section:
      others = list(section) if isinstance(section, dict) else []
      raise UserError(
        f"config.tuning.field is {field!r}, but config.runs.{cell}.{stage} has"
        f" no such field{did_you_mean(key, others)}; expected the dotted path"
        " of a field of every stage that is tuned."
      )
    section = section[key]
  if type(section) not in (int, float):
    raise UserError(
      f"config.tuning.field is {field!r}, which is {section!r} in"
      f" config.runs.{cell}.{stage}; expected the path of a number."
    )


def _check_taken_over(experiment: Experiment) -> None:
  runs, at = experiment["runs"], experiment["tuning"]["at"]
  for cell, other in at.items():
    for name in (cell, other):
      if name not in runs:
        raise UserError(
          f"config.tuning.at names {name!r}, which is no cell"
          f"{did_you_mean(name, runs)}; the cells are {', '.join(runs)}."
        )
    if at.get(other, other) != other:
      raise UserError(
        f"config.tuning.at.{cell} is {other!r}, which is not tuned itself;"
        " expected a cell that is."
      )
    lacking = [
      name for name in trained(runs[cell]) if name not in trained(runs[other])
    ]
    if lacking:
      raise UserError(
        f"config.tuning.at.{cell} is {other!r}, which does not train the stage"
        f" {lacking[0]!r}; expected a cell that trains all its stages."
      )


def _check_claims(experiment: Experiment) -> None:
  runs = experiment["runs"]
  known = sorted({name for run in runs.values() for name in run["stages"]})
  for arm, claim in experiment["claims"].items():
    path = f"config.claims.{arm}"
    claim = configs.checked(claim, CLAIM, path)
    experiment["claims"][arm] = claim
    twin = (claim["twin"],) if claim["twin"] else ()
    for name in (arm, *claim["against"], *twin):
      if name not in known:
        raise UserError(
          f"{path} names {name!r}, which is a stage of no run"
          f"{did_you_mean(name, known)}; the stages are {', '.join(known)}."
        )
    names = [arm, *claim["against"], *twin]
    if len(set(names)) < len(names):
      raise UserError(
        f"{path} names a stage twice; expected {arm!r} to be compared with"
        " others, and with each of them once."
      )
    if not any(set(names) <= set(run["stages"]) for run in runs.values()):
      raise UserError(
        f"{path} names {', '.join(names)}, but no run has all of them."
      )


def _check_groups(experiment: Experiment) -> None:
  runs = experiment["runs"]
  for title, cells in experiment["groups"].items():
    if not isinstance(cells, tuple) or not cells:
      raise UserError(
        f"config.groups.{title} is {cells!r}, expected a tuple of cells."
      )
    for name in cells:
      if name not in runs:
        raise UserError(
          f"config.groups.{title} names {name!r}, which is no cell"
          f"{did_you_mean(name, runs)}; the cells are {', '.join(runs)}."
        )
