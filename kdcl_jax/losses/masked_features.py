"""Masked generative distillation: regenerate the teacher from a part."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  check_shapes,
  feature_pair,
  per_example,
)
from kdcl_jax.losses.probabilities import present_only
from kdcl_jax.losses.reductions import as_float, check_choice, check_number

MASKS = ("channels", "positions")


def mgd_mask(
  key: jax.Array,
  shape: tuple[int, ...],
  *,
  mask: str = "channels",
  mask_ratio: float = 0.15,
) -> jax.Array:
  """Draws what the student keeps, independently for every example.

  A channel is kept if u >= ratio, a position if u <= 1 - ratio, u uniform in
  [0, 1). Nothing is scaled up to make good for what is missing.

  Args:
    key: a typed PRNG key.
    shape: the shape of the features, (B, H, W, C).
    mask: "channels" (the classification code, ratio 0.15) or "positions"
      (detection and segmentation, ratio 0.65).
    mask_ratio: expected share that is dropped, in [0, 1].

  Returns:
    Boolean, True where kept: [B, 1, 1, C] or [B, H, W, 1].

  Raises:
    ValueError: for an unknown kind of mask, or a ratio out of range.

  Example:
    >>> import jax
    >>> kept = mgd_mask(jax.random.key(0), (4, 8, 8, 16))
    >>> print(kept.shape, kept.dtype)
    (4, 1, 1, 16) bool

  Reference:
    Yang et al., "Masked Generative Distillation", 2022, arXiv:2205.01529,
    equation 3. The paper masks positions.
  """
  check_choice("mask", mask, MASKS)
  check_number("mask_ratio", mask_ratio, low=0, high=1)
  batch, height, width, channels = shape
  if mask == "channels":
    return jax.random.uniform(key, (batch, 1, 1, channels)) >= mask_ratio
  return jax.random.uniform(key, (batch, height, width, 1)) <= 1 - mask_ratio


def mgd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  keep: ArrayLike | None = None,
  key: jax.Array | None = None,
  mask: str = "channels",
  mask_ratio: float = 0.15,
  generate: Callable[[jax.Array], jax.Array] | None = None,
  alpha: ArrayLike = 7e-5,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Masked generative distillation.

  `alpha sum (G(F_s M) - F_t)^2` over the elements of an example, M a random
  mask and G the generator, conv3x3 - ReLU - conv3x3, a learned part of the
  student. Give features, a mask (or a key) and G; or, without these, features
  that are already masked and regenerated.

  Args:
    student_features: [B, H, W, C].
    teacher_features: [B, H', W', C'], the shape of what G returns.
    keep: the mask, True or 1 where kept, broadcast against the student's
      features; such as [B, 1, 1, C] or [B, H, W, 1].
    key: draws a mask with `mgd_mask`, where no `keep` is given.
    mask: "channels" or "positions", see `mgd_mask`.
    mask_ratio: see `mgd_mask`.
    generate: G, a function of the masked features; the identity if None.
    alpha: factor, >= 0; 7e-5 for classification, 2e-5 for detection.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for different shapes, both a mask and a key, or a number out of
      range.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = jnp.ones((1, 2, 2, 3))
    >>> half = jnp.array([1, 1, 0]).reshape(1, 1, 1, 3)
    >>> print(mgd(maps, maps, keep=half, alpha=1.0))
    [4.]

  Reference:
    Yang et al., "Masked Generative Distillation", 2022, arXiv:2205.01529,
    equation 5. The mean over the batch of these is the published code.
  """
  check_number("alpha", alpha, low=0)
  student, teacher, where = feature_pair(
    student_features, teacher_features, ranks=(4,), where=where
  )
  if keep is not None and key is not None:
    raise ValueError("keep and key are both given, expected one of them.")
  if key is not None:
    keep = mgd_mask(key, student.shape, mask=mask, mask_ratio=mask_ratio)
  if keep is not None:
    keep = as_float(keep).astype(student.dtype)
    student = student * jnp.broadcast_to(keep, student.shape)
  if generate is not None:
    student = as_float(generate(student))
  check_shapes(student, teacher)
  squares = jnp.square(student - teacher)
  return present_only(alpha * per_example(squares, jnp.sum), where)
