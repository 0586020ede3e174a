"""Losses that show the student the teacher's softened outputs."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import (
  arrange_pair,
  at_labels,
  check_labels,
  divergence,
  expectation,
  present_only,
  soft_log_probabilities,
  spread,
)
from kdcl_jax.losses.reductions import check_number


def _square(temperature: ArrayLike, logits: jax.Array) -> jax.Array:
  """T^2 with the shape of the losses."""
  factor = spread(temperature, logits)
  return jnp.square(factor[..., 0] if factor.ndim else factor)


def kd(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 4.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Knowledge distillation: KL of the student from the softened teacher.

  `T^2 KL(softmax(z_t / T) || softmax(z_s / T))`, summed over classes. T^2 keeps
  the size of the gradient when T changes. The cross-entropy on labels is a loss
  of its own, `cross_entropy`.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K]; -inf rules a class out.
    temperature: T > 0: a number, a traced scalar, or one number per example,
      [...]. Gradients flow into it through both softmaxes and T^2, which a
      learned temperature needs.
    axis: the axis of the classes.
    where: boolean mask of classes (rank of the logits) or of examples (one axis
      less), as in optax. A masked example has loss 0 and gradient 0.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[4.0, 0.0]])
    >>> print(f"{kd(student, teacher, temperature=4.0)[0]:.4f}")
    1.7751

  Reference:
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015,
    arXiv:1503.02531, section 2.
  """
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  losses = _square(temperature, student) * divergence(log_p, log_q)
  return present_only(losses, present)


