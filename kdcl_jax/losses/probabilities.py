"""Probabilities in log space: what all losses on logits are made of.

A class with probability 0 has log-probability -inf here, and every sum over
classes leaves it out in value and gradient. So a masked class, and a teacher
that rules a class out with a logit of -inf, are the same thing.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float, check_number


def arrange(
  logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None
) -> tuple[jax.Array, jax.Array | None]:
  """Brings logits into the form that the losses compute in.

  Args:
    logits: [..., K], with the classes on `axis`.
    axis: the axis of the classes.
    where: boolean. With the rank of the logits (and sizes equal or 1) it marks
      the classes that exist; with one axis less it marks the examples that do.
      The same two forms as in `optax.softmax_cross_entropy`.

  Returns:
    The logits in at least float32, classes last, -inf for masked classes and
    zeros for examples without any class; and a boolean mask of the present
    examples, [...], or None for all.
  """
  logits = jnp.moveaxis(as_float(logits), axis, -1)
  if where is None:
    return logits, None
  where = jnp.asarray(where, bool)
  if where.ndim == logits.ndim:
    where = jnp.moveaxis(where, axis, -1)
  else:
    chex.assert_shape(
      where,
      logits.shape[:-1],
      custom_message="where marks classes, with the rank of the logits, or"
      " examples, with the shape of the logits without their class axis",
    )
    where = where[..., None]
  where = jnp.broadcast_to(where, logits.shape)
  present = jnp.any(where, -1)
  logits = jnp.where(where, logits, -jnp.inf)
  return jnp.where(present[..., None], logits, 0), present


def arrange_pair(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """`arrange` for both networks; the teacher's side is a constant."""
  student_logits = jnp.asarray(student_logits)
  teacher_logits = jnp.asarray(teacher_logits)
  chex.assert_equal_shape(
    [student_logits, teacher_logits],
    custom_message="student_logits and teacher_logits need one shape [..., K]",
  )
  student, present = arrange(student_logits, axis, where)
  teacher, _ = arrange(jax.lax.stop_gradient(teacher_logits), axis, where)
  return student, teacher, present


def check_labels(labels: ArrayLike, logits: jax.Array) -> jax.Array:
  """Integer labels of the examples in `logits` [..., K], as int32."""
  labels = jnp.asarray(labels)
  chex.assert_type(labels, int)
  chex.assert_shape(
    labels,
    logits.shape[:-1],
    custom_message="labels are one integer class per example, [...] for logits"
    " [..., K]",
  )
  return labels.astype(jnp.int32)


def present_only(losses: jax.Array, present: jax.Array | None) -> jax.Array:
  """The losses, 0 for the examples that a mask excludes."""
  return losses if present is None else jnp.where(present, losses, 0)


def spread(temperature: ArrayLike, logits: jax.Array) -> jax.Array:
  """A temperature that divides logits [..., K]: a scalar, or [..., 1]."""
  check_number("temperature", temperature, above=0)
  temperature = jnp.asarray(temperature, logits.dtype)
  if temperature.ndim == 0:
    return temperature
  chex.assert_is_broadcastable(temperature.shape, logits.shape[:-1])
  chex.assert_rank(
    temperature,
    logits.ndim - 1,
    custom_message="temperature is a scalar or one number per example, [...]"
    " for logits [..., K]",
  )
  return temperature[..., None]


def soft_log_probabilities(
  logits: jax.Array, temperature: ArrayLike = 1.0
) -> jax.Array:
  """`log softmax(logits / temperature)` over the last axis.

  Args:
    logits: [..., K], with -inf for classes that do not exist.
    temperature: a number, a traced scalar or one number per example, [...].

  Returns:
    [..., K], with -inf where the logit is.
  """
  check_number("temperature", temperature, above=0)
  if isinstance(temperature, jax.Array | np.ndarray) or temperature != 1:
    # -inf / T has the derivative inf * 0 with respect to T.
    finite = logits > -jnp.inf
    scaled = jnp.where(finite, logits, 0) / spread(temperature, logits)
    logits = jnp.where(finite, scaled, -jnp.inf)
  return jax.nn.log_softmax(logits, -1)


def expectation(log_p: jax.Array, values: jax.Array) -> jax.Array:
  """`sum_c p_c values_c` over the last axis, where p_c = 0 counts as 0."""
  p = jnp.exp(log_p)
  return jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, values, 0), 0), -1)


def entropy(log_p: jax.Array) -> jax.Array:
  """`-sum_c p_c log p_c` over the last axis."""
  return -expectation(log_p, log_p)


def divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """`KL(p || q) = sum_c p_c (log p_c - log q_c)` over the last axis."""
  supported = jnp.exp(log_p) > 0
  log_p = jnp.where(supported, log_p, -jnp.inf)
  safe_p = jnp.where(supported, log_p, 0)
  safe_q = jnp.where(supported, log_q, 0)
  return expectation(log_p, safe_p - safe_q)


@jax.custom_jvp
def trained_divergence(log_q: jax.Array, log_p: jax.Array) -> jax.Array:
  """`KL(q || p)` where q, normalised, is what is trained.

  The value is that of `divergence`. Its derivative is taken from the centred
  form `sum_c q_c (log q_c - log p_c - KL) d log q_c`, the same since q sums to
  1, without the cancellation that costs float32 its digits at large logits.
  """
  return divergence(log_q, log_p)


@trained_divergence.defjvp
def _trained_divergence_jvp(
  primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  log_q, log_p = primals
  value = trained_divergence(log_q, log_p)
  supported = jnp.exp(log_q) > 0
  there = lambda x: jnp.where(supported, x, 0)
  centre = jnp.where(jnp.isfinite(value), value, 0)[..., None]
  gap = there(log_q) - there(log_p) - centre + 1
  change = there(gap) * there(tangents[0]) - there(tangents[1])
  return value, jnp.sum(there(jnp.exp(log_q)) * change, -1)


def log_mixture(
  log_p: jax.Array, log_q: jax.Array, weight: ArrayLike
) -> jax.Array:
  """`log(weight * p + (1 - weight) * q)` for 0 < weight < 1, or [...] such."""
  weight = jnp.asarray(weight, log_p.dtype)
  weight = weight[..., None] if weight.ndim else weight
  # logaddexp(-inf, -inf) is right, its derivative is not.
  neither = (log_p == -jnp.inf) & (log_q == -jnp.inf)
  mixed = jnp.logaddexp(
    jnp.log(weight) + jnp.where(neither, 0, log_p),
    jnp.log1p(-weight) + jnp.where(neither, 0, log_q),
  )
  return jnp.where(neither, -jnp.inf, mixed)


def at_labels(values: jax.Array, labels: jax.Array) -> jax.Array:
  """The entries of the labelled classes, [..., K] and [...] -> [...]."""
  return jnp.take_along_axis(values, labels[..., None], -1)[..., 0]


def log_sum_where(log_p: jax.Array, where: jax.Array) -> jax.Array:
  """`log sum_c p_c` over the marked classes; -inf where there is none."""
  where = where & (log_p > -jnp.inf)
  some = jnp.any(where, -1, keepdims=True)
  safe = jnp.where(where, log_p, jnp.where(some, -jnp.inf, 0))
  total = jax.nn.logsumexp(safe, -1)
  return jnp.where(some[..., 0], total, -jnp.inf)
