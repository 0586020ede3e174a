"""What an experiment says to people: `experiment.md`, and as one HTML file."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdcl_jax import chapters, page
from kdcl_jax.experiments import plots, verdicts
from kdcl_jax.writers import write_text

Found = Mapping[str, Any]
Cells = Mapping[str, Found]


def write(workdir: pathlib.Path, found: Found) -> pathlib.Path:
  """Writes `experiment.md` with `experiment/*.png`, and `experiment.html`.

  Args:
    workdir: the experiment's directory.
    found: the content of `experiment.json`.

  Returns:
    The path of experiment.html.
  """
  pictures = page.Pictures(workdir / "experiment")
  title = f"Experiment {found['name']}"
  parts = [f"# {page.cell(title)}", *missing(found)]
  if found["cells"]:
    parts += what(found)
    parts += what_it_says(found)
    for group, names in found["groups"].items():
      cells = {n: found["cells"][n] for n in names if n in found["cells"]}
      if cells:
        parts += together(group, cells, found["claims"], pictures)
    parts += tuned(found)
    parts += one_by_one(found)
    parts += how(workdir, found)
  text = "\n\n".join(parts)
  write_text(workdir / "experiment.md", text + "\n")
  page.write(workdir / "experiment.html", title, text)
  return workdir / "experiment.html"


def number(summary: Found, digits: int = 1, factor: float = 100) -> str:
  """A mean, with its standard error where there are several seeds."""
  text = f"{factor * summary['mean']:.{digits}f}"
  if len(summary["values"]) < 2:
    return text
  return f"{text} ± {factor * summary['standard_error']:.{digits}f}"


def missing(found: Found) -> list[str]:
  """A warning where the experiment is not finished."""
  if not found["missing"]:
    return []
  lines = [
    f"- {cell}: {', '.join(names[:5])}"
    + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    for cell, names in found["missing"].items()
  ]
  return [
    "**This experiment is not finished.** Not done yet:",
    "\n".join(lines),
  ]


def what(found: Found) -> list[str]:
  """The cells, how they were tuned, and the rule."""
  lines = [f"- **{name}**: {_data(c)}" for name, c in found["cells"].items()]
  parts = ["## What was done", "\n".join(lines)]
  tuning = found["tuning"]
  if tuning["values"]:
    last = tuning["seed"] + tuning["seeds"] - 1
    parts.append(
      f"`{tuning['field']}` of every stage was chosen by the highest mean"
      f" validation accuracy over seeds {tuning['seed']} to {last}, which are"
      " used for nothing else; a stage with teachers was tuned under teachers"
      " that had been. The test records had no part in it."
    )
  if found["claims"]:
    parts.append(
      "The rule: an arm wins only if the 95 % intervals of its paired"
      " differences in test accuracy (t, over seeds) lie above 0 against every"
      " rival *and* against its twin, which differs in nothing but what is to"
      " be shown."
    )
  return parts


def _data(cell: Found) -> str:
  data, noise = cell["data"], cell["data"]["label_noise"]
  if noise["kind"] == "none" or not noise["rate"]:
    labels = "labels as the source has them"
  else:
    where = "training and validation" if noise["validation"] else "training"
    labels = (
      f"{noise['kind'].replace('_', ' ')} label noise of"
      f" {100 * noise['rate']:.0f} % in the {where} labels"
    )
  seeds = cell["seeds"]
  several = f"seeds {seeds[0]} to {seeds[-1]}" if seeds[1:] else "one seed"
  return (
    f"{data['name']}, {data['train']} training, {data['validation']} validation"
    f" and {data['test']} test records, {labels}; {several}"
  )


def what_it_says(found: Found) -> list[str]:
  """The verdicts in sentences."""
  if not found["claims"]:
    return []
  parts = ["## What it says"]
  for arm in found["claims"]:
    judged = {
      name: cell["claims"][arm]
      for name, cell in found["cells"].items()
      if arm in cell["claims"]
    }
    if not judged:
      parts.append(f"Nothing yet of **{arm}**.")
      continue
    parts.append(overall(arm, judged))
    parts.append(
      "\n".join(
        f"- {name}: {verdicts.sentence(arm, claim)}"
        for name, claim in judged.items()
      )
    )
  parts.append("In brackets: points of test accuracy and the 95 % interval.")
  return parts


def overall(arm: str, judged: Mapping[str, Found]) -> str:
  """A claim over all cells, in a sentence or two.

  Args:
    arm: the stage that is judged.
    judged: cell -> the judgement.

  Returns:
    In which cells it wins, and in which it is worse than a rival.
  """
  wins = [name for name, claim in judged.items() if claim["wins"]]
  losses = [
    f"{' and '.join(rivals)} in {name}"
    for name, claim in judged.items()
    if (rivals := [r for r in claim["worse"] if r != claim["twin"]])
  ]
  count = f"{len(judged)} cell{'s' if len(judged) > 1 else ''}"
  if len(wins) == len(judged):
    text = f"**{arm}** wins in all of {count}." if wins[1:] else ""
    text = text or f"**{arm}** wins in {wins[0]}, the only cell."
  elif wins:
    rest = [name for name in judged if name not in wins]
    text = (
      f"**{arm}** wins in {len(wins)} of {count}: {', '.join(wins)}. It does"
      f" not in {', '.join(rest)}."
    )
  else:
    text = f"**{arm}** wins in none of {count}."
  if losses:
    text += f" It is worse than {'; than '.join(losses)}."
  return text


def together(
  group: str,
  cells: Cells,
  claims: Mapping[str, Any],
  pictures: page.Pictures,
) -> list[str]:
  """Several cells side by side: tables and pictures."""
  heading = f"## {page.cell(_words(group))}" if group else "## Side by side"
  slug = re.sub(r"\W", "_", group) or "all"
  parts = [heading]
  arms, others = split(cells, claims)
  for kind, names in (("arms", arms), ("others", others)):
    if not names:
      continue
    if kind == "others":
      parts.append("### Other stages")
    shown = claims if kind == "arms" else {}
    parts += [
      table_of(cells, names, shown),
      pictures.add(
        f"{slug}_{kind}", "Test accuracy", plots.accuracy(cells, names)
      ),
    ]
    if kind == "arms":
      parts.insert(
        -1,
        "Test accuracy in %, mean ± standard error over the seeds. Bold is the"
        " highest mean of a row, which says nothing of whether it is more than"
        " chance.",
      )
  for arm in claims:
    judged = {n: c for n, c in cells.items() if arm in c["claims"]}
    if judged:
      parts += [
        f"### What {page.cell(arm)} gains",
        pictures.add(
          f"{slug}_gains_of_{re.sub(r'[^a-zA-Z0-9]', '_', arm)}",
          f"What {arm} gains",
          plots.gains(judged, arm, arms),
        ),
      ]
  return parts


def split(
  cells: Cells, claims: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
  """The stages that can be compared with a claim's arm, and the others.

  They have the model of one of the arms; without an arm these are all.
  """
  comparable: dict[str, None] = {}
  rest: dict[str, None] = {}
  for cell in cells.values():
    stages = cell["arms"]
    models = [stages[arm]["model"] for arm in claims if arm in stages]
    for name, stage in stages.items():
      like = not claims or stage["model"] in models
      (comparable if like else rest)[name] = None
  others = [name for name in rest if name not in comparable]
  return (list(comparable), others) if comparable else (others, [])


def table_of(
  cells: Cells, arms: Sequence[str], claims: Mapping[str, Any]
) -> str:
  """Cells by arms, with a column for each claim."""
  verdict = [
    f"verdict on {arm}" if len(claims) > 1 else "verdict" for arm in claims
  ]
  rows = [["", *arms, *verdict]]
  for name, cell in cells.items():
    means = {
      arm: cell["arms"][arm]["test_accuracy"]["mean"]
      for arm in arms
      if arm in cell["arms"]
    }
    row = [name]
    for arm in arms:
      if arm not in means:
        row.append("–")
        continue
      text = number(cell["arms"][arm]["test_accuracy"])
      row.append(f"**{text}**" if means[arm] == max(means.values()) else text)
    for arm in claims:
      judged = cell["claims"].get(arm)
      row.append(verdicts.short(judged) if judged else "–")
    rows.append(row)
  return page.table(rows)


def tuned(found: Found) -> list[str]:
  """What was chosen for each stage of each cell."""
  cells = {
    name: cell
    for name, cell in found["cells"].items()
    if any(arm["tuned"] is not None for arm in cell["arms"].values())
  }
  if not cells:
    return []
  stages = list(
    dict.fromkeys(s for cell in cells.values() for s in cell["arms"])
  )
  rows = [["", *stages]]
  edges = 0
  for name, cell in cells.items():
    row = [name]
    for stage in stages:
      arm = cell["arms"].get(stage)
      row.append(_value(arm) if arm else "–")
      edges += bool(arm and arm["at_edge"])
    rows.append(row)
  parts = [
    "## What was tuned",
    f"The `{found['tuning']['field']}` that was chosen; `tuned.json` has the"
    " validation accuracies of all that were tried.",
    page.table(rows),
  ]
  at = found["tuning"]["at"]
  at = {c: o for c, o in at.items() if c in cells and c != o}
  if at:
    pairs = ", ".join(f"{cell} from {other}" for cell, other in at.items())
    parts.append(f"Taken over, not tuned anew: {pairs}.")
  if edges:
    parts.append(
      f"† at the edge of what was tried, {edges} time"
      f"{'s' if edges > 1 else ''}: a value beyond it might do better."
    )
  return parts


def _value(arm: Found) -> str:
  if arm["tuned"] is None:
    return "–"
  return f"{arm['tuned']:g}{'†' if arm['at_edge'] else ''}"


def one_by_one(found: Found) -> list[str]:
  """Each cell's table and verdicts, with the compute."""
  parts = [
    "## Each cell",
    "Means ± standard error over the seeds. Active is the share of the order at"
    " the end of training. Gradient examples went forward and backward through"
    " a model that was trained; forwards are all examples that went forward,"
    " those, the teachers' and the validation's included. *In all* adds what"
    " the stage depends on: its teachers, and theirs, and the scorer once.",
  ]
  for name, cell in found["cells"].items():
    rows = [
      [
        "stage",
        "test accuracy (%)",
        "validation accuracy (%)",
        "active (%)",
        found["tuning"]["field"].rpartition(".")[2].replace("_", " "),
        "gradient examples",
        "gradient examples in all",
        "forwards",
        "forwards in all",
      ]
    ]
    for stage, arm in cell["arms"].items():
      count = lambda cost, key: f"{cost[key]['mean']:,.0f}"
      rows.append(
        [
          stage,
          number(arm["test_accuracy"]),
          number(arm["validation_accuracy"]),
          number(arm["final_fraction"], 0) if arm["order"] != "none" else "–",
          _value(arm),
          *(
            count(arm[cost], key)
            for key in ("gradient_examples", "forwards")
            for cost in ("cost", "whole_cost")
          ),
        ]
      )
    parts += [f"### {page.cell(name)}", page.table(rows)]
    if cell["claims"]:
      parts.append(
        "\n".join(
          f"- {verdicts.sentence(arm, judged)}"
          for arm, judged in cell["claims"].items()
        )
      )
    parts.append(f"[The run's own report](runs/{name}/report.html)")
  return parts


def how(workdir: pathlib.Path, found: Found) -> list[str]:
  """Versions, and the config without its runs."""
  made: dict[str, None] = {}
  for name in found["cells"]:
    path = workdir / "runs" / name / "environment.json"
    made |= dict.fromkeys(chapters.made_with(path))
  config = {key: found[key] for key in ("name", "tuning", "claims", "groups")}
  return [
    "## How it was made",
    *made,
    "The config of each run is in `runs/CELL/config.json`.",
    "### Config",
    f"```json\n{json.dumps(config, indent=2)}\n```",
  ]


def _words(group: str) -> str:
  text = group.replace("_", " ")
  return text[:1].upper() + text[1:]
