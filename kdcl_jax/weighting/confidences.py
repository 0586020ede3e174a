"""Weights from how sure the model, or its teacher, is of the label."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import (
  arrange,
  at_labels,
  check_labels,
  entropy,
  log_sum_where,
  soft_log_probabilities,
)
from kdcl_jax.losses.reductions import as_float, check_choice, check_number

_KINDS = ("label", "max", "agreement", "entropy")


def _power(lack: jax.Array, gamma: ArrayLike) -> jax.Array:
  """lack^gamma with a finite gradient at 0, where gamma < 1 has none."""
  check_number("gamma", gamma, low=0)
  gamma = jnp.asarray(gamma, lack.dtype)
  some = lack > 0
  power = jnp.where(some, lack, 1) ** gamma
  return jnp.where(some, power, (gamma == 0).astype(lack.dtype))


def focal(losses: ArrayLike, *, gamma: ArrayLike = 2.0) -> jax.Array:
  """Focal weights from cross-entropies: `(1 - e^-l)^gamma = (1 - p_y)^gamma`.

  Hard examples count, the opposite of self-paced weights. Unlike those it
  passes the gradient on: `focal(l) * l` is the focal loss as published. As a
  mere weight it goes into `jax.lax.stop_gradient`.

  Args:
    losses: cross-entropies -ln p_y, [...], >= 0; a negative one counts as 0.
    gamma: >= 0; 0 is weight 1 throughout.

  Returns:
    [...] in [0, 1].

  Raises:
    ValueError: if gamma is a number that is not >= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> print(focal(jnp.log(jnp.array([1.0, 2.0, 4.0]))).round(4))
    [0.     0.25   0.5625]

  Reference: Lin, Goyal, Girshick, He and Dollar, "Focal loss for dense object
  detection", 2017, arXiv:1708.02002, equation 4.
  """
  return _power(-jnp.expm1(-jnp.maximum(as_float(losses), 0)), gamma)


def focal_logits(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  gamma: ArrayLike = 2.0,
  axis: int = -1,
) -> jax.Array:
  """Focal weights from logits: `(1 - softmax(z)_y)^gamma`; see `focal`.

  Args:
    logits: [..., K].
    labels: integer classes, [...].
    gamma: >= 0.
    axis: the axis of the classes.

  Returns:
    [...] in [0, 1]; the gradient passes.

  Raises:
    ValueError: if gamma is a number that is not >= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> print(focal_logits(jnp.zeros((1, 4)), jnp.array([2])))
    [0.5625]

  Reference: as `focal`.
  """
  logits, _ = arrange(logits, axis)
  labels = check_labels(labels, logits)
  others = ~jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  # The sum over the others keeps its digits where p_y is nearly 1.
  lack = jnp.exp(log_sum_where(soft_log_probabilities(logits), others))
  return _power(lack, gamma)


def teacher_confidence(
  teacher_logits: ArrayLike,
  labels: ArrayLike | None = None,
  *,
  kind: str = "label",
  temperature: ArrayLike = 1.0,
  axis: int = -1,
) -> jax.Array:
  """Weights from a teacher: how sure it is of the label, or of anything.

  With p = softmax(z_t / T): 'label' is `p_y`, low where the label is suspect to
  the teacher; 'max' is `max_c p_c` and 'entropy' is `1 - H(p) / ln K`, which
  need no label; 'agreement' is `1[argmax z_t = y]`, ties going to the first
  class.

  Args:
    teacher_logits: [..., K].
    labels: integer classes, [...]; for 'label' and 'agreement'.
    kind: 'label', 'max', 'agreement' or 'entropy'.
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.

  Returns:
    [...] in [0, 1], without gradient.

  Raises:
    ValueError: for another kind, a missing label, or a temperature that is a
      number and not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.75, 0.25]]))
    >>> for kind in ("label", "max", "agreement"):
    ...   print(teacher_confidence(logits, jnp.array([1]), kind=kind))
    [0.25]
    [0.75]
    [0.]
  """
  check_choice("kind", kind, _KINDS)
  logits, _ = arrange(jax.lax.stop_gradient(teacher_logits), axis)
  if kind in ("label", "agreement"):
    if labels is None:
      raise ValueError(f"labels is None, expected classes for kind {kind!r}.")
    labels = check_labels(labels, logits)
  log_p = soft_log_probabilities(logits, jax.lax.stop_gradient(temperature))
  if kind == "label":
    return jnp.exp(at_labels(log_p, labels))
  if kind == "max":
    return jnp.exp(jnp.max(log_p, -1))
  if kind == "agreement":
    return (jnp.argmax(logits, -1) == labels).astype(logits.dtype)
  most = jnp.log(jnp.asarray(max(logits.shape[-1], 2), logits.dtype))
  return jnp.clip(1 - entropy(log_p) / most, 0, 1)
