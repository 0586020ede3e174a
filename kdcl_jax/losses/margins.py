"""Overhaul of feature distillation: a loss that starts at a margin."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  adaptive_avg_pool,
  check_shapes,
  feature_pair,
  per_example,
)
from kdcl_jax.losses.probabilities import present_only
from kdcl_jax.losses.reductions import as_float


def ofd_margin(bn_scale: ArrayLike, bn_bias: ArrayLike) -> jax.Array:
  """The mean of the negative part of each channel after BatchNorm.

  `m = E[x | x < 0]` for `x ~ N(mu, s^2)`, mu the bias and s = |scale| of the
  BatchNorm before the ReLU: `mu - s phi(mu / s) / Phi(-mu / s)`; and -3 s where
  Phi(-mu / s) <= 0.001, the channel being hardly ever negative.

  Args:
    bn_scale: [C], gamma of the teacher's BatchNorm.
    bn_bias: [C], beta.

  Returns:
    The margins, [C], all <= 0. A channel of scale 0 is a constant: min(mu, 0).

  Example:
    >>> import jax.numpy as jnp
    >>> print(f"{ofd_margin(jnp.ones(1), jnp.zeros(1))[0]:.4f}")
    -0.7979

  Reference:
    Heo et al., "A Comprehensive Overhaul of Feature Distillation", 2019,
    arXiv:1904.01866, equation 6. The limit of 0.001 is the code's.
  """
  scale, bias = as_float(bn_scale), as_float(bn_bias)
  chex.assert_equal_shape(
    [scale, bias], custom_message="bn_scale and bn_bias need one shape, [C]"
  )
  scale = jnp.abs(scale)
  constant = scale == 0
  ratio = bias / jnp.where(constant, 1, scale)
  below = jax.scipy.stats.norm.cdf(-ratio)
  rare = below <= 0.001
  density = jax.scipy.stats.norm.pdf(ratio)
  mean = bias - scale * density / jnp.where(rare, 1, below)
  margin = jnp.where(rare, -3 * scale, mean)
  return jnp.where(constant, jnp.minimum(bias, 0), margin)


def ofd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  margin: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Overhaul of feature distillation: a partial squared error.

  `sum (s - t')^2 1(s > t' or t' > 0)` over the elements of an example, with
  `t' = max(t, m)`: where the teacher's neuron is off it is enough that the
  student's is below the margin. Maps are taken before the ReLU. The published
  code divides layer l of n by 2^(n - l - 1) and scales by 1e-3 (CIFAR) or 1e-4
  (ImageNet): put both in the coefficients.

  Args:
    student_features: [B, H, W, C], after the connector (1x1 conv, BatchNorm).
    teacher_features: [B, H', W', C]; pooled to the student's size.
    margin: [C], from `ofd_margin`; a constant.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for different numbers of channels.

  Example:
    >>> import jax.numpy as jnp
    >>> s = jnp.array([2.0, 0.0, -3.0]).reshape(1, 1, 3, 1)
    >>> t = jnp.array([1.0, -9.0, -9.0]).reshape(1, 1, 3, 1)
    >>> print(ofd(s, t, jnp.array([-1.0])))
    [2.]

  Reference:
    Heo et al., "A Comprehensive Overhaul of Feature Distillation", 2019,
    arXiv:1904.01866, equations 2 and 5. Sum and mean are mdistiller's.
  """
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(4,), where=where
  )
  check_shapes(student, teacher, 3)
  margin = jax.lax.stop_gradient(as_float(margin))
  chex.assert_shape(
    margin,
    student.shape[-1:],
    custom_message="margin is one number per channel, [C]",
  )
  teacher = adaptive_avg_pool(teacher, student.shape[1:3])
  target = jnp.maximum(teacher, margin[None, None, None])
  counts = (student > target) | (target > 0)
  gap = jnp.where(counts, student - target, 0)
  return present_only(per_example(jnp.square(gap), jnp.sum), where)
