"""The losses that need no teacher."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import arrange, check_labels, present_only
from kdcl_jax.losses.reductions import as_float, check_number


def cross_entropy(
  student_logits: ArrayLike,
  labels: ArrayLike,
  *,
  label_smoothing: ArrayLike = 0.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Cross-entropy with integer or soft labels.

  `-sum_c y'_c log softmax(z)_c` with `y' = (1 - s) y + s / K`.

  Args:
    student_logits: [..., K].
    labels: integer classes, [...], or probabilities of the classes, [..., K]
      with the classes on `axis`.
    label_smoothing: s in [0, 1], a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`; smoothing spreads over the
      unmasked classes.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if label_smoothing is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).round(4))
    [1.3863 1.3863]

  Reference:
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
    2015, arXiv:1512.00567, section 7, for the smoothing.
  """
  check_number("label_smoothing", label_smoothing, low=0, high=1)
  logits, present = arrange(student_logits, axis, where)
  labels = jnp.asarray(labels)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    labels = check_labels(labels, logits)
    if present is not None:
      labels = jnp.where(present, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  else:
    labels = jnp.moveaxis(as_float(labels), axis, -1)
    chex.assert_equal_shape(
      [labels, logits],
      custom_message="soft labels need the shape of student_logits, [..., K]",
    )
    if present is not None:
      labels = jnp.where(present[..., None], labels, 0)
    losses = optax.safe_softmax_cross_entropy(logits, labels)
  if isinstance(label_smoothing, jax.Array | np.ndarray) or label_smoothing > 0:
    exists = (logits > -jnp.inf).astype(logits.dtype)
    uniform = exists / jnp.sum(exists, -1, keepdims=True)
    smooth = optax.safe_softmax_cross_entropy(logits, uniform)
    losses = (1 - label_smoothing) * losses + label_smoothing * smooth
  return present_only(losses, present)
