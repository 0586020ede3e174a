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

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import (
  divergence,
  log_mixture,
  present_only,
  soft_log_probabilities,
  spread,
)
from kdcl_jax.losses.reductions import check_choice, check_number
from kdcl_jax.losses.stores import arrange_store, marks

TAILS = ("bucket", "zero", "renormalise", "renormalise_teacher")


def _log_pair(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  tail: str,
  temperature: ArrayLike,
  teacher_temperature: float,
  axis: int,
  where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
  """Log-probabilities over the categories that `tail` compares.

  Returns:
    log q and log p, [..., k] or [..., k + 1]; the log of the student's mass
    that these categories leave out, [...], or None for none; and the mask of
    the present tokens, [...], or None for all.
  """
  check_choice("tail", tail, TAILS)
  check_number("temperature", temperature, above=0)
  check_number("teacher_temperature", teacher_temperature, above=0)
  student, indices, log_p, present = arrange_store(
    student_logits, teacher_indices, teacher_log_probs, axis, where
  )
  same = not isinstance(temperature, jax.Array | np.ndarray) and (
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
    outside = jnp.where(marks(indices, student.shape), -jnp.inf, log_q_all)
    q_rest = jax.nn.logsumexp(outside, -1)
  if tail == "bucket" and log_p.shape[-1] < classes:
    inside = jnp.minimum(jnp.sum(jnp.exp(log_p), -1, keepdims=True), 1)
    log_p = jnp.concatenate([log_p, jnp.log1p(-inside)], -1)
    log_q = jnp.concatenate([log_q, q_rest[..., None]], -1)
    q_rest = None
  if tail != "zero":
    divisor = spread(temperature, log_p)
    exponent = jnp.asarray(teacher_temperature, log_p.dtype) / divisor
    log_p = jax.nn.log_softmax(log_p if same else log_p * exponent, -1)
  return log_q, log_p, q_rest, present


def sparse_kl(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  tail: str = "bucket",
  teacher_temperature: float = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """`T^2 KL(p || q)` from the teacher's stored top-k.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities, [..., k]; of stored logits
      subtract the stored log-sum-exp first.
    temperature: T > 0 of both networks, a scalar or one number per token,
      [...].
    tail: what stands for the other classes: bucket, zero, renormalise or
      renormalise_teacher, see the module.
    teacher_temperature: the temperature of the stored log-probabilities. Where
      it is not T, stored probabilities (and their rest, for bucket) are raised
      to the power teacher_temperature / T and scaled to sum 1, as DistillKit
      does: an approximation for bucket, whose rest is softened as one class.
    axis: the axis of the classes, in the logits and in the store.
    where: boolean [...], False for padded tokens, whose loss is 0.

  Returns:
    One loss per token, [...].

  Raises:
    ValueError: for an unknown tail, a temperature out of range, or tail zero
      at another temperature than the stored one.

  Example:
    >>> import jax.numpy as jnp
    >>> from kdcl_jax.losses import top_k_targets
    >>> teacher = top_k_targets(jnp.array([0.0, 2.0, 1.0]), 2)
    >>> print(f"{sparse_kl(jnp.zeros(3), *teacher[:2]):.4f}")
    0.2662

  Reference:
    Goddard et al., DistillKit, Arcee AI, 2024; for the forms of others see the
    module.
  """
  log_q, log_p, _, present = _log_pair(
    student_logits,
    teacher_indices,
    teacher_log_probs,
    tail,
    temperature,
    teacher_temperature,
    axis,
    where,
  )
  value = jnp.square(temperature) * divergence(log_p, log_q)
  return present_only(value, present)


def sparse_total_variation(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  tail: str = "bucket",
  teacher_temperature: float = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """`T^2 (1/2) sum_c |p_c - q_c|` from the teacher's stored top-k.

  With the tails zero and renormalise_teacher the student's mass outside the
  stored classes counts in full, as the teacher has none there.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities, [..., k].
    temperature: T > 0 of both networks, a scalar or one number per token,
      [...].
    tail: see `sparse_kl`.
    teacher_temperature: see `sparse_kl`.
    axis: the axis of the classes, in the logits and in the store.
    where: boolean [...], False for padded tokens, whose loss is 0.

  Returns:
    One loss per token, [...].

  Raises:
    ValueError: as `sparse_kl`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kdcl_jax.losses import top_k_targets
    >>> teacher = top_k_targets(jnp.array([0.0, 2.0, 1.0]), 2)
    >>> print(f"{sparse_total_variation(jnp.zeros(3), *teacher[:2]):.4f}")
    0.3319

  Reference:
    Goddard et al., DistillKit, Arcee AI, 2024.
  """
  log_q, log_p, q_rest, present = _log_pair(
    student_logits,
    teacher_indices,
    teacher_log_probs,
    tail,
    temperature,
    teacher_temperature,
    axis,
    where,
  )
  distance = jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), -1)
  if q_rest is not None:
    distance += jnp.exp(q_rest)
  return present_only(jnp.square(temperature) * distance / 2, present)


def sparse_jsd(
  student_logits: ArrayLike,
  teacher_indices: ArrayLike,
  teacher_log_probs: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  tail: str = "bucket",
  teacher_temperature: float = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """`T^2 (KL(p || m) + KL(q || m)) / 2`, m = (p + q) / 2, from a stored top-k.

  With the tails zero and renormalise_teacher the student's mass outside the
  stored classes counts in full: where p = 0, `q log(q / m) = q log 2`.

  Args:
    student_logits: [..., K].
    teacher_indices: the stored classes, distinct integers, [..., k].
    teacher_log_probs: their log-probabilities, [..., k].
    temperature: T > 0 of both networks, a scalar or one number per token,
      [...].
    tail: see `sparse_kl`.
    teacher_temperature: see `sparse_kl`.
    axis: the axis of the classes, in the logits and in the store.
    where: boolean [...], False for padded tokens, whose loss is 0.

  Returns:
    One loss per token, [...].

  Raises:
    ValueError: as `sparse_kl`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kdcl_jax.losses import top_k_targets
    >>> teacher = top_k_targets(jnp.array([0.0, 2.0, 1.0]), 2)
    >>> print(f"{sparse_jsd(jnp.zeros(3), *teacher[:2]):.4f}")
    0.0687

  Reference:
    Goddard et al., DistillKit, Arcee AI, 2024.
  """
  log_q, log_p, q_rest, present = _log_pair(
    student_logits,
    teacher_indices,
    teacher_log_probs,
    tail,
    temperature,
    teacher_temperature,
    axis,
    where,
  )
  log_m = log_mixture(log_p, log_q, 0.5)
  losses = (divergence(log_p, log_m) + divergence(log_q, log_m)) / 2
  if q_rest is not None:
    losses += jnp.exp(q_rest) * jnp.log(2.0).astype(losses.dtype) / 2
  return present_only(jnp.square(temperature) * losses, present)
