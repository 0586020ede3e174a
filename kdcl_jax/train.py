"""The training loop; every stage and every scoring model goes through it.

The order of operations, which resuming relies on: a lesson's batches are
streamed; after a step come the log, then the checkpoint; at the end of a lesson
come evaluation, the course's decision, its actions, the log, the checkpoint.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdcl_jax import controller as course
from kdcl_jax import evaluate, pipeline, state, step
from kdcl_jax.checkpoint import Checkpoints
from kdcl_jax.curriculum import Curriculum, active_count, local_rows
from kdcl_jax.dataset import Split
from kdcl_jax.parallel import Parallel
from kdcl_jax.tally import Tally, Totals
from kdcl_jax.terms import Term
from kdcl_jax.writers import MetricsWriter


class Interrupted(Exception):
  """The run was asked to stop; what it had done is saved."""


@dataclasses.dataclass(frozen=True)
class Model:
  """A model to train or to learn from.

  Attributes:
    name: the stage that it belongs to.
    forward: its forward pass.
    variables: `params` and, where it has them, `batch_stats`.
  """

  name: str
  forward: step.Forward
  variables: Any


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
    two_gradients: see `kdcl_jax.step.train_body`.
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


@dataclasses.dataclass(frozen=True)
class Outlet:
  """Where a training leaves its traces.

  Attributes:
    directory: for metrics and checkpoints.
    log_steps: steps between log lines.
    checkpoint_steps: least number of steps between checkpoints.
    tensorboard: whether to write TensorBoard events.
    quiet: whether to leave the terminal alone.
    interrupted: asked after each step; True makes the training save and stop.
  """

  directory: pathlib.Path
  log_steps: int = 50
  checkpoint_steps: int = 1000
  tensorboard: bool = False
  quiet: bool = False
  interrupted: Callable[[], bool] = lambda: False


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a training ends with.

  Attributes:
    variables: what was kept, on the devices.
    parts: the projectors' variables at the end.
    course: the final state of the course.
    steps: steps done.
    totals: counts and time.
    traces: how often the step was traced in this process.
  """

  variables: Any
  parts: Any
  course: course.CourseState
  steps: int
  totals: Totals
  traces: int


@jax.jit
def _copied(tree: Any) -> Any:
  return jax.tree.map(jnp.copy, tree)


def _nothing(line: dict) -> None:
  """A training without an outlet has no log lines."""


def _weights(train_state: state.TrainState) -> dict[str, Any]:
  """What rolling back restores: not the optimizer's moments."""
  return {
    "params": train_state.params,
    "parts": train_state.parts,
    "batch_stats": train_state.batch_stats,
    "ema": train_state.ema,
  }


def fit(
  training: Training, parallel: Parallel, outlet: Outlet | None = None
) -> Outcome:
  """Trains a model, or goes on with a training that was interrupted.

  Args:
    training: what to do.
    parallel: on which devices.
    outlet: where to log and save; None trains in silence, without resuming.

  Returns:
    The outcome.

  Raises:
    Interrupted: after saving, where the outlet was asked to stop.
    UserError: where the loss is not finite.
  """
  loop = _Loop(training, parallel, outlet)
  try:
    return loop.run()
  finally:
    loop.close()


