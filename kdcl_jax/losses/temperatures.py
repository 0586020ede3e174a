"""Temperatures that are learned, or differ from example to example.

Each gives what `kd` and the other losses on logits take as `temperature`.
"""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float, check_number, global_mean


@jax.custom_vjp
def gradient_reversal(x: ArrayLike, scale: ArrayLike) -> jax.Array:
  """The identity, whose gradient is multiplied by `scale`.

  The layer does not negate: a negative scale reverses the gradient, 0 stops
  it. `scale` itself gets no gradient. Reverse-mode differentiation only.

  Args:
    x: [...].
    scale: a number or a traced scalar.

  Returns:
    x, unchanged.

  Example:
    >>> import jax
    >>> print(jax.grad(lambda x: gradient_reversal(x, -0.5) ** 2)(3.0))
    -3.0

  Reference:
    Ganin, Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", 2014,
    arXiv:1409.7495, section 3.
  """
  del scale
  return jnp.asarray(x)


def _reversal_forward(x, scale):
  return jnp.asarray(x), jnp.asarray(scale)


def _reversal_backward(scale, gradient):
  scaled = gradient * scale.astype(gradient.dtype)
  return scaled, None


gradient_reversal.defvjp(_reversal_forward, _reversal_backward)


def ctkd_temperature(
  theta: ArrayLike,
  scale: ArrayLike = -1.0,
  *,
  start: float = 1.0,
  end: float = 20.0,
) -> jax.Array:
  """CTKD's learned temperature, trained against the student.

  `T = start + end sigmoid(theta)`, so T lies in (start, start + end); the
  gradient of theta is multiplied by `scale`, from `ctkd_schedule`. Give T to
  `kd`, whose gradient with respect to it runs through both softmaxes and T^2.

  Args:
    theta: the trained parameter, a scalar or one per example; 1 at first.
    scale: factor of theta's gradient, negative to make the task harder.
    start: smallest temperature, > 0.
    end: width of the range, > 0.

  Returns:
    The temperature, with the shape of theta.

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> print(f"{ctkd_temperature(1.0):.4f}")
    15.6212

  Reference:
    Li et al., "Curriculum Temperature for Knowledge Distillation", 2022,
    arXiv:2211.16231, equations 5 and 9.
  """
  check_number("start", start, above=0)
  check_number("end", end, above=0)
  theta = gradient_reversal(as_float(theta), scale)
  return start + end * jax.nn.sigmoid(theta)


def ctkd_schedule(
  epoch: ArrayLike,
  *,
  maximum: float = 0.0,
  minimum: float = -1.0,
  loops: float = 10.0,
) -> jax.Array:
  """CTKD's curriculum of the gradient factor: easy first, then adversarial.

  Half a cosine from maximum at epoch 0 to minimum at epoch `loops`, constant
  afterwards: `min + (max - min) (1 + cos(pi e / loops)) / 2`. The published
  code's linear variant ignores its minimum and is not offered.

  Args:
    epoch: the epoch e, whole or not; below 0 counts as 0.
    maximum: value at the start.
    minimum: value at the end, <= maximum.
    loops: length in epochs, > 0.

  Returns:
    The factor, with the shape of epoch.

  Raises:
    ValueError: if loops is not > 0 or minimum is above maximum.

  Example:
    >>> print(f"{ctkd_schedule(5.0):.4f}")
    -0.5000

  Reference:
    Li et al., "Curriculum Temperature for Knowledge Distillation", 2022,
    arXiv:2211.16231, equation 8.
  """
  check_number("loops", loops, above=0)
  check_number("minimum", minimum, high=maximum)
  progress = jnp.clip(as_float(epoch), 0, loops) / loops
  return minimum + (maximum - minimum) * (1 + jnp.cos(jnp.pi * progress)) / 2


def flsw_temperature(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 4.0,
  beta: ArrayLike = 1.0,
  gamma: float = 1.0,
  eps: float = 1e-4,
  axis: int = -1,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Lower temperatures for examples on which the networks disagree.

  `T_i = T + (mean(w) - w_i) beta` with `w_i = (1 - cos(z_s, z_t))^gamma`, the
  norms increased by eps. Nothing carries a gradient. TextBrewer's focal-loss
  style weights. T_i may fall below 0 if beta is large: choose beta below
  T / 2^gamma.

  Args:
    student_logits: [..., K].
    teacher_logits: [..., K].
    temperature: T > 0, the base.
    beta: strength.
    gamma: exponent, > 0.
    eps: added to the norms.
    axis: the axis of the classes.
    where: boolean mask of examples, [...]; the mean is over these.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    One temperature per example, [...].

  Raises:
    ValueError: if a hyper-parameter is a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(flsw_temperature(z, z[:1].repeat(2, 0)).round(2))
    [4.5 3.5]

  Reference:
    Yang et al., "TextBrewer: An Open-Source Knowledge Distillation Toolkit for
    Natural Language Processing", 2020, arXiv:2002.12620.
  """
  check_number("gamma", gamma, above=0)
  student, teacher = _constants(student_logits, teacher_logits, axis=axis)
  norm = lambda z: jnp.sqrt(jnp.sum(jnp.square(z), -1)) + eps
  cosine = jnp.sum(student * teacher, -1) / norm(student) / norm(teacher)
  weight = jnp.maximum(1 - cosine, 0) ** gamma
  return _around(temperature, beta, weight, where, axis_name)


def cwsm_temperature(
  student_logits: ArrayLike,
  *,
  temperature: ArrayLike = 4.0,
  beta: ArrayLike = 1.0,
  eps: float = 1e-3,
  axis: int = -1,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Lower temperatures for examples of which the student is unsure.

  `T_i = T + (mean(w) - w_i) beta` with `w_i = 1 / (max softmax(z_s) + eps)`.
  Nothing carries a gradient. TextBrewer's confidence-weighted softmax. T_i may
  fall below 0 if beta is large: w_i goes up to the number of classes.

  Args:
    student_logits: [..., K].
    temperature: T > 0, the base.
    beta: strength.
    eps: added to the confidence.
    axis: the axis of the classes.
    where: boolean mask of examples, [...]; the mean is over these.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    One temperature per example, [...].

  Raises:
    ValueError: if temperature is a number that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> z = jnp.array([[99.0, 0.0], [0.0, 0.0]])
    >>> print(cwsm_temperature(z).round(2))
    [4.5 3.5]

  Reference:
    Yang et al., "TextBrewer: An Open-Source Knowledge Distillation Toolkit for
    Natural Language Processing", 2020, arXiv:2002.12620.
  """
  (student,) = _constants(student_logits, axis=axis)
  weight = 1 / (jnp.max(jax.nn.softmax(student, -1), -1) + eps)
  return _around(temperature, beta, weight, where, axis_name)


def _constants(*logits: ArrayLike, axis: int) -> tuple[jax.Array, ...]:
  arrays = tuple(
    jnp.moveaxis(as_float(jax.lax.stop_gradient(z)), axis, -1) for z in logits
  )
  chex.assert_equal_shape(
    arrays,
    custom_message="student_logits and teacher_logits need one shape [..., K]",
  )
  return arrays


def _around(
  temperature: ArrayLike,
  beta: ArrayLike,
  weight: jax.Array,
  where: ArrayLike | None,
  axis_name: str | None,
) -> jax.Array:
  check_number("temperature", temperature, above=0)
  flat = None if where is None else jnp.reshape(jnp.asarray(where), -1)
  mean = global_mean(jnp.reshape(weight, -1), flat, axis_name)
  return temperature + (mean - weight) * beta
