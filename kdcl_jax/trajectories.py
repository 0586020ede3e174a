"""What changes over the steps of a training, as arrays over its steps."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kdcl_jax import augment, projectors
from kdcl_jax.forecast import Forecast
from kdcl_jax.projectors.temperatures import Ctkd
from kdcl_jax.terms import Term
from kdcl_jax.training import Training

Curves = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trajectories:
  """What changes over the S steps of a training.

  Attributes:
    coefficients: term -> [S].
    temperatures: TERM.KEYWORD -> [S], constant ones too; two of what goes by
      the rank of each example, `(easy)` and `(hard)`.
    ranges: TERM.KEYWORD -> (least, most) of a temperature that is learned.
    numbers: what else has a schedule (options of terms, the weighting,
      augmentations) -> [S].
    teaching: 'pacing' and each teacher -> [S], the share of the teacher's
      training that is asked for and that of the snapshot which teaches; {}
      where the teachers as they ended teach throughout, or validation
      decides.
    notes: what no array says, a sentence each.
  """

  coefficients: Curves
  temperatures: Curves
  ranges: dict[str, tuple[float, float]]
  numbers: Curves
  teaching: Curves
  notes: tuple[str, ...]


def of(
  training: Training,
  course: Forecast,
  augmentations: Sequence[Mapping[str, Any]] = (),
) -> Trajectories:
  """The trajectories of a training.

  Args:
    training: from `kdcl_jax.stages.training_of`; shapes will do.
    course: its forecast.
    augmentations: `config.data.augment`.

  Returns:
    The trajectories.
  """
  progress = np.arange(course.steps) / max(training.total_steps, 1)
  over = lambda value: np.broadcast_to(
    np.asarray(value(progress), np.float64), progress.shape
  )
  coefficients, temperatures, numbers = {}, {}, {}
  ranges, notes = {}, []
  for term in training.terms:
    coefficients[term.name] = over(term.coefficient)
    for key, value in _options(term).items():
      found = value(progress)
      if "temperature" in key and _is_number(found):
        temperatures[f"{term.name}.{key}"] = over(value)
      elif isinstance(found, np.ndarray):
        numbers[f"{term.name}.{key}"] = over(value)
    for key in _learned(term):
      note, ends = _learning(term)
      notes.append(f"{term.name}.{key} {note}")
      if ends:
        ranges[f"{term.name}.{key}"] = ends
  weighting = training.reweighting
  if weighting is not None:
    options = dict(weighting.options)
    if weighting.quantile is not None:
      options["quantile"] = weighting.quantile
    for key, value in options.items():
      if _is_number(value(0.0)):
        numbers[f"weighting.{key}"] = over(value)
  for place, section in enumerate(augmentations):
    field = f"config.data.augment[{place}]"
    for key, value in augment.paced(section, field).items():
      values = [value(float(share)) for share in progress]
      numbers[f"{section['name']}.{key}"] = np.array(values, np.float64)
  return Trajectories(
    coefficients=coefficients,
    temperatures=temperatures,
    ranges=ranges,
    numbers=numbers,
    teaching=_teaching(training, course),
    notes=tuple(notes),
  )


def _options(term: Term) -> dict[str, Callable[[Any], Any]]:
  """The options of a term, and the loss's own temperature where none is."""
  made = projectors.makes(term.projector) if term.projector else ()
  defaults = {
    name: (lambda progress, value=p.default: value)
    for name, p in inspect.signature(term.loss).parameters.items()
    if p.kind is p.KEYWORD_ONLY
    and "temperature" in name
    and name not in made
    and _is_number(p.default)
  }
  ends = {
    f"{name} ({end})": getattr(slope, end)
    for name, slope in term.slopes.items()
    for end in ("easy", "hard")
  }
  kept = {k: v for k, v in defaults.items() if k not in term.slopes}
  return kept | dict(term.options) | ends


def _is_number(value: Any) -> bool:
  if isinstance(value, np.ndarray | jax.Array):
    return True
  return isinstance(value, int | float) and not isinstance(value, bool)


def _learned(term: Term) -> list[str]:
  """The temperatures of a term that its projector makes."""
  made = projectors.makes(term.projector) if term.projector else ()
  return [name for name in made if "temperature" in name]


def _learning(term: Term) -> tuple[str, tuple[float, float] | None]:
  """What is known of a temperature that a projector makes."""
  made = term.projector
  if not isinstance(made, Ctkd):
    name = type(made).__name__.lower()
    return f"follows from the logits of each example ({name}).", None
  ends = (float(made.start), float(made.start + made.end))
  first = made.start + made.end / (1 + np.exp(-made.theta))
  return (
    f"is learned within {ends[0]:g} to {ends[1]:g}, from {first:.3g}, against"
    f" the student; in full from {100 * made.reach:.3g} % of the stage on"
    " (ctkd).",
    ends,
  )


def _teaching(training: Training, course: Forecast) -> Curves:
  """The share that is asked for, and of each teacher's snapshot, [S]."""
  pacing, total = training.teacher_pacing, training.total_steps
  if pacing is None or not course.steps:
    return {}
  asked = [float(pacing(int(step) / total)) for step in course.lessons]
  lengths = np.diff([*course.lessons, course.steps])
  found = {"pacing": np.repeat(asked, lengths)}
  for teacher in training.teachers:
    used = [_snapshot(teacher.snapshots, share) for share in asked]
    found[teacher.name] = np.repeat(used, lengths)
  return found


def _snapshot(moments: Mapping[float, Any], share: float) -> float:
  """As `kdcl_jax.training.Model.at`; 1 for the teacher as it ended."""
  return min((m for m in moments if m >= share), default=1.0)


def classes(
  course: Forecast, order: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """The share of each class among the active records.

  Args:
    course: the forecast.
    order: [N] record ids, easiest first.
    labels: the observed label of each record id.
    count: number of classes.

  Returns:
    [M] the steps at which they are counted: where lessons begin, and the last
    one; and [M, count] the shares.
  """
  if not course.steps:
    return np.zeros(0, np.int64), np.zeros((0, count))
  moments = np.unique([*course.lessons, course.steps - 1])
  ranked = labels[order]
  shares = [
    np.bincount(ranked[course.first[t] : course.last[t]], minlength=count)
    / (course.last[t] - course.first[t])
    for t in moments
  ]
  return moments, np.array(shares)
