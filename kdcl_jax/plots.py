"""The pictures of a report, each a matplotlib figure made from data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
  "#8C8C3C",
)
MARKS = {
  "freeze": ("s", "freeze and roll back"),
  "hold": ("^", "hold"),
  "reduce_learning_rate": ("v", "reduce learning rate"),
  "stop": ("X", "stop"),
}

# stage -> for each seed, its lines of metrics.jsonl
Histories = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]


def colours(stages: Sequence[str]) -> dict[str, str]:
  """A colour for each stage, the same in every picture."""
  return {s: COLOURS[i % len(COLOURS)] for i, s in enumerate(stages)}


def learning_curves(histories: Histories) -> Figure:
  """Training loss and validation accuracy over the steps of each stage."""
  figure, (left, right) = _figure(2, height=4.2)
  for stage, colour in colours(list(histories)).items():
    for axes, kind, value in (
      (left, "train", lambda line: line["loss"]),
      (right, "lesson", lambda line: 100 * line["validation"]["accuracy"]),
    ):
      _band(axes, histories[stage], kind, value, colour, stage)
  left.set(xlabel="step", ylabel="training loss (objective)")
  right.set(xlabel="step", ylabel="validation accuracy (%)")
  _legend_below(figure, right)
  return figure


def pacing(histories: Histories) -> Figure:
  """The active fraction of each stage, and what the course did at lessons."""
  figure, (axes,) = _figure(1, height=4.4)
  used = set()
  for stage, colour in colours(list(histories)).items():
    _band(
      axes,
      histories[stage],
      "lesson",
      lambda line: 100 * line["fraction"],
      colour,
      stage,
      steps=True,
    )
    for lines in histories[stage]:
      for line in lines:
        for action in line.get("actions", ()):
          if action in MARKS:
            used.add(action)
            axes.plot(
              line["step"],
              100 * line["fraction"],
              MARKS[action][0],
              color=colour,
              markeredgecolor="black",
              markersize=7,
              zorder=3,
            )
  for action in sorted(used):
    mark, text = MARKS[action]
    axes.plot([], [], mark, color="white", markeredgecolor="black", label=text)
  axes.set(xlabel="step", ylabel="active share of the order (%)", ylim=(0, 105))
  _legend_below(figure, axes)
  return figure


def learning_rates(histories: Histories) -> Figure:
  """The learning rate of each stage, with the reductions of its course."""
  figure, (axes,) = _figure(1, height=4.2)
  for stage, colour in colours(list(histories)).items():
    value = lambda line: line["learning_rate"]
    _band(axes, histories[stage], "train", value, colour, stage)
    for lines in histories[stage]:
      for line in lines:
        if "reduce_learning_rate" in line.get("actions", ()):
          axes.axvline(line["step"], color=colour, linestyle=":", linewidth=1)
  axes.set(
    xlabel="step (dotted: reduced by the course)", ylabel="learning rate"
  )
  _legend_below(figure, axes)
  return figure


def accuracy_by_difficulty(stages: Mapping[str, Mapping[str, Any]]) -> Figure:
  """Test accuracy in each tenth of the difficulty order."""
  figure, (axes,) = _figure(1, height=4.2)
  for stage, colour in colours(list(stages)).items():
    tenths = stages[stage]["test"]["accuracy_by_difficulty"]
    mean = 100 * np.array(tenths["mean"], float)
    std = 100 * np.array(tenths["std"], float)
    x = np.arange(1, len(mean) + 1)
    axes.plot(x, mean, "o-", color=colour, label=stage, markersize=4)
    axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.12)
  axes.set(
    xlabel="tenth of the test records, easiest first",
    ylabel="test accuracy (%)",
    xticks=np.arange(1, len(mean) + 1),
  )
  _legend_below(figure, axes)
  return figure


def test_accuracy(stages: Mapping[str, Mapping[str, Any]]) -> Figure:
  """Mean test accuracy of each stage, and every seed as a point."""
  figure, (axes,) = _figure(1, height=0.9 + 0.45 * len(stages))
  names = list(stages)
  for place, (stage, colour) in enumerate(colours(names).items()):
    accuracy = stages[stage]["test"]["accuracy"]
    values = 100 * np.array(accuracy["values"])
    mean = 100 * accuracy["mean"]
    axes.plot([mean], [place], "|", color=colour, markersize=22, mew=3)
    spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
    axes.plot(values, place + np.array(spread), "o", color=colour, alpha=0.6)
    axes.annotate(
      f"{mean:.1f}",
      (max(values.max(), mean), place),
      xytext=(9, 0),
      textcoords="offset points",
      va="center",
    )
  axes.set_yticks(range(len(names)), names)
  axes.margins(x=0.12, y=0.12)
  axes.invert_yaxis()
  axes.set_xlabel("test accuracy (%); bar: mean, points: seeds")
  return figure


def difficulty_histograms(
  difficulty: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> Figure:
  """How difficulty is distributed in each class, by observed label."""
  classes = np.unique(labels)[:20]
  columns = min(5, len(classes))
  rows = -(-len(classes) // columns)
  figure = Figure(figsize=(9, 0.9 + 1.35 * rows), layout="constrained")
  grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
  low, high = np.percentile(difficulty, [0, 99.5])
  bins = np.linspace(low, max(high, low + 1e-9), 25)
  for axes in grid.flat[len(classes) :]:
    axes.set_visible(False)
  for axes, label in zip(grid.flat, classes, strict=False):
    values = np.clip(difficulty[labels == label], low, high)
    axes.hist(values, bins=bins, color=COLOURS[0])
    axes.set_title(str(names[label])[:22], fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
  figure.supxlabel("difficulty", fontsize=10)
  figure.supylabel("records", fontsize=10)
  return figure


def record_sheet(
  images: np.ndarray,
  titles: Sequence[str],
  wrong: Sequence[bool],
  columns: int = 10,
) -> Figure:
  """Records as pictures under their labels; wrong labels are red.

  Args:
    images: [n, H, W, C] uint8 or float, C 1 or 3.
    titles: n texts.
    wrong: n, whether the observed label is known to be wrong.
    columns: pictures in a row.

  Returns:
    The figure.
  """
  rows = -(-len(images) // columns)
  figure = Figure(figsize=(9, 1.22 * rows + 0.1), layout="constrained")
  grid = figure.subplots(rows, columns, squeeze=False)
  for axes in grid.flat:
    axes.set_axis_off()
  for axes, image, title, bad in zip(
    grid.flat, images, titles, wrong, strict=False
  ):
    if image.dtype != np.uint8:
      span = max(float(np.ptp(image)), 1e-9)
      image = (image - image.min()) / span
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None)
    axes.set_title(
      title,
      fontsize=8,
      color="#B00000" if bad else "black",
      fontweight="bold" if bad else "normal",
      parse_math=False,
    )
  return figure


def _figure(columns: int, height: float) -> tuple[Figure, list[Axes]]:
  figure = Figure(figsize=(9, height), layout="constrained")
  grid = figure.subplots(1, columns, squeeze=False)[0]
  for axes in grid:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
  return figure, list(grid)


def _legend_below(figure: Figure, axes: Axes) -> None:
  handles, names = axes.get_legend_handles_labels()
  columns = min(4, max(len(names), 1))
  width, height = figure.get_size_inches()
  # Room for all rows but the first, which the usual height has.
  rows = -(-len(names) // columns)
  figure.set_size_inches(width, height + 0.24 * max(rows - 1, 0))
  figure.legend(
    handles, names, loc="outside lower center", ncols=columns, frameon=False
  )


def _band(
  axes: Axes,
  seeds: Sequence[Sequence[Mapping[str, Any]]],
  kind: str,
  value: Any,
  colour: str,
  name: str,
  *,
  steps: bool = False,
) -> None:
  """The mean over seeds, and a band of one standard deviation."""
  curves = []
  for lines in seeds:
    chosen = [line for line in lines if line["kind"] == kind]
    if chosen:
      x = [line["step"] for line in chosen]
      curves.append((x, [value(line) for line in chosen]))
  if not curves:
    return
  grid = np.unique(np.concatenate([x for x, _ in curves]))
  # A seed that stopped early is not continued.
  table = np.array([np.interp(grid, *c, right=np.nan) for c in curves])
  count = np.isfinite(table).sum(axis=0)
  mean = np.nansum(table, axis=0) / count
  style = {"drawstyle": "steps-pre"} if steps and len(curves) == 1 else {}
  axes.plot(grid, mean, color=colour, label=name, linewidth=1.6, **style)
  if len(curves) > 1:
    square = np.nansum((table - mean) ** 2, axis=0)
    std = np.sqrt(square / np.maximum(count - 1, 1))
    axes.fill_between(
      grid, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0
    )
