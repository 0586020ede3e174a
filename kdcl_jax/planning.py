"""Planning a run: its compute as a table, its schedules as pictures.

`python -m kdcl_jax.main --config=FILE --plan` comes here.
"""

import pathlib
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import chapters, page, plan_plots, scoring, tables, validation
from kdcl_jax import dataset as datasets
from kdcl_jax import plan as plans
from kdcl_jax.dataset import Dataset
from kdcl_jax.environment import plain
from kdcl_jax.fields import CHANGEABLE
from kdcl_jax.plan import Plan, StagePlan
from kdcl_jax.plan_plots import si
from kdcl_jax.writers import read_json

_COLUMNS = {  # of the ledger, in the sequence in which they are shown
  "example_forwards": "forward",
  "example_backwards": "backward",
  "teacher_forwards": "teachers forward",
  "validation_forwards": "validation forward",
  "rescoring_forwards": "rescoring forward",
  "scoring_forwards": "scoring forward",
  "scoring_backwards": "scoring backward",
}


def execute(config: Mapping[str, Any], workdir: pathlib.Path) -> str:
  """Plans a run and writes `plan.html` with `plan/*.png`.

  Args:
    config: a resolved config.
    workdir: where the plan goes; where a run with this config has scored its
      records there, the plan knows the orders too.

  Returns:
    What to say: the table, and where the page is.

  Raises:
    UserError: for a mistake in the config.
  """
  validation.check(config)
  seed = config["seed"]
  dataset = datasets.load(config["data"], seed=seed)
  validation.check_data(config, dataset)
  validation.check_devices(config, max(config["parallel"]["devices"], 1))
  known = difficulties(config, dataset, workdir, seed)
  plan = plans.make(config, dataset, seed=seed, tables=known)
  path = write(workdir, config, dataset, plan)
  return f"{text(plan)}\n\nThe plan is {path}."


def difficulties(
  config: Mapping[str, Any],
  dataset: Dataset,
  workdir: pathlib.Path,
  seed: int,
) -> dict[str, np.ndarray]:
  """The difficulties that are known before a run begins or goes on.

  Args:
    config: a resolved config.
    dataset: its data for the seed.
    workdir: of a run with the same config, or any other directory.
    seed: the seed.

  Returns:
    stage -> [N] of `dataset.train.ids`, for those that are known.
  """
  found = {}
  folder = workdir / "difficulty" / f"seed_{seed}"
  ours = _is_of(config, workdir)
  for name in config["stages"]:
    section = config[name]
    options = section["curriculum"]["difficulty"]
    if not plans.needs_table(section):
      continue
    if options["source"] == "file":
      path = pathlib.Path(options["path"])
    elif scoring.uses_scorer(section):
      path = folder / f"scorer_{options['score']}.npz"
    else:
      path = folder / f"{name}.npz"
    if options["source"] == "file" or (ours and path.exists()):
      field = f"config.{name}.curriculum.difficulty"
      found[name] = tables.load(path, field).of(dataset.train.ids, field)
  return found


def _is_of(config: Mapping[str, Any], workdir: pathlib.Path) -> bool:
  """Whether a directory holds a run with this config."""
  path = workdir / "config.json"
  kept = lambda fields: {k: v for k, v in fields.items() if k not in CHANGEABLE}
  return path.exists() and kept(read_json(path)) == kept(plain(config))


def rows(plan: Plan) -> list[list[str]]:
  """The compute of a plan as a table; the first row is its head."""
  sums, flops = plan.totals()
  # A column of zeros says nothing.
  kinds = [kind for kind in _COLUMNS if sums[kind]]
  head = ["stage", "steps", *(_COLUMNS[kind] for kind in kinds)]
  found = [[*head, "FLOPs per example", "FLOPs"]]
  for stage in plan.stages:
    compute = stage.compute
    cells = []
    for kind in kinds:
      count = f"{compute.ledger[kind]:,}"
      paid = compute.shared and kind.startswith("scoring")
      cells.append(f"({count})" if paid else count)
    found.append(
      [
        stage.name + ("*" if stage.actions else ""),
        f"{stage.course.steps:,}",
        *cells,
        f"{compute.flops_per_example:,.0f}",
        si(sum(compute.flops.values())),
      ]
    )
  steps = sum(stage.course.steps for stage in plan.stages)
  for times, name in ((1, "total"), (plan.seeds, f"{plan.seeds} seeds")):
    if name == "total" or plan.seeds > 1:
      cells = [f"{times * sums[kind]:,}" for kind in kinds]
      found.append([name, f"{times * steps:,}", *cells, "", si(times * flops)])
  return found


