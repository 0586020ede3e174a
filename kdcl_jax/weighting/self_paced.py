"""Self-paced weights: 1 for the easiest, 0 from a threshold of the loss on.

Each minimises `v l + f(v; threshold)` over v in [0, 1] for a regulariser f of
its own. The threshold grows as training goes on; `quantile_threshold` makes it
follow a pacing function. An example exactly at the threshold has weight 0.
Losses are >= 0; a negative one counts as 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float, check_number

# What a threshold >= 1 is scaled to where only thresholds below 1 are defined.
_SCALED = 0.9


def _arranged(
  losses: ArrayLike, threshold: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The losses, the threshold and how far below it they are, as constants."""
  losses = jnp.maximum(as_float(jax.lax.stop_gradient(losses)), 0)
  if isinstance(threshold, jax.Array):
    threshold = jax.lax.stop_gradient(threshold).astype(losses.dtype)
    # An infinite one is a large one; devices take 1 / max for 0.
    threshold = jnp.minimum(threshold, jnp.finfo(losses.dtype).max / 8)
    return losses, threshold, threshold - losses
  # A number such as 0.9 lies between two float32; where a loss is one of them
  # the rest decides on which side it is. Without the barrier XLA drops it.
  exact = np.asarray(threshold, np.float64)
  rounded = exact.astype(losses.dtype)
  rest = (exact - rounded).astype(losses.dtype)
  gap = jax.lax.optimization_barrier(jnp.asarray(rounded) - losses) + rest
  return losses, jnp.asarray(rounded), gap


def _positive(number: jax.Array) -> jax.Array:
  """The number, or 1 where dividing by it would not be finite."""
  return jnp.where(number > 0, number, 1)


def _share(gap: jax.Array, threshold: jax.Array) -> jax.Array:
  """`max(1 - l / threshold, 0)`, exactly where l is near the threshold."""
  return jnp.clip(jnp.where(gap > 0, gap / _positive(threshold), 0), 0, 1)


def spl_hard(losses: ArrayLike, *, threshold: ArrayLike) -> jax.Array:
  """Hard weights of self-paced learning: `v = 1[l < threshold]`.

  Args:
    losses: [...], >= 0.
    threshold: > 0, a number or a traced scalar.

  Returns:
    [...] of 0 and 1, without gradient.

  Raises:
    ValueError: if the threshold is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> spl_hard(jnp.array([0.2, 1.0, 1.2]), threshold=1.0).tolist()
    [1.0, 0.0, 0.0]

  Reference: Kumar, Packer and Koller, "Self-paced learning for latent variable
  models", NeurIPS 2010.
  """
  check_number("threshold", threshold, above=0)
  _, _, gap = _arranged(losses, threshold)
  return (gap > 0).astype(gap.dtype)


def spl_linear(losses: ArrayLike, *, threshold: ArrayLike) -> jax.Array:
  """Linear self-paced weights: `v = max(1 - l / threshold, 0)`.

  Args:
    losses: [...], >= 0.
    threshold: > 0, a number or a traced scalar.

  Returns:
    [...] in [0, 1], without gradient.

  Raises:
    ValueError: if the threshold is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> spl_linear(jnp.array([0.0, 0.5, 2.0]), threshold=1.0).tolist()
    [1.0, 0.5, 0.0]

  Reference: Jiang, Meng, Mitamura and Hauptmann, "Easy samples first:
  self-paced reranking for zero-example multimedia search", ACM Multimedia 2014.
  """
  check_number("threshold", threshold, above=0)
  _, threshold, gap = _arranged(losses, threshold)
  return _share(gap, threshold)


def spl_logarithmic(losses: ArrayLike, *, threshold: ArrayLike) -> jax.Array:
  """Logarithmic weights: `v = ln(l + z) / ln z`, z = 1 - threshold, below it.

  Defined for thresholds below 1 only; published code gives NaN from there on.
  Here a traced threshold >= 1 (a quantile of the losses, say) is scaled to 0.9
  and the losses with it, `v = ln(0.9 l / threshold + 0.1) / ln 0.1`, which is
  still 1 for l = 0 and 0 at the threshold.

  Args:
    losses: [...], >= 0.
    threshold: a number in (0, 1), or a traced scalar > 0.

  Returns:
    [...] in [0, 1], without gradient.

  Raises:
    ValueError: if the threshold is a number outside (0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> w = spl_logarithmic(jnp.array([0.0, 0.4, 0.9]), threshold=0.9)
    >>> [f"{v:.3f}" for v in w]
    ['1.000', '0.301', '0.000']

  Reference: as `spl_linear`.
  """
  check_number("threshold", threshold, above=0)
  if not isinstance(threshold, jax.Array) and np.max(threshold) >= 1:
    raise ValueError(
      f"threshold is {threshold!r}, expected a number in (0, 1) for logarithmic"
      " weights."
    )
  _, threshold, gap = _arranged(losses, threshold)
  # Below 1 this is the gap itself.
  level = jnp.where(threshold < 1, threshold, _SCALED)
  level = jnp.where(level > 0, level, _SCALED)
  scaled = _share(gap, threshold) * level
  return jnp.clip(jnp.log1p(-scaled) / jnp.log1p(-level), 0, 1)


