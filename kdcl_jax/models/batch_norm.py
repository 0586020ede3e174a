"""Batch normalisation over the rows that are there, of the whole batch."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
  """Batch normalisation with torch's conventions, masked and global.

  In training, `y = scale (x - mean) / sqrt(var + eps) + bias` with mean and
  biased variance over the present rows of the global batch; the running
  variance takes the unbiased one. Statistics are float32 whatever the compute
  type. Under `shard_map` sums are taken over `axis_name`, so that the result
  does not depend on how rows are spread over devices.

  Attributes:
    momentum: share of the running statistics that is kept.
    epsilon: added to the variance.
    dtype: type of the output.
    axis_name: mesh axis over which the batch is split, if it is.
    scale_init: initialiser of the scale.

  Reference: Ioffe and Szegedy, "Batch normalization", 2015, arXiv:1502.03167.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32
  axis_name: str | None = None
  scale_init: Any = nn.initializers.ones

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> jax.Array:
    """Normalises the last axis of x [B, ..., C]; mask [B] is True for rows."""
    channels = x.shape[-1]
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
    bias = self.param("bias", zeros, (channels,), jnp.float32)
    running_mean = self.variable(
      "batch_stats", "mean", lambda: zeros(None, (channels,), jnp.float32)
    )
    running_var = self.variable(
      "batch_stats", "var", lambda: ones(None, (channels,), jnp.float32)
    )
    values = x.astype(jnp.float32)
    if train:
      mean, var, count = self._moments(values, mask)
      if not self.is_initializing():
        unbiased = var * count / jnp.maximum(count - 1, 1)
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_var.value = keep * running_var.value + (1 - keep) * unbiased
    else:
      mean, var = running_mean.value, running_var.value
    shape = (1,) * (x.ndim - 1) + (channels,)
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    shift = bias - mean * factor
    y = values * factor.reshape(shape) + shift.reshape(shape)
    return y.astype(self.dtype)

  def _moments(
    self, values: jax.Array, mask: jax.Array | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    axes = tuple(range(values.ndim - 1))
    positions = values[0, ..., 0].size
    if mask is None:
      rows = jnp.full((), values.shape[0], jnp.float32)
      weight = jnp.ones((1,) * values.ndim, jnp.float32)
    else:
      rows = jnp.sum(mask, dtype=jnp.float32)
      weight = mask.astype(jnp.float32)
      weight = weight.reshape((-1,) + (1,) * (values.ndim - 1))
    count = jnp.maximum(self._all_sum(rows) * positions, 1.0)
    mean = self._all_sum(jnp.sum(values * weight, axes)) / count
    centred = values - mean.reshape((1,) * (values.ndim - 1) + (-1,))
    var = self._all_sum(jnp.sum(jnp.square(centred) * weight, axes)) / count
    return mean, var, count

  def _all_sum(self, value: jax.Array) -> jax.Array:
    return jax.lax.psum(value, self.axis_name) if self.axis_name else value