def kd_ce(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Distillation as cross-entropy, without the factor T^2.

  `-sum_c p_c log q_c` with p, q softened by T: `kd / T^2` plus the entropy of
  the teacher, so it is not 0 where student and teacher agree. TextBrewer's
  `kd_ce_loss`.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> print(f"{kd_ce(jnp.zeros((1, 4)), jnp.zeros((1, 4)))[0]:.4f}")
    1.3863

  Reference:
    Yang et al., "TextBrewer: An Open-Source Knowledge Distillation Toolkit for
    Natural Language Processing", 2020, arXiv:2002.12620.
  """
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  return present_only(-expectation(log_p, log_q), present)


def deit_soft(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """DeiT's soft distillation as its code computes it: `kd` divided by K.

  The paper's equation 2 has no division; the published code averages over all
  elements, examples times classes. This is the code's form, for the logits of
  the distillation token. For the paper's form use `kd`.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`; K counts unmasked classes.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[4.0, 0.0]])
    >>> print(f"{deit_soft(student, teacher, temperature=4.0)[0]:.4f}")
    0.8876

  Reference:
    Touvron et al., "Training data-efficient image transformers & distillation
    through attention", 2021, arXiv:2012.12877, equation 2.
  """
  student, _, _ = arrange_pair(student_logits, teacher_logits, axis, where)
  losses = kd(
    student_logits,
    teacher_logits,
    temperature=temperature,
    axis=axis,
    where=where,
  )
  return losses / _class_count(student)


def _class_count(logits: jax.Array) -> jax.Array:
  """How many classes each example has, [..., K] -> [...]."""
  return jnp.sum(logits > -jnp.inf, -1, dtype=logits.dtype)


def hard(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Hard distillation: cross-entropy with the teacher's decision.

  `-log softmax(z_s)[argmax z_t]`; ties go to the first class.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Example:
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.zeros((1, 4)), jnp.array([[0.0, 3.0, 1.0, 2.0]])
    >>> print(f"{hard(student, teacher)[0]:.4f}")
    1.3863

  Reference:
    Touvron et al., "Training data-efficient image transformers & distillation
    through attention", 2021, arXiv:2012.12877, equation 3.
  """
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  log_q = soft_log_probabilities(student)
  return present_only(-at_labels(log_q, jnp.argmax(teacher, -1)), present)


def logit_mse(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Mean squared difference of the logits.

  `(1/K) sum_c ((z_s - z_t) / T)^2`, without T^2 and without centring. Ba and
  Caruana sum over classes instead: multiply by K.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K], finite where not masked.
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`; K counts unmasked classes.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> print(logit_mse(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2))))
    [5.]

  Reference:
    Ba, Caruana, "Do Deep Nets Really Need to be Deep?", 2014, arXiv:1312.6184.
    The mean over classes is TextBrewer's `kd_mse_loss`.
  """
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  exists = student > -jnp.inf
  gap = jnp.where(exists, student, 0) - jnp.where(exists, teacher, 0)
  gap = gap / spread(temperature, student)
  losses = jnp.sum(jnp.square(gap), -1) / _class_count(student)
  return present_only(losses, present)


def mld(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Multi-label logit distillation: one binary KL per class, summed.

  `sum_c KL(Bernoulli(sigmoid(z_t,c)) || Bernoulli(sigmoid(z_s,c)))`, in log
  space. The published code clamps probabilities to [1e-8, 1 - 1e-8], which
  caps the loss and stops the gradient of saturated logits; this does not.

  Args:
    student_logits: [..., K], one independent yes/no per class.
    teacher_logits: [..., K].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Example:
    >>> import jax.numpy as jnp
    >>> print(f"{mld(jnp.zeros((1, 3)), jnp.full((1, 3), 9.0))[0]:.3f}")
    2.076

  Reference:
    Yang et al., "Multi-Label Knowledge Distillation", 2023, arXiv:2308.06453.
  """
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  exists = student > -jnp.inf
  student, teacher = (jnp.where(exists, z, 0) for z in (student, teacher))
  losses = jnp.where(exists, divergence(_binary(teacher), _binary(student)), 0)
  return present_only(jnp.sum(losses, -1), present)


def _binary(logits: jax.Array) -> jax.Array:
  """Log-probabilities of yes and no, [...] -> [..., 2]."""
  return jnp.stack(
    [jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)], -1
  )


def wsld(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  labels: ArrayLike,
  *,
  alpha: ArrayLike = 2.25,
  temperature: ArrayLike = 4.0,
  axis: int = -1,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Weighted soft labels: distil less where the student already knows more.

  `alpha T^2 w (-sum_c p_c log q_c)` with
  `w = 1 - exp(-max(CE_s / (CE_t + 1e-7), 0))`, the cross-entropies on the
  labels at temperature 1. The weight is a constant for the gradient.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    labels: integer classes, [...].
    alpha: factor of the loss, >= 0.
    temperature: T > 0, a scalar or one number per example, [...].
    axis: the axis of the classes.
    where: mask of classes or of examples, see `kd`.

  Returns:
    One loss per example, [...].

  Raises:
    ValueError: if temperature or alpha is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> z, labels = jnp.zeros((1, 2)), jnp.array([0])
    >>> print(f"{wsld(z, z, labels, alpha=1.0, temperature=1.0)[0]:.4f}")
    0.4382

  Reference:
    Zhou et al., "Rethinking Soft Labels for Knowledge Distillation: A
    Bias-Variance Tradeoff Perspective", 2021, arXiv:2102.00650.
  """
  check_number("alpha", alpha, low=0)
  student, teacher, present = arrange_pair(
    student_logits, teacher_logits, axis, where
  )
  labels = check_labels(labels, student)
  if present is not None:
    labels = jnp.where(present, labels, 0)
  ce_student = -at_labels(soft_log_probabilities(student), labels)
  ce_teacher = -at_labels(soft_log_probabilities(teacher), labels)
  ratio = jax.lax.stop_gradient(ce_student) / (ce_teacher + 1e-7)
  weight = -jnp.expm1(-jnp.maximum(ratio, 0))
  log_q = soft_log_probabilities(student, temperature)
  log_p = soft_log_probabilities(teacher, temperature)
  losses = -expectation(log_p, log_q) * weight * _square(temperature, student)
  return present_only(alpha * losses, present)
