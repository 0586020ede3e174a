"""Trains a model, or several side by side; the loop itself is in `loop`."""

from collections.abc import Generator, Sequence
from typing import Any

from kdcl_jax.lanes import Lanes, Wish
from kdcl_jax.loop import Loop
from kdcl_jax.parallel import Parallel
from kdcl_jax.training import Interrupted, Model, Outcome, Outlet, Training

__all__ = [
  "Interrupted",
  "Model",
  "Outcome",
  "Outlet",
  "Training",
  "fit",
  "fit_together",
]


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
  return fit_together([training], parallel, [outlet])[0]


def fit_together(
  trainings: Sequence[Training],
  parallel: Parallel,
  outlets: Sequence[Outlet | None],
  *,
  width: int = 0,
) -> list[Outcome]:
  """`fit` of several trainings of one kind, whose steps are taken together.

  Each has its own loop, which asks for a step with its batch and goes on when
  it is taken: lessons, decisions, logs and checkpoints are those of `fit`.

  Args:
    trainings: see `kdcl_jax.lanes.Lanes`.
    parallel: on which devices.
    outlets: one for each training.
    width: see `kdcl_jax.lanes.Lanes`.

  Returns:
    The outcomes, of each training.

  Raises:
    Interrupted, UserError: see `fit`.
  """
  lanes = Lanes(trainings, parallel, width)
  loops: list[Loop] = []
  try:
    for lane, (training, outlet) in enumerate(
      zip(trainings, outlets, strict=True)
    ):
      loops.append(Loop(training, parallel, outlet, lanes, lane))
    return _drive(lanes, [loop.run() for loop in loops])
  finally:
    for loop in loops:
      loop.close()


def _drive(
  lanes: Lanes, runs: Sequence[Generator[Wish, None, Outcome]]
) -> list[Outcome]:
  """Takes the steps that loops ask for until all have ended."""
  outcomes: list[Any] = [None] * len(runs)
  running = dict(enumerate(runs))
  interrupted = False
  while running:
    wishes = {}
    for lane in list(running):
      try:
        wishes[lane] = next(running[lane])
      except StopIteration as end:
        outcomes[lane] = end.value
        del running[lane]
      except Interrupted:  # the others are told at their next step
        interrupted = True
        del running[lane]
    if wishes:
      lanes.step(wishes)
  if interrupted:
    raise Interrupted
  return outcomes