def spl_mixture(
  losses: ArrayLike, *, threshold: ArrayLike, low_threshold: ArrayLike
) -> jax.Array:
  """Mixture weights: 1 below one threshold, falling to 0 at another.

  `v = 1` for l <= t2, `0` for l >= t1, else `z (1 / l - 1 / t1)` with
  `z = t1 t2 / (t1 - t2)`.

  Args:
    losses: [...], >= 0.
    threshold: t1 > t2, from which on the weight is 0.
    low_threshold: t2 > 0, up to which the weight is 1. A traced t2 >= t1 makes
      the weights hard.

  Returns:
    [...] in [0, 1], without gradient.

  Raises:
    ValueError: if a threshold is a number that is not > 0, or both are numbers
      and low_threshold is not the smaller.

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([0.1, 0.5, 2.0])
    >>> print(spl_mixture(losses, threshold=1.0, low_threshold=0.25).round(3))
    [1.    0.333 0.   ]

  Reference: as `spl_linear`.
  """
  check_number("threshold", threshold, above=0)
  check_number("low_threshold", low_threshold, above=0)
  numbers = not isinstance(threshold, jax.Array) and not isinstance(
    low_threshold, jax.Array
  )
  if numbers and not np.all(np.asarray(low_threshold) < threshold):
    raise ValueError(
      f"low_threshold is {low_threshold!r}, expected a number below threshold,"
      f" {threshold!r}."
    )
  losses, threshold, gap = _arranged(losses, threshold)
  _, low, low_gap = _arranged(losses, low_threshold)
  between = (gap > 0) & (low_gap < 0)
  ratio = jnp.where(between, low / jnp.where(between, losses, 1), 0)
  falling = jnp.clip(ratio * gap / _positive(threshold - low), 0, 1)
  return jnp.where((gap > 0) & ~between, 1, falling)


def spl_mixture_gamma(
  losses: ArrayLike, *, threshold: ArrayLike, gamma: ArrayLike = 1.0
) -> jax.Array:
  """Mixture weights with square roots: `v = g (1 / sqrt(l) - 1 / t)`.

  Clamped: `v = 1` for l <= (t g / (t + g))^2 and `0` for l >= t^2. The
  threshold is one of sqrt(l), not of l.

  Args:
    losses: [...], >= 0.
    threshold: t > 0, a number or a traced scalar.
    gamma: g > 0; small is nearly hard.

  Returns:
    [...] in [0, 1], without gradient.

  Raises:
    ValueError: if threshold or gamma is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([0.04, 0.64, 1.0])
    >>> spl_mixture_gamma(losses, threshold=1.0).round(4).tolist()
    [1.0, 0.25, 0.0]

  Reference: Zhao, Meng, Jiang, Xie, Xu and Hauptmann, "Self-paced learning for
  matrix factorization", AAAI 2015.
  """
  check_number("threshold", threshold, above=0)
  check_number("gamma", gamma, above=0)
  losses = jnp.maximum(as_float(jax.lax.stop_gradient(losses)), 0)
  roots, threshold, gap = _arranged(jnp.sqrt(losses), threshold)
  gamma = jnp.asarray(jax.lax.stop_gradient(gamma), roots.dtype)
  # g (1 / r - 1 / t), arranged so that nothing is lost near the threshold.
  weights = gamma / _positive(roots) * _share(gap, threshold)
  weights = jnp.where(roots > 0, jnp.clip(weights, 0, 1), 1)
  return jnp.where(gap > 0, weights, 0)


def spl_polynomial(
  losses: ArrayLike, *, threshold: ArrayLike, t: ArrayLike = 3.0
) -> jax.Array:
  """Polynomial weights: `v = max(1 - l / threshold, 0)^(1 / (t - 1))`.

  t = 2 is `spl_linear`; larger is nearer to hard. CurML and CurBench divide by
  t - 1 instead, so that an example of loss 0 has a weight below 1.

  Args:
    losses: [...], >= 0.
    threshold: > 0, a number or a traced scalar.
    t: > 1.

  Returns:
    [...] in [0, 1], without gradient.

  Raises:
    ValueError: if a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> w = spl_polynomial(jnp.array([0.0, 0.75, 2.0]), threshold=1.0, t=3)
    >>> w.tolist()
    [1.0, 0.5, 0.0]

  Reference: Gong, Li, Meng, Miao and Liu, "Decomposition-based evolutionary
  multiobjective optimization to self-paced learning", 2018, IEEE Transactions
  on Evolutionary Computation.
  """
  check_number("threshold", threshold, above=0)
  check_number("t", t, above=1)
  _, threshold, gap = _arranged(losses, threshold)
  t = jnp.asarray(jax.lax.stop_gradient(t), gap.dtype)
  share = _share(gap, threshold)
  return jnp.where(gap > 0, share ** (1 / _positive(t - 1)), 0)


def spl_logistic(losses: ArrayLike, *, threshold: ArrayLike) -> jax.Array:
  """Logistic weights: `v = (1 + e^-t) / (1 + e^(l - t))`; never quite 0.

  Args:
    losses: [...], >= 0.
    threshold: t > 0, a number or a traced scalar; here the loss at which the
      weight is about a half.

  Returns:
    [...] in [0, 1], without gradient.

  Raises:
    ValueError: if the threshold is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> print(spl_logistic(jnp.array([0.0, 2.0, 1e30]), threshold=2.0).round(3))
    [1.    0.568 0.   ]

  Reference: Xu, Tao and Xu, "Multi-view self-paced learning for clustering",
  IJCAI 2015.
  """
  check_number("threshold", threshold, above=0)
  _, threshold, gap = _arranged(losses, threshold)
  weights = (1 + jnp.exp(-threshold)) * jax.nn.sigmoid(gap)
  return jnp.clip(weights, 0, 1)
