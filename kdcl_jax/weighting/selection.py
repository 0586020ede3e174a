"""Which examples of an oversized batch to train on.

A selection is a boolean mask over this device's rows, so that shapes stay the
same; it is that of the global batch on however many devices the batch lies.
Ties are broken by the row number in the global batch.
"""

import operator
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.congruence import row_numbers
from kdcl_jax.losses.reductions import (
  as_float,
  check_number,
  gather_rows,
  row_mask,
)
from kdcl_jax.weighting.thresholds import sorted_losses


def falling_ranks(
  scores: jax.Array, where: jax.Array, axis_name: str | None
) -> jax.Array:
  """Ranks of the rows in the global batch, 0 the largest; absent rows last.

  Args:
    scores: [b], this device's.
    where: boolean [b].
    axis_name: mapped axis over which the batch is spread.

  Returns:
    [b] int32, each rank once in the global batch.
  """
  everybody = gather_rows(scores, axis_name)
  absent = ~gather_rows(where, axis_name)
  order = jnp.lexsort((-everybody, absent))
  ranks = (
    jnp.zeros(order.shape, jnp.int32)
    .at[order]
    .set(jnp.arange(order.shape[0], dtype=jnp.int32))
  )
  return ranks[row_numbers(scores, axis_name)]


def top_k(
  scores: ArrayLike,
  k: int,
  *,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Which rows are among the k with the largest scores of the global batch.

  For RHO-Loss the score is `l - l_reference`, the loss less that of a model
  trained on held-out data, and k a tenth of the batch.

  Args:
    scores: [b], larger is kept first; NaN comes last.
    k: how many of the global batch to keep, at least 1.
    where: boolean [b], False for padded examples, which are never kept.
    axis_name: mapped axis over which the batch is spread, [b] of [B].

  Returns:
    Boolean [b], True for exactly k rows over all devices, or for all present
    ones where those are fewer.

  Raises:
    ValueError: if k is not a whole number in [1, B].

  Example:
    >>> import jax.numpy as jnp
    >>> top_k(jnp.array([1.0, 3.0, 3.0, 3.0]), 2).tolist()
    [False, True, True, False]

  Reference: Mindermann et al., "Prioritized training on points that are
  learnable, worth learning, and not yet learnt", 2022, arXiv:2206.07137,
  algorithm 1.
  """
  scores = as_float(jax.lax.stop_gradient(scores))
  chex.assert_rank(scores, 1)
  where = row_mask(where, scores)
  devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
  k = _count(k, scores.shape[0] * devices)
  return (falling_ranks(scores, where, axis_name) < k) & where


def top_k_indices(
  scores: ArrayLike, k: int, *, where: ArrayLike | None = None
) -> jax.Array:
  """The k rows with the largest scores, to gather a smaller batch with.

  Args:
    scores: [B], larger comes first; NaN comes last.
    k: how many, in [1, B].
    where: boolean [B], False for padded examples, which come after all others:
      `where[indices]` tells which of the k are present.

  Returns:
    [k] int32 row numbers, the largest score first, ties in the order of rows.

  Raises:
    ValueError: if k is not a whole number in [1, B].

  Example:
    >>> import jax.numpy as jnp
    >>> top_k_indices(jnp.array([1.0, 3.0, 2.0, 3.0]), 3).tolist()
    [1, 3, 2]

  Reference: as `top_k`.
  """
  scores = as_float(jax.lax.stop_gradient(scores))
  chex.assert_rank(scores, 1)
  k = _count(k, scores.shape[0])
  where = row_mask(where, scores)
  return jnp.lexsort((-scores, ~where))[:k].astype(jnp.int32)


def selective_backprop_probabilities(
  losses: ArrayLike,
  *,
  keep: ArrayLike = 0.5,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """How likely an example is to be trained on: `q^(1 / keep - 1)`.

  q is the share of the batch with a smaller loss, counting half of what ties,
  the example itself included. Selecting each example with that probability
  keeps the share `keep` of a large batch.

  Args:
    losses: [b].
    keep: in (0, 1].
    where: boolean [b], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    [b] in [0, 1], without gradient; 0 for padded examples.

  Raises:
    ValueError: if keep is a number outside (0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([0.0, 3.0])
    >>> selective_backprop_probabilities(losses).tolist()
    [0.25, 0.75]

  Reference: Jiang et al., "Accelerating deep learning by focusing on the
  biggest losers", 2019, arXiv:1910.00762, with the exponent beta = 1 / keep - 1
  and the present batch as the history of losses, as in Composer.
  """
  losses = as_float(jax.lax.stop_gradient(losses))
  chex.assert_rank(losses, 1)
  where = row_mask(where, losses)
  log_q = _log_share(losses, where, axis_name)
  return jnp.where(where, jnp.exp(_exponent(keep) * log_q), 0)


def selective_backprop(
  losses: ArrayLike,
  key: jax.Array,
  *,
  keep: ArrayLike = 0.5,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Draws a part of the batch, hard examples rather than easy ones.

  Without replacement, with chances in proportion to
  `selective_backprop_probabilities`; the same part on any number of devices.

  Args:
    losses: [b].
    key: a typed PRNG key, the same on every device.
    keep: the share to keep, in (0, 1].
    where: boolean [b], False for padded examples, which are never kept.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    Boolean [b], True for `max(floor(keep * n), 1)` rows of the n present ones
    over all devices.

  Raises:
    ValueError: if keep is a number outside (0, 1].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> mask = selective_backprop(jnp.arange(10.0), jax.random.key(0), keep=0.3)
    >>> int(mask.sum())
    3

  Reference: as `selective_backprop_probabilities`.
  """
  losses = as_float(jax.lax.stop_gradient(losses))
  chex.assert_rank(losses, 1)
  where = row_mask(where, losses)
  chances = _exponent(keep) * _log_share(losses, where, axis_name)
  # The largest k of ln p plus Gumbel noise are drawn without replacement.
  noise = global_noise(jax.random.gumbel, key, losses, axis_name)
  return draw(chances + noise, keep, where, axis_name, least=1)


def global_noise(
  sampler: Callable[..., jax.Array],
  key: jax.Array,
  rows: jax.Array,
  axis_name: str | None,
) -> jax.Array:
  """This device's part, [b], of noise drawn for the global batch."""
  devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
  noise = sampler(key, (rows.shape[0] * devices,), rows.dtype)
  return noise[row_numbers(rows, axis_name)]


def draw(
  scores: jax.Array,
  keep: ArrayLike,
  where: jax.Array,
  axis_name: str | None,
  *,
  least: int = 0,
) -> jax.Array:
  """Marks the floor(keep * n) rows with the largest scores of n present."""
  count = jnp.sum(gather_rows(where, axis_name), dtype=jnp.int32)
  share = jnp.asarray(keep, scores.dtype) * count
  # keep * n may lie a rounding step below a whole number.
  k = jnp.floor(share * (1 + 2 * jnp.finfo(scores.dtype).eps))
  k = jnp.maximum(k.astype(jnp.int32), least)
  return (falling_ranks(scores, where, axis_name) < k) & where


def _log_share(
  losses: jax.Array, where: jax.Array, axis_name: str | None
) -> jax.Array:
  """Logarithm of q, the share of present losses that are smaller, ties half."""
  rising, count = sorted_losses(losses, where, axis_name)
  below = jnp.searchsorted(rising, losses, side="left")
  through = jnp.minimum(jnp.searchsorted(rising, losses, side="right"), count)
  twice = (below + through).astype(losses.dtype)
  return jnp.log(jnp.maximum(twice, 1) / (2 * jnp.maximum(count, 1)))


def _exponent(keep: ArrayLike) -> ArrayLike:
  check_number("keep", keep, above=0, high=1)
  return 1 / keep - 1


def _count(k: int, rows: int) -> int:
  try:
    number = operator.index(k)
  except TypeError:
    number = 0
  if isinstance(k, bool) or not 1 <= number <= rows:
    raise ValueError(
      f"k is {k!r}, expected a whole number from 1 to the {rows} rows of the"
      " batch."
    )
  return number
