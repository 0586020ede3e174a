"""Losses from the teacher's top-k log-probabilities, all that a store can hold.

What the stored k classes say of the other classes is a choice, `tail`:

- bucket: k classes and one more for the rest, in both networks. A true
  divergence, at most that of the full distributions. The default.
- zero: the k known terms of the full sum. Not a divergence: it can be < 0.
- renormalise: the k classes alone, scaled to sum 1 in both networks. A true
  divergence, but the student's mass on other classes gets no gradient.
- renormalise_teacher: the teacher's k classes scaled to sum 1, against the full
  softmax of the student. Not 0 unless the student gives up all other classes.

`bucket` is DistillKit's `symmetric_uniform`, `renormalise_teacher` its `zero`,
and `renormalise` the form of tunix and MaxText.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import (
  divergence,
  log_mixture,
  soft_log_probabilities,
)
from kdcl_jax.losses.reductions import as_float, check_choice, check_number

TAILS = ("bucket", "zero", "renormalise", "renormalise_teacher")


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
  return _marks(indices, teacher_logits.shape)


def _marks(indices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return jnp.put_along_axis(
    jnp.zeros(shape, bool), indices, True, -1, inplace=False
  )


def _log_pair(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  tail: str,
  temperature: ArrayLike,
  teacher_temperature: float,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Log-probabilities over the categories that `tail` compares.

  Returns:
    log q and log p, [..., k] or [..., k + 1], and the log of the student's mass
    that these categories leave out, [...], or None for none.
  """
  check_choice("tail", tail, TAILS)
  check_number("temperature", temperature, above=0)
  check_number("teacher_temperature", teacher_temperature, above=0)
  student = as_float(student_logits)
  indices = jnp.asarray(teacher_indices)
  log_p = as_float(jax.lax.stop_gradient(teacher_log_probs))
  _check_store(student, indices, log_p)
  same = not isinstance(temperature, jax.Array) and (
    temperature == teacher_temperature
  )
  if tail == "zero" and not same:
    raise ValueError(
      "tail is 'zero', which needs probabilities at the temperature of the"
      f" loss, {temperature!r}, but they were stored at"
      f" {teacher_temperature!r}; store them with"
      " top_k_targets(..., temperature=...) or choose another tail."
    )
  log_q_all = soft_log_probabilities(student, temperature)
  log_q = jnp.take_along_axis(log_q_all, indices, -1)
  classes = student.shape[-1]
  if tail == "renormalise":
    q_rest = None
    log_q = jax.nn.log_softmax(log_q, -1)
  elif log_p.shape[-1] == classes:
    q_rest = jnp.full(log_q.shape[:-1], -jnp.inf, log_q.dtype)
  else:
    # The mass outside is summed, not 1 - the mass inside, which cancels.
    outside = jnp.where(_marks(indices, student.shape), -jnp.inf, log_q_all)
    q_rest = jax.nn.logsumexp(outside, -1)
  if tail == "bucket" and log_p.shape[-1] < classes:
    inside = jnp.minimum(jnp.sum(jnp.exp(log_p), -1, keepdims=True), 1)
    log_p = jnp.concatenate([log_p, jnp.log1p(-inside)], -1)
    log_q = jnp.concatenate([log_q, q_rest[..., None]], -1)
    q_rest = None
  if tail != "zero":
    exponent = jnp.asarray(teacher_temperature, log_p.dtype) / temperature
    log_p = jax.nn.log_softmax(log_p if same else log_p * exponent, -1)
  return log_q, log_p, q_rest


def _check_store(
  student: jax.Array, indices: jax.Array, values: jax.Array
) -> None:
  chex.assert_type(indices, int)
  chex.assert_equal_shape(
    [indices, values],
    custom_message="teacher_indices and teacher_log_probs need one shape"
    " [..., k]",
  )
  chex.assert_equal_shape_prefix(
    [student, values],
    student.ndim - 1,
    custom_message="student_logits [..., K] and teacher_log_probs [..., k]"
    " need the same tokens [...]",
  )


