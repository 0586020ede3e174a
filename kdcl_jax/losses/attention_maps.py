"""Losses on normalised maps: where a layer looks, whatever its channels are.

Maps of different sizes are compared at the smaller one's, by adaptive average
pooling. Student and teacher may have different numbers of channels.
"""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  EXACT,
  FORMS,
  check_shapes,
  feature_pair,
  l2_normalize,
  match_sizes,
  per_example,
  safe_norm,
)
from kdcl_jax.losses.probabilities import present_only
from kdcl_jax.losses.reductions import check_choice, check_number


def _whole(name: str, value: int | float) -> int:
  """A power as an int: a signed map has no other powers."""
  check_number(name, value, low=1)
  if value != int(value):
    raise ValueError(f"{name} is {value!r}, expected a whole number >= 1.")
  return int(value)


def _attention(maps: jax.Array, power: int) -> jax.Array:
  """`mean_c F_c^p`, flattened and normalised, [B, H, W, C] -> [B, H W]."""
  # The map is normalised, so its scale is free: keep the powers in range.
  scale = jax.lax.stop_gradient(
    jnp.max(jnp.abs(maps), (1, 2, 3), keepdims=True)
  )
  large = jnp.where(scale > 1e3, scale, 1)
  return l2_normalize(per_position(jnp.mean((maps / large) ** power, -1)))


def per_position(maps: jax.Array) -> jax.Array:
  """[B, H, W] -> [B, H W]."""
  return maps.reshape(maps.shape[0], -1)


def at(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  p: int = 2,
  form: str = "code",
  where: ArrayLike | None = None,
) -> jax.Array:
  """Attention transfer: match the maps of activation strength.

  With `A(F) = vec(sum_c |F_c|^p)` and `Q = A / |A|_2` per example:
  "code" is `mean (Q_s - Q_t)^2` over positions, with F^p in place of |F|^p, so
  that an odd p keeps the sign; "paper" is `|Q_s - Q_t|_2`, not squared.
  Several layers are summed.

  Args:
    student_features: [B, H, W, C].
    teacher_features: [B, H', W', C'].
    p: power, a whole number >= 1.
    form: "code" (attention-transfer, RepDistiller, mdistiller) or "paper".
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B]. A map of zeros has Q = 0 and no gradient.

  Raises:
    ValueError: for an unknown form or a power that is no whole number >= 1.

  Example:
    >>> import jax.numpy as jnp
    >>> left = jnp.array([[1.0, 0.0]]).reshape(1, 1, 2, 1)
    >>> right = jnp.array([[0.0, 1.0]]).reshape(1, 1, 2, 1)
    >>> print(at(left, right), at(left, 7 * left))
    [1.] [0.]

  Reference:
    Zagoruyko, Komodakis, "Paying More Attention to Attention", 2016,
    arXiv:1612.03928, equation 2.
  """
  check_choice("form", form, FORMS)
  power = _whole("p", p)
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(4,), where=where
  )
  student, teacher = match_sizes(student, teacher)
  if form == "paper":
    student, teacher = jnp.abs(student), jnp.abs(teacher)
  gap = _attention(student, power) - _attention(teacher, power)
  losses = jnp.mean(jnp.square(gap), -1) if form == "code" else safe_norm(gap)
  return present_only(losses, where)


def ft(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  p1: int = 2,
  p2: int = 1,
  form: str = "code",
  where: ArrayLike | None = None,
) -> jax.Array:
  """Factor transfer, on the outputs of paraphraser and translator.

  "code": `mean |A(F_s) - A(F_t)|^p2` over positions, A the normalised
  attention map `mean_c F_c^p1`. "paper": the whole factor is normalised,
  `mean |F_s / |F_s| - F_t / |F_t||` over elements for p2 = 1, and the
  (unsquared) norm of the difference for p2 = 2. The paper's equation sums
  where torchdistill and this take the mean.

  Args:
    student_features: [B, H, W, C], the translator's factor.
    teacher_features: [B, H', W', C'], the paraphraser's factor; the same
      number of channels for the form "paper".
    p1: power of the attention map, a whole number >= 1; "code" only.
    p2: power of the difference, a whole number >= 1; 1 or 2 for "paper".
    form: "code" (RepDistiller) or "paper" (torchdistill, mmrazor).
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for an unknown form, a power out of range, or shapes that do
      not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> left = jnp.array([[1.0, 0.0]]).reshape(1, 1, 2, 1)
    >>> print(ft(left, -left), ft(left, -left, form="paper"))
    [0.] [1.]

  Reference:
    Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via
    Factor Transfer", 2018, arXiv:1802.04977, equation 3.
  """
  check_choice("form", form, FORMS)
  p1, p2 = _whole("p1", p1), _whole("p2", p2)
  if form == "paper" and p2 > 2:
    raise ValueError(f"p2 is {p2}, expected 1 or 2 for the form 'paper'.")
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(4,), where=where
  )
  student, teacher = match_sizes(student, teacher)
  if form == "code":
    gap = _attention(student, p1) - _attention(teacher, p1)
    gap = jnp.abs(gap) if p2 % 2 else gap
    return present_only(jnp.mean(gap**p2, -1), where)
  check_shapes(student, teacher)
  student, teacher = (
    l2_normalize(x.reshape(x.shape[0], -1)) for x in (student, teacher)
  )
  gap = student - teacher
  losses = jnp.mean(jnp.abs(gap), -1) if p2 == 1 else safe_norm(gap)
  return present_only(losses, where)


def nst(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Neuron selectivity transfer: the channels as samples of a distribution.

  The squared maximum mean discrepancy with the kernel `k(a, b) = (a . b)^2`
  between the channels' maps, each normalised over its positions:
  `mean k(s, s') + mean k(t, t') - 2 mean k(s, t)`, means over pairs of
  channels. Equal to `|S'S / C_s - T'T / C_t|_F^2` with the channels as rows of
  S and T, which is what is computed where there are fewer positions than
  channels: no cancellation, and less memory.

  Args:
    student_features: [B, H, W, C].
    teacher_features: [B, H', W', C'].
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for features that are no maps.

  Example:
    >>> import jax.numpy as jnp
    >>> left = jnp.array([[1.0, 0.0]]).reshape(1, 1, 2, 1)
    >>> right = jnp.array([[0.0, 1.0]]).reshape(1, 1, 2, 1)
    >>> print(nst(left, right), nst(left, 7 * left))
    [2.] [0.]

  Reference:
    Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity
    Transfer", 2017, arXiv:1707.01219, equation 5, polynomial kernel.
  """
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(4,), where=where
  )
  student, teacher = match_sizes(student, teacher)
  student, teacher = (
    l2_normalize(x.reshape(x.shape[0], -1, x.shape[-1]), 1)
    for x in (student, teacher)
  )
  chex.assert_equal_shape_prefix([student, teacher], 2)
  channels = student.shape[-1], teacher.shape[-1]
  if student.shape[1] <= max(channels):
    gram = lambda x: (
      jnp.einsum("bpc,bqc->bpq", x, x, precision=EXACT) / x.shape[-1]
    )
    losses = per_example(jnp.square(gram(student) - gram(teacher)), jnp.sum)
  else:
    kernel = lambda a, b: per_example(
      jnp.square(jnp.einsum("bpc,bpd->bcd", a, b, precision=EXACT))
    )
    losses = (
      kernel(student, student)
      + kernel(teacher, teacher)
      - 2 * kernel(student, teacher)
    )
  return present_only(losses, where)
