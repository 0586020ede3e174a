"""What a survey says to people: `score.md`, and `score.html` in one file."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import chapters, npz, page, plots, survey_plots, tables
from kdcl_jax.dataset import Dataset
from kdcl_jax.writers import write_text

_SHEET = 30  # suspicious records that are shown
_APART = {
  "scorer_entropy": "which does not look at the label",
  "scorer_prediction_depth": "which does not look at the label",
  "stream_data_map": "the variability, which is small for the easiest and the"
  " hardest records",
}

Found = Mapping[str, Any]


def write(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  found: Found,
) -> pathlib.Path:
  """Writes `score.md` with `score/*.png`, and `score.html`.

  Args:
    workdir: the survey's directory.
    config: its resolved config.
    dataset: the data of the first seed.
    found: the content of `scores.json`.

  Returns:
    The path of score.html.
  """
  pictures = page.Pictures(workdir / "score")
  folder = workdir / "difficulty" / f"seed_{found['seeds'][0]}"
  title = f"{found['name'] or 'Data set'}: difficulty"
  text = "\n\n".join(
    [
      f"# {page.cell(title)}",
      *what(config, dataset, found),
      *suspicious(dataset, found, pictures),
      *wrong_labels(found, pictures),
      *data_map(folder, dataset, found, pictures),
      *classes(folder, dataset, found, pictures),
      *agreement(found, pictures),
      *files(workdir, found),
      *ledger(found),
      *chapters.how(workdir),
    ]
  )
  write_text(workdir / "score.md", text + "\n")
  page.write(workdir / "score.html", title, text)
  return workdir / "score.html"


def number(summary: Mapping[str, Any], digits: int, factor: float = 1) -> str:
  """A mean, with its standard deviation where there are several seeds."""
  text = f"{factor * summary['mean']:.{digits}f}"
  if len(summary["values"]) < 2:
    return text
  return f"{text} ± {factor * summary['std']:.{digits}f}"


def what(
  config: Mapping[str, Any], dataset: Dataset, found: Found
) -> list[str]:
  """The data, and what scored them."""
  section = config["scorer"]
  parts = [
    chapters.data(config, dataset, found["seeds"]),
    f"Scored by {section['model']['name']}, {chapters.length(section)},"
    f" trained anew for each of {section['folds']} folds on the others. Out of"
    " fold, where no model has seen the record, it predicts"
    f" {number(found['accuracy'], 1, 100)} % of the observed labels. Larger"
    " difficulty is harder.",
  ]
  if found["unreadable"]["mean"]:
    parts.append(
      f"{found['unreadable']['mean']:g} training records could not be read;"
      " they rank last."
    )
  return parts


def suspicious(
  dataset: Dataset, found: Found, pictures: page.Pictures
) -> list[str]:
  """The sheet of the labels that fit the least."""
  rows, names = found["suspicious"], dataset.label_names
  if not rows:
    return ["## Suspicious labels", "The scorer predicts every label."]
  shown = rows[:_SHEET]
  noisy = "true_label" in shown[0]
  wrong = [noisy and row["true_label"] != row["label"] for row in shown]
  parts = [
    "## Suspicious labels",
    f"Of the training records of seed {found['seeds'][0]} whose label is not"
    f" what the scorer predicts, the {len(shown)} hardest by `fused`: those to"
    f" look at first. `scores.json` names {len(rows)}.",
  ]
  if noisy:
    share = np.mean([row["true_label"] != row["label"] for row in rows])
    parts[-1] += f" Of these {len(rows)}, {100 * share:.0f} % were made wrong."
  if chapters.has_pictures(dataset):
    ids = np.array([row["record_id"] for row in shown])
    short = [str(name)[:14] for name in names]
    titles = [
      f"{short[row['label']]}\nmodel: {short[row['prediction']]}"
      for row in shown
    ]
    figure = plots.record_sheet(
      dataset.train.fetch(ids)[0]["image"],
      titles,
      wrong,
      columns=10 if max(map(len, short)) < 5 else 6,
    )
    note = " Labels that were made wrong are red." if noisy else ""
    parts += [
      pictures.add("suspicious", "Suspicious labels", figure),
      "Above each its observed label and what the model says that has not seen"
      f" it.{note}",
    ]
  head = ["record", "observed label", "model", "its confidence"]
  lines = [head + ["true label"] if noisy else head]
  for row in shown:
    cells = [
      str(row["record_id"]),
      names[row["label"]],
      names[row["prediction"]],
      f"{row['confidence']:.2f}",
    ]
    lines.append(cells + [names[row["true_label"]]] if noisy else cells)
  return [*parts, page.table(lines)]


def wrong_labels(found: Found, pictures: page.Pictures) -> list[str]:
  """How well each table finds the labels that were made wrong."""
  if found["wrong_labels"] is None:
    return []
  auc = {name: table["auc"] for name, table in found["tables"].items()}
  order = sorted(auc, key=lambda name: -auc[name]["mean"])
  rows = [["table", "area under the ROC curve"]]
  rows += [[name, number(auc[name], 3)] for name in order]
  several = len(found["seeds"]) > 1
  return [
    "## Finding the wrong labels",
    f"{number(found['wrong_labels'], 1, 100)} % of the training labels were"
    " made wrong. The area is the probability that a wrong label is ranked"
    " harder than a right one; 0.5 is chance."
    + (" Means ± standard deviation over the seeds." if several else ""),
    pictures.add(
      "wrong_labels",
      "Finding the wrong labels",
      survey_plots.detection({name: auc[name] for name in order}),
    ),
    page.table(rows),
  ]


def data_map(
  folder: pathlib.Path,
  dataset: Dataset,
  found: Found,
  pictures: page.Pictures,
) -> list[str]:
  """How training went with each record."""
  if not (folder / "map.npz").exists():
    return []
  place = npz.read(folder / "map.npz", "map")
  seen = place["presentations"] > 0
  place = {name: row[seen] for name, row in place.items()}
  split, ids = dataset.train, place["record_id"]
  wrong = None
  if found["wrong_labels"] is not None:
    wrong = (split.labels != split.true_labels)[ids]
  times = place["presentations"]
  return [
    "## Data map",
    pictures.add("data_map", "Data map", survey_plots.data_map(place, wrong)),
    f"The {len(ids)} records of seed {found['seeds'][0]} as training went,"
    f" in fold, over {times.min()} to {times.max()} presentations each. Top:"
    " easy to learn. Right: ambiguous. Bottom left: hard to learn, where wrong"
    " labels are to be expected.",
  ]


def classes(
  folder: pathlib.Path,
  dataset: Dataset,
  found: Found,
  pictures: page.Pictures,
) -> list[str]:
  """How one score is distributed in each class."""
  name = next(iter(found["tables"]))
  table = tables.load(folder / f"{name}.npz", name)
  several = len(np.unique(table.label)) > 20
  return [
    "## Difficulty in each class",
    pictures.add(
      "classes",
      "Difficulty in each class",
      plots.difficulty_histograms(
        table.difficulty, table.label, dataset.label_names
      ),
    ),
    f"`{name}` of seed {found['seeds'][0]} by observed label"
    + (", the first 20 classes." if several else "."),
  ]


def agreement(found: Found, pictures: page.Pictures) -> list[str]:
  """Spearman's correlations of all tables."""
  spearman = found["spearman"]
  rows = [["", *spearman]]
  rows += [[a, *(f"{spearman[a][b]:.2f}" for b in spearman)] for a in spearman]
  several = len(found["seeds"]) > 1
  return [
    "## How the scores agree",
    pictures.add(
      "correlations",
      "Spearman's correlations",
      survey_plots.correlations(spearman),
    ),
    "Spearman's correlation of the difficulties"
    + (", the mean over the seeds." if several else "."),
    page.table(rows),
  ]