def notes(plan: Plan) -> list[str]:
  """What has to be said beside the table, a sentence each."""
  found = []
  if plan.scorer is not None:
    found.append(
      f"The scorer is trained {plan.folds} times for"
      f" {plan.scorer.course.steps:,} steps; its trainings are in the scoring."
    )
  if any(stage.compute.shared for stage in plan.stages):
    found.append(
      "In brackets: scoring that an earlier stage has paid for; the total has"
      " it once."
    )
  found += [
    f"* {stage.name}: {'; '.join(stage.actions)}."
    for stage in plan.stages
    if stage.actions
  ]
  found.append(
    "Counted in examples, as in the report's ledger. FLOPs are those of a"
    " forward pass of one example by XLA's cost analysis, times the examples; a"
    f" backward pass counts as {plans.BACKWARD} forward passes. Projectors and"
    " the evaluation at the end are left out."
  )
  return found


def text(plan: Plan) -> str:
  """The compute of a plan for a terminal."""
  cells = rows(plan)
  heads = [head.split(" ", 1) for head in cells[0]]
  cells[:1] = [[h[0] for h in heads], [h[1] if h[1:] else "" for h in heads]]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    "  ".join(
      cell.ljust(width) if place == 0 else cell.rjust(width)
      for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in cells
  ]
  lines.insert(2, "-" * max(map(len, lines)))
  said = [
    textwrap.fill(note, 80, subsequent_indent="  ") for note in notes(plan)
  ]
  return "\n".join([*lines, "", *said])


def write(
  directory: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  plan: Plan,
) -> pathlib.Path:
  """Writes `plan.html`, and its pictures beside it in `plan/`.

  Args:
    directory: where.
    config: the resolved config.
    dataset: its data.
    plan: the plan.

  Returns:
    The path of the page.
  """
  pictures = page.Pictures(directory / "plan")
  seeds = range(config["seed"], config["seed"] + config["seeds"])
  title = f"Plan of {config['name'] or 'a run'}"
  parts = [
    f"# {page.cell(title)}",
    chapters.what(config, dataset, seeds),
    "## Compute",
    page.table(rows(plan)),
    "\n".join(f"- {page.cell(note.lstrip('* '))}" for note in notes(plan)),
    pictures.add("compute", "FLOPs of each stage", plan_plots.compute(plan)),
  ]
  scorer = [] if plan.scorer is None else [plan.scorer]
  for stage in (*plan.stages, *scorer):
    parts += _chapter(stage, dataset, pictures)
  path = directory / "plan.html"
  page.write(path, title, "\n\n".join(parts))
  return path


def _chapter(
  stage: StagePlan, dataset: Dataset, pictures: page.Pictures
) -> list[str]:
  """What is said and drawn of one stage."""
  course, compute = stage.course, stage.compute
  parts = [f"## {page.cell(stage.name)}"]
  if not course.steps:
    return [*parts, "It is not trained."]
  parts.append(
    f"{course.steps:,} steps in {len(course.lessons)} lessons,"
    f" {compute.parameters:,} parameters."
  )
  name = "stage_" + re.sub(r"\W", "_", stage.name)
  figure = plan_plots.stage(stage, dataset.label_names)
  parts.append(pictures.add(name, f"Schedules of {stage.name}", figure))
  said = [*stage.over.notes, *(f"{action}." for action in stage.actions)]
  if stage.classes is None:
    said.append(
      "Which classes are active is only known after scoring; plan again in the"
      " directory of the run then."
    )
  elif not np.ptp(stage.classes, axis=0).any():
    low, high = 100 * stage.classes.min(), 100 * stage.classes.max()
    said.append(
      f"The classes have the same shares throughout, {low:.1f} to {high:.1f} %."
    )
  if said:
    parts.append("\n".join(f"- {page.cell(one)}" for one in said))
  return parts
