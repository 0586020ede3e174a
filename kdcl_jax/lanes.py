"""Trainings side by side: one compiled step for all, under `vmap` for several.

A lane is a training's place: its loop reads and writes its state there. The
states of several lanes lie in one stack of arrays, which a loop sees only at
the end of a lesson or an interval, so a step costs one call for all of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax import step
from kdcl_jax.difficulty import Stream
from kdcl_jax.errors import UserError
from kdcl_jax.parallel import Parallel
from kdcl_jax.state import TrainState
from kdcl_jax.terms import Term
from kdcl_jax.training import Training


class Wish(NamedTuple):
  """A step that a loop asks for: its teachers' variables and its batch."""

  teachers: tuple[Any, ...]
  batch: Mapping[str, np.ndarray]


@jax.jit
def _stacked(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _taken(stack: Any, lane: jax.Array) -> Any:
  take = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, lane, keepdims=False)
  return jax.tree.map(take, stack)


class Lanes:
  """The states of trainings that differ in their arrays only."""

  def __init__(
    self, trainings: Sequence[Training], parallel: Parallel, width: int = 0
  ):
    """Compiles lazily, at the first step.

    Args:
      trainings: of one kind: the same model, objective, optimizer, length and
        batch; seeds, data, orders and courses are each one's own.
      parallel: on which devices.
      width: lanes of the compiled step, at least as many as trainings; the rest
        idles. So a run that goes on with fewer compiles the same step.

    Raises:
      UserError: where one step cannot serve all trainings.
    """
    self._width = max(width, len(trainings))
    self._parallel = parallel
    self._states: dict[int, TrainState] = {}
    self._stack: TrainState | None = None
    self._changed = False
    self._taught: tuple[list, Any] = ([], ())
    self.traces = 0
    training = trainings[0]
    if self._width > 1:
      check_terms(training.terms, training.model.name)
      _check_lengths(trainings)
    self._step = parallel.partition(
      step.train_body(
        training.model.forward,
        training.terms,
        training.optimizer,
        training.schedule,
        teachers=[t.forward for t in training.teachers],
        two_gradients=training.two_gradients,
        reweighting=training.reweighting,
        selection=training.selection,
        streams=streams_of(training),
        total_steps=training.total_steps,
        ema=training.ema,
        skip_not_finite=training.skip_not_finite,
        axis_name=parallel.axis_name,
        traced=self._count_trace,
      ),
      constants=2,
      donate=True,
      lanes=self._width > 1,
    )

  def _count_trace(self) -> None:
    self.traces += 1

  def read(self, lane: int) -> TrainState:
    """The state of a lane; valid until its next step."""
    if lane not in self._states:
      self._states[lane] = _taken(self._stack, lane)
    return self._states[lane]

  def write(self, lane: int, state: TrainState) -> None:
    """Sets the state of a lane."""
    self._states[lane] = state
    self._changed = True

  def step(self, wishes: Mapping[int, Wish]) -> None:
    """Takes the steps that the loops of some lanes ask for.

    The states of the other lanes mean nothing from here on.
    """
    if self._width == 1:
      teachers, batch = wishes[0]
      arrays = self._parallel.put_batch(step.device_batch(batch))
      self._states[0], loss = self._step(self._states[0], teachers, arrays)
      self._parallel.settle(loss)
      return
    sources = [lane if lane in wishes else min(wishes) for lane in self._range]
    if self._changed:
      self._stack = _stacked([self.read(lane) for lane in sources])
      self._changed = False
    self._states.clear()
    taught = [wishes[lane].teachers for lane in sources]
    known = self._taught[0]
    if not known or any(a is not b for a, b in zip(known, taught, strict=True)):
      self._taught = (taught, _stacked(taught))
    rows = [step.device_batch(wishes[lane].batch) for lane in sources]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    arrays = self._parallel.put_batch(batch, lanes=True)
    self._stack, loss = self._step(self._stack, self._taught[1], arrays)
    self._parallel.settle(loss)

  def lowered(
    self, state: TrainState, batch: Mapping[str, np.ndarray]
  ) -> jax.stages.Lowered:
    """The step of one training without teachers, to look at its program."""
    arrays = self._parallel.put_batch(step.device_batch(batch))
    return self._step.lower(state, (), arrays)

  @property
  def _range(self) -> range:
    return range(self._width)


def streams_of(training: Training) -> dict[str, Stream]:
  """What a training's steps keep of how each record does, by name."""
  streams = dict(training.streams)
  reranking = training.reranking
  if reranking is not None and reranking.stream is not None:
    streams["rerank"] = reranking.stream
  return streams


def check_terms(terms: Sequence[Term], name: str) -> None:
  """Checks that an objective can be that of several seeds at once.

  Args:
    terms: the objective.
    name: the stage.

  Raises:
    UserError: where it cannot.
  """
  for term in terms:
    if hasattr(term.projector, "data"):
      raise UserError(
        f"config.{name}.objective.{term.name} has a projector that knows the"
        " records of one seed, so seeds cannot train together; expected"
        " config.vmap_seeds 1."
      )


def _check_lengths(trainings: Sequence[Training]) -> None:
  name = trainings[0].model.name
  lengths = sorted({training.total_steps for training in trainings})
  if len(lengths) > 1:
    raise UserError(
      f"config.vmap_seeds trains seeds together, but stage {name!r} has"
      f" {lengths} steps, by the seed; give config.{name}.steps, or"
      " config.vmap_seeds 1."
    )
