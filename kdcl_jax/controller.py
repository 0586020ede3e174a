"""The course of a stage as a pure state machine: lessons and their outcome.

A course is cut into lessons. At the end of each the stage is evaluated on its
validation split, and `update` decides: go on, hold the fraction, freeze the
course and roll back, scale the learning rate, stop. States are immutable and
hold plain numbers, so they go into a checkpoint as JSON, and a resumed run
decides as the undisturbed one would have.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Pacing = Callable[[Any], Any]

GO_ON = "go_on"
HOLD = "hold"
FREEZE = "freeze"
ROLL_BACK = "roll_back"
REDUCE = "reduce_learning_rate"
STOP = "stop"

# What a course may do at the end of a lesson, with the values that are not
# given; every action is off unless its `on` is set.
OPTIONS: dict[str, dict[str, Any]] = {
  # Freeze the course and roll back when validation accuracy has been further
  # below the best than `tolerance` standard errors, `patience` times running.
  # 0.6 is 2 points on 200 records.
  "freeze": {"patience": 2, "tolerance": 0.6},
  # Hold the fraction while the lesson's training accuracy is below
  # `train_accuracy`, for at most `most` lessons.
  "hold": {"train_accuracy": 0.9, "most": 5},
  # Multiply the learning rate by `factor`, down to `floor` of the schedule's,
  # when validation loss has not improved for `patience` lessons.
  "reduce_learning_rate": {"factor": 0.5, "patience": 3, "floor": 0.01},
  # End the stage when validation accuracy has not improved for `patience`.
  "stop": {"patience": 5},
}


@dataclasses.dataclass(frozen=True)
class CourseState:
  """Where a course stands; every field is a plain number, text or tuple.

  Attributes:
    lesson: how many lessons are over.
    step: the step at which the present lesson began.
    lesson_end: the step at which it ends.
    fraction: share of the order that is active now (at the lesson's start, if
      the pacing goes on growing within the lesson).
    growing: whether the fraction follows the pacing within the lesson.
    delay: steps by which holding has set the pacing back.
    held: how often the present lesson has been held.
    frozen: whether the course has stopped growing for good.
    learning_rate_scale: factor on the schedule's learning rate.
    best_accuracy, best_fraction, best_step: the best validation so far.
    worse: consecutive validations beyond the tolerance below the best.
    best_loss, not_better: for `reduce_learning_rate`.
    stale: validations since the best accuracy, for `stop`.
    stopped: whether the stage ends here.
    improved: whether this validation is the best so far.
    actions, reasons: what the last update decided, and why.
  """

  lesson: int
  step: int
  lesson_end: int
  fraction: float
  growing: bool = True
  delay: int = 0
  held: int = 0
  frozen: bool = False
  learning_rate_scale: float = 1.0
  best_accuracy: float = -math.inf
  best_fraction: float = 0.0
  best_step: int = -1
  worse: int = 0
  best_loss: float = math.inf
  not_better: int = 0
  stale: int = 0
  stopped: bool = False
  improved: bool = False
  actions: tuple[str, ...] = ()
  reasons: tuple[str, ...] = ()

  def to_json(self) -> dict:
    """The state as a JSON object; infinities become None."""
    fields = dataclasses.asdict(self)
    return {
      k: None if isinstance(v, float) and not math.isfinite(v) else v
      for k, v in fields.items()
    }

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> "CourseState":
    """The state that `to_json` wrote."""
    values = {
      k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
    }
    if values["best_accuracy"] is None:
      values["best_accuracy"] = -math.inf
    if values["best_loss"] is None:
      values["best_loss"] = math.inf
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class Controller:
  """What a course does at the end of each lesson; see `build`.

  Attributes:
    pacing: fraction as a function of training progress in [0, 1].
    total_steps: the length of the stage.
    boundaries: steps at which lessons end if nothing is held, the last one
      being `total_steps`.
    validation_size: records in the validation split.
    freeze, hold, reduce_learning_rate, stop: the options of each action, with
      `on`; see `kdcl_jax.fields.CURRICULUM`.
  """

  pacing: Pacing
  total_steps: int
  boundaries: tuple[int, ...]
  validation_size: int
  freeze: Mapping[str, Any]
  hold: Mapping[str, Any]
  reduce_learning_rate: Mapping[str, Any]
  stop: Mapping[str, Any]

  def init(self) -> CourseState:
    """The state at step 0."""
    return CourseState(
      lesson=0,
      step=0,
      lesson_end=self.boundaries[0],
      fraction=self._paced(0),
    )

  def fraction(self, state: CourseState, step: int) -> float:
    """The fraction that is active at a step of the present lesson."""
    if not state.growing:
      return state.fraction
    return self._paced(step - state.delay)

  def update(
    self, state: CourseState, metric: Mapping[str, float] | float
  ) -> CourseState:
    """Ends the present lesson with what validation says of it.

    Args:
      state: the state of the lesson that ends.
      metric: validation `accuracy` in [0, 1], or a mapping with `accuracy`,
        `loss` (needed to reduce the learning rate) and `train_accuracy` (needed
        to hold).

    Returns:
      The state of the next lesson, with `actions` and `reasons`.
    """
    if not isinstance(metric, Mapping):
      metric = {"accuracy": float(metric)}
    accuracy = float(metric["accuracy"])
    end = state.lesson_end
    at_end = self.fraction(state, max(end - 1, state.step))
    improved = accuracy > state.best_accuracy
    new = dataclasses.replace(
      state,
      lesson=state.lesson + 1,
      step=end,
      improved=improved,
      stale=0 if improved else state.stale + 1,
      actions=(),
      reasons=(),
    )
    tolerance = self.tolerance
    fall = state.best_accuracy - accuracy
    worse = fall > tolerance and not state.frozen
    new = dataclasses.replace(new, worse=state.worse + 1 if worse else 0)
    if improved:
      new = dataclasses.replace(
        new, best_accuracy=accuracy, best_fraction=at_end, best_step=end
      )
    new = self._reduced(new, metric)
    if self.freeze["on"] and new.worse >= self.freeze["patience"]:
      new = dataclasses.replace(
        new,
        frozen=True,
        growing=False,
        fraction=state.best_fraction,
        worse=0,
        actions=(*new.actions, FREEZE, ROLL_BACK),
        reasons=(
          *new.reasons,
          f"validation accuracy {accuracy:.3f} is {fall:.3f} below the best,"
          f" {state.best_accuracy:.3f} at step {state.best_step}, beyond the"
          f" tolerance {tolerance:.3f} for {self.freeze['patience']} lessons:"
          f" back to the parameters and the fraction"
          f" ({state.best_fraction:.3f}) of that step, and no further growth",
        ),
      )
    elif not new.frozen:
      new = self._next_lesson(state, new, at_end, metric)
    if self.stop["on"] and new.stale >= self.stop["patience"]:
      new = dataclasses.replace(
        new,
        stopped=True,
        actions=(*new.actions, STOP),
        reasons=(
          *new.reasons,
          f"no better validation accuracy than {new.best_accuracy:.3f} for"
          f" {new.stale} lessons",
        ),
      )
    if not new.actions:
      new = dataclasses.replace(new, actions=(GO_ON,))
    return dataclasses.replace(new, lesson_end=self._lesson_end(state, new))

  @property
  def tolerance(self) -> float:
    """Fall of validation accuracy that sampling may explain.

    `freeze.tolerance * sqrt(1 / (4 n))`: the largest standard error that an
    accuracy on n records can have, times the option. Falls are measured on the
    same records, so they vary less than two samples would, and half of it is
    already unlikely to be chance for several lessons running.
    """
    return self.freeze["tolerance"] * math.sqrt(
      0.25 / max(self.validation_size, 1)
    )

  def _paced(self, step: float) -> float:
    progress = min(max(step / self.total_steps, 0.0), 1.0)
    return float(self.pacing(progress))

  def _reduced(
    self, new: CourseState, metric: Mapping[str, float]
  ) -> CourseState:
    """Scales the learning rate when validation loss has stopped improving."""
    option = self.reduce_learning_rate
    if not option["on"]:
      return new
    loss = float(metric["loss"])
    better = loss < new.best_loss
    new = dataclasses.replace(
      new,
      best_loss=min(loss, new.best_loss),
      not_better=0 if better else new.not_better + 1,
    )
    scale = max(new.learning_rate_scale * option["factor"], option["floor"])
    if new.not_better < option["patience"] or scale >= new.learning_rate_scale:
      return new
    return dataclasses.replace(
      new,
      learning_rate_scale=scale,
      not_better=0,
      actions=(*new.actions, REDUCE),
      reasons=(
        *new.reasons,
        f"validation loss {loss:.4f} has not improved on {new.best_loss:.4f}"
        f" for {option['patience']} lessons: learning rate times"
        f" {scale / new.learning_rate_scale:.3g}",
      ),
    )

  def _next_lesson(
    self,
    state: CourseState,
    new: CourseState,
    at_end: float,
    metric: Mapping[str, float],
  ) -> CourseState:
    """Grows on, or holds the fraction until the present lesson is learned."""
    option = self.hold
    if state.growing:
      delay = state.delay
    else:  # the lesson that ends was held: the pacing waited for its length
      delay = state.delay + state.lesson_end - state.step
    more_to_come = self._paced(self.total_steps - delay) > at_end
    learned = True
    if option["on"] and more_to_come:
      train_accuracy = float(metric.get("train_accuracy", 1.0))
      learned = train_accuracy >= option["train_accuracy"]
    if learned or state.held >= option["most"]:
      return dataclasses.replace(
        new,
        growing=True,
        held=0,
        delay=delay,
        fraction=self._paced(state.lesson_end - delay),
      )
    return dataclasses.replace(
      new,
      growing=False,
      held=state.held + 1,
      delay=delay,
      fraction=at_end,
      actions=(*new.actions, HOLD),
      reasons=(
        *new.reasons,
        f"training accuracy {train_accuracy:.3f} of this lesson is below"
        f" {option['train_accuracy']:.3f}: the fraction stays at {at_end:.3f}",
      ),
    )

  def _lesson_end(self, state: CourseState, new: CourseState) -> int:
    """The next boundary on the course's clock, which holding sets back."""
    if new.growing:
      clock = new.step - new.delay
      later = [b for b in self.boundaries if b > clock]
      end = later[0] + new.delay if later else self.total_steps
    else:
      end = new.step + state.lesson_end - state.step
    return min(end, self.total_steps)


