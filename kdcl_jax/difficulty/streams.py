"""Difficulty as training goes on: small states that a train step carries along.

A `Stream` is three pure functions. `init(n)` makes a state of a few vectors
[n], `update` takes what one step has seen of its records, and `score` reads all
records' difficulties off it. No outputs are stored, and the state is a pytree
to be checkpointed with the rest.

A record counts a presentation each time that it is in a batch and present.
Where each is presented once per epoch, the scores are those of `dynamics.py`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.difficulty.confidence import confidence, logit_margin, loss
from kdcl_jax.difficulty.dynamics import DataMap
from kdcl_jax.difficulty.predictions import is_correct
from kdcl_jax.losses.arrays import safe_sqrt
from kdcl_jax.losses.reductions import check_choice, check_number, row_mask

COORDINATES = ("variability", "confidence", "correctness")


class Stream(NamedTuple):
  """A difficulty that grows with the training.

  Attributes:
    init: `init(n) -> state`, for record ids 0 ... n-1.
    update: `update(state, ids, logits, labels, *, where=None, axis_name=None)
      -> state`, with ids [B] all different, logits [B, K] and labels [B] of the
      step. Rows that `where` [B] marks False change nothing, whatever they
      hold, and neither do ids outside 0 ... n-1. `axis_name` is the mapped axis
      over which the batch is spread; each device then makes the same update of
      the global batch. No gradient passes.
    score: `score(state) -> [n]` float32, larger is harder. A record without a
      presentation scores what `unseen` of the factory says: inf, the end of
      the order, where it says nothing.
  """

  init: Callable[[int], Any]
  update: Callable[..., Any]
  score: Callable[[Any], jax.Array]


def _everywhere(rows: Any, axis_name: str | None) -> Any:
  """All devices' rows, known to be the same on every device, [b] -> [B]."""
  if axis_name is None:
    return rows
  devices = jax.lax.axis_size(axis_name)
  place = jax.lax.axis_index(axis_name)

  def gathered(x: jax.Array) -> jax.Array:
    # A sum, as what is only gathered counts as different on every device.
    number = x.astype(jnp.int32) if x.dtype == bool else x
    placed = jnp.zeros((devices, *x.shape), number.dtype).at[place].set(number)
    total = jax.lax.psum(placed, axis_name)
    return total.reshape(-1, *x.shape[1:]).astype(x.dtype)

  return jax.tree.map(gathered, rows)


def stream_of(
  types: Any,
  observe: Callable[[ArrayLike, ArrayLike], Any],
  advance: Callable[[Any, Any], Any],
  read: Callable[[Any], tuple[jax.Array, jax.Array]],
  unseen: float,
) -> Stream:
  """A stream of what changes in the rows of a batch and how it is read.

  Args:
    types: the state with a dtype in each place; it starts with zeros.
    observe: (logits, labels) -> what is kept of each row, [B].
    advance: (states [B], observations [B]) -> states [B].
    read: the state of all records -> scores [n], and from how many
      observations, [n].
    unseen: the score where there was none.
  """
  if isinstance(unseen, bool) or not isinstance(unseen, int | float):
    raise ValueError(f"unseen is {unseen!r}, expected a number.")

  def init(n: int) -> Any:
    check_number("n", n, low=1)
    return jax.tree.map(lambda dtype: jnp.zeros((n,), dtype), types)

  def update(
    state: Any,
    ids: ArrayLike,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
  ) -> Any:
    ids = jnp.asarray(ids)
    chex.assert_rank(ids, 1)
    chex.assert_type(ids, int)
    seen = jax.lax.stop_gradient(observe(logits, labels))
    chex.assert_equal_shape([ids, *jax.tree.leaves(seen)])
    size = jax.tree.leaves(state)[0].shape[0]
    # A negative id would count from the end.
    present = row_mask(where, ids) & (ids >= 0)
    rows = _everywhere(jnp.where(present, ids, size), axis_name)
    seen = _everywhere(seen, axis_name)
    old = jax.tree.map(lambda x: x.at[rows].get(mode="clip"), state)
    return jax.tree.map(
      lambda x, y: x.at[rows].set(y.astype(x.dtype), mode="drop"),
      state,
      advance(old, seen),
    )

  def score(state: Any) -> jax.Array:
    value, observations = read(state)
    return jnp.where(observations > 0, value.astype(jnp.float32), unseen)

  return Stream(init, update, score)


