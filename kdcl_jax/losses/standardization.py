"""Logit standardisation: distil the shape of the logits, not their scale."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import arrange
from kdcl_jax.losses.reductions import check_number
from kdcl_jax.losses.soft_targets import kd


def standardize_logits(
  logits: ArrayLike,
  *,
  eps: float = 1e-7,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """The z-score of the logits over their classes, for use in any logit loss.

  `(z - mean(z)) / (eps + std(z))` with the unbiased standard deviation (K - 1
  in the denominator), as the published code has it. `lskd` is `kd` of the
  standardised logits; the paper's other losses are composed the same way:
  `dkd(standardize_logits(s), standardize_logits(t), labels, temperature=2.0)`.

  Args:
    logits: [..., K], finite where not masked.
    eps: added to the standard deviation, > 0.
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`; masked classes count
      neither in the mean nor in the deviation.

  Returns:
    Logits of the same shape in at least float32, 0 where masked. A constant
    row gives zeros.

  Raises:
    ValueError: if eps is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> print(standardize_logits(jnp.array([[1.0, 2.0, 3.0]])).round(3))
    [[-1.  0.  1.]]

  Reference:
    Sun et al., "Logit Standardization in Knowledge Distillation", 2024,
    arXiv:2403.01427, algorithm 1.
  """
  check_number("eps", eps, above=0)
  arranged, _ = arrange(logits, axis, where)
  exists = arranged > -jnp.inf if where is not None else True
  z = jnp.where(exists, arranged, 0)
  count = jnp.sum(
    jnp.broadcast_to(exists, z.shape), -1, keepdims=True, dtype=z.dtype
  )
  centred = jnp.where(exists, z - jnp.sum(z, -1, keepdims=True) / count, 0)
  variance = jnp.sum(jnp.square(centred), -1, keepdims=True)
  variance = variance / jnp.maximum(count - 1, 1)
  varies = variance > 0
  deviation = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)
  return jnp.moveaxis(centred / (eps + deviation), -1, axis)


def lskd(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 2.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Distillation of standardised logits: `kd` of `standardize_logits`.

  The published recipe multiplies this by 9. Its own unstandardised baseline
  uses temperature 2 and weight 9 as well, against 4 and 0.9 elsewhere, so an
  ablation needs `kd` at temperature 2 and weight 9.

  Args:
    student_logits: [..., K], finite where not masked.
    teacher_logits: [..., K], finite where not masked.
    temperature: T > 0 of the z-scores, a scalar or one per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> student = jnp.array([[1.0, 2.0, 4.0]])
    >>> print(f"{abs(lskd(student, 5 * student + 3)[0]):.4f}")
    0.0000

  Reference:
    Sun et al., "Logit Standardization in Knowledge Distillation", 2024,
    arXiv:2403.01427, algorithm 1.
  """
  standardize = lambda z: standardize_logits(z, axis=axis, where=where)
  return kd(
    standardize(student_logits),
    standardize(jax.lax.stop_gradient(teacher_logits)),
    temperature=temperature,
    axis=axis,
    where=where,
  )
