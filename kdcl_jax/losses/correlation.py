"""Losses on relations between the predictions of a batch.

The batch is the global batch: with `axis_name`, all sums run over the devices
of that mapped axis, and value and gradient are those of one device holding
every row. The value is the same on every device, so under `jax.shard_map` it
can be returned with `out_specs=P()` and differentiated as it is.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.probabilities import soft_log_probabilities
from kdcl_jax.losses.reductions import (
  all_sum,
  as_float,
  check_number,
  gather_rows,
  global_mean,
  row_mask,
)
from kdcl_jax.losses.soft_targets import kd

# A Gram matrix in a TPU's default bfloat16 products loses the small
# differences that these losses are made of.
_EXACT = jax.lax.Precision.HIGHEST


def _probabilities(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  temperature: ArrayLike,
  where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Softened q and p, [B, K], rows of padding uniform, and the row mask."""
  student = as_float(student_logits)
  teacher = as_float(jax.lax.stop_gradient(teacher_logits))
  chex.assert_rank(
    student, 2, custom_message="a loss over pairs takes logits [B, K]"
  )
  chex.assert_equal_shape(
    [student, teacher],
    custom_message="student_logits and teacher_logits need one shape [B, K]",
  )
  where = row_mask(where, student)
  q, p = (
    jnp.exp(
      soft_log_probabilities(jnp.where(where[:, None], z, 0), temperature)
    )
    for z in (student, teacher)
  )
  return q, p, where


def _correlation(
  dot: jax.Array, square_a: jax.Array, square_b: jax.Array, eps: float
) -> jax.Array:
  """Pearson's correlation of centred vectors; 0 where one is constant."""
  norms = []
  for square in (square_a, square_b):
    positive = square > 0
    norms.append(
      jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
    )
  return dot / (norms[0] * norms[1] + eps)


