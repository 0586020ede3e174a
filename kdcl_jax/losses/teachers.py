"""Several teachers at once, and networks that teach each other."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import (
  arrange,
  at_labels,
  check_labels,
  divergence,
  present_only,
  soft_log_probabilities,
  spread,
)
from kdcl_jax.losses.reductions import as_float, check_choice
from kdcl_jax.losses.soft_targets import kd

SPACES = ("probabilities", "logits")


def _teacher_weights(
  weights: ArrayLike | None, teachers: jax.Array
) -> jax.Array:
  """Weights that sum to 1 over the teachers, [M, ...] or [M, 1, ...]."""
  if weights is None:
    weights = jnp.ones(teachers.shape[:1])
  weights = jnp.asarray(weights, teachers.dtype)
  if weights.ndim == 1:
    weights = weights.reshape(-1, *[1] * (teachers.ndim - 2))
  chex.assert_rank(
    weights,
    teachers.ndim - 1,
    custom_message="weights are one per teacher, [M], or one per teacher and"
    " example, [M, ...]",
  )
  chex.assert_is_broadcastable(weights.shape, teachers.shape[:-1])
  chex.assert_axis_dimension(weights, 0, teachers.shape[0])
  total = jnp.sum(weights, 0, keepdims=True)
  count = jnp.asarray(teachers.shape[0], weights.dtype)
  # Weights that are all 0 for an example count as equal ones.
  return jnp.where(
    total > 0, weights / jnp.where(total > 0, total, 1), 1 / count
  )


def average_teachers(
  teachers_logits: ArrayLike,
  *,
  weights: ArrayLike | None = None,
  temperature: ArrayLike = 1.0,
  space: str = "probabilities",
) -> jax.Array:
  """One teacher out of several, for use in any loss on logits.

  In probabilities: `T log sum_m w_m softmax(z_m / T)`, so that a loss at the
  same T sees exactly the mixture. In logits: `sum_m w_m z_m`, whose softmax is
  the normalised geometric mean.

  Args:
    teachers_logits: [M, ..., K], M teachers.
    weights: >= 0, one per teacher, [M], or per teacher and example, [M, ...];
      scaled to sum 1. None for equal ones.
    temperature: T > 0 of the loss that follows; a scalar or one per example.
    space: "probabilities" or "logits".

  Returns:
    Logits, [..., K], without gradient.

  Raises:
    ValueError: for an unknown space, or a temperature that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> two = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    >>> print(jnp.exp(average_teachers(two)))
    [0.5 0.5]

  Reference:
    You et al., "Learning from Multiple Teacher Networks", 2017, KDD; Hinton,
    Vinyals, Dean, 2015, arXiv:1503.02531, section 1, names both means.
  """
  check_choice("space", space, SPACES)
  teachers = as_float(jax.lax.stop_gradient(teachers_logits))
  weights = _teacher_weights(weights, teachers)[..., None]
  if space == "logits":
    used = weights > 0
    return jnp.sum(jnp.where(used, weights * teachers, 0), 0)
  scale = spread(temperature, teachers[0])
  divisor = scale[None] if scale.ndim else scale
  log_p = jax.nn.log_softmax(teachers / divisor, -1)
  return scale * jax.nn.logsumexp(log_p + jnp.log(weights), 0)


def confidence_weights(
  teachers_logits: ArrayLike,
  labels: ArrayLike,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Weights of teachers, per example, by how well each knows the label.

  `w_m = (1 - softmax_m(CE_m)) / (M - 1)` with each teacher's cross-entropy on
  the label; they sum to 1. One teacher has weight 1.

  Args:
    teachers_logits: [M, ..., K].
    labels: integer classes, [...].
    axis: the axis of the classes in one teacher's logits.
    where: mask of classes or of examples, see `kd`.

  Returns:
    [M, ...], without gradient.

  Example:
    >>> import jax.numpy as jnp
    >>> two = jnp.array([[[3.0, 0.0]], [[0.0, 3.0]]])
    >>> print(f"{confidence_weights(two, jnp.array([0]))[0, 0]:.3f}")
    0.953

  Reference:
    Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation",
    2021, arXiv:2201.00007, equation 3.
  """
  fixed = jnp.asarray(jax.lax.stop_gradient(teachers_logits))
  teachers = jax.vmap(lambda one: arrange(one, axis, where)[0])(fixed)
  labels = check_labels(labels, teachers[0])
  count = teachers.shape[0]
  if count == 1:
    return jnp.ones(teachers.shape[:-1], teachers.dtype)
  log_p = soft_log_probabilities(teachers)
  cross_entropies = -at_labels(
    log_p, jnp.broadcast_to(labels[None], log_p.shape[:-1])
  )
  return (1 - jax.nn.softmax(cross_entropies, 0)) / (count - 1)