def files(workdir: pathlib.Path, found: Found) -> list[str]:
  """Where the tables are, and how a run takes one."""
  folder = workdir / "difficulty"
  seed = f"seed_{found['seeds'][0]}"
  tail = ""
  if found["mean"]:
    seed = "mean"
    tail = (
      " `difficulty/mean` has the means over the seeds,"
      f" {found['mean']['records']} records, enough for a run with any of these"
      " seeds."
    )
  elif len(found["seeds"]) > 1:
    tail = (
      " There are no means over the seeds: a record's label is not the same in"
      " all of them."
    )
  apart = "".join(
    f", but for `{name}`, {why}"
    for name, why in _APART.items()
    if name in found["tables"]
  )
  use = f"curriculum=dict(difficulty=dict(source='file', path='{folder}/{seed}"
  return [
    "## The tables",
    "`scorer_SCORE` are out of fold, `stream_STREAM` in fold (what the steps"
    " saw of the records that they trained on), and `fused` puts the ranks"
    f" of them together{apart}.{tail} A run takes its order from one by",
    f"```\n{use}/fused.npz'))\n```",
  ]


def ledger(found: Found) -> list[str]:
  """What was computed."""
  rows = [["", "examples"]]
  for name, summary in found["ledger"].items():
    rows.append([name.replace("_", " "), f"{summary['mean']:,.0f}"])
  several = " for each seed" if len(found["seeds"]) > 1 else ""
  return [
    "## Compute",
    "Examples that went forward and backward through a model"
    f"{several}, in {number(found['seconds'], 1)} s.",
    page.table(rows),
  ]
