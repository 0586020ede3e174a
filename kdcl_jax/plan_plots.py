"""The pictures of a plan: each stage over its steps, and what a run takes."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcl_jax.plan import Plan, StagePlan
from kdcl_jax.plots import COLOURS

_POINTS = 2000  # of a curve; more cannot be seen
_LINES = 60  # lessons that are drawn; more would cover the curves
_LABEL = 24  # characters of a line of a legend
_KINDS = ("training", "teachers", "validation", "rescoring", "scoring")


def stage(plan: StagePlan, label_names: Sequence[str]) -> Figure:
  """Everything that changes over the steps of a stage, one below the other.

  Args:
    plan: of a stage that has steps.
    label_names: a name for each class.

  Returns:
    The figure.
  """
  over, course = plan.over, plan.course
  grid = _grid(plan)
  lessons = course.lessons if len(course.lessons) <= _LINES else ()
  rows = [(1.5, lambda axes: _active(axes, plan, grid))]
  rate = {"learning rate": course.learning_rate}
  rows.append((1.1, lambda axes: _curves(axes, "learning rate", rate, grid)))
  for title, curves, ranges in (
    ("coefficients of the terms", over.coefficients, {}),
    ("temperatures", over.temperatures, over.ranges),
  ):
    if curves or ranges:
      draw = lambda axes, title=title, curves=curves, ranges=ranges: _curves(
        axes, title, curves, grid, ranges, named=True
      )
      rows.append((1.1, draw))
  for name, values in over.numbers.items():
    draw = lambda axes, name=name, values=values: _curves(
      axes, name, {name: values}, grid
    )
    rows.append((0.9, draw))
  if over.teaching:
    rows.append((1.1, lambda axes: _teaching(axes, plan, grid)))
  if plan.classes is not None and np.ptp(plan.classes, axis=0).any():
    high = float(np.clip(0.17 * plan.classes.shape[1], 1.0, 3.4))
    rows.append((high, lambda axes: _classes(axes, plan, label_names)))
  heights = [height for height, _ in rows]
  figure = Figure(
    figsize=(9, 0.7 + sum(heights) + 0.3 * len(rows)), layout="constrained"
  )
  panels = figure.subplots(
    len(rows), 1, sharex=True, squeeze=False, height_ratios=heights
  )
  for axes, (_, draw) in zip(panels[:, 0], rows, strict=True):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.2)
    axes.tick_params(labelsize=8)
    draw(axes)
    for step in lessons:
      axes.axvline(step, color="black", alpha=0.12, linewidth=0.7, zorder=0)
  meaning = " (vertical lines: lessons begin)" if len(lessons) else ""
  panels[-1, 0].set_xlabel(f"step{meaning}", fontsize=9)
  panels[-1, 0].set_xlim(0, course.steps)
  return figure


def compute(plan: Plan) -> Figure:
  """The FLOPs of each stage, by what they are for."""
  names = [one.name for one in plan.stages]
  figure = Figure(figsize=(9, 1.1 + 0.36 * len(names)), layout="constrained")
  axes = figure.subplots()
  axes.spines[["top", "right"]].set_visible(False)
  left = np.zeros(len(names))
  for kind, colour in zip(_KINDS, COLOURS, strict=False):
    widths = np.array([one.compute.flops[kind] for one in plan.stages])
    if widths.any():
      axes.barh(names, widths, left=left, color=colour, label=kind, height=0.6)
    left += widths
  for place, total in enumerate(left):
    axes.annotate(
      si(total),
      (total, place),
      xytext=(5, 0),
      textcoords="offset points",
      va="center",
      fontsize=9,
    )
  axes.invert_yaxis()
  axes.margins(x=0.1, y=0.3 / len(names))
  axes.xaxis.set_major_formatter(lambda value, _: si(value))
  axes.set_xlabel("FLOPs for one seed")
  figure.legend(loc="outside lower center", ncols=len(_KINDS), frameon=False)
  return figure


def si(value: float) -> str:
  """A number of FLOPs with the prefix of its size.

  Example:
    >>> si(1234.0), si(5.6e13), si(0.0)
    ('1.23 k', '56 T', '0')
  """
  if value < 1000:
    return f"{value:.3g}"
  power = min(int(np.log10(value) / 3), 7)
  return f"{value / 1000.0**power:.3g} {'kMGTPEZ'[power - 1]}"


class _Grid(NamedTuple):
  """Where curves are drawn: at `x` the value of step `step`, until the next."""

  x: np.ndarray
  step: np.ndarray


def _grid(plan: StagePlan) -> _Grid:
  """All steps, or many and those at which lessons begin and end."""
  steps = plan.course.steps
  even = np.linspace(0, steps - 1, min(steps, _POINTS)).round().astype(int)
  ends = plan.course.lessons[1:] - 1
  shown = np.unique(np.concatenate([even, plan.course.lessons, ends]))
  return _Grid(np.append(shown, steps), np.append(shown, steps - 1))


def _active(axes: Axes, plan: StagePlan, grid: _Grid) -> None:
  low = 100 * plan.course.first[grid.step] / plan.records
  high = 100 * plan.course.last[grid.step] / plan.records
  axes.fill_between(
    grid.x, low, high, step="post", color=COLOURS[0], alpha=0.35, linewidth=0
  )
  for edge in [high, low] if low.any() else [high]:
    axes.step(grid.x, edge, where="post", color=COLOURS[0], linewidth=1.4)
  _title(axes, f"active share of the order of {plan.records:,} records (%)")
  axes.set_ylim(0, 105)


def _curves(
  axes: Axes,
  title: str,
  curves: Mapping[str, np.ndarray],
  grid: _Grid,
  ranges: Mapping[str, tuple[float, float]] | None = None,
  *,
  named: bool = False,
) -> None:
  """Lines over the steps; those that are the same are one line."""
  groups: dict[bytes, list[str]] = {}
  for name, values in curves.items():
    groups.setdefault(values[grid.step].tobytes(), []).append(name)
  seen = []
  for place, names in enumerate(groups.values()):
    values = curves[names[0]][grid.step]
    seen.append(values)
    axes.step(
      grid.x,
      values,
      where="post",
      color=COLOURS[place % len(COLOURS)],
      linestyle=("-", "--", ":")[place // len(COLOURS) % 3],
      linewidth=1.5,
      label=_label(", ".join(names)),
    )
  for place, (name, ends) in enumerate((ranges or {}).items()):
    colour = COLOURS[(len(groups) + place) % len(COLOURS)]
    label = _label(f"{name} (learned)")
    axes.axhspan(*ends, color=colour, alpha=0.2, linewidth=0, label=label)
    seen.append(np.array(ends))
  _title(axes, title)
  _scale(axes, seen)
  if named:
    _legend(axes)


def _scale(axes: Axes, curves: Sequence[np.ndarray]) -> None:
  """From 0 where nothing is below; logarithmic where sizes differ much."""
  values = np.concatenate(curves)
  low, high = float(values.min()), float(values.max())
  tops = [float(curve.max()) for curve in curves]
  few = len(np.unique(values)) <= 20  # and not a curve that runs out to 0
  if low > 0 and high >= 100 * (low if few else min(tops)):
    axes.set_yscale("log")
  elif low >= 0:
    axes.set_ylim(0, 1.15 * high or 1.0)


def _teaching(axes: Axes, plan: StagePlan, grid: _Grid) -> None:
  curves = {name: 100 * v for name, v in plan.over.teaching.items()}
  asked = curves.pop("pacing")[grid.step]
  title = "share of its own training that a teacher has had (%)"
  _curves(axes, title, curves, grid)
  style = {"linestyle": "--", "color": "0.45", "zorder": 1}
  axes.step(grid.x, asked, where="post", label="asked for", **style)
  axes.set_ylim(0, 110)
  _legend(axes)


def _classes(axes: Axes, plan: StagePlan, label_names: Sequence[str]) -> None:
  count = plan.classes.shape[1]
  mesh = axes.pcolormesh(
    [*plan.moments, plan.course.steps],
    np.arange(count + 1),
    100 * plan.classes.T,
    cmap="viridis",
  )
  every = -(-count // 20)
  ticks = np.arange(0, count, every)
  axes.grid(visible=False)
  axes.set_yticks(ticks + 0.5, [str(label_names[i])[:14] for i in ticks])
  axes.tick_params(axis="y", labelsize=7, length=0)
  axes.invert_yaxis()
  _title(axes, "share of each class among the active, as lessons begin (%)")
  side = axes.inset_axes((1.02, 0.0, 0.015, 1.0))
  bar = axes.figure.colorbar(mesh, cax=side)
  bar.ax.tick_params(labelsize=8)


def _label(text: str) -> str:
  return textwrap.fill(text, _LABEL, break_long_words=False)


def _title(axes: Axes, text: str) -> None:
  axes.set_title(text, loc="left", fontsize=9)


def _legend(axes: Axes) -> None:
  axes.legend(
    loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8
  )