class ForgettingState(NamedTuple):
  """What `forgetting_stream` keeps of each record, [n].

  Attributes:
    presentations: how often it was presented, int32.
    forgotten: how often it was right and wrong at the next visit, int32.
    learned: whether it was ever right.
    correct: whether it was right at the last visit.
  """

  presentations: jax.Array
  forgotten: jax.Array
  learned: jax.Array
  correct: jax.Array


def forgetting_stream(*, unseen: float = math.inf) -> Stream:
  """`forgetting`, visit by visit.

  Args:
    unseen: the score of a record that was never presented.

  Returns:
    The stream. A record that was never right scores the largest number of
    presentations of any record, so that it is the hardest also where records
    are presented more or less often.

  Example:
    >>> stream = forgetting_stream()
    >>> state, ids = stream.init(2), jnp.array([1])
    >>> for right in (1.0, -1.0):
    ...   logits = jnp.array([[right, 0.0]])
    ...   state = stream.update(state, ids, logits, jnp.array([0]))
    >>> stream.score(state).tolist()
    [inf, 1.0]

  Reference: see `forgetting`.
  """

  def advance(old: ForgettingState, correct: jax.Array) -> ForgettingState:
    return ForgettingState(
      old.presentations + 1,
      old.forgotten + (old.correct & ~correct),
      old.learned | correct,
      correct,
    )

  def read(state: ForgettingState) -> tuple[jax.Array, jax.Array]:
    most = jnp.max(state.presentations)
    value = jnp.where(state.learned, state.forgotten, most)
    return value, state.presentations

  types = ForgettingState(jnp.int32, jnp.int32, jnp.bool_, jnp.bool_)
  return stream_of(types, is_correct, advance, read, unseen)


class LearnedState(NamedTuple):
  """What `learned_epoch_stream` keeps of each record, [n].

  Attributes:
    presentations: how often it was presented, int32.
    last_wrong: the number, from 1, of the last presentation at which it was
      wrong; 0 for none. int32.
  """

  presentations: jax.Array
  last_wrong: jax.Array


def learned_epoch_stream(*, unseen: float = math.inf) -> Stream:
  """`learned_epoch`, in presentations of each record instead of epochs.

  Args:
    unseen: the score of a record that was never presented.

  Returns:
    The stream. A record that was wrong at its last visit scores the largest
    number of presentations of any record.

  Example:
    >>> stream = learned_epoch_stream()
    >>> state, ids = stream.init(2), jnp.array([0, 1])
    >>> logits = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> state = stream.update(state, ids, logits, jnp.array([0, 0]))
    >>> stream.score(state).tolist()
    [0.0, 1.0]

  Reference: see `learned_epoch`.
  """

  def advance(old: LearnedState, correct: jax.Array) -> LearnedState:
    count = old.presentations + 1
    return LearnedState(count, jnp.where(correct, old.last_wrong, count))

  def read(state: LearnedState) -> tuple[jax.Array, jax.Array]:
    count, most = state.presentations, jnp.max(state.presentations)
    wrong = state.last_wrong == count
    return jnp.where(wrong, most, state.last_wrong), count

  types = LearnedState(jnp.int32, jnp.int32)
  return stream_of(types, is_correct, advance, read, unseen)


class MeanState(NamedTuple):
  """A running mean of each record, [n].

  Attributes:
    presentations: how often it was presented, int32.
    mean: the mean of a score over these, float32.
  """

  presentations: jax.Array
  mean: jax.Array


def _mean_stream(
  score: Callable[[ArrayLike, ArrayLike], jax.Array], unseen: float
) -> Stream:
  """The mean of a score of one forward pass over the presentations."""

  def advance(old: MeanState, value: jax.Array) -> MeanState:
    count = old.presentations + 1
    return MeanState(count, old.mean + (value - old.mean) / count)

  def read(state: MeanState) -> tuple[jax.Array, jax.Array]:
    return state.mean, state.presentations

  types = MeanState(jnp.int32, jnp.float32)
  return stream_of(types, score, advance, read, unseen)


