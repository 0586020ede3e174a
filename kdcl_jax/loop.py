"""The training loop; every stage and every scoring model goes through it.

The order of operations, which resuming relies on: a lesson's batches are
streamed; after a step come the log, then the checkpoint; at the end of a lesson
come evaluation, the course's decision, its actions, the log, the checkpoint.
"""

import dataclasses
import sys
from collections.abc import Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax import (
  course,
  evaluate,
  hosts,
  optimizer,
  pipeline,
  state,
  step,
  weights,
)
from kdcl_jax.checkpoint import Checkpoints
from kdcl_jax.curriculum import present_rows
from kdcl_jax.errors import UserError
from kdcl_jax.lanes import Lanes, Wish, streams_of
from kdcl_jax.parallel import Parallel
from kdcl_jax.state import TrainState
from kdcl_jax.tally import Tally, Totals
from kdcl_jax.training import Interrupted, Outcome, Outlet, Training
from kdcl_jax.writers import MetricsWriter


@jax.jit
def _copied(tree: Any) -> Any:
  return jax.tree.map(jnp.copy, tree)


def _nothing(line: dict) -> None:
  """A training without an outlet has no log lines."""


def _weights(train_state: TrainState) -> dict[str, Any]:
  """What rolling back restores: not the optimizer's moments."""
  return {
    "params": train_state.params,
    "parts": train_state.parts,
    "batch_stats": train_state.batch_stats,
    "ema": train_state.ema,
  }


