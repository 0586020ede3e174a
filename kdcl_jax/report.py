"""What a run says to people: `report.md`, and `report.html` in one file.

  python -m kdcl_jax.report --workdir=DIR

makes the report of a run again from its files, finished or not.
"""

import base64
import html
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import markdown
import numpy as np
from matplotlib.figure import Figure

from kdcl_jax import plots, results
from kdcl_jax.dataset import Dataset, Split
from kdcl_jax.writers import read_json, read_lines, write_text

_SHEET = 20  # easiest and hardest records that are shown


def write(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  stages: Sequence[str],
  seeds: Sequence[int],
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes `report.md` with `report/*.png`, and `report.html`.

  Args:
    workdir: the run's directory.
    config: its resolved config.
    dataset: the data of the first seed.
    stages: names of the stages.
    seeds: the seeds.

  Returns:
    The paths of report.md and report.html.
  """
  collected = results.collect(workdir, stages, seeds)
  pictures = _Pictures(workdir / "report")
  text = "\n\n".join(
    part
    for part in (
      f"# {_cell(collected['name'] or 'Run')}",
      _what(config, dataset, seeds),
      _missing(collected),
      *_comparison(collected, pictures),
      *_course(workdir, stages, seeds, pictures),
      *_difficulty(workdir, dataset, seeds, pictures),
      *_ledger(collected),
      *_how(workdir),
    )
    if part
  )
  markdown_path, html_path = workdir / "report.md", workdir / "report.html"
  write_text(markdown_path, text + "\n")
  write_text(html_path, _page(collected["name"], text, workdir))
  return markdown_path, html_path


class _Pictures:
  """Saves figures beside the report and links them."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  def add(self, name: str, title: str, figure: Figure) -> str:
    self._folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(
      self._folder / f"{name}.png", dpi=130, metadata={"Software": None}
    )
    return f"![{title}](report/{name}.png)"


def _what(
  config: Mapping[str, Any], dataset: Dataset, seeds: Sequence[int]
) -> str:
  noise = config["data"]["label_noise"]
  if noise["kind"] == "none" or not noise["rate"]:
    labels = "Labels are as the source has them."
  else:
    where = "training and validation" if noise["validation"] else "training"
    labels = (
      f"{noise['kind'].replace('_', ' ').capitalize()} label noise of"
      f" {100 * noise['rate']:.0f} % in the {where} labels; the test labels are"
      " true, and the run is not told."
    )
  lines = []
  for name in config["stages"]:
    section = config[name]
    teachers = section["teachers"]
    order = section["curriculum"]["order"]
    length = (
      f"{section['steps']} steps"
      if section["steps"]
      else f"{section['epochs']:g} epochs"
    )
    if not section["steps"] and not section["epochs"]:
      length = f"not trained, weights of {section['weights']}"
    lines.append(
      f"- **{name}**: {section['model']['name']}, {length}"
      + (f", order {order}" if order != "none" else "")
      + (f", taught by {' and '.join(teachers)}" if teachers else "")
    )
  count = len(seeds)
  return (
    f"{dataset.name}: {len(dataset.train)} training, {len(dataset.validation)}"
    f" validation and {len(dataset.test)} test records of"
    f" {dataset.num_classes} classes. {labels}"
    f" {count} seed{'s' if count > 1 else ''}.\n\n" + "\n".join(lines)
  )


def _missing(collected: Mapping[str, Any]) -> str:
  if not collected["missing"]:
    return ""
  return (
    "**This run is not finished.** Not done yet:"
    f" {', '.join(collected['missing'])}."
  )


def sentence(comparison: Mapping[str, Any]) -> str:
  """What a comparison says, in words; it says so where there is no gain.

  Args:
    comparison: one of `comparisons` in `results.json`.

  Returns:
    A sentence.
  """
  a, b = comparison["a"], comparison["b"]
  difference = comparison["difference"]
  points = 100 * difference["mean"]
  low, high = (100 * end for end in comparison["interval_95"])
  several = len(difference["values"]) > 1
  spread = f" ± {100 * difference['std']:.1f}" if several else ""
  interval = f"95 % interval {low:+.1f} to {high:+.1f}, {comparison['method']}"
  if comparison["verdict"] == "no difference shown":
    return (
      f"No gain of {a} over {b} is shown: {points:+.1f}{spread} points"
      f" ({interval}), which includes 0."
    )
  above = "above" if points > 0 else "below"
  return (
    f"**{a}** is {abs(points):.1f}{spread} points {above} {b} ({interval})."
  )


def _comparison(collected: Mapping[str, Any], pictures: _Pictures) -> list[str]:
  stages = collected["stages"]
  if not stages:
    return []
  parts = ["## Comparison on the test set"]
  main = [c for c in collected["comparisons"] if c["b"] == "baseline"]
  rest = [c for c in collected["comparisons"] if c["b"] != "baseline"]
  if main:
    parts.append("\n".join(f"- {sentence(c)}" for c in main))
  several = len(collected["seeds"]) > 1
  number = lambda s, factor, digits: (
    f"{factor * s['mean']:.{digits}f}"
    + (f" ± {factor * s['std']:.{digits}f}" if several else "")
  )
  rows = [
    [
      "stage",
      "accuracy (%)",
      "loss (nats)",
      "calibration error (%)",
      "agreement with teacher (%)",
      "parameters",
      "FLOPs per example",
      "training time (s)",
    ]
  ]
  for name, stage in stages.items():
    test = stage["test"]
    agreement = ", ".join(
      f"{teacher} {number(value, 100, 1)}"
      for teacher, value in test["agreement"].items()
    )
    rows.append(
      [
        name,
        number(test["accuracy"], 100, 1),
        number(test["loss"], 1, 3),
        number(test["calibration_error"], 100, 1),
        agreement or "–",
        f"{stage['parameters']:,}",
        f"{stage['flops_per_example']:,.0f}",
        number(stage["train_seconds"], 1, 1),
      ]
    )
  spread = " ± standard deviation over seeds" if several else ""
  parts += [_table(rows), f"Means{spread}." if several else "One seed."]
  parts.append(
    pictures.add("accuracy", "Test accuracy", plots.test_accuracy(stages))
  )
  if rest:
    lines = "\n".join(f"- {sentence(c)}" for c in rest)
    parts += ["### Other pairs", lines]
  if several:
    header = ["stage", *(f"seed {seed}" for seed in collected["seeds"])]
    values = [
      [n, *(f"{100 * v:.1f}" for v in s["test"]["accuracy"]["values"])]
      for n, s in stages.items()
    ]
    parts += ["### Accuracy of each seed (%)", _table([header, *values])]
  parts.append("### Accuracy by difficulty")
  parts.append(
    pictures.add(
      "accuracy_by_difficulty",
      "Accuracy by difficulty",
      plots.accuracy_by_difficulty(stages),
    )
  )
  tenths = [["stage", *(f"tenth {i}" for i in range(1, 11))]]
  for name, stage in stages.items():
    means = stage["test"]["accuracy_by_difficulty"]["mean"]
    cells = ["–" if m is None else f"{100 * m:.1f}" for m in means]
    tenths.append([name, *cells])
  parts.append(_table(tenths))
  unreadable = sum(s["unreadable"]["mean"] for s in stages.values())
  if unreadable:
    counts = ", ".join(
      f"{n}: {s['unreadable']['mean']:g}"
      for n, s in stages.items()
      if s["unreadable"]["mean"]
    )
    parts.append(
      f"Training records that could not be read, and had no weight: {counts}."
    )
  return parts


def _course(
  workdir: pathlib.Path,
  stages: Sequence[str],
  seeds: Sequence[int],
  pictures: _Pictures,
) -> list[str]:
  histories = {
    stage: [
      read_lines(workdir / stage / f"seed_{seed}" / "metrics.jsonl")
      for seed in seeds
    ]
    for stage in stages
  }
  histories = {s: h for s, h in histories.items() if any(h)}
  if not histories:
    return []
  parts = [
    "## The course",
    pictures.add(
      "learning_curves", "Learning curves", plots.learning_curves(histories)
    ),
    pictures.add("pacing", "Pacing", plots.pacing(histories)),
    pictures.add(
      "learning_rate", "Learning rate", plots.learning_rates(histories)
    ),
  ]
  rows = [["stage", "seed", "step", "active", "action", "why"]]
  for stage, lines_of_seeds in histories.items():
    for seed, lines in zip(seeds, lines_of_seeds, strict=True):
      for line in lines:
        if line["kind"] == "lesson" and line["actions"]:
          rows.append(
            [
              stage,
              str(seed),
              str(line["step"]),
              f"{line['active']} ({100 * line['fraction']:.0f} %)",
              ", ".join(line["actions"]).replace("_", " "),
              "; ".join(line["reasons"]),
            ]
          )
  if len(rows) > 1:
    parts += ["### What validation led to", _table(rows)]
  else:
    parts.append("Validation led to no action in any stage.")
  return parts


def _difficulty(
  workdir: pathlib.Path,
  dataset: Dataset,
  seeds: Sequence[int],
  pictures: _Pictures,
) -> list[str]:
  folder = workdir / "difficulty" / f"seed_{seeds[0]}"
  tables = sorted(
    path for path in folder.glob("*.npz") if not path.stem.endswith("_test")
  )
  if not tables:
    return []
  path = next((t for t in tables if t.stem.startswith("scorer")), tables[0])
  with np.load(path, allow_pickle=False) as rows:
    ids, values, label = (rows[k] for k in ("record_id", "difficulty", "label"))
  parts = [
    "## Difficulty",
    f"Of the training records of seed {seeds[0]}, by `{path.stem}`"
    f" ({_provenance(path)}).",
    pictures.add(
      "difficulty",
      "Difficulty in each class",
      plots.difficulty_histograms(values, label, dataset.label_names),
    ),
  ]
  split = dataset.train
  known = (split.labels != split.true_labels)[ids]
  if known.any() and not known.all():
    parts.append(
      f"{100 * known.mean():.1f} % of these labels were made wrong. Ranked by"
      " difficulty, a wrong one stands behind a right one with probability"
      f" {_auc(values, known):.3f} (area under the ROC curve)."
    )
  order = ids[np.lexsort((ids, values))]
  for name, chosen in (
    ("easiest", order[:_SHEET]),
    ("hardest", order[::-1][:_SHEET]),
  ):
    parts.append(f"### The {name} records")
    parts.append(_sheet(name, chosen, split, dataset, pictures))
  return parts


def _provenance(path: pathlib.Path) -> str:
  beside = path.with_suffix(".json")
  if not beside.exists():
    return "of unknown origin"
  facts = read_json(beside)
  by = facts.get("model", {}).get("name") or ", ".join(facts.get("models", ()))
  folds = f", {facts['folds']} folds" if "folds" in facts else ""
  return f"score {facts.get('score')} by {by}{folds}"


def _auc(values: np.ndarray, positive: np.ndarray) -> float:
  """The probability that a positive has the larger value, ties half."""
  from scipy.stats import rankdata

  ranks = rankdata(values)
  n, m = positive.sum(), (~positive).sum()
  return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _sheet(
  name: str,
  chosen: np.ndarray,
  split: Split,
  dataset: Dataset,
  pictures: _Pictures,
) -> str:
  names = dataset.label_names
  observed, true = split.labels[chosen], split.true_labels[chosen]
  wrong = observed != true
  titles = [
    f"{str(names[o])[:14]}" + (f" (is {str(names[t])[:10]})" if w else "")
    for o, t, w in zip(observed, true, wrong, strict=True)
  ]
  if len(dataset.shape) == 3 and dataset.shape[-1] in (1, 3):
    images = split.fetch(chosen)[0]["image"]
    note = " Labels that were made wrong are red." if wrong.any() else ""
    figure = plots.record_sheet(images, titles, wrong)
    link = pictures.add(name, f"The {name} records", figure)
    return f"{link}\n\nWith their observed labels.{note}"
  rows = [["record", "observed label"]]
  return _table(
    rows + [[str(r), t] for r, t in zip(chosen, titles, strict=True)]
  )


def _ledger(collected: Mapping[str, Any]) -> list[str]:
  stages = collected["stages"]
  if not stages:
    return []
  names = list(next(iter(stages.values()))["ledger"])
  rows = [["stage", *(name.replace("_", " ") for name in names)]]
  for stage, values in stages.items():
    means = (values["ledger"][name]["mean"] for name in names)
    rows.append([stage, *(f"{mean:,.0f}" for mean in means)])
  return [
    "## Compute",
    "Examples that went forward and backward through a model, a mean over the"
    " seeds. A scoring that several stages share is counted at each of them.",
    _table(rows),
  ]


def _how(workdir: pathlib.Path) -> list[str]:
  parts = ["## How it was made"]
  path = workdir / "environment.json"
  if path.exists():
    facts = read_json(path)
    packages = ", ".join(f"{k} {v}" for k, v in facts["packages"].items())
    devices = facts["devices"]
    parts.append(
      f"Python {facts['python']} on {facts['platform']}; {len(devices)} device"
      f"{'s' if len(devices) > 1 else ''} ({devices[0]}); {packages}; source"
      f" revision {facts['revision'] or 'unknown'}."
    )
  config = json.dumps(read_json(workdir / "config.json"), indent=2)
  parts += ["### Config", f"```json\n{config}\n```"]
  return parts


def _cell(text: Any) -> str:
  """Text that means nothing else in markdown or HTML."""
  return html.escape(str(text), quote=False).replace("|", "\\|")


def _table(rows: Sequence[Sequence[str]]) -> str:
  line = lambda cells: "| " + " | ".join(_cell(c) for c in cells) + " |"
  rule = "|" + "---|" * len(rows[0])
  return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: white; border-radius: 6px; padding: 6px;
  box-sizing: border-box; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem;
  text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; }
