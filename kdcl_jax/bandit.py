"""Choosing the next lesson's bucket by what earlier choices brought.

The order is cut into buckets of equal size, easiest first; a lesson trains on
one of them. A bandit is a pure state machine like the course that it belongs
to: `init`, then `update` with each lesson's reward. Random choices are keyed by
(seed, lesson), so a resumed run chooses as the undisturbed one.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax.randomness import uniform

POLICIES = ("online", "window", "thompson", "exp3s")
REWARDS = ("gain", "hardness")
_DRAW, _SAMPLE = 0xBA4D, 0xBA4E


@dataclasses.dataclass(frozen=True)
class BanditState:
  """What a bandit knows; plain numbers and tuples.

  Attributes:
    lesson: choices made so far, the present one included.
    choice: the bucket of the present lesson.
    values: for each bucket what it is thought to be worth (exp3s: its
      log-weight).
    history: (bucket, reward) of the lessons that are over, the oldest first.
  """

  lesson: int
  choice: int
  values: tuple[float, ...]
  history: tuple[tuple[int, float], ...] = ()

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> "BanditState":
    """The state whose `dataclasses.asdict` went through JSON."""
    history = tuple((int(b), float(r)) for b, r in fields["history"])
    return cls(
      fields["lesson"], fields["choice"], tuple(fields["values"]), history
    )


@dataclasses.dataclass(frozen=True)
class Bandit:
  """A policy over buckets.

  - online: `Q_a <- Q_a + rate (r - Q_a)`;
  - window: Q_a is the slope of the last `window` rewards of bucket a;
  - thompson: Q_a is drawn from the last `window` rewards of bucket a;
  - exp3s: Exp3.S with rewards rescaled between the 20th and 80th percentile of
    their history, exploring with probability `epsilon`.

  The first three prefer the largest |Q|, so that forgotten buckets come back:
  epsilon-greedily, or with probability `softmax(|Q| / temperature)` where
  `temperature` is above 0. Buckets that were never tried come first.

  Attributes:
    buckets: how many, at least 2.
    policy: one of the four.
    rate: in (0, 1]; for exp3s the learning rate.
    window: rewards that count, at least 2.
    epsilon: probability of a random bucket, in [0, 1].
    temperature: 0 for epsilon-greedy.
    seed: keys the draws.

  Reference: Matiisen, Oliver, Cohen and Schulman, "Teacher-student curriculum
  learning", 2017, arXiv:1707.00183, whose rewards are changes of a task's score
  (its window algorithm regresses scores where this regresses rewards); Graves
  et al.,
  "Automated curriculum learning for neural networks", 2017, arXiv:1704.03003,
  section 3.
  """

  buckets: int
  policy: str = "online"
  rate: float = 0.1
  window: int = 10
  epsilon: float = 0.1
  temperature: float = 0.0
  seed: int = 0

  def init(self) -> BanditState:
    """The state of the first lesson, which is on the easiest bucket."""
    return BanditState(1, 0, (0.0,) * self.buckets)

  def update(self, state: BanditState, reward: float) -> BanditState:
    """Ends a lesson with its reward and chooses the next bucket.

    Args:
      state: the state of the lesson that ends.
      reward: what the lesson brought, any finite number.

    Returns:
      The state of the next lesson.

    Example:
      >>> bandit = Bandit(2, epsilon=0.0)
      >>> state = bandit.update(bandit.update(bandit.init(), 0.1), 0.5)
      >>> state.choice, [round(v, 3) for v in state.values]
      (1, [0.01, 0.05])
    """
    history = (*state.history, (state.choice, float(reward)))
    values = list(state.values)
    if self.policy == "exp3s":
      values = self._exp3s(state, history)
    else:
      rewards = [r for b, r in history if b == state.choice][-self.window :]
      if self.policy == "online":
        old = values[state.choice]
        values[state.choice] = old + self.rate * (reward - old)
      else:
        values[state.choice] = _slope(rewards)
    new = BanditState(state.lesson + 1, 0, tuple(values), history)
    return dataclasses.replace(new, choice=self._choice(new))

  def probabilities(self, state: BanditState) -> np.ndarray:
    """How likely each bucket is to be chosen next, given the values, [K]."""
    if self.policy == "exp3s":
      return _explored(np.array(state.values), self.epsilon)
    tried = {bucket for bucket, _ in state.history}
    new = [b for b in range(self.buckets) if b not in tried]
    if new:
      return np.eye(self.buckets)[new[0]]
    worth = np.abs(self._worth(state))
    if self.temperature:
      return _softmax(worth / self.temperature)
    best = np.eye(self.buckets)[int(np.argmax(worth))]
    return (1 - self.epsilon) * best + self.epsilon / self.buckets

  def _worth(self, state: BanditState) -> np.ndarray:
    if self.policy != "thompson":
      return np.array(state.values)
    drawn = []
    for bucket in range(self.buckets):
      rewards = [r for b, r in state.history if b == bucket][-self.window :]
      place = uniform(self.seed, _SAMPLE, state.lesson, bucket) * len(rewards)
      drawn.append(rewards[int(place)])
    return np.array(drawn)

  def _choice(self, state: BanditState) -> int:
    draw = float(uniform(self.seed, _DRAW, state.lesson))
    cumulative = np.cumsum(self.probabilities(state))
    place = np.searchsorted(cumulative, draw, side="right")
    return int(min(place, self.buckets - 1))

  def _exp3s(
    self, state: BanditState, history: tuple[tuple[int, float], ...]
  ) -> list[float]:
    rewards = np.array([r for _, r in history])
    low, high = np.quantile(rewards, [0.2, 0.8])
    span, above = high - low, rewards[-1] - low
    scaled = 2 * above / span - 1 if span > 0 else np.sign(above)
    scaled = min(max(scaled, -1.0), 1.0)
    chance = self.probabilities(state)[state.choice]
    gain = np.zeros(self.buckets)
    gain[state.choice] = self.rate * scaled / chance
    weights = np.array(state.values) + gain
    top = weights.max()
    mass = np.exp(weights - top)
    share = 1 / (len(history) + 1)
    others = (mass.sum() - mass) / (self.buckets - 1)
    mixed = (1 - share) * mass + share * others
    return [float(v) for v in top + np.log(mixed)]


def _slope(rewards: list[float]) -> float:
  """Least-squares slope of rewards over their number; one alone is its own."""
  if len(rewards) == 1:
    return rewards[0]
  x = np.arange(len(rewards)) - (len(rewards) - 1) / 2
  return float(np.dot(x, rewards) / np.dot(x, x))


def _softmax(values: np.ndarray) -> np.ndarray:
  mass = np.exp(values - values.max())
  return mass / mass.sum()


def _explored(values: np.ndarray, epsilon: float) -> np.ndarray:
  return (1 - epsilon) * _softmax(values) + epsilon / len(values)


def reward_of(
  kind: str, metric: Mapping[str, float], before: float | None
) -> float:
  """The reward of a lesson.

  Args:
    kind: "gain", how much validation accuracy rose, or "hardness", the lesson's
      mean training loss.
    metric: what validation says: `accuracy`, `train_loss`.
    before: validation accuracy at the end of the lesson before; None for the
      first.

  Returns:
    The reward.
  """
  if kind == "hardness":
    return float(metric["train_loss"])
  accuracy = float(metric["accuracy"])
  start = 0.0 if before is None or not math.isfinite(before) else before
  return accuracy - start