class Loop:
  """The loop of one training, with what it holds open."""

  def __init__(
    self,
    training: Training,
    parallel: Parallel,
    outlet: Outlet | None,
    lanes: Lanes,
    lane: int,
  ):
    """Starts a training, or goes on with what its outlet's directory holds.

    Args:
      training: what to do.
      parallel: on which devices.
      outlet: where to log and save; None trains in silence, without resuming.
      lanes: what takes the steps.
      lane: the place of this training among them.
    """
    self.training = training
    self.parallel = parallel
    self.outlet = outlet
    self.lanes, self.lane = lanes, lane
    self.curriculum = training.curriculum
    self.rows = parallel.local_rows(self.curriculum.batch_size)
    controller = self.curriculum.controller
    self.remembers = training.validation is not None and (
      training.keep == "best" or controller.freeze["on"]
    )
    names = step.metric_names(training.terms, training.reweighting)
    self.state = parallel.put(
      state.create(
        training.model.variables,
        training.optimizer,
        names,
        seed=self.curriculum.seed,
        ema=training.ema > 0,
        parts=parallel.put(training.parts),
        dynamics=self._dynamics(),
      )
    )
    self.best = _copied(_weights(self.state)) if self.remembers else {}
    self.course = controller.init()
    self.step = 0
    evaluator = lambda split, scores=None: evaluate.Evaluator(
      training.model.forward,
      parallel,
      batch_size=min(512, len(split.ids)),
      scores=scores,
    )
    if training.validation is not None:
      self.evaluator = evaluator(training.validation)
    self.rescorer = None
    if training.reranking is not None and training.reranking.stream is None:
      scores = {"rerank": training.reranking.score}
      self.rescorer = evaluator(training.train, scores)
    self.snapshots = {
      round(share * training.total_steps): share for share in training.snapshots
    }
    self.checkpoints = None
    self.writer = None
    totals, interval = Totals(), {}
    if outlet:
      self.checkpoints = Checkpoints(
        outlet.directory / "checkpoints", keep=outlet.checkpoints_kept
      )
      totals, interval = self._restored() or (totals, interval)
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
      totals,
      training.model.name,
      self.writer.write if outlet else _nothing,
      interval,
    )

  @property
  def state(self) -> TrainState:
    """The state of this training, which lies in its lane."""
    return self.lanes.read(self.lane)

  @state.setter
  def state(self, new: TrainState) -> None:
    self.lanes.write(self.lane, new)

  def _dynamics(self) -> dict[str, Any]:
    size = len(self.training.train.labels)
    streams = streams_of(self.training)
    return {name: s.init(size) for name, s in streams.items()}

  def _teachers(self) -> tuple[Any, ...]:
    """The teachers' variables of the present lesson."""
    teachers, pacing = self.training.teachers, self.training.teacher_pacing
    if self.curriculum.controller.advance_teacher["on"]:
      return tuple(t.after(self.course.teacher) for t in teachers)
    if pacing is None:
      return tuple(t.variables for t in teachers)
    share = float(pacing(self.course.step / self.training.total_steps))
    return tuple(t.at(share) for t in teachers)

  def run(self) -> Generator[Wish, None, Outcome]:
    """Yields for each step, which is taken when the generator goes on."""
    total = self.training.total_steps
    while self.step < total and not self.course.stopped:
      yield from self._lesson()
      accuracy = None
      if self.training.validation is not None:
        accuracy = self._look()
      else:
        self.course = self.curriculum.controller.update(self.course, 0.0)
      self._save(self.step - self.saved >= self._checkpoint_steps(), accuracy)
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
      self.state.dynamics,
      self.course,
      self.step,
      self.tally.totals,
      self.lanes.traces,
    )

  def _lesson(self) -> Generator[Wish, None, None]:
    """The steps that are left of the present lesson."""
    at = self.course
    teachers = self._teachers()
    selection = self.training.selection
    keep = selection.keep if selection else self.curriculum.batch_size
    plan = self.curriculum.plan(at, self.step, at.lesson_end, self.rows)
    rank = None
    if any(term.slopes for term in self.training.terms):
      rank = self.curriculum.ranks()
    batches = pipeline.stream(
      self.training.train,
      plan,
      self.step,
      at.lesson_end,
      augment=self.training.augment,
      seed=self.curriculum.seed,
      total_steps=self.training.total_steps,
      rank=rank,
    )
    for batch in self._read(batches):
      self.tally.totals.count(self.step, batch, self._present(at), keep)
      yield Wish(teachers, batch)
      self.step += 1
      if self.step in self.snapshots and self.outlet is not None:
        self._snapshot(self.snapshots[self.step])
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

  def _read(self, batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; saves what has been done where none can be read."""
    try:
      yield from batches
    except UserError:
      self._save(not hosts.are_several())  # of several the others go on
      raise

  def _present(self, at: course.CourseState) -> int:
    """Rows of the present step's global batch that are there."""
    active = self.curriculum.active(at, self.step)
    return int(present_rows(self.step, active, self.curriculum.batch_size))

  def _look(self) -> float | None:
    """Evaluates and acts; returns the accuracy, None where rolled back."""
    self.state = self.tally.take(self.state)
    self.tally.drain()
    validation = self.training.validation
    records = self.evaluator.records(self.state.variables(), validation)
    self.tally.totals.validated += len(validation.ids)
    measured = hosts.told_by_lead(evaluate.measure(records))
    before = self.course
    seen = self._seen()
    self.course = self.curriculum.controller.update(
      before, measured | self._learned()
    )
    if self.course.improved and self.remembers:
      self.best = _copied(_weights(self.state))
    accuracy = measured["accuracy"]
    if course.ROLL_BACK in self.course.actions:
      accuracy = None
      self.state = self.state.replace(**_copied(self.best))
    scale = self.course.learning_rate_scale
    if scale != before.learning_rate_scale:
      self.state = self.state.replace(
        learning_rate_scale=self.parallel.put(np.float32(scale))
      )
    if self.course.schedule_start != before.schedule_start:
      start = self.parallel.put(np.int32(self.course.schedule_start))
      self.state = self.state.replace(
        opt_state=optimizer.restarted(self.state.opt_state),
        schedule_start=start,
      )
    ranked = self._rerank()
    if self.writer:
      self.writer.write(
        {
          "kind": "lesson",
          "lesson": before.lesson,
          **seen,
          "validation": measured,
          "actions": [a for a in self.course.actions if a != course.GO_ON],
          "reasons": list(self.course.reasons),
          "learning_rate_scale": scale,
          **ranked,
        }
      )
      if self.outlet.interrupted():
        self._save(True, accuracy)
        raise Interrupted
    return accuracy

  def _seen(self) -> dict[str, Any]:
    """What the last step could see of the order."""
    low, high = self.curriculum.controller.window(self.course, self.step - 1)
    active = self.curriculum.active(self.course, self.step - 1)
    return {"step": self.step, "low": low, "fraction": high, "active": active}

  def _rerank(self) -> dict[str, float]:
    """Ranks what is still to come by the learner, where that is due."""
    reranking = self.training.reranking
    active = self.curriculum.window(self.course, self.step)[1]
    if (
      reranking is None
      or self.course.frozen
      or self.step >= self.training.total_steps
      or not reranking.due(self.course.lesson)
      or (active >= len(self.curriculum.order) and not reranking.everything)
    ):
      return {}
    if self.rescorer is not None:
      self.tally.totals.rescored += len(self.curriculum.order)
    values = reranking.difficulties(
      self.parallel.get(self.state.dynamics.get("rerank")),
      self.rescorer,
      self.state.variables(),
      self.training.train,
    )
    self.curriculum, correlation = reranking.apply(
      self.curriculum, active, values
    )
    return {"rank_correlation": correlation}

  def _snapshot(self, share: float) -> None:
    weights.save(
      weights.snapshot_path(self.outlet.directory, share),
      self.parallel.get(self.state.variables()),
      {"stage": self.training.model.name, "share": f"{share:g}"},
    )

  def _log(self) -> None:
    """Ends an interval; its line is written when the next one ends."""
    self.state = self.tally.take(self.state, self._seen())

  def _checkpoint_steps(self) -> int:
    return self.outlet.checkpoint_steps if self.outlet else 0

  def _save(self, due: bool, accuracy: float | None = None) -> None:
    if not due or self.checkpoints is None:
      return
    self.tally.drain()
    # A state that is not finite is never saved.
    self.tally.check(jax.device_get(self.state.bad_step))
    self.checkpoints.save(
      self.step,
      self._arrays(),
      {
        "step": self.step,
        "course": self.course.to_json(),
        **self.tally.facts(),
      },
      accuracy,
    )
    self.saved = self.step

  def _arrays(self) -> dict[str, Any]:
    """What a checkpoint holds; the order only where it changes."""
    arrays = {"state": self.state, "best": self.best}
    if self.training.reranking is None:
      return arrays
    order = self.parallel.put(self.curriculum.order.astype(np.int32))
    return arrays | {"order": order}

  def _learned(self) -> dict[str, float]:
    """Training accuracy and loss over the lesson that ends; starts the next."""
    loss, hits, rows = np.asarray(jax.device_get(self.state.lesson), float)
    zeros = self.parallel.put(np.zeros(3, np.float32))
    self.state = self.state.replace(lesson=zeros)
    rows = max(rows, 1.0)
    return {"train_accuracy": hits / rows, "train_loss": loss / rows}

  def _restored(self) -> tuple[Totals, dict] | None:
    found = self.checkpoints.restore(self._arrays())
    if found is None:
      return None
    arrays, facts = found
    self.state, self.best = arrays["state"], arrays["best"]
    if "order" in arrays:
      order = np.asarray(jax.device_get(arrays["order"]), np.int64)
      self.curriculum = dataclasses.replace(self.curriculum, order=order)
    self.course = course.CourseState.from_json(facts["course"])
    self.step = facts["step"]
    return Totals(**facts["totals"]), facts["interval"]

  def close(self) -> None:
    """Waits for checkpoints and closes files.

    Where this process alone fails it does not wait for what all must save.
    """
    failed = isinstance(sys.exception(), Exception) and not isinstance(
      sys.exception(), Interrupted
    )
    if self.checkpoints and not (failed and hosts.are_several()):
      self.checkpoints.close()
    if self.writer:
      self.writer.close()
