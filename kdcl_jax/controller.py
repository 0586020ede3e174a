"""The course of a stage as a pure state machine: lessons and their outcome.

A course is cut into lessons. At the end of each the stage is evaluated on its
validation split, and `update` decides: go on, hold the fraction, freeze the
course and roll back, scale the learning rate, change the teacher, stop. States
are immutable and hold plain numbers, so they go into a checkpoint as JSON, and
a resumed run decides as the undisturbed one would have.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from kdcl_jax import rates
from kdcl_jax.bandit import Bandit, reward_of
from kdcl_jax.course import (
  ADVANCE,
  CHOOSE,
  FREEZE,
  GO_ON,
  HOLD,
  ROLL_BACK,
  STOP,
  CourseState,
)
from kdcl_jax.lessons import Pacing, lesson_ends

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
  # Start the learning rate's schedule, which then spans one lesson, again at
  # the end of each, its rates times `factor` each time, down to `floor`.
  "restart_learning_rate": {"factor": 1.0, "floor": 0.01},
  # End the stage when validation accuracy has not improved for `patience`.
  "stop": {"patience": 5},
  # Go on to the next snapshot of the teachers, and in the end to the teachers
  # as they ended, when validation accuracy has not improved for `patience`.
  "advance_teacher": {"patience": 2},
  # Train each lesson on one bucket of the order, chosen by what earlier lessons
  # brought; see `kdcl_jax.bandit`. Takes the place of the pacing.
  "bandit": {
    "buckets": 5,
    "policy": "online",
    "reward": "gain",
    "rate": 0.1,
    "window": 10,
    "epsilon": 0.1,
    "temperature": 0.0,
  },
}


_OUTSIDE = (
  "on",
  "reward",
)  # fields of the bandit's section that it is not told


@dataclasses.dataclass(frozen=True)
class Controller:
  """What a course does at the end of each lesson; see `build`.

  Attributes:
    pacing: fraction as a function of training progress in [0, 1].
    total_steps: the length of the stage.
    boundaries: steps at which lessons end if nothing is held, the last one
      being `total_steps`.
    validation_size: records in the validation split.
    freeze, hold, reduce_learning_rate, restart_learning_rate, stop,
      advance_teacher, bandit: the options of each action, with `on`; see
      `kdcl_jax.fields.CURRICULUM`.
    low: lower end of the active window as a function of progress; None for 0.
    seed: keys the bandit's draws.
    snapshots: of the teacher that has most of them.
  """

  pacing: Pacing
  total_steps: int
  boundaries: tuple[int, ...]
  validation_size: int
  freeze: Mapping[str, Any]
  hold: Mapping[str, Any]
  reduce_learning_rate: Mapping[str, Any]
  restart_learning_rate: Mapping[str, Any]
  stop: Mapping[str, Any]
  advance_teacher: Mapping[str, Any]
  bandit: Mapping[str, Any]
  low: Pacing | None = None
  seed: int = 0
  snapshots: int = 0

  def init(self) -> CourseState:
    """The state at step 0."""
    state = CourseState(
      lesson=0,
      step=0,
      lesson_end=self.boundaries[0],
      fraction=self._paced(0),
      low=self._paced_low(0),
    )
    if not self.bandit["on"]:
      return state
    bandit = self._bandit().init()
    return dataclasses.replace(
      state, growing=False, bandit=bandit, **self._bucket(bandit.choice)
    )

  def fraction(self, state: CourseState, step: int) -> float:
    """The fraction that is active at a step of the present lesson."""
    if not state.growing:
      return state.fraction
    return self._paced(step - state.delay)

  def window(self, state: CourseState, step: int) -> tuple[float, float]:
    """The lower and upper end of the active share of the order at a step."""
    low = self._paced_low(step - state.delay) if state.growing else state.low
    return low, self.fraction(state, step)

  def update(
    self, state: CourseState, metric: Mapping[str, float] | float
  ) -> CourseState:
    """Ends the present lesson with what validation says of it.

    Args:
      state: the state of the lesson that ends.
      metric: validation `accuracy` in [0, 1], or a mapping with `accuracy`,
        `loss` (needed to reduce the learning rate), `train_accuracy` (needed
        to hold) and `train_loss` (needed by a bandit rewarded for hardness).

    Returns:
      The state of the next lesson, with `actions` and `reasons`.
    """
    if not isinstance(metric, Mapping):
      metric = {"accuracy": float(metric)}
    accuracy = float(metric["accuracy"])
    end = state.lesson_end
    low, at_end = self.window(state, max(end - 1, state.step))
    improved = accuracy > state.best_accuracy
    new = dataclasses.replace(
      state,
      lesson=state.lesson + 1,
      step=end,
      improved=improved,
      accuracy=accuracy,
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
        new,
        best_accuracy=accuracy,
        best_fraction=at_end,
        best_low=low,
        best_step=end,
      )
    new = rates.reduced(new, self.reduce_learning_rate, metric)
    new = rates.restarted(new, self.restart_learning_rate)
    new = self._advanced(new)
    if self.freeze["on"] and new.worse >= self.freeze["patience"]:
      new = dataclasses.replace(
        new,
        frozen=True,
        growing=False,
        fraction=state.best_fraction,
        low=state.best_low,
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
    elif not new.frozen and self.bandit["on"]:
      new = self._chosen(state, new, metric)
    elif not new.frozen:
      new = self._next_lesson(state, new, (low, at_end), metric)
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

  def _paced_low(self, step: float) -> float:
    if self.low is None:
      return 0.0
    progress = min(max(step / self.total_steps, 0.0), 1.0)
    return float(self.low(progress))

  def _bandit(self) -> Bandit:
    options = {k: v for k, v in self.bandit.items() if k not in _OUTSIDE}
    return Bandit(seed=self.seed, **options)

  def _bucket(self, choice: int) -> dict[str, float]:
    """The window of a bucket."""
    buckets = self.bandit["buckets"]
    return {"low": choice / buckets, "fraction": (choice + 1) / buckets}

  def _chosen(
    self, state: CourseState, new: CourseState, metric: Mapping[str, float]
  ) -> CourseState:
    """Rewards the bucket of this lesson and chooses that of the next."""
    before = state.accuracy if state.lesson else None
    reward = reward_of(self.bandit["reward"], metric, before)
    bandit = self._bandit().update(state.bandit, reward)
    return dataclasses.replace(
      new,
      bandit=bandit,
      **self._bucket(bandit.choice),
      actions=(*new.actions, CHOOSE),
      reasons=(
        *new.reasons,
        f"bucket {state.bandit.choice + 1} of {self.bandit['buckets']} brought"
        f" {reward:+.4f}: next is bucket {bandit.choice + 1}",
      ),
    )

  def _advanced(self, new: CourseState) -> CourseState:
    """Hands the stage on to its teachers' next snapshots."""
    option = self.advance_teacher
    if (
      not option["on"]
      or new.stale < option["patience"]
      or new.teacher >= self.snapshots
      or new.step >= self.total_steps
    ):
      return new
    place = new.teacher + 1
    to = "the teacher as it ended"
    if place < self.snapshots:
      to = f"snapshot {place + 1} of {self.snapshots} of the teacher"
    return dataclasses.replace(
      new,
      teacher=place,
      stale=0,
      actions=(*new.actions, ADVANCE),
      reasons=(
        *new.reasons,
        f"no better validation accuracy than {new.best_accuracy:.3f} for"
        f" {new.stale} lessons: on to {to}",
      ),
    )

  def _next_lesson(
    self,
    state: CourseState,
    new: CourseState,
    window: tuple[float, float],
    metric: Mapping[str, float],
  ) -> CourseState:
    """Grows on, or holds the fraction until the present lesson is learned."""
    option = self.hold
    low, at_end = window
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
        low=self._paced_low(state.lesson_end - delay),
      )
    return dataclasses.replace(
      new,
      growing=False,
      held=state.held + 1,
      delay=delay,
      fraction=at_end,
      low=low,
      actions=(*new.actions, HOLD),
      reasons=(
        *new.reasons,
        f"training accuracy {train_accuracy:.3f} of this lesson is below"
        f" {option['train_accuracy']:.3f}: the fraction stays at {at_end:.3f}",
      ),
    )

  def _lesson_end(self, state: CourseState, new: CourseState) -> int:
    """The next boundary on the course's clock, which holding sets back."""
    if new.growing or (self.bandit["on"] and not new.frozen):
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
  low: Pacing | None = None,
  seed: int = 0,
  snapshots: int = 0,
) -> Controller:
  """A controller from the options of a curriculum.

  Lessons are the moments at which the pacing grows, where it grows in at most
  `2 * lessons` steps; for smooth pacing they are `lessons` equal intervals.

  Args:
    pacing: fraction as a function of progress.
    total_steps: the length of the stage, at least 1.
    lessons: how many lessons a smooth pacing is cut into.
    validation_size: records in the validation split.
    options: the sections of `OPTIONS` (see `kdcl_jax.fields.CURRICULUM`); an
      action that is not named is off.
    low: lower end of the active window as a function of progress; None for 0.
    seed: keys the bandit's draws.
    snapshots: of the teacher that has most of them, for `advance_teacher`.

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
    low=low,
    seed=seed,
    snapshots=snapshots,
    **{
      name: {"on": False} | values | dict(options.get(name, {}))
      for name, values in OPTIONS.items()
    },
  )
