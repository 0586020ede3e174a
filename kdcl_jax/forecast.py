"""The course of a training as it goes where validation leads to nothing."""

import dataclasses

import numpy as np

from kdcl_jax.course import CourseState
from kdcl_jax.curriculum import present_rows
from kdcl_jax.tally import Totals
from kdcl_jax.training import Training


@dataclasses.dataclass(frozen=True)
class Forecast:
  """What a training will do, step by step.

  Attributes:
    first, last: [S] int64; active at a step are the ranks from the first to
      below the last.
    learning_rate: [S] float64.
    lessons: [L] int64, the steps at which the lessons begin.
    totals: what will be counted, if every record can be read.
  """

  first: np.ndarray
  last: np.ndarray
  learning_rate: np.ndarray
  lessons: np.ndarray
  totals: Totals

  @property
  def steps(self) -> int:
    """How many steps there are."""
    return len(self.last)


def of(training: Training) -> Forecast:
  """Goes through a training's course without training.

  Validation is taken to be better after every lesson, and every lesson to be
  learned, so that nothing is frozen, held, reduced or stopped. The choices of
  a bandit are those after such rewards: one course of many.

  Args:
    training: from `kdcl_jax.stages.training_of`; shapes will do.

  Returns:
    The forecast.
  """
  curriculum, total = training.curriculum, training.total_steps
  controller, looks = curriculum.controller, training.validation is not None
  totals = Totals()
  windows, lessons, starts, scales = [], [], [], []
  state = controller.init() if total else None
  while state is not None and state.step < total and not state.stopped:
    lessons.append(state.step)
    steps = range(state.step, state.lesson_end)
    windows += [curriculum.window(state, step) for step in steps]
    # The loop does not touch the schedule where it does not look.
    starts += [state.schedule_start if looks else 0] * len(steps)
    scales += [state.learning_rate_scale if looks else 1.0] * len(steps)
    if looks:
      totals.validated += len(training.validation.ids)
      state = controller.update(state, _better(state.lesson))
      totals.rescored += _rescored(training, state)
    else:
      state = controller.update(state, 0.0)
  first, last = np.array(windows, np.int64).reshape(-1, 2).T
  steps = np.arange(len(last))
  rows = present_rows(steps, last - first, curriculum.batch_size)
  selection = training.selection
  keep = selection.keep if selection else curriculum.batch_size
  totals.rows = int(rows.sum())
  totals.kept = int(np.minimum(rows, keep).sum())
  rate = np.asarray(training.schedule(steps - np.array(starts, np.int64)))
  return Forecast(
    first=first,
    last=last,
    learning_rate=rate.astype(np.float64) * np.array(scales, np.float64),
    lessons=np.array(lessons, np.int64),
    totals=totals,
  )


def _better(lesson: int) -> dict[str, float]:
  """What validation and training say of a lesson that went well."""
  return {
    "accuracy": 1 - 1 / (lesson + 2),
    "loss": -float(lesson),
    "train_accuracy": 1.0,
    "train_loss": 0.0,
  }


def _rescored(training: Training, state: CourseState) -> int:
  """How many records the loop evaluates to rank them anew at a lesson's end."""
  reranking, total = training.reranking, training.total_steps
  if reranking is None or reranking.stream is not None:
    return 0
  size = len(training.curriculum.order)
  _, active = training.curriculum.window(state, state.step)
  due = state.step < total and reranking.due(state.lesson)
  return size if due and (active < size or reranking.everything) else 0