def sparse_kl(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  tail: str = "bucket",
  teacher_temperature: float = 1.0,
) -> jax.Array:
  """`T^2 KL(p || q)` from the teacher's stored top-k.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities, [..., k]; of stored logits
      subtract the stored log-sum-exp first.
    temperature: T > 0 of both networks.
    tail: what stands for the other classes: bucket, zero, renormalise or
      renormalise_teacher, see the module.
    teacher_temperature: the temperature of the stored log-probabilities. Where
      it is not T, stored probabilities (and their rest, for bucket) are raised
      to the power teacher_temperature / T and scaled to sum 1, as DistillKit
      does: an approximation for bucket, whose rest is softened as one class.

  Returns:
    One loss per token, [...].

  Raises:
    ValueError: for an unknown tail, a temperature out of range, or tail zero
      at another temperature than the stored one.

  Example:
    >>> import jax.numpy as jnp
    >>> teacher = top_k_targets(jnp.array([0.0, 2.0, 1.0]), 2)
    >>> print(f"{sparse_kl(jnp.zeros(3), *teacher[:2]):.4f}")
    0.2662

  Reference:
    Goddard et al., DistillKit, Arcee AI, 2024; for the forms of others see the
    module.
  """
  log_q, log_p, _ = _log_pair(
    student_logits,
    teacher_indices,
    teacher_log_probs,
    tail,
    temperature,
    teacher_temperature,
  )
  return jnp.square(temperature) * divergence(log_p, log_q)


def sparse_total_variation(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  tail: str = "bucket",
  teacher_temperature: float = 1.0,
) -> jax.Array:
  """`T^2 (1/2) sum_c |p_c - q_c|` from the teacher's stored top-k.

  With the tails zero and renormalise_teacher the student's mass outside the
  stored classes counts in full, as the teacher has none there.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities, [..., k].
    temperature: T > 0 of both networks.
    tail: see `sparse_kl`.
    teacher_temperature: see `sparse_kl`.

  Returns:
    One loss per token, [...].

  Raises:
    ValueError: as `sparse_kl`.

  Example:
    >>> import jax.numpy as jnp
    >>> teacher = top_k_targets(jnp.array([0.0, 2.0, 1.0]), 2)
    >>> print(f"{sparse_total_variation(jnp.zeros(3), *teacher[:2]):.4f}")
    0.3319

  Reference:
    Goddard et al., DistillKit, Arcee AI, 2024.
  """
  log_q, log_p, q_rest = _log_pair(
    student_logits,
    teacher_indices,
    teacher_log_probs,
    tail,
    temperature,
    teacher_temperature,
  )
  distance = jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), -1)
  if q_rest is not None:
    distance += jnp.exp(q_rest)
  return jnp.square(temperature) * distance / 2


def sparse_jsd(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  tail: str = "bucket",
  teacher_temperature: float = 1.0,
) -> jax.Array:
  """`T^2 (KL(p || m) + KL(q || m)) / 2`, m = (p + q) / 2, from a stored top-k.

  With the tails zero and renormalise_teacher the student's mass outside the
  stored classes counts in full: where p = 0, `q log(q / m) = q log 2`.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities, [..., k].
    temperature: T > 0 of both networks.
    tail: see `sparse_kl`.
    teacher_temperature: see `sparse_kl`.

  Returns:
    One loss per token, [...].

  Raises:
    ValueError: as `sparse_kl`.

  Example:
    >>> import jax.numpy as jnp
    >>> teacher = top_k_targets(jnp.array([0.0, 2.0, 1.0]), 2)
    >>> print(f"{sparse_jsd(jnp.zeros(3), *teacher[:2]):.4f}")
    0.0687

  Reference:
    Goddard et al., DistillKit, Arcee AI, 2024.
  """
  log_q, log_p, q_rest = _log_pair(
    student_logits,
    teacher_indices,
    teacher_log_probs,
    tail,
    temperature,
    teacher_temperature,
  )
  log_m = log_mixture(log_p, log_q, 0.5)
  losses = (divergence(log_p, log_m) + divergence(log_q, log_m)) / 2
  if q_rest is not None:
    losses += jnp.exp(q_rest) * jnp.log(2.0).astype(losses.dtype) / 2
  return jnp.square(temperature) * losses
