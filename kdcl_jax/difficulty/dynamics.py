"""Difficulty from training dynamics, of outputs recorded epoch by epoch.

All epochs that are given count: slice to leave out a burn-in or the end. The
forms that a train step carries along, without storing outputs, are in
`streams.py`.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.difficulty.confidence import confidence, logit_margin
from kdcl_jax.difficulty.predictions import is_correct
from kdcl_jax.losses.arrays import safe_sqrt
from kdcl_jax.losses.reductions import as_float


def _correct(correct: ArrayLike) -> jax.Array:
  correct = jnp.asarray(correct)
  chex.assert_rank(correct, 2)
  chex.assert_axis_dimension_gt(correct, 0, 0)
  return correct.astype(bool)


def _epochs(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  logits = as_float(logits)
  chex.assert_rank([logits, labels], [3, 1])
  chex.assert_axis_dimension_gt(logits, 0, 0)
  chex.assert_equal(logits.shape[1:2], jnp.shape(labels))
  return logits


def forgetting(correct: ArrayLike) -> jax.Array:
  """Times that a record was forgotten: right once, wrong at the next visit.

  `#{t: correct_t, not correct_t+1}`, and T for a record that was never right: a
  count of forgettings alone would call it easy.

  Args:
    correct: [T, N] 0 or 1 (or boolean), visit by visit.

  Returns:
    [N] in [0, T]; larger is harder.

  Example:
    >>> forgetting([[1, 0, 1], [0, 0, 1], [1, 0, 1]]).tolist()
    [1.0, 3.0, 0.0]

  Reference: Toneva et al., "An empirical study of example forgetting during
  deep neural network learning", 2019, arXiv:1812.05159, section 3.
  """
  correct = _correct(correct)
  forgotten = jnp.sum(correct[:-1] & ~correct[1:], 0)
  value = jnp.where(jnp.any(correct, 0), forgotten, correct.shape[0])
  return value.astype(jnp.float32)


def learned_epoch(correct: ArrayLike) -> jax.Array:
  """First epoch from which a record stays right: `min{t: all s >= t correct}`.

  Args:
    correct: [T, N] 0 or 1 (or boolean), epoch by epoch.

  Returns:
    [N] in [0, T], counted from 0; T where the last epoch is wrong. Larger is
    harder.

  Example:
    >>> learned_epoch([[1, 0, 1], [0, 0, 1], [1, 0, 1]]).tolist()
    [2.0, 3.0, 0.0]

  Reference: Wu, Dyer and Neyshabur, "When do curricula work?", 2021,
  arXiv:2012.03107, section 3.1.
  """
  correct = _correct(correct)
  number = jnp.arange(1, correct.shape[0] + 1)[:, None]
  return jnp.max(jnp.where(correct, 0, number), 0).astype(jnp.float32)


def aum(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Minus the area under the margin: `mean_t (max_{c != y} z_c - z_y)`.

  Args:
    logits: [T, N, K], K >= 2, of the training itself (training mode), up to the
      first fall of the learning rate in the paper.
    labels: [N] integers in [0, K), as trained on.

  Returns:
    [N]; larger is harder, the largest are suspects of a wrong label.

  Example:
    >>> logits = [[[3.0, 1.0]], [[1.0, 5.0]]]
    >>> aum(logits, jnp.array([0])).tolist()
    [1.0]

  Reference: Pleiss, Zhang, Elenberg and Weinberger, "Identifying mislabeled
  data using the area under the margin ranking", 2020, arXiv:2001.10528, eq. 1
  (with the opposite sign).
  """
  logits = _epochs(logits, labels)
  margin = jax.vmap(logit_margin, (0, None))(logits, jnp.asarray(labels))
  return jnp.mean(margin, 0)


class DataMap(NamedTuple):
  """Where records lie on the data map. Not all of it grows with difficulty.

  Attributes:
    confidence: mean probability of the label, [N] in [0, 1]; *smaller* is
      harder.
    variability: its standard deviation over the epochs, [N]; larger is more
      ambiguous.
    correctness: the number of epochs in which the record was right, [N] int32;
      smaller is harder.
  """

  confidence: jax.Array
  variability: jax.Array
  correctness: jax.Array


def data_map(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  probabilities: bool = False,
  interval: bool = False,
) -> DataMap:
  """The data map: `mean_t p_y`, `std_t p_y` and the count of right epochs.

  Difficulties are `cumulative_confidence` and `variability`.

  Args:
    logits: [T, N, K].
    labels: [N] integers in [0, K).
    probabilities: whether `logits` are probabilities, which sum to 1 over K.
    interval: widens the variance v to `v + v^2 / (T - 1)`, as an option of the
      published code does; T >= 2.

  Returns:
    A `DataMap`; the standard deviation is that of the population (over T).

  Raises:
    ValueError: for `interval` with fewer than two epochs.

  Example:
    >>> p = [[[0.5, 0.5]], [[0.7, 0.3]]]
    >>> place = data_map(p, jnp.array([0]), probabilities=True)
    >>> [round(float(x[0]), 3) for x in place]
    [0.6, 0.1, 2.0]

  Reference: Swayamdipta et al., "Dataset cartography: mapping and diagnosing
  datasets with training dynamics", 2020, arXiv:2009.10795, section 2.
  """
  logits, labels = _epochs(logits, labels), jnp.asarray(labels)
  epochs = logits.shape[0]
  if interval and epochs < 2:
    raise ValueError(f"interval needs two epochs or more, there are {epochs}.")
  correct = jax.vmap(is_correct, (0, None))(logits, labels)
  p = logits if probabilities else jax.nn.softmax(logits)
  p = jnp.take_along_axis(p, labels[None, :, None], -1)[..., 0]
  mean = jnp.mean(p, 0)
  variance = jnp.mean(jnp.square(p - mean[None]), 0)
  if interval:
    variance = variance + jnp.square(variance) / (epochs - 1)
  count = jnp.sum(correct, 0, dtype=jnp.int32)
  return DataMap(mean, safe_sqrt(variance), count)


def variability(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """How the probability of the label varies over the epochs: `std_t p_y`.

  Args:
    logits: [T, N, K].
    labels: [N] integers in [0, K).

  Returns:
    [N] in [0, 1/2]; larger is more ambiguous. What is never learned varies as
    little as what is easy.

  Example:
    >>> variability(jnp.zeros((3, 1, 2)), jnp.array([0])).tolist()
    [0.0]

  Reference: see `data_map`.
  """
  return data_map(logits, labels).variability


def cumulative_confidence(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Lack of confidence over the whole training: `1 - mean_t p_y`.

  A cheap stand-in for the C-score, which needs thousands of trainings.

  Args:
    logits: [T, N, K].
    labels: [N] integers in [0, K).

  Returns:
    [N] in [0, 1]; larger is harder.

  Example:
    >>> cumulative_confidence(jnp.zeros((3, 1, 4)), jnp.array([0])).tolist()
    [0.75]

  Reference: Jiang, Zhang, Talwar and Mozer, "Characterizing structural
  regularities of labeled data in overparameterized models", 2021,
  arXiv:2002.03206 (proxies by the speed of learning).
  """
  logits = _epochs(logits, labels)
  each = jax.vmap(confidence, (0, None))(logits, jnp.asarray(labels))
  return jnp.mean(each, 0)
