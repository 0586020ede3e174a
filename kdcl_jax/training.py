"""What a training is, where it leaves its traces, and what it ends with."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from kdcl_jax import course, pipeline, step
from kdcl_jax.curriculum import Curriculum
from kdcl_jax.dataset import Split
from kdcl_jax.difficulty import Stream
from kdcl_jax.lessons import Pacing
from kdcl_jax.reranking import Reranking
from kdcl_jax.reweighting import Reweighting
from kdcl_jax.selection import Selection
from kdcl_jax.tally import Totals
from kdcl_jax.terms import Term


class Interrupted(Exception):
  """The run was asked to stop; what it had done is saved."""


@dataclasses.dataclass(frozen=True)
class Model:
  """A model to train or to learn from.

  Attributes:
    name: the stage that it belongs to.
    forward: its forward pass.
    variables: `params` and, where it has them, `batch_stats`.
    snapshots: share of its training -> the variables it had then.
  """

  name: str
  forward: step.Forward
  variables: Any
  snapshots: Mapping[float, Any] = dataclasses.field(default_factory=dict)

  def at(self, share: float) -> Any:
    """The variables of the first snapshot at or after a share of training."""
    # As near as rounding: a pacing may give 0.6000000000000001.
    least = share * (1 - 2.0**-22)
    later = [moment for moment in sorted(self.snapshots) if moment >= least]
    return self.snapshots[later[0]] if later else self.variables

  def after(self, count: int) -> Any:
    """The variables of the snapshot that so many come before."""
    shares = sorted(self.snapshots)
    if count < len(shares):
      return self.snapshots[shares[count]]
    return self.variables


@dataclasses.dataclass(frozen=True)
class Training:
  """Everything that decides the outcome of one training.

  Attributes:
    model: the model with its initial variables.
    teachers: the models that it learns from.
    terms: the objective.
    parts: the projectors' initial variables.
    optimizer, schedule: see `kdcl_jax.optimizer`.
    curriculum: order, course, seed and batch size.
    train: the split that `curriculum.order` is about.
    validation: what the course looks at; None to train without looking.
    augment: see `kdcl_jax.augment.build`; None for none.
    total_steps: length of the training.
    ema: decay of the moving average; 0 for none.
    keep: 'last' or 'best' (by validation accuracy).
    two_gradients, reweighting: see `kdcl_jax.step.train_body`.
    selection: which rows of an oversized batch are trained on; None for all.
    reranking: what ranks the records anew; None for nothing.
    streams: what the steps keep of how each record does, by name.
    teacher_pacing: progress -> share of the teachers' own training, whose
      snapshot teaches during a lesson.
    snapshots: shares of the training at which the variables are saved.
    skip_not_finite: see `kdcl_jax.step.train_body`.
  """

  model: Model
  teachers: Sequence[Model]
  terms: Sequence[Term]
  parts: Any
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  curriculum: Curriculum
  train: Split
  validation: Split | None
  augment: pipeline.Augment | None
  total_steps: int
  ema: float = 0.0
  keep: str = "last"
  two_gradients: bool = False
  reweighting: Reweighting | None = None
  selection: Selection | None = None
  reranking: Reranking | None = None
  streams: Mapping[str, Stream] = dataclasses.field(default_factory=dict)
  teacher_pacing: Pacing | None = None
  snapshots: Sequence[float] = ()
  skip_not_finite: int = 0

  def ledger(self, totals: Totals) -> dict[str, int]:
    """Examples that went through the model and its teachers in training."""
    selection = self.selection
    chosen_from = totals.rows if selection else 0
    asked = chosen_from if selection and selection.asks_teachers else 0
    return {
      "example_forwards": totals.kept + chosen_from,
      "example_backwards": totals.kept,
      "teacher_forwards": (totals.kept + asked) * len(self.teachers),
    }


@dataclasses.dataclass(frozen=True)
class Outlet:
  """Where a training leaves its traces.

  Attributes:
    directory: for metrics and checkpoints.
    log_steps: steps between log lines.
    checkpoint_steps: least number of steps between checkpoints.
    checkpoints_kept: how many of the last ones stay, besides the best.
    tensorboard: whether to write TensorBoard events.
    quiet: whether to leave the terminal alone.
    interrupted: asked after each step; True makes the training save and stop.
  """

  directory: pathlib.Path
  log_steps: int = 50
  checkpoint_steps: int = 1000
  checkpoints_kept: int = 2
  tensorboard: bool = False
  quiet: bool = False
  interrupted: Callable[[], bool] = lambda: False


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a training ends with.

  Attributes:
    variables: what was kept, on the devices.
    parts: the projectors' variables at the end.
    dynamics: what the training's streams know at the end, by name.
    course: the final state of the course.
    steps: steps done.
    totals: counts and time.
    traces: how often the step was traced in this process.
  """

  variables: Any
  parts: Any
  dynamics: Mapping[str, Any]
  course: course.CourseState
  steps: int
  totals: Totals
  traces: int