def build(
  pacing: Pacing,
  *,
  total_steps: int,
  lessons: int,
  validation_size: int,
  options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Controller:
  """A controller from the options of a curriculum.

  Lessons are the moments at which the pacing grows, where it grows in at most
  `2 * lessons` steps; for smooth pacing they are `lessons` equal intervals.

  Args:
    pacing: fraction as a function of progress.
    total_steps: the length of the stage, at least 1.
    lessons: how many lessons a smooth pacing is cut into.
    validation_size: records in the validation split.
    options: the sections `freeze`, `hold`, `reduce_learning_rate` and `stop`
      (see `kdcl_jax.fields.CURRICULUM`); an action that is not named is off.

  Returns:
    A controller; `init` and `update` are pure.

  Example:
    >>> from kdcl_jax import pacing
    >>> course = build(pacing.linear(start=0.3, reach=0.5), total_steps=1000,
    ...                lessons=10, validation_size=200)
    >>> state = course.update(course.init(), 0.5)
    >>> state.lesson, state.lesson_end, round(state.fraction, 2)
    (1, 200, 0.44)
  """
  options = options or {}
  return Controller(
    pacing=pacing,
    total_steps=total_steps,
    boundaries=lesson_ends(pacing, total_steps, lessons),
    validation_size=validation_size,
    **{
      name: {"on": False} | values | dict(options.get(name, {}))
      for name, values in OPTIONS.items()
    },
  )


def lesson_ends(
  pacing: Pacing, total_steps: int, lessons: int
) -> tuple[int, ...]:
  """The steps at which the lessons of a course end, the last being its end."""
  grid = np.unique(np.linspace(0, total_steps, 4097).astype(int))[:-1]
  fractions = np.asarray(pacing(grid / total_steps), float)
  fractions = np.broadcast_to(fractions, grid.shape)
  jumps: Sequence[int] = np.flatnonzero(np.diff(fractions))
  if 0 < len(jumps) <= min(2 * lessons, len(grid) // 8):
    ends = [
      _first_step(pacing, total_steps, grid[i], grid[i + 1]) for i in jumps
    ]
    return tuple(ends) + (total_steps,)
  ends = np.linspace(0, total_steps, lessons + 1).round().astype(int)[1:]
  return tuple(int(e) for e in np.unique(ends[ends > 0]))


def _first_step(pacing: Pacing, total_steps: int, low: int, high: int) -> int:
  """The first step in (low, high] at which the pacing has left its value."""
  before = float(pacing(low / total_steps))
  while high - low > 1:
    middle = (low + high) // 2
    if float(pacing(middle / total_steps)) == before:
      low = middle
    else:
      high = middle
  return int(high)
