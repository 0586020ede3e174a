"""Layers with torch's padding and initial values, shared by the models."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

# Normal with variance 2 / fan_out: He et al., 2015, arXiv:1502.01852, eq. 14.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def uniform_fan_in(fan_in: int) -> Any:
  """Uniform in +-1 / sqrt(fan_in), torch's default for linear layers."""
  bound = fan_in**-0.5

  def init(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
  ) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Conv(nn.Module):
  """A convolution that pads `kernel // 2` on every side, as torch models do.

  Attributes:
    features: output channels.
    kernel: height and width of the kernel.
    strides: of both axes.
    groups: groups of channels.
    use_bias: whether a bias is added.
    dtype: compute type.
  """

  features: int
  kernel: int = 3
  strides: int = 1
  groups: int = 1
  use_bias: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', features]."""
    pad = self.kernel // 2
    return nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      strides=(self.strides, self.strides),
      padding=((pad, pad), (pad, pad)),
      feature_group_count=self.groups,
      use_bias=self.use_bias,
      kernel_init=kaiming_fan_out,
      dtype=self.dtype,
    )(x)


class Dense(nn.Module):
  """A linear layer with torch's initial values.

  Attributes:
    features: output size.
    dtype: compute type.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] -> [..., features]."""
    init = uniform_fan_in(x.shape[-1])
    return nn.Dense(
      self.features, kernel_init=init, bias_init=init, dtype=self.dtype
    )(x)


class Classifier(nn.Module):
  """The last linear layer; logits are float32 whatever the compute type.

  Attributes:
    num_classes: number of classes.
  """

  num_classes: int

  @nn.compact
  def __call__(self, pooled: jax.Array) -> jax.Array:
    """[B, D] -> [B, num_classes]."""
    return Dense(self.num_classes)(pooled.astype(jnp.float32))


def global_pool(x: jax.Array) -> jax.Array:
  """The mean over positions, in float32: [B, H, W, C] -> [B, C]."""
  return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def stem_pool(x: jax.Array) -> jax.Array:
  """The largest of 3 x 3 around every other position, padded by 1."""
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def multiple_of_8(channels: float) -> int:
  """The nearest multiple of 8, the next one if more than 10% would be lost.

  Example:
    >>> multiple_of_8(24.0), multiple_of_8(11.2)
    (24, 16)
  """
  nearest = max(8, int(channels + 4) // 8 * 8)
  return nearest + 8 if nearest < 0.9 * channels else nearest


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
  """The largest of each window; maps smaller than a window stay."""
  window = (min(size, x.shape[1]), min(size, x.shape[2]))
  return nn.max_pool(x, window, strides=window)
