"""Thresholds of the loss that follow the losses themselves."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float, check_number, gather_rows


def sorted_losses(
  losses: ArrayLike,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The losses of the global batch in rising order, and how many there are.

  Args:
    losses: [...].
    where: boolean [...], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A vector of all losses, constants, with infinity for padded ones at its
    end; and the number of the present ones, an int32 scalar.
  """
  losses = jnp.ravel(as_float(jax.lax.stop_gradient(losses)))
  if where is not None:
    where = jnp.ravel(jnp.asarray(where, bool))
    chex.assert_equal_shape(
      [losses, where],
      custom_message="where marks present examples, with the shape of losses",
    )
    losses = jnp.where(where, losses, jnp.inf)
  else:
    where = jnp.ones(losses.shape, bool)
  everybody = gather_rows(losses, axis_name)
  count = jnp.sum(gather_rows(where, axis_name), dtype=jnp.int32)
  return jnp.sort(everybody), count


def quantile_threshold(
  losses: ArrayLike,
  fraction: ArrayLike,
  *,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """The loss below which a fraction of the examples lie.

  The next number above the k-th smallest loss, `k = ceil(fraction * n)` of the
  n present examples and at least 1: so `spl_hard` keeps exactly the k easiest,
  and those that tie with the last of them. (Published code takes the k-th loss
  itself and then compares strictly, which drops the k-th example.)

  Args:
    losses: [...].
    fraction: in (0, 1], a number or traced: a pacing function of progress.
    where: boolean [...], False for padded examples.
    axis_name: mapped axis over which the batch is spread; the quantile is that
      of the global batch.

  Returns:
    A scalar without gradient, the same on every device; for losses >= 0 it is
    > 0, and a tiny number where no example is present.

  Raises:
    ValueError: if the fraction is a number outside (0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([0.3, 0.1, 0.4, 0.2])
    >>> print((losses < quantile_threshold(losses, 0.5)).tolist())
    [False, True, False, True]
  """
  check_number("fraction", fraction, above=0, high=1)
  rising, count = sorted_losses(losses, where, axis_name)
  info = jnp.finfo(rising.dtype)
  fraction = jnp.asarray(jax.lax.stop_gradient(fraction), rising.dtype)
  # fraction * n may lie a rounding step above k.
  k = jnp.ceil(fraction * count * (1 - 2 * info.eps)).astype(jnp.int32)
  kth = rising[jnp.clip(k, 1, jnp.maximum(count, 1)) - 1]
  above = jnp.nextafter(kth, jnp.inf)
  # Many devices take what is smaller for 0.
  above = jnp.where(jnp.abs(above) < info.tiny, info.tiny, above)
  return _shared(jnp.where(count > 0, above, info.tiny), axis_name)


def moving_percentile(
  average: ArrayLike,
  losses: ArrayLike,
  *,
  percentile: ArrayLike = 0.75,
  decay: ArrayLike = 0.9,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Moving average of a percentile of the losses: `a <- d a + (1 - d) l_p`.

  l_p is the loss at the rank nearest to `p (n - 1)` of n, halves to the even
  one. As in the published code nothing corrects for the start at 0, so the
  first averages are low; MentorNet gives every example weight 1 meanwhile.

  Args:
    average: a, the state, a scalar; 0 before the first batch.
    losses: [...].
    percentile: p in [0, 1].
    decay: d in [0, 1].
    where: boolean [...], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    The new average, a scalar without gradient, the same on every device; the
    old one where no example is present.

  Raises:
    ValueError: if percentile or decay is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([3.0, 1.0, 2.0])
    >>> print(moving_percentile(4.0, losses, percentile=0.5, decay=0.5))
    3.0

  Reference: Jiang, Zhou, Leung, Li and Fei-Fei, "MentorNet: learning
  data-driven curriculum for very deep neural networks on corrupted labels",
  2018, arXiv:1712.05055; its published code.
  """
  check_number("percentile", percentile, low=0, high=1)
  check_number("decay", decay, low=0, high=1)
  rising, count = sorted_losses(losses, where, axis_name)
  average, percentile, decay = (
    jnp.asarray(jax.lax.stop_gradient(v), rising.dtype)
    for v in (average, percentile, decay)
  )
  rank = jnp.rint(percentile * (count - 1)).astype(jnp.int32)
  value = rising[jnp.clip(rank, 0, jnp.maximum(count - 1, 0))]
  value = jnp.where(count > 0, value, 0)
  new = _shared(decay * average + (1 - decay) * value, axis_name)
  return jnp.where(_shared(count, axis_name) > 0, new, average)


def _shared(scalar: jax.Array, axis_name: str | None) -> jax.Array:
  """Tells `shard_map` that a scalar is the same on every device."""
  return scalar if axis_name is None else jax.lax.pmax(scalar, axis_name)
