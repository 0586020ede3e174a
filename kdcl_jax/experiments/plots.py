"""The pictures of an experiment, each a matplotlib figure made from data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcl_jax.plots import COLOURS

_MARKS = ("o", "s", "^", "v", "P", "X", "<", ">")

Cells = Mapping[str, Mapping[str, Any]]


def style(place: int) -> dict[str, Any]:
  """The colour and mark of the n-th of several things, in every picture."""
  return {
    "color": COLOURS[place % len(COLOURS)],
    "marker": _MARKS[(place + place // len(COLOURS)) % len(_MARKS)],
  }


def accuracy(cells: Cells, arms: Sequence[str]) -> Figure:
  """Mean test accuracy of each arm in each cell, with standard errors.

  Args:
    cells: from their names, as in `experiment.json`.
    arms: the stages that are shown.

  Returns:
    The figure.
  """
  figure, axes = _figure(4.6)
  width = 0.76 / max(len(arms), 1)
  for place, arm in enumerate(arms):
    shift = (place - (len(arms) - 1) / 2) * width
    known = [
      (x + shift, cell["arms"][arm]["test_accuracy"])
      for x, cell in enumerate(cells.values())
      if arm in cell["arms"]
    ]
    axes.errorbar(
      [x for x, _ in known],
      [100 * summary["mean"] for _, summary in known],
      [100 * summary["standard_error"] for _, summary in known],
      linestyle="",
      markersize=5,
      capsize=2,
      label=arm,
      **style(place),
    )
  for x in range(0, len(cells), 2):
    axes.axvspan(x - 0.5, x + 0.5, color="black", alpha=0.045, linewidth=0)
  long = sum(map(len, cells)) > 90
  axes.set_xticks(
    range(len(cells)),
    list(cells),
    rotation=30 if long else 0,
    ha="right" if long else "center",
    rotation_mode="anchor",
  )
  axes.set(
    xlim=(-0.5, len(cells) - 0.5),
    ylabel="test accuracy (%), mean ± standard error",
  )
  axes.grid(axis="y", alpha=0.25)
  _legend(figure, axes)
  return figure


def gains(cells: Cells, arm: str, arms: Sequence[str]) -> Figure:
  """What an arm is above each rival in each cell, with 95 % intervals.

  Args:
    cells: from their names, as in `experiment.json`; those in which the claim
      of the arm is judged.
    arm: the stage.
    arms: the stages of `accuracy`, whose colours are kept.

  Returns:
    The figure.
  """
  judged = {name: cell["claims"][arm] for name, cell in cells.items()}
  first = next(iter(judged.values()))
  rivals = list(first["comparisons"])
  figure, axes = _figure(1.1 + 0.21 * (len(rivals) + 1) * len(cells))
  step = len(rivals) + 1
  for place, rival in enumerate(rivals):
    twin = " (its twin)" if rival == first["twin"] else ""
    rows = [step * i + place for i in range(len(cells))]
    found = [claim["comparisons"][rival] for claim in judged.values()]
    means = np.array([100 * one["difference"]["mean"] for one in found])
    ends = np.array([one["interval_95"] or [np.nan] * 2 for one in found])
    known = arms.index(rival) if rival in arms else len(arms) + place
    look = style(known)
    axes.hlines(rows, *(100 * ends.T), color=look["color"], linewidth=1.8)
    axes.plot(means, rows, linestyle="", label=f"{rival}{twin}", **look)
  axes.axvline(0, color="black", linewidth=1)
  for i in range(0, len(cells), 2):
    low, high = step * i - 1, step * (i + 1) - 1
    axes.axhspan(low, high, color="black", alpha=0.045, linewidth=0)
  middles = [step * i + (len(rivals) - 1) / 2 for i in range(len(cells))]
  axes.set_yticks(middles, list(cells))
  axes.tick_params(axis="y", length=0)
  axes.set(
    ylim=(step * len(cells) - 1, -1),
    xlabel=f"test accuracy of {arm} minus that of its rival (points), 95 %"
    " interval",
  )
  axes.grid(axis="x", alpha=0.25)
  _legend(figure, axes)
  return figure


def _figure(height: float) -> tuple[Figure, Axes]:
  figure = Figure(figsize=(9, height), layout="constrained")
  axes = figure.subplots()
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
  handles, names = axes.get_legend_handles_labels()
  columns = min(4, max(len(names), 1))
  width, height = figure.get_size_inches()
  rows = -(-len(names) // columns)
  figure.set_size_inches(width, height + 0.24 * rows)
  figure.legend(
    handles, names, loc="outside lower center", ncols=columns, frameon=False
  )
