"""SuperLoss: each example's confidence, the best one for its loss."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import (
  all_sum,
  as_float,
  check_choice,
  check_number,
)
from kdcl_jax.weighting.lambert import lambert_w

_MEANINGS = ("old", "new")


def _minus_log_sigma(
  losses: jax.Array, tau: ArrayLike, lam: ArrayLike
) -> jax.Array:
  """W(max(-2/e, (l - tau) / lam) / 2), a constant; `lambert_w` clamps."""
  check_number("tau", tau)
  check_number("lam", lam, above=0)
  return jax.lax.stop_gradient(lambert_w((losses - tau) / lam / 2))


def superloss(
  losses: ArrayLike, *, tau: ArrayLike, lam: ArrayLike = 1.0
) -> jax.Array:
  """SuperLoss: `min_s (l - tau) s + lam (ln s)^2`, easy examples amplified.

  The minimum is at `superloss_weights`, a constant for the gradient: by the
  envelope theorem the derivative with respect to l is exactly that weight.
  (CurML evaluates W at -1/e rounded down, which makes its loss NaN as soon as
  one example is that easy; here the weight is e there.)

  Args:
    losses: [...], of any task.
    tau: the loss of an example that is neither easy nor hard, ln(classes) or a
      running mean (`superloss_tau`): a number or a traced scalar.
    lam: > 0, how far weights may be from 1; 1 for CIFAR-10 and 0.25 for
      CIFAR-100 in an unofficial implementation.

  Returns:
    [...]; negative where the loss is below tau.

  Raises:
    ValueError: if tau is no finite number, or lam a number that is not > 0.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> print(jax.grad(lambda l: superloss(l, tau=1.0))(1.0))
    1.0

  Reference: Castells, Weinzaepfel and Revaud, "SuperLoss: a generic loss for
  robust curriculum learning", NeurIPS 2020, section 3.
  """
  losses = as_float(losses)
  w = _minus_log_sigma(losses, tau, lam)
  return (losses - tau) * jnp.exp(-w) + lam * jnp.square(w)


def superloss_weights(
  losses: ArrayLike, *, tau: ArrayLike, lam: ArrayLike = 1.0
) -> jax.Array:
  """The weights of SuperLoss: `s = exp(-W(max(-2/e, (l - tau) / lam) / 2))`.

  W is `lambert_w`. The weighted mean of the losses has the gradient of the mean
  of `superloss`, and a value that differs by the regulariser.

  Args:
    losses: [...].
    tau: as for `superloss`.
    lam: as for `superloss`.

  Returns:
    [...] in (0, e], without gradient: 1 at tau, e where l <= tau - 2 lam / e.

  Raises:
    ValueError: if tau is no finite number, or lam a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([0.0, 2.0, 4.0])
    >>> [round(float(w), 3) for w in superloss_weights(losses, tau=2.0)]
    [2.718, 1.0, 0.567]

  Reference: as `superloss`.
  """
  return jnp.exp(-_minus_log_sigma(as_float(losses), tau, lam))


def superloss_tau(
  tau: ArrayLike,
  losses: ArrayLike,
  *,
  factor: ArrayLike = 0.9,
  factor_of: str = "old",
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """The next tau of a running mean of the losses, to be used with them.

  Published code gives `factor` two meanings. 'old', as in CurBench:
  `f tau + (1 - f) mean(l)`, where a tau of 0 is not known yet and becomes the
  mean. 'new', as in CurML: `f mean(l) + (1 - f) tau`.

  Args:
    tau: the state, a scalar; with 'old' 0 before the first batch.
    losses: [...].
    factor: f in [0, 1].
    factor_of: 'old' or 'new', what the factor multiplies.
    where: boolean [...], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar without gradient, the same on every device; tau where no example is
    present.

  Raises:
    ValueError: if the factor is a number out of range, or for another word.

  Example:
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([1.0, 3.0])
    >>> print(superloss_tau(1.0, losses), superloss_tau(0.0, losses))
    1.1 2.0
    >>> print(superloss_tau(1.0, losses, factor_of="new"))
    1.9

  Reference: as `superloss`.
  """
  check_number("factor", factor, low=0, high=1)
  check_choice("factor_of", factor_of, _MEANINGS)
  losses = as_float(jax.lax.stop_gradient(losses))
  tau = jnp.asarray(jax.lax.stop_gradient(tau), losses.dtype)
  present = jnp.ones(losses.shape, bool)
  if where is not None:
    present = jnp.asarray(where, bool)
  total = all_sum(jnp.sum(jnp.where(present, losses, 0)), axis_name)
  count = all_sum(jnp.sum(present.astype(losses.dtype)), axis_name)
  mean = total / jnp.maximum(count, 1)
  keep = factor if factor_of == "old" else 1 - factor
  new = keep * tau + (1 - keep) * mean
  if factor_of == "old":
    new = jnp.where(tau == 0, mean, new)
  return jnp.where(count > 0, new, tau)
