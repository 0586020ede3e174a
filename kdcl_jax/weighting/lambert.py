"""The Lambert W function, which SuperLoss needs and JAX does not have."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float

_REST = -1.2428753672788363e-17  # 1/e less its float64
_TERMS = 16
_NEAR = {4: 0.5, 8: 0.1}  # the p up to which the series is used
_STEPS = 4


@functools.lru_cache(maxsize=1)
def _series() -> tuple[float, ...]:
  """Coefficients of W in powers of p = sqrt(2 (e z + 1)), from p^0 on."""
  w, a = [-1.0, 1.0], [2.0, -1.0]
  for k in range(2, _TERMS):
    a.append(sum(w[j] * w[k + 1 - j] for j in range(2, k)))
    w.append(
      (k - 1) / (k + 1) * (w[k - 2] / 2 + a[k - 2] / 4)
      - a[k] / 2
      - w[k - 1] / (k + 1)
    )
  return tuple(w)


def lambert_w(z: ArrayLike) -> jax.Array:
  """The principal branch of the Lambert W function: `W e^W = z`, W >= -1.

  Its power series near the branch point -1/e, Halley's iteration elsewhere.

  Args:
    z: [...], >= -1/e. What is below counts as -1/e, where W = -1.

  Returns:
    [...], accurate to 1e-6 in float32 and 1e-12 in float64, relative where |W|
    is above 1. The derivative `1 / (e^W (1 + W))` is infinite at -1/e; it is
    given as 0 there and below.

  Example:
    >>> import jax.numpy as jnp
    >>> print(lambert_w(jnp.array([-1.0, 0.0, jnp.e])).round(6))
    [-1.  0.  1.]

  Reference: Corless, Gonnet, Hare, Jeffrey and Knuth, "On the Lambert W
  function", 1996, Advances in Computational Mathematics 5, equations 4.22
  (series) and 5.9 (Halley).
  """
  return _lambert_w(as_float(z))


@jax.custom_jvp
def _lambert_w(z: jax.Array) -> jax.Array:
  # z + 1/e in two parts: a single float for 1/e would cost half the digits.
  # Without the barrier XLA adds the two constants up.
  high = float(np.asarray(math.exp(-1), z.dtype))
  low = math.exp(-1) - high + _REST
  above = jax.lax.optimization_barrier(z + high) + low
  p = jnp.sqrt(2 * math.e * jnp.maximum(above, 0))
  near = p < _NEAR[z.dtype.itemsize]
  series = jnp.zeros_like(p)
  for coefficient in reversed(_series()):
    series = series * p + coefficient
  safe = jnp.where(near, 0, jnp.minimum(z, jnp.finfo(z.dtype).max))
  log = jnp.log1p(safe)
  w = log * (1 - jnp.log1p(log) / (2 + log))
  for _ in range(_STEPS):
    # Halley's step for w - z e^-w, which does not overflow as w e^w does.
    gap = w - safe * jnp.exp(-w)
    w = w - gap / (w + 1 - (w + 2) * gap / (2 * w + 2))
  return jnp.where(near, series, w)


@_lambert_w.defjvp
def _derivative(primals, tangents):
  (z,), (tangent,) = primals, tangents
  w = _lambert_w(z)
  slope = jnp.exp(-w) / jnp.where(w > -1, 1 + w, 1)
  return w, jnp.where(w > -1, slope, 0) * tangent