def kd_teachers(
  student_logits: ArrayLike,
  teachers_logits: ArrayLike,
  *,
  weights: ArrayLike | None = None,
  temperature: ArrayLike = 4.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """The weighted mean of the distillation losses of several teachers.

  `sum_m w_m kd(z_s, z_m)`. Its gradient is that of `kd` with the averaged
  probabilities of `average_teachers`; the value differs by a constant.

  Args:
    student_logits: [..., K].
    teachers_logits: [M, ..., K], M teachers.
    weights: >= 0, one per teacher, [M], or per teacher and example, [M, ...],
      from `confidence_weights` for instance; scaled to sum 1. None for equal.
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes in student_logits.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> two = jnp.array([[[4.0, 0.0]], [[0.0, 4.0]]])
    >>> print(f"{kd_teachers(jnp.zeros((1, 2)), two)[0]:.4f}")
    1.7751

  Reference:
    You et al., "Learning from Multiple Teacher Networks", 2017, KDD.
  """
  student_logits = jnp.asarray(student_logits)
  teachers_logits = jnp.asarray(teachers_logits)
  chex.assert_shape(
    teachers_logits,
    (None, *student_logits.shape),
    custom_message="teachers_logits stacks the teachers' logits in front,"
    " [M, ..., K] for student_logits [..., K]",
  )
  one = lambda teacher_logits: kd(
    student_logits,
    teacher_logits,
    temperature=temperature,
    axis=axis,
    where=where,
  )
  losses = jax.vmap(one)(teachers_logits)
  last = jnp.moveaxis(teachers_logits, axis % student_logits.ndim + 1, -1)
  weights = _teacher_weights(weights, as_float(last))
  weights = jax.lax.stop_gradient(weights).astype(losses.dtype)
  used = weights > 0
  return jnp.sum(jnp.where(used, weights * jnp.where(used, losses, 0), 0), 0)


def ca_mkd(
  student_logits: ArrayLike,
  teachers_logits: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 4.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Confidence-aware distillation from several teachers, its logit term.

  `kd_teachers` with the `confidence_weights` of each example. The paper's
  feature term is not part of it.

  Args:
    student_logits: [..., K].
    teachers_logits: [M, ..., K].
    labels: integer classes, [...].
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes in student_logits.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> two = jnp.array([[[4.0, 0.0]], [[0.0, 4.0]]])
    >>> print(f"{ca_mkd(jnp.zeros((1, 2)), two, jnp.array([0]))[0]:.4f}")
    1.7751

  Reference:
    Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation",
    2021, arXiv:2201.00007, equation 4.
  """
  weights = confidence_weights(teachers_logits, labels, axis=axis, where=where)
  return kd_teachers(
    student_logits,
    teachers_logits,
    weights=weights,
    temperature=temperature,
    axis=axis,
    where=where,
  )


def dml(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  train_peer: bool = True,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Deep mutual learning: `KL(p || q)` of this network q from its peer p.

  The one loss here whose second argument receives a gradient, as in the
  published code: both networks are trained, each with its own cross-entropy
  and the loss towards the other. The paper's algorithm updates one network at
  a time with the other held fixed: `train_peer=False`. For more than two
  networks take the mean over the peers. Exact: the published code adds 1e-8
  in the logarithm, and has neither T nor T^2; nor has this the factor T^2.

  Args:
    student_logits: [..., K].
    teacher_logits: the peer's, [..., K].
    temperature: T > 0, a scalar or one number per example, [...].
    train_peer: whether the peer gets a gradient from this loss.
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([[0.5, 0.5]]))
    >>> q = jnp.log(jnp.array([[0.8, 0.2]]))
    >>> print(f"{dml(q, p)[0]:.4f}")
    0.2231

  Reference:
    Zhang et al., "Deep Mutual Learning", 2017, arXiv:1706.00384, equations 5
    to 7.
  """
  student_logits = jnp.asarray(student_logits)
  teacher_logits = jnp.asarray(teacher_logits)
  chex.assert_equal_shape(
    [student_logits, teacher_logits],
    custom_message="student_logits and teacher_logits need one shape [..., K]",
  )
  if not train_peer:
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
  student, present = arrange(student_logits, axis, where)
  peer, _ = arrange(teacher_logits, axis, where)
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(peer, temperature)
  return present_only(divergence(log_p, log_q), present)