def dist(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  beta: ArrayLike = 1.0,
  gamma: ArrayLike = 1.0,
  temperature: ArrayLike = 1.0,
  eps: float = 1e-8,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """DIST: match the correlations of predictions instead of their values.

  `T^2 (beta (1 - mean_i rho(q_i, p_i)) + gamma (1 - mean_c rho(q_:c, p_:c)))`
  over rows (one example, all classes) and columns (one class, the global
  batch), `rho(a, b) = a^.b^ / (|a^| |b^| + eps)` with a^ = a - mean(a). The
  published code has T^2 on both terms; so has this.

  Args:
    student_logits: [B, K].
    teacher_logits: [B, K].
    beta: factor of the rows (inter-class relation), >= 0.
    gamma: factor of the columns (intra-class relation), >= 0.
    temperature: T > 0; a number or a traced scalar.
    eps: added to the product of the norms. A class whose probability hardly
      varies over the batch is pulled towards correlation 0 by it.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar. A constant row or column has correlation 0 and no gradient.

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> z = jnp.array([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    >>> print(f"{abs(dist(z, z)):.4f}")
    0.0000

  Reference:
    Huang et al., "Knowledge Distillation from A Stronger Teacher", 2022,
    arXiv:2205.10536, equations 8 to 10.
  """
  check_number("beta", beta, low=0)
  check_number("gamma", gamma, low=0)
  check_number("eps", eps, above=0)
  q, p, where = _probabilities(
    student_logits, teacher_logits, temperature, where
  )

  def rows() -> jax.Array:
    a, b = (x - jnp.mean(x, -1, keepdims=True) for x in (q, p))
    total = lambda x: jnp.sum(x, -1)
    rho = _correlation(total(a * b), total(a * a), total(b * b), eps)
    return global_mean(rho, where, axis_name)

  def columns() -> jax.Array:
    present = where[:, None].astype(q.dtype)
    count = jnp.maximum(all_sum(jnp.sum(present), axis_name), 1)
    total = lambda x: all_sum(jnp.sum(x * present, 0), axis_name)
    a, b = (x - (total(x) / count)[None] for x in (q, p))
    rho = _correlation(total(a * b), total(a * a), total(b * b), eps)
    return jnp.mean(rho)

  temperature = jnp.asarray(temperature, q.dtype)
  losses = beta * (1 - rows()) + gamma * (1 - columns())
  return jnp.square(temperature) * losses


def mlkd_batch(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 4.0,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Batch-level alignment: the Gram matrices of examples.

  `(1/B) |Q Q' - P P'|_F^2` with the softened predictions Q, P [B, K] of the
  global batch. No T^2. Each device holds its own rows of the [B, B] matrices.

  Args:
    student_logits: [B, K].
    teacher_logits: [B, K].
    temperature: T > 0; a number or a traced scalar.
    where: boolean [B], False for padded examples; B counts the present ones.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> teacher = jnp.array([[99.0, 0.0], [0.0, 99.0]])
    >>> print(mlkd_batch(jnp.zeros((2, 2)), teacher, temperature=1.0))
    0.5

  Reference:
    Jin et al., "Multi-Level Logit Distillation", 2023, CVPR, section 3.
  """
  q, p, where = _probabilities(
    student_logits, teacher_logits, temperature, where
  )
  q, p = (jnp.where(where[:, None], x, 0) for x in (q, p))
  gram = lambda x: jnp.matmul(x, gather_rows(x, axis_name).T, precision=_EXACT)
  total = all_sum(jnp.sum(jnp.square(gram(q) - gram(p))), axis_name)
  count = all_sum(jnp.sum(where.astype(q.dtype)), axis_name)
  return total / jnp.maximum(count, 1)


def mlkd_class(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 4.0,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Class-level alignment: the Gram matrices of classes.

  `(1/K) |Q'Q - P'P|_F^2` with the softened predictions Q, P [B, K] of the
  global batch. No T^2 and no division by B, as in the published code, so the
  loss grows with the square of the batch size.

  Args:
    student_logits: [B, K].
    teacher_logits: [B, K].
    temperature: T > 0; a number or a traced scalar.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> teacher = jnp.array([[99.0, 0.0], [0.0, 99.0]])
    >>> print(mlkd_class(jnp.zeros((2, 2)), teacher, temperature=1.0))
    0.5

  Reference:
    Jin et al., "Multi-Level Logit Distillation", 2023, CVPR, section 3.
  """
  q, p, where = _probabilities(
    student_logits, teacher_logits, temperature, where
  )
  q, p = (jnp.where(where[:, None], x, 0) for x in (q, p))
  gram = lambda x: all_sum(jnp.matmul(x.T, x, precision=_EXACT), axis_name)
  return jnp.sum(jnp.square(gram(q) - gram(p))) / q.shape[-1]


def mlkd(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
  instance_weight: ArrayLike = 1.0,
  batch_weight: ArrayLike = 1.0,
  class_weight: ArrayLike = 1.0,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Multi-level logit distillation: examples, batch and classes together.

  `sum_T (a mean_i kd_i(T) + b mlkd_batch(T) + c mlkd_class(T))`: the paper's
  three levels over its set of temperatures, of one view of the images. For the
  paper's weak and strong views add this loss for each. The published code
  differs: some of its strong terms use the weak logits, its strong batch and
  class terms are computed and dropped, and its confidence masks only scale
  sums that are already reduced. None of that is here. The recipe's factor 9 of
  all levels belongs to the coefficient.

  Args:
    student_logits: [B, K].
    teacher_logits: [B, K].
    temperatures: the set of T > 0, at least one.
    instance_weight: a, >= 0.
    batch_weight: b, >= 0.
    class_weight: c, >= 0.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    A scalar.

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> z = jnp.array([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    >>> print(mlkd(z, z))
    0.0

  Reference:
    Jin et al., "Multi-Level Logit Distillation", 2023, CVPR, section 3.
  """
  check_number("instance_weight", instance_weight, low=0)
  check_number("batch_weight", batch_weight, low=0)
  check_number("class_weight", class_weight, low=0)
  if not temperatures:
    raise ValueError("temperatures is empty, expected at least one number.")
  terms = []
  for temperature in temperatures:
    examples = kd(
      student_logits, teacher_logits, temperature=temperature, where=where
    )
    context = dict(temperature=temperature, where=where, axis_name=axis_name)
    terms.append(
      instance_weight * global_mean(examples, where, axis_name)
      + batch_weight * mlkd_batch(student_logits, teacher_logits, **context)
      + class_weight * mlkd_class(student_logits, teacher_logits, **context)
    )
  return sum(terms[1:], terms[0])
