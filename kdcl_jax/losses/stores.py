"""What is stored of a teacher: its k most probable classes of each token."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import arrange, soft_log_probabilities
from kdcl_jax.losses.reductions import as_float


class TopK(NamedTuple):
  """What is stored of a teacher.

  Attributes:
    indices: the k most probable classes, [..., k], most probable first.
    log_probs: their log-probabilities at the temperature of storing, [..., k].
    log_sum_exp: of all logits divided by that temperature, [...]; with it,
      `(log_probs + log_sum_exp[..., None]) * temperature` are the logits.
  """

  indices: jax.Array
  log_probs: jax.Array
  log_sum_exp: jax.Array


def top_k_targets(
  teacher_logits: ArrayLike, k: int, *, temperature: ArrayLike = 1.0
) -> TopK:
  """The k most probable classes of a teacher, to be stored.

  Args:
    teacher_logits: [..., K].
    k: how many, 1 <= k <= K.
    temperature: T > 0 at which log-probabilities are taken. 1 serves any later
      loss; store at the loss's own temperature for exact tails there.

  Returns:
    A `TopK`, without gradient.

  Raises:
    ValueError: if k or temperature is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> print(top_k_targets(jnp.array([0.0, 2.0, 1.0]), 2).indices)
    [1 2]
  """
  logits = as_float(jax.lax.stop_gradient(teacher_logits))
  if not 1 <= k <= logits.shape[-1]:
    raise ValueError(
      f"k is {k}, expected 1 to {logits.shape[-1]}, the number of classes."
    )
  log_p = soft_log_probabilities(logits, temperature)
  log_probs, indices = jax.lax.top_k(log_p, k)
  scaled = jnp.take_along_axis(logits, indices, -1)[..., 0]
  scaled = scaled / jnp.asarray(temperature, logits.dtype)
  return TopK(indices, log_probs, scaled - log_probs[..., 0])


def top_k_mask(teacher_logits: ArrayLike, k: int) -> jax.Array:
  """Marks the teacher's k most probable classes, for `where=` of any loss.

  `kd(s, t, where=top_k_mask(t, k))` is the top-k form of tunix and MaxText:
  both distributions renormalised over the teacher's k classes.

  Args:
    teacher_logits: [..., K].
    k: how many, 1 <= k <= K.

  Returns:
    Boolean, [..., K], with k True per row; ties go to the first classes.

  Raises:
    ValueError: if k is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> print(top_k_mask(jnp.array([0.0, 2.0, 1.0]), 2))
    [False  True  True]
  """
  teacher_logits = jnp.asarray(teacher_logits)
  indices = top_k_targets(teacher_logits, k).indices
  return marks(indices, teacher_logits.shape)


def marks(indices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Boolean of a shape [..., K], True at the classes of indices [..., k]."""
  return jnp.put_along_axis(
    jnp.zeros(shape, bool), indices, True, -1, inplace=False
  )


def arrange_store(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
  """Brings logits and a store into the form that the losses compute in.

  Args:
    student_logits: [..., K], with the classes on `axis`.
    teacher_indices: [..., k], with the stored classes on the same axis.
    teacher_log_probs: [..., k].
    axis: the axis of the classes.
    where: boolean [...], False for padded tokens; None for none.

  Returns:
    Logits, indices and log-probabilities with the classes last, harmless values
    in padded tokens; and the mask of the present ones, [...], or None for all.
  """
  student_logits = jnp.asarray(student_logits)
  indices = jnp.moveaxis(jnp.asarray(teacher_indices), axis, -1)
  log_p = as_float(jax.lax.stop_gradient(teacher_log_probs))
  log_p = jnp.moveaxis(log_p, axis, -1)
  if where is not None:
    chex.assert_rank(
      where,
      student_logits.ndim - 1,
      custom_message="where marks tokens, with the shape of the logits without"
      " their class axis",
    )
  student, present = arrange(student_logits, axis, where)
  chex.assert_type(indices, int)
  chex.assert_equal_shape(
    [indices, log_p],
    custom_message="teacher_indices and teacher_log_probs need one shape"
    " [..., k]",
  )
  chex.assert_equal_shape_prefix(
    [student, log_p],
    student.ndim - 1,
    custom_message="student_logits [..., K] and teacher_log_probs [..., k]"
    " need the same tokens [...]",
  )
  if present is not None:
    k = log_p.shape[-1]
    first = jnp.broadcast_to(jnp.arange(k, dtype=indices.dtype), indices.shape)
    indices = jnp.where(present[..., None], indices, first)
    log_p = jnp.where(present[..., None], log_p, -jnp.log(k + 1.0))
  return student, indices, log_p, present
