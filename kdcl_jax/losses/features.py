"""Losses between two feature maps, element by element or channel by channel."""

import math

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  FORMS,
  check_shapes,
  feature_pair,
  match_sizes,
  per_example,
)
from kdcl_jax.losses.probabilities import (
  divergence,
  present_only,
  soft_log_probabilities,
)
from kdcl_jax.losses.reductions import as_float, check_choice, check_number


def fitnet(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  form: str = "code",
  where: ArrayLike | None = None,
) -> jax.Array:
  """FitNets: the squared error between hint and guided layer.

  `mean (r(F_s) - F_t)^2` over the elements of an example. The paper has
  `1/2 sum`. The regressor r is a learned part of the student: its output is
  what goes in here.

  Args:
    student_features: [B, H, W, C] or [B, D], after the regressor.
    teacher_features: the same shape.
    form: "code", the mean, or "paper", half the sum.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for an unknown form or different shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> print(fitnet(jnp.full((2, 4, 4, 3), 2.0), jnp.zeros((2, 4, 4, 3))))
    [4. 4.]

  Reference:
    Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, arXiv:1412.6550,
    equation 3. The default is RepDistiller's `HintLoss`.
  """
  check_choice("form", form, FORMS)
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(2, 3, 4), where=where
  )
  check_shapes(student, teacher)
  squares = jnp.square(student - teacher)
  if form == "code":
    return present_only(per_example(squares), where)
  return present_only(per_example(squares, jnp.sum) / 2, where)


def cwd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Channel-wise distillation: where each channel looks.

  `T^2 / C sum_c KL(softmax_hw(F_t,c / T) || softmax_hw(F_s,c / T))`, a softmax
  over the positions of each channel.

  Args:
    student_features: [B, H, W, C].
    teacher_features: the same shape.
    temperature: T > 0; a number, a traced scalar, or one per example, [B]. The
      paper's segmentation runs use 4, mmrazor's default is 1.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for different shapes, or a temperature that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> teacher = jnp.array([99.0, 0.0, 0.0, 0.0]).reshape(1, 2, 2, 1)
    >>> print(f"{cwd(jnp.zeros((1, 2, 2, 1)), teacher)[0]:.4f}")
    1.3863

  Reference:
    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction",
    2020, arXiv:2011.13256, equation 5.
  """
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(4,), where=where
  )
  check_shapes(student, teacher)
  each = temperature
  if jnp.ndim(temperature):
    each = jnp.asarray(temperature)[:, None]  # the same for all channels
  log_q, log_p = (
    soft_log_probabilities(
      jnp.moveaxis(x, -1, 1).reshape(x.shape[0], x.shape[-1], -1), each
    )
    for x in (student, teacher)
  )
  losses = jnp.mean(divergence(log_p, log_q), -1)
  return present_only(
    jnp.square(jnp.asarray(temperature, losses.dtype)) * losses, where
  )


def vid_initial_log_scale(variance: float = 5.0, eps: float = 1e-5) -> float:
  """The `log_scale` of `vid` that stands for a variance.

  `log(exp(variance - eps) - 1)`

  Args:
    variance: > eps; the published code starts from 5.
    eps: as in `vid`.

  Returns:
    A number, the initial value of every channel.

  Raises:
    ValueError: if the variance is not > eps.

  Example:
    >>> print(f"{vid_initial_log_scale():.4f}")
    4.9932
  """
  check_number("variance", variance, above=eps)
  return variance - eps + math.log(-math.expm1(eps - variance))


def vid(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  log_scale: ArrayLike,
  *,
  eps: float = 1e-5,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Variational information distillation: how well F_s predicts F_t.

  `mean 1/2 ((mu(F_s) - F_t)^2 / v + log v)`, `v = log(1 + exp(log_scale)) +
  eps` per channel: minus the log-likelihood of a Gaussian without its constant,
  so it can be negative. The larger map is pooled to the size of the smaller.

  Args:
    student_features: [B, H, W, C], the mean that the regressor mu predicts.
    teacher_features: [B, H', W', C].
    log_scale: [C], learned together with the regressor.
    eps: least variance, > 0.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for different numbers of channels, or an eps that is not > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> one = jnp.full((3,), vid_initial_log_scale(1.0))
    >>> maps = jnp.zeros((1, 4, 4, 3))
    >>> print(f"{vid(maps + 2.0, maps, one)[0]:.4f}")
    2.0000

  Reference:
    Ahn et al., "Variational Information Distillation for Knowledge Transfer",
    2019, arXiv:1904.05835, equation 5.
  """
  check_number("eps", eps, above=0)
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(4,), where=where
  )
  check_shapes(student, teacher, 3)
  student, teacher = match_sizes(student, teacher)
  log_scale = as_float(log_scale)
  chex.assert_shape(
    log_scale,
    student.shape[-1:],
    custom_message="log_scale is one number per channel, [C]",
  )
  variance = (jax.nn.softplus(log_scale) + eps)[None, None, None]
  terms = jnp.square(student - teacher) / variance + jnp.log(variance)
  return present_only(per_example(terms) / 2, where)


def srrl(
  student_features: ArrayLike,
  cross_logits: ArrayLike,
  teacher_features: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 5.0,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Softmax regression representation learning.

  `alpha mean_c (GAP(F_s) - GAP(F_t))^2 + beta mean_k (z_st - z_t)^2`, GAP the
  mean over positions, z_st the logits of the teacher's classifier on the
  student's connected feature.

  Args:
    student_features: [B, H, W, C], or already pooled, [B, C]; after the
      connector.
    cross_logits: [B, K], the teacher's classifier applied to it. The
      classifier is frozen, the gradient passes through it.
    teacher_features: [B, H', W', C] or [B, C].
    teacher_logits: [B, K].
    alpha: factor of the features, >= 0.
    beta: factor of the logits, >= 0.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for shapes that do not fit or a factor out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> maps, z = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 5))
    >>> print(srrl(maps, z, 0 * maps, 0 * z))
    [6.]

  Reference:
    Yang et al., "Knowledge distillation via softmax regression representation
    learning", ICLR 2021, section 3. Reductions and factors are cls_KD's.
  """
  check_number("alpha", alpha, low=0)
  check_number("beta", beta, low=0)
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(2, 4), where=where
  )
  pooled = [
    jnp.mean(x, (1, 2)) if x.ndim == 4 else x for x in (student, teacher)
  ]
  check_shapes(*pooled)
  *logits, _ = feature_pair(
    cross_logits, teacher_logits, ranks=(2,), where=where
  )
  check_shapes(*logits, names="logits")
  check_shapes(student, logits[0], 0)
  losses = [jnp.mean(jnp.square(s - t), -1) for s, t in (pooled, logits)]
  return present_only(alpha * losses[0] + beta * losses[1], where)
