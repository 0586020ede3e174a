"""Where a course stands: lessons, fractions, and what validation led to."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from kdcl_jax.bandit import BanditState

GO_ON = "go_on"
HOLD = "hold"
FREEZE = "freeze"
ROLL_BACK = "roll_back"
REDUCE = "reduce_learning_rate"
STOP = "stop"
CHOOSE = "choose_bucket"
ADVANCE = "advance_teacher"


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
    low: share of the order below the active window, 0 but for a pacing or a
      bandit that leaves the easiest out.
    delay: steps by which holding has set the pacing back.
    held: how often the present lesson has been held.
    frozen: whether the course has stopped growing for good.
    learning_rate_scale: factor on the schedule's learning rate.
    schedule_start: the step at which that schedule was last started.
    best_accuracy, best_fraction, best_low, best_step: the best validation so
      far.
    worse: consecutive validations beyond the tolerance below the best.
    best_loss, not_better: for `reduce_learning_rate`.
    stale: validations since the best accuracy, or since the teachers' next
      snapshots have taken over, for `stop` and `advance_teacher`.
    teacher: how many snapshots of its teachers the stage has been through.
    stopped: whether the stage ends here.
    improved: whether this validation is the best so far.
    accuracy: the latest validation accuracy; -inf before the first.
    bandit: what chooses the buckets knows; None where there is none.
    actions, reasons: what the last update decided, and why.
  """

  lesson: int
  step: int
  lesson_end: int
  fraction: float
  low: float = 0.0
  growing: bool = True
  delay: int = 0
  held: int = 0
  frozen: bool = False
  learning_rate_scale: float = 1.0
  schedule_start: int = 0
  best_accuracy: float = -math.inf
  best_fraction: float = 0.0
  best_low: float = 0.0
  best_step: int = -1
  worse: int = 0
  best_loss: float = math.inf
  not_better: int = 0
  stale: int = 0
  teacher: int = 0
  stopped: bool = False
  improved: bool = False
  accuracy: float = -math.inf
  bandit: BanditState | None = None
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
    for name in ("accuracy", "best_accuracy"):
      if values[name] is None:
        values[name] = -math.inf
    if values["best_loss"] is None:
      values["best_loss"] = math.inf
    if values["bandit"] is not None:
      values["bandit"] = BanditState.from_json(values["bandit"])
    return cls(**values)
