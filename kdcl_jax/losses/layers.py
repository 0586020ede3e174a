"""Losses over the feature maps of several layers at once."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  EXACT,
  adaptive_avg_pool,
  as_layers,
  check_layers,
  check_shapes,
  feature_pair,
  match_sizes,
  per_example,
)
from kdcl_jax.losses.probabilities import present_only
from kdcl_jax.losses.reductions import check_number

POOLED_SIZES = (4, 2, 1)


def _layer_pairs(
  student_features: Sequence[ArrayLike] | ArrayLike,
  teacher_features: Sequence[ArrayLike] | ArrayLike,
  where: ArrayLike | None,
  *,
  ranks: tuple[int, ...] = (4,),
  least: int = 1,
) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array | None]:
  students, teachers = as_layers(student_features), as_layers(teacher_features)
  check_layers(students, teachers, least=least)
  pairs = []
  for student, teacher in zip(students, teachers, strict=True):
    *pair, present = feature_pair(student, teacher, ranks=ranks, where=where)
    pairs.append(tuple(pair))
  return pairs, present


def ab(
  student_features: Sequence[ArrayLike] | ArrayLike,
  teacher_features: Sequence[ArrayLike] | ArrayLike,
  *,
  margin: ArrayLike = 1.0,
  scale: float = 3 / 1000,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Activation boundaries: which neurons fire, with a margin.

  `scale sum_l 2^(l - n + 1) sum [(s + m)^2 1(s > -m, t <= 0) + (s - m)^2 1(s <=
  m, t > 0)]` over the elements of the pre-activations s, t of the layers l = 0
  .. n - 1. The published training uses it in an initial stage of 30 epochs.

  Args:
    student_features: the layers' maps before ReLU, a list of [B, H, W, C], or
      one of them; through a connector where the teacher's shape differs.
    teacher_features: the teacher's maps before ReLU, in the same shapes.
    margin: m > 0, a scalar or one number per example, [B].
    scale: a constant of RepDistiller's code; 1 for the paper's loss.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for lists or shapes that do not fit, or a margin that is not
      > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> on, off = jnp.ones((1, 1, 1, 1)), -jnp.ones((1, 1, 1, 1))
    >>> print(ab([off], [on], scale=1.0), ab([on], [on], scale=1.0))
    [4.] [0.]

  Reference:
    Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries
    Formed by Hidden Neurons", 2018, arXiv:1811.03233, equation 6. The weights
    of the layers are the code's.
  """
  check_number("margin", margin, above=0)
  check_number("scale", scale, above=0)
  pairs, where = _layer_pairs(student_features, teacher_features, where)
  total = 0.0
  for layer, (s, t) in enumerate(pairs):
    check_shapes(s, t)
    m = jnp.asarray(margin, s.dtype)
    m = m.reshape(-1, *[1] * (s.ndim - 1)) if m.ndim else m
    terms = jnp.where((s > -m) & (t <= 0), jnp.square(s + m), 0)
    terms += jnp.where((s <= m) & (t > 0), jnp.square(s - m), 0)
    weight = 2.0 ** (layer - len(pairs) + 1)
    total = total + weight * per_example(terms, jnp.sum)
  return present_only(scale * total, where)


def _flow(lower: jax.Array, upper: jax.Array) -> jax.Array:
  """`mean_hw lower x upper`, [B, C, C']."""
  lower, upper = match_sizes(lower, upper)
  positions = lower.shape[1] * lower.shape[2]
  product = jnp.einsum("bhwc,bhwd->bcd", lower, upper, precision=EXACT)
  return product / positions


def fsp(
  student_features: Sequence[ArrayLike],
  teacher_features: Sequence[ArrayLike],
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Flow of the solution procedure: Gram matrices between two layers.

  `sum_l mean (G(F_s,l, F_s,l+1) - G(F_t,l, F_t,l+1))^2` over the entries of
  `G(F, F') = mean_hw F x F'` [C, C'] of consecutive layers; the larger map of a
  pair is pooled to the size of the smaller.

  Args:
    student_features: list of at least two maps [B, H, W, C], in order.
    teacher_features: as many maps, with the same numbers of channels.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for fewer than two layers, or different numbers of channels.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = [jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 3))]
    >>> print(fsp(maps, [3 * x for x in maps]))
    [64.]

  Reference:
    Yim et al., "A Gift from Knowledge Distillation: Fast Optimization, Network
    Minimization and Transfer Learning", CVPR 2017, equations 1 and 2.
  """
  pairs, where = _layer_pairs(
    student_features, teacher_features, where, least=2
  )
  for pair in pairs:
    check_shapes(*pair, 3)
  total = 0.0
  for (s, t), (next_s, next_t) in zip(pairs[:-1], pairs[1:], strict=True):
    gap = _flow(s, next_s) - _flow(t, next_t)
    total = total + per_example(jnp.square(gap))
  return present_only(total, where)


def reviewkd(
  student_features: Sequence[ArrayLike] | ArrayLike,
  teacher_features: Sequence[ArrayLike] | ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """ReviewKD's hierarchical context loss (HCL), on fused features.

  Per level: the mean squared error of the maps, with weight 1, and of the maps
  pooled to 4x4, 2x2 and 1x1, with weights 1/2, 1/4, 1/8, divided by the sum of
  the weights. Sizes that are not smaller than the map are left out, and the
  weights are halved only for those used. The levels are summed.

  The attention based fusion (ABF) in front of it is a learned part of the
  student: its outputs go in here.

  Args:
    student_features: list of maps [B, H, W, C] or pooled features [B, C], or
      one of them.
    teacher_features: the teacher's, in the same shapes.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for lists or shapes that do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = [jnp.ones((1, 8, 8, 2)), jnp.ones((1, 3))]
    >>> print(reviewkd(maps, [3 * x for x in maps]))
    [8.]

  Reference:
    Chen et al., "Distilling Knowledge via Knowledge Review", 2021,
    arXiv:2104.09044, section 3.3.
  """
  pairs, where = _layer_pairs(
    student_features, teacher_features, where, ranks=(2, 4)
  )
  total = 0.0
  for s, t in pairs:
    check_shapes(s, t)
    gap = s - t if s.ndim == 4 else (s - t)[:, None, None]
    mean_square = lambda x: per_example(jnp.square(x))
    loss, weight, weights = mean_square(gap), 1.0, 1.0
    for size in POOLED_SIZES:
      if size < gap.shape[1]:
        weight /= 2
        weights += weight
        # Pooling is linear: the difference can be pooled once.
        loss += weight * mean_square(adaptive_avg_pool(gap, (size, size)))
    total = total + loss / weights
  return present_only(total, where)