def aum_stream(*, unseen: float = math.inf) -> Stream:
  """`aum`, visit by visit: the mean margin of the logits so far.

  Args:
    unseen: the score of a record that was never presented.

  Returns:
    The stream.

  Example:
    >>> stream = aum_stream()
    >>> state, ids = stream.init(1), jnp.array([0])
    >>> logits = jnp.array([[3.0, 1.0]])
    >>> state = stream.update(state, ids, logits, jnp.array([0]))
    >>> stream.score(state).tolist()
    [-2.0]

  Reference: see `aum`.
  """
  return _mean_stream(logit_margin, unseen)


def cumulative_confidence_stream(*, unseen: float = math.inf) -> Stream:
  """`cumulative_confidence`, visit by visit: the mean of 1 - p_y so far.

  Args:
    unseen: the score of a record that was never presented.

  Returns:
    The stream.

  Example:
    >>> stream = cumulative_confidence_stream()
    >>> state, ids = stream.init(1), jnp.array([0])
    >>> state = stream.update(state, ids, jnp.zeros((1, 4)), jnp.array([0]))
    >>> stream.score(state).tolist()
    [0.75]

  Reference: see `cumulative_confidence`.
  """
  return _mean_stream(confidence, unseen)


class DataMapState(NamedTuple):
  """What `data_map_stream` keeps of each record, [n].

  Attributes:
    presentations: how often it was presented, int32.
    mean: the mean of p_y, float32.
    squares: the sum of the squared deviations from it, float32.
    correct: how often it was right, int32.
  """

  presentations: jax.Array
  mean: jax.Array
  squares: jax.Array
  correct: jax.Array


def data_map_stream(
  *, coordinate: str = "variability", unseen: float = math.inf
) -> Stream:
  """`data_map`, visit by visit; `data_map_of` reads the map off the state.

  Args:
    coordinate: what the score is: 'variability', std of p_y; 'confidence',
      1 - mean of p_y; or 'correctness', the share of wrong presentations.
    unseen: the score of a record that was never presented.

  Returns:
    The stream.

  Raises:
    ValueError: for another coordinate.

  Example:
    >>> stream = data_map_stream()
    >>> state, ids, labels = stream.init(1), jnp.array([0]), jnp.array([0])
    >>> for p in (0.5, 0.7):
    ...   logits = jnp.log(jnp.array([[p, 1 - p]]))
    ...   state = stream.update(state, ids, logits, labels)
    >>> round(float(stream.score(state)[0]), 3)
    0.1

  Reference: see `data_map`.
  """
  check_choice("coordinate", coordinate, COORDINATES)

  def observe(
    logits: ArrayLike, labels: ArrayLike
  ) -> tuple[jax.Array, jax.Array]:
    p = jnp.exp(-loss(logits, labels))
    return p, is_correct(logits, labels)

  def advance(
    old: DataMapState, seen: tuple[jax.Array, jax.Array]
  ) -> DataMapState:
    p, correct = seen
    count = old.presentations + 1
    mean = old.mean + (p - old.mean) / count
    # Sums of squares would lose the variance of a record that varies little.
    squares = old.squares + (p - old.mean) * (p - mean)
    return DataMapState(count, mean, squares, old.correct + correct)

  def read(state: DataMapState) -> tuple[jax.Array, jax.Array]:
    place, count = data_map_of(state), state.presentations
    value = {
      "variability": place.variability,
      "confidence": 1 - place.confidence,
      "correctness": 1 - place.correctness / jnp.maximum(count, 1),
    }[coordinate]
    return value, count

  types = DataMapState(jnp.int32, jnp.float32, jnp.float32, jnp.int32)
  return stream_of(types, observe, advance, read, unseen)


def data_map_of(state: DataMapState) -> DataMap:
  """The data map of what a `data_map_stream` has seen; 0 for what it has not.

  Args:
    state: the state of the stream.

  Returns:
    A `DataMap` of vectors [n].

  Example:
    >>> data_map_of(data_map_stream().init(3)).correctness.tolist()
    [0, 0, 0]
  """
  count = jnp.maximum(state.presentations, 1)
  variability = safe_sqrt(state.squares / count)
  return DataMap(state.mean, variability, state.correct)
