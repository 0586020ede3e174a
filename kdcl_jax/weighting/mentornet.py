"""MentorNet's predefined curriculum, without a network that learns it.

Its threshold is `moving_percentile`, the moving average of a percentile of the
losses. Losses and thresholds may be of either sign: what counts is their
difference.
"""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float, check_number, row_mask
from kdcl_jax.pacing.progress import NEAR, has_come
from kdcl_jax.weighting.selection import draw, global_noise


def _gap(losses: ArrayLike, threshold: ArrayLike) -> jax.Array:
  losses = as_float(jax.lax.stop_gradient(losses))
  return losses - jnp.asarray(jax.lax.stop_gradient(threshold), losses.dtype)


def mentornet_pd(
  losses: ArrayLike,
  progress: ArrayLike,
  *,
  threshold: ArrayLike,
  gamma: ArrayLike = 1.0,
  burn_in: float = 0.18,
  late: float = 0.9,
) -> jax.Array:
  """Predefined weights in three phases: all, the easy, nearly all.

  With d = l - threshold: `1` while progress <= burn_in; then `1[d <= 0]`; and
  `clip(1 - d / gamma, 0, 1)` once progress >= late.

  Args:
    losses: [...].
    progress: the share of the training that is done, a scalar or [...].
    threshold: the moving percentile after this batch (`moving_percentile`).
    gamma: > 0, how far above the threshold the weight falls to 0 at last.
    burn_in: until which progress every weight is 1, in [0, 1].
    late: from which on weights are linear, in [burn_in, 1].

  Returns:
    [...] in [0, 1], without gradient. At the threshold the weight is 1, other
    than in `kdcl_jax.weighting.spl_hard`.

  Raises:
    ValueError: if a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([1.0, 1.25])
    >>> for progress in (0.1, 0.5, 0.95):
    ...   print(mentornet_pd(losses, progress, threshold=1.0))
    [1. 1.]
    [1. 0.]
    [1.   0.75]

  Reference: Jiang, Zhou, Leung, Li and Fei-Fei, "MentorNet: learning
  data-driven curriculum for very deep neural networks on corrupted labels",
  2018, arXiv:1712.05055; the `mentornet_pd` of its published code.
  """
  check_number("gamma", gamma, above=0)
  check_number("burn_in", burn_in, low=0, high=1)
  check_number("late", late, low=float(burn_in), high=1)
  gap = _gap(losses, threshold)
  progress = jnp.asarray(progress, gap.dtype)
  if progress.ndim:
    chex.assert_equal_shape([progress, gap])
  easy = (gap <= 0).astype(gap.dtype)
  nearly = jnp.clip(1 - gap / gamma, 0, 1)
  weights = jnp.where(has_come(progress, late), nearly, easy)
  return jnp.where(progress <= burn_in * (1 + NEAR), 1, weights)


def mentornet_dropout(
  weights: ArrayLike,
  progress: ArrayLike,
  key: jax.Array,
  *,
  burn_in_rate: ArrayLike = 0.5,
  rate: ArrayLike = 0.05,
  burn_in: float = 0.17,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Sets the weights of examples drawn at random to 0.

  Of n examples exactly `floor((1 - rate) n)` stay, all equally likely to and
  with the weight they have.

  Args:
    weights: [b].
    progress: the share of the training that is done, a scalar.
    key: a typed PRNG key, the same on every device.
    burn_in_rate: the share to drop while progress < burn_in, in [0, 1].
    rate: the share to drop afterwards, in [0, 1].
    burn_in: in [0, 1].
    where: boolean [b], False for padded examples, whose weight becomes 0.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    [b].

  Raises:
    ValueError: if a number is out of range.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> w = mentornet_dropout(jnp.ones(8), 0.1, jax.random.key(0))
    >>> float(w.sum())
    4.0

  Reference: as `mentornet_pd`; Liang, Jiang, Meng and Hauptmann, "Learning to
  detect concepts from webly-labeled video data", IJCAI 2016.
  """
  for name, value in (
    ("burn_in_rate", burn_in_rate),
    ("rate", rate),
    ("burn_in", burn_in),
  ):
    check_number(name, value, low=0, high=1)
  weights = as_float(weights)
  chex.assert_rank(weights, 1)
  where = row_mask(where, weights)
  over = has_come(jnp.asarray(progress, weights.dtype), burn_in)
  keep = 1 - jnp.where(over, rate, burn_in_rate).astype(weights.dtype)
  noise = global_noise(jax.random.uniform, key, weights, axis_name)
  return jnp.where(draw(noise, keep, where, axis_name), weights, 0)


def hard_example_mining(
  losses: ArrayLike, *, threshold: ArrayLike, always: ArrayLike | None = None
) -> jax.Array:
  """The opposite curriculum: `1[l >= threshold]`, or 1 where `always` is True.

  Args:
    losses: [...].
    threshold: a number or a traced scalar, such as `moving_percentile`.
    always: boolean [...], examples to keep whatever their loss.

  Returns:
    [...] of 0 and 1, without gradient.

  Raises:
    ValueError: if the threshold is no finite number.

  Example:
    >>> import jax.numpy as jnp
    >>> hard_example_mining(jnp.array([0.5, 1.0]), threshold=1.0).tolist()
    [0.0, 1.0]

  Reference: as `mentornet_pd`.
  """
  check_number("threshold", threshold)
  gap = _gap(losses, threshold)
  hard = gap >= 0
  if always is not None:
    hard = hard | jnp.asarray(always, bool)
  return hard.astype(gap.dtype)
