"""The pictures of a survey, each a matplotlib figure made from data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kdcl_jax.plots import COLOURS


def data_map(
  place: Mapping[str, np.ndarray], wrong: np.ndarray | None = None
) -> Figure:
  """Confidence against variability of every record, coloured by correctness.

  Args:
    place: `confidence`, `variability` and `correctness`, [N] each.
    wrong: [N] bool, whose label is known to be wrong; None where none is.

  Returns:
    The figure.
  """
  figure = Figure(figsize=(9, 5.6), layout="constrained")
  axes = figure.subplots()
  count = len(place["confidence"])
  size = float(np.clip(20000 / count, 2, 22))
  right = np.ones(count, bool) if wrong is None else ~wrong
  groups = [(right, "o", "label as the source has it")]
  if wrong is not None:
    groups.append((wrong, "x", "label made wrong"))
  for chosen, mark, name in groups:
    points = axes.scatter(
      place["variability"][chosen],
      place["confidence"][chosen],
      c=place["correctness"][chosen],
      marker=mark,
      s=size,
      linewidths=1.0 if mark == "x" else 0.0,
      cmap="cividis",
      vmin=0.0,
      vmax=1.0,
      alpha=0.8,
      label=name,
    )
  figure.colorbar(points, label="correctness (share of presentations)")
  axes.set(
    xlabel="variability (standard deviation of the label's probability)",
    ylabel="confidence (mean of the label's probability)",
    ylim=(-0.02, 1.02),
  )
  axes.set_xlim(left=0)
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  if wrong is not None:
    legend = figure.legend(loc="outside lower center", ncols=2, frameon=False)
    for handle in legend.legend_handles:
      handle.set(array=None, color="black")
  return figure


def correlations(spearman: Mapping[str, Mapping[str, float]]) -> Figure:
  """Spearman's correlation of each pair of tables, as a heat map."""
  names = list(spearman)
  values = np.array([[spearman[a][b] for b in names] for a in names])
  side = 2.6 + 0.47 * len(names)
  figure = Figure(figsize=(side + 0.8, side), layout="constrained")
  axes = figure.subplots()
  image = axes.imshow(values, cmap="PuOr", vmin=-1, vmax=1)
  axes.set_xticks(
    range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor"
  )
  axes.set_yticks(range(len(names)), names)
  axes.tick_params(length=0, labelsize=9)
  axes.spines[:].set_visible(False)
  for (row, column), value in np.ndenumerate(values):
    axes.text(
      column,
      row,
      f"{value:.2f}".replace("-", "−"),
      ha="center",
      va="center",
      fontsize=8,
      color="white" if abs(value) > 0.7 else "black",
    )
  figure.colorbar(image, label="Spearman's correlation", shrink=0.8)
  return figure


def detection(auc: Mapping[str, Mapping[str, Any]]) -> Figure:
  """How well each table finds the wrong labels: the mean, and every seed.

  Args:
    auc: name -> `mean` and `values`, areas under the ROC curve.

  Returns:
    The figure.
  """
  names: Sequence[str] = list(auc)
  figure = Figure(figsize=(9, 1.0 + 0.33 * len(names)), layout="constrained")
  axes = figure.subplots()
  for place, name in enumerate(names):
    mean, values = auc[name]["mean"], np.array(auc[name]["values"])
    axes.plot([mean], [place], "|", color=COLOURS[0], markersize=16, mew=3)
    spread = np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else 0.0
    axes.plot(values, place + spread, "o", color=COLOURS[0], alpha=0.6, ms=4)
    axes.annotate(
      f"{mean:.3f}",
      (max(values.max(), mean), place),
      xytext=(9, 0),
      textcoords="offset points",
      va="center",
    )
  axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
  axes.set_yticks(range(len(names)), names)
  axes.set(
    xlim=(0, 1.1),
    ylim=(len(names) - 0.4, -0.6),
    xlabel="area under the ROC curve for wrong labels (dotted: chance);"
    " bar: mean, points: seeds",
  )
  axes.grid(alpha=0.25, axis="x")
  axes.spines[["top", "right"]].set_visible(False)
  return figure