class _Loop:
  """The loop of `fit`, with what it holds open."""

  def __init__(
    self, training: Training, parallel: Parallel, outlet: Outlet | None
  ):
    self.training = training
    self.parallel = parallel
    self.outlet = outlet
    self.curriculum = training.curriculum
    self.traces = 0
    self.rows = local_rows(
      self.curriculum.batch_size, jax.process_index(), jax.process_count()
    )
    controller = self.curriculum.controller
    self.remembers = training.validation is not None and (
      training.keep == "best" or controller.freeze["on"]
    )
    names = step.metric_names(training.terms)
    self.state = parallel.put(
      state.create(
        training.model.variables,
        training.optimizer,
        names,
        seed=self.curriculum.seed,
        ema=training.ema > 0,
        parts=parallel.put(training.parts),
      )
    )
    self.best = _copied(_weights(self.state)) if self.remembers else {}
    self.course = controller.init()
    self.step = 0
    self.teachers = tuple(t.variables for t in training.teachers)
    self.train_step = parallel.partition(
      step.train_body(
        training.model.forward,
        training.terms,
        training.optimizer,
        training.schedule,
        teachers=[t.forward for t in training.teachers],
        two_gradients=training.two_gradients,
        total_steps=training.total_steps,
        ema=training.ema,
        axis_name=parallel.axis_name,
        traced=self._count_trace,
      ),
      constants=2,
      donate=True,
    )
    if training.validation is not None:
      self.evaluator = evaluate.Evaluator(
        training.model.forward,
        parallel,
        batch_size=min(512, len(training.validation.ids)),
      )
    self.checkpoints = None
    self.writer = None
    totals = Totals()
    if outlet:
      self.checkpoints = Checkpoints(outlet.directory / "checkpoints")
      totals = self._restored() or totals
      self.writer = MetricsWriter(
        outlet.directory,
        title=training.model.name,
        total_steps=training.total_steps,
        start=self.step,
        tensorboard=outlet.tensorboard,
        quiet=outlet.quiet,
      )
      if self.step:
        self.writer.say(f"resumed at step {self.step}")
    self.saved = self.step
    self.tally = Tally(
      totals, training.model.name, self.writer.write if outlet else _nothing
    )

  def _count_trace(self) -> None:
    self.traces += 1

  def run(self) -> Outcome:
    total = self.training.total_steps
    while self.step < total and not self.course.stopped:
      self._lesson()
      if self.training.validation is not None:
        self._look()
      else:
        self.course = self.curriculum.controller.update(self.course, 0.0)
      self._save(self.step - self.saved >= self._checkpoint_steps())
    self.state = self.tally.take(self.state)
    self.tally.drain()
    self.tally.facts()
    variables = self.state.variables()
    if self.training.keep == "best" and self.remembers:
      weights = self.best
      variables = weights["ema"] or {
        k: weights[k] for k in ("params", "batch_stats")
      }
    return Outcome(
      variables,
      self.state.parts,
      self.course,
      self.step,
      self.tally.totals,
      self.traces,
    )

  def _lesson(self) -> None:
    """The steps that are left of the present lesson."""
    at = self.course
    plan = lambda t: self.curriculum.batch(at, t, self.rows)
    batches = pipeline.stream(
      self.training.train,
      plan,
      self.step,
      at.lesson_end,
      augment=self.training.augment,
      seed=self.curriculum.seed,
    )
    for batch in batches:
      self.tally.totals.count(batch)
      arrays = self.parallel.put_batch(step.device_batch(batch))
      self.state, _ = self.train_step(self.state, self.teachers, arrays)
      self.step += 1
      if self.outlet is None:
        continue
      self.writer.advance(self.step)
      if self.step % self.outlet.log_steps == 0:
        self._log()
      stop = self.outlet.interrupted()
      if self.step < at.lesson_end:
        self._save(self.step % self.outlet.checkpoint_steps == 0 or stop)
        if stop:
          raise Interrupted

  def _look(self) -> None:
    """Evaluates, lets the course decide, and does what it says."""
    self.state = self.tally.take(self.state)
    self.tally.drain()
    validation = self.training.validation
    records = self.evaluator.records(self.state.variables(), validation)
    self.tally.totals.validated += len(validation.ids)
    measured = evaluate.measure(records)
    controller = self.curriculum.controller
    before = self.course
    fraction = controller.fraction(before, self.step - 1)
    self.course = controller.update(
      before, measured | {"train_accuracy": self.tally.lesson_accuracy()}
    )
    if self.course.improved and self.remembers:
      self.best = _copied(_weights(self.state))
    if course.ROLL_BACK in self.course.actions:
      self.state = self.state.replace(**_copied(self.best))
    scale = self.course.learning_rate_scale
    if scale != before.learning_rate_scale:
      self.state = self.state.replace(
        learning_rate_scale=self.parallel.put(np.float32(scale))
      )
    if self.writer:
      self.writer.write(
        {
          "kind": "lesson",
          "step": self.step,
          "lesson": before.lesson,
          "fraction": fraction,
          "active": active_count(fraction, len(self.curriculum.order)),
          "validation": measured,
          "actions": [a for a in self.course.actions if a != course.GO_ON],
          "reasons": list(self.course.reasons),
          "learning_rate_scale": scale,
        }
      )
      if self.outlet.interrupted():
        self._save(True)
        raise Interrupted

  def _log(self) -> None:
    """Ends an interval; its line is written when the next one ends."""
    fraction = self.curriculum.controller.fraction(self.course, self.step - 1)
    self.state = self.tally.take(
      self.state,
      {
        "step": self.step,
        "fraction": fraction,
        "active": active_count(fraction, len(self.curriculum.order)),
      },
    )

  def _checkpoint_steps(self) -> int:
    return self.outlet.checkpoint_steps if self.outlet else 0

  def _save(self, due: bool) -> None:
    if not due or self.checkpoints is None:
      return
    self.state = self.tally.take(self.state)
    self.tally.drain()  # a state that is not finite is never saved
    self.checkpoints.save(
      self.step,
      {"state": self.state, "best": self.best},
      {
        "step": self.step,
        "course": self.course.to_json(),
        "totals": self.tally.facts(),
      },
    )
    self.saved = self.step

  def _restored(self) -> Totals | None:
    found = self.checkpoints.restore({"state": self.state, "best": self.best})
    if found is None:
      return None
    arrays, facts = found
    self.state, self.best = arrays["state"], arrays["best"]
    self.course = course.CourseState.from_json(facts["course"])
    self.step = facts["step"]
    return Totals(**facts["totals"])

  def close(self) -> None:
    if self.checkpoints:
      self.checkpoints.close()
    if self.writer:
      self.writer.close()
