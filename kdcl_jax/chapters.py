"""The chapters of a report, in markdown."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcl_jax import metrics, npz, plots
from kdcl_jax.dataset import Dataset, Split
from kdcl_jax.page import Pictures, table
from kdcl_jax.writers import read_json, read_lines

_PAIRS = 60  # most comparisons that are written out
_SHEET = 20  # easiest and hardest records that are shown


def what(
  config: Mapping[str, Any], dataset: Dataset, seeds: Sequence[int]
) -> str:
  """What was run: the data, and each stage in a line."""
  lines = []
  for name in config["stages"]:
    section = config[name]
    teachers = section["teachers"]
    order = section["curriculum"]["order"]
    lines.append(
      f"- **{name}**: {section['model']['name']}, {length(section)}"
      + (f", order {order}" if order != "none" else "")
      + (f", taught by {' and '.join(teachers)}" if teachers else "")
    )
  return data(config, dataset, seeds) + "\n\n" + "\n".join(lines)


def length(section: Mapping[str, Any]) -> str:
  """How long a section's model is trained."""
  if section["steps"]:
    return f"{section['steps']} steps"
  if section["epochs"]:
    return f"{section['epochs']:g} epochs"
  return f"not trained, weights of {section['weights']}"


def data(
  config: Mapping[str, Any], dataset: Dataset, seeds: Sequence[int]
) -> str:
  """The data in three sentences."""
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
  count = len(seeds)
  return (
    f"{dataset.name}: {len(dataset.train)} training, {len(dataset.validation)}"
    f" validation and {len(dataset.test)} test records of"
    f" {dataset.num_classes} classes. {labels}"
    f" {count} seed{'s' if count > 1 else ''}."
  )


def missing(collected: Mapping[str, Any]) -> str:
  """A warning where the run is not finished."""
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


def comparison(collected: Mapping[str, Any], pictures: Pictures) -> list[str]:
  """The stages on the test set: verdicts, tables, pictures."""
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
  parts += [table(rows), f"Means{spread}." if several else "One seed."]
  parts.append(
    pictures.add("accuracy", "Test accuracy", plots.test_accuracy(stages))
  )
  if len(rest) > _PAIRS:
    parts.append(f"The {len(rest)} other pairs are in `results.json`.")
  elif rest:
    lines = "\n".join(f"- {sentence(c)}" for c in rest)
    parts += ["### Other pairs", lines]
  if several:
    header = ["stage", *(f"seed {seed}" for seed in collected["seeds"])]
    values = [
      [n, *(f"{100 * v:.1f}" for v in s["test"]["accuracy"]["values"])]
      for n, s in stages.items()
    ]
    parts += ["### Accuracy of each seed (%)", table([header, *values])]
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
  parts.append(table(tenths))
  for key, what in (
    (
      "unreadable",
      "Training records that could not be read, and had no weight",
    ),
    ("skipped_steps", "Steps skipped, whose loss or gradient was not finite"),
  ):
    means = {name: stage[key]["mean"] for name, stage in stages.items()}
    if any(means.values()):
      counts = ", ".join(f"{n}: {mean:g}" for n, mean in means.items() if mean)
      parts.append(f"{what}: {counts}.")
  return parts


def course(
  workdir: pathlib.Path,
  stages: Sequence[str],
  seeds: Sequence[int],
  pictures: Pictures,
) -> list[str]:
  """How each stage went: curves, pacing, what validation led to."""
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
    parts += ["### What validation led to", table(rows)]
  else:
    parts.append("Validation led to no action in any stage.")
  return parts + _rank_correlations(histories)


def _rank_correlations(histories: plots.Histories) -> list[str]:
  """How much a learner's own ranking is the order that it started with."""
  rows = [["stage", "first lesson", "last lesson"]]
  for stage, lines_of_seeds in histories.items():
    found = [
      [line["rank_correlation"] for line in lines if "rank_correlation" in line]
      for lines in lines_of_seeds
    ]
    found = [values for values in found if values]
    if found:
      ends = (np.mean([values[end] for values in found]) for end in (0, -1))
      rows.append([stage, *(f"{end:+.2f}" for end in ends)])
  if len(rows) == 1:
    return []
  return [
    "### The learner's own ranking",
    "Spearman's correlation of its difficulties with those that made the first"
    " order, a mean over the seeds.",
    table(rows),
  ]


def difficulty(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  seeds: Sequence[int],
  pictures: Pictures,
) -> list[str]:
  """Which records were found easy and hard, as pictures."""
  folder = workdir / "difficulty" / f"seed_{seeds[0]}"
  sections = {name: config[name]["curriculum"] for name in config["stages"]}
  names = [
    f"scorer_{section['difficulty']['score']}"
    for section in sections.values()
    if section["order"] in ("curriculum", "anti")
  ]
  paths = [folder / f"{n}.npz" for n in (*names, *sections, "first_stage")]
  path = next((path for path in paths if path.exists()), None)
  if path is None:
    return []
  rows = npz.read_own(path, "record_id", "difficulty", "label")
  ids, values, label = rows.values()
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
      f" {metrics.auc(values, known):.3f} (area under the ROC curve)."
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


def has_pictures(dataset: Dataset) -> bool:
  """Whether a record is an image, grey or in colour."""
  return len(dataset.shape) == 3 and dataset.shape[-1] in (1, 3)


def _sheet(
  name: str,
  chosen: np.ndarray,
  split: Split,
  dataset: Dataset,
  pictures: Pictures,
) -> str:
  names = dataset.label_names
  observed, true = split.labels[chosen], split.true_labels[chosen]
  wrong = observed != true
  titles = [
    f"{str(names[o])[:14]}" + (f" (is {str(names[t])[:10]})" if w else "")
    for o, t, w in zip(observed, true, wrong, strict=True)
  ]
  if has_pictures(dataset):
    images = split.fetch(chosen)[0]["image"]
    note = " Labels that were made wrong are red." if wrong.any() else ""
    figure = plots.record_sheet(images, titles, wrong)
    link = pictures.add(name, f"The {name} records", figure)
    return f"{link}\n\nWith their observed labels.{note}"
  rows = [["record", "observed label"]]
  return table(
    rows + [[str(r), t] for r, t in zip(chosen, titles, strict=True)]
  )


def ledger(collected: Mapping[str, Any]) -> list[str]:
  """What was computed."""
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
    table(rows),
  ]


def how(workdir: pathlib.Path) -> list[str]:
  """Versions and the resolved config."""
  parts = ["## How it was made", *made_with(workdir / "environment.json")]
  config = json.dumps(read_json(workdir / "config.json"), indent=2)
  parts += ["### Config", f"```json\n{config}\n```"]
  return parts


def made_with(path: pathlib.Path) -> list[str]:
  """Versions and devices, of an `environment.json` that may not be there."""
  if not path.exists():
    return []
  facts = read_json(path)
  packages = ", ".join(f"{k} {v}" for k, v in facts["packages"].items())
  devices = facts["devices"]
  return [
    f"Python {facts['python']} on {facts['platform']}; {len(devices)} device"
    f"{'s' if len(devices) > 1 else ''} ({devices[0]}); {packages}; source"
    f" revision {facts['revision'] or 'unknown'}."
  ]