pre { overflow-x: auto; font-size: .8rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
"""


def _page(title: str, text: str, workdir: pathlib.Path) -> str:
  """One HTML file with the pictures inside."""
  body = markdown.markdown(text, extensions=["tables", "fenced_code"])

  def embedded(match: re.Match) -> str:
    content = (workdir / match.group(1)).read_bytes()
    return f'src="data:image/png;base64,{base64.b64encode(content).decode()}"'

  body = re.sub(r'src="(report/[a-z_]+\.png)"', embedded, body)
  body = body.replace("<table>", '<div class="scroll"><table>')
  body = body.replace("</table>", "</table></div>")
  body = body.replace("<h3>Config</h3>", "<details><summary>Config</summary>")
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title or 'Run')}</title>\n<style>{_STYLE}</style>\n"
    f"</head>\n<body>\n{body}\n</details>\n</body>\n</html>\n"
  )


def main(argv: Sequence[str]) -> int:
  """Makes the report of a working directory; returns the exit code."""
  import argparse

  from kdcl_jax import config as fields
  from kdcl_jax import dataset as datasets
  from kdcl_jax.errors import UserError

  parser = argparse.ArgumentParser(prog="python -m kdcl_jax.report")
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  workdir = parser.parse_args(argv).workdir
  if not (workdir / "config.json").exists():
    print(f"kdcl_jax: {workdir} holds no run.", file=sys.stderr)
    return 2
  try:
    config = fields.resolve(read_json(workdir / "config.json"))
    seeds = range(config["seed"], config["seed"] + config["seeds"])
    data = datasets.load(config["data"], seed=seeds[0])
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr)
    return 2
  _, page = write(workdir, config, data, config["stages"], list(seeds))
  print(f"The report is {page}.")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
