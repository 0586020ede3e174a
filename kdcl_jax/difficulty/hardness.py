"""Dynamic instance hardness: a moving average that training carries along."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.difficulty.confidence import loss
from kdcl_jax.difficulty.predictions import is_correct
from kdcl_jax.difficulty.streams import Stream, stream_of
from kdcl_jax.losses.reductions import check_choice, check_number

HARDNESSES = ("loss", "change", "flip")


class HardnessState(NamedTuple):
  """What `dih_stream` keeps of each record, [n].

  Attributes:
    presentations: how often it was presented, int32.
    hardness: r, the moving average, float32.
    last: the loss, or whether it was right, at the last visit, float32.
  """

  presentations: jax.Array
  hardness: jax.Array
  last: jax.Array


def dih_stream(
  *,
  hardness: str = "loss",
  gamma: float = 0.9,
  debias: bool = False,
  unseen: float = math.inf,
) -> Stream:
  """Dynamic instance hardness: a moving average, `r <- (1 - g) r + g a`.

  r starts at 0 and stays where it is while a record is not presented. The paper
  divides a by the learning rate of the step, which is left out here.

  Args:
    hardness: what a is. 'loss', the cross-entropy; 'change', its absolute
      change since the last visit; 'flip', 1 where the record was right and now
      is wrong or the other way round, else 0.
    gamma: g in (0, 1], the weight of the newest a.
    debias: divides r by the sum of its weights, `1 - (1 - g)^k` after k values
      of a, so that records presented more or less often compare.
    unseen: the score of a record without a value of a: never presented, or only
      once where a is a change or a flip.

  Returns:
    The stream.

  Raises:
    ValueError: for another hardness, or gamma out of range.

  Example:
    >>> stream = dih_stream(gamma=0.5)
    >>> state, ids = stream.init(1), jnp.array([0])
    >>> state = stream.update(state, ids, jnp.zeros((1, 2)), jnp.array([0]))
    >>> round(float(stream.score(state)[0]), 4)
    0.3466

  Reference: Zhou, Wang and Bilmes, "Curriculum learning by dynamic instance
  hardness", 2020, NeurIPS 33. gamma is CurML's, whose flips are of
  the largest entry of a scalar loss; here they are those of the paper.
  """
  check_choice("hardness", hardness, HARDNESSES)
  check_number("gamma", gamma, above=0, high=1)
  first = 0 if hardness == "loss" else 1  # presentations that give no a

  def observe(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    if hardness == "flip":
      return is_correct(logits, labels).astype(jnp.float32)
    return loss(logits, labels)

  def advance(old: HardnessState, now: jax.Array) -> HardnessState:
    a = now if hardness == "loss" else jnp.abs(now - old.last)
    moved = (1 - gamma) * old.hardness + gamma * a
    r = jnp.where(old.presentations >= first, moved, old.hardness)
    return HardnessState(old.presentations + 1, r, now)

  def read(state: HardnessState) -> tuple[jax.Array, jax.Array]:
    values = state.presentations - first
    if not debias:
      return state.hardness, values
    weights = -jnp.expm1(jnp.maximum(values, 1) * jnp.log1p(-gamma))
    return state.hardness / weights, values

  types = HardnessState(jnp.int32, jnp.float32, jnp.float32)
  return stream_of(types, observe, advance, read, unseen)
