"""Losses on the hidden states of transformers.

One value per token, pair of positions or example, so that a weighted or masked
mean can follow. `where` marks real positions; values at all others are 0, and
the published reductions are means over the rest.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  EXACT,
  as_layers,
  check_layers,
  check_shapes,
  l2_normalize,
  per_example,
)
from kdcl_jax.losses.probabilities import present_only
from kdcl_jax.losses.reductions import as_float


def position_mask(
  where: ArrayLike | None, shape: tuple[int, ...]
) -> jax.Array | None:
  """The mask as booleans; refuses another shape than that of the positions."""
  if where is not None and jnp.shape(where) != shape:
    raise ValueError(
      f"where has the shape {jnp.shape(where)}, expected {shape}: one boolean"
      " per position."
    )
  return None if where is None else jnp.asarray(where, bool)


def check_rank(student: jax.Array, teacher: jax.Array, shape: str) -> None:
  """Refuses features of another rank than in a shape like [B, L, D]."""
  for side, array in (("student", student), ("teacher", teacher)):
    if array.ndim != shape.count(",") + 1:
      raise ValueError(
        f"{side}_features has the shape {array.shape}, expected {shape}."
      )


def _tokens(
  student: ArrayLike, teacher: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  student = as_float(student)
  teacher = as_float(jax.lax.stop_gradient(teacher))
  check_shapes(student, teacher)
  where = position_mask(where, student.shape[:-1])
  if where is not None:
    student, teacher = (
      jnp.where(where[..., None], x, 0) for x in (student, teacher)
    )
  return student, teacher, where


def hidden_mse(
  student_features: Sequence[ArrayLike] | ArrayLike,
  teacher_features: Sequence[ArrayLike] | ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Squared error of hidden states.

  `mean_d (x_s - x_t)^2`, averaged over the layers where lists are given.

  Args:
    student_features: [..., D], usually [B, L, D], or a list of them.
    teacher_features: the same shape.
    where: boolean [...], True for real positions.

  Returns:
    One loss per position, [...].

  Raises:
    ValueError: for different shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> print(hidden_mse(jnp.full((1, 2, 4), 3.0), jnp.zeros((1, 2, 4))))
    [[9. 9.]]

  Reference:
    Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding",
    2019, arXiv:1909.10351, equation 8; TextBrewer's `hid_mse_loss`.
  """
  layers = as_layers(student_features), as_layers(teacher_features)
  check_layers(*layers)
  total = 0.0
  for pair in zip(*layers, strict=True):
    student, teacher, present = _tokens(*pair, where)
    total = total + jnp.mean(jnp.square(student - teacher), -1)
  return present_only(total / len(layers[0]), present)


def hidden_cosine(
  student_features: Sequence[ArrayLike] | ArrayLike,
  teacher_features: Sequence[ArrayLike] | ArrayLike,
  *,
  eps: float = 1e-8,
  where: ArrayLike | None = None,
) -> jax.Array:
  """One minus the cosine of hidden states.

  `1 - x_s . x_t / (max(|x_s|, eps) max(|x_t|, eps))`, averaged over the layers
  where lists are given.

  Args:
    student_features: [..., D], usually [B, L, D], or a list of them.
    teacher_features: the same shape.
    eps: least length of a vector.
    where: boolean [...], True for real positions.

  Returns:
    One loss per position, [...]. 1, without gradient, for a state of zeros.

  Raises:
    ValueError: for different shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 0.0]])
    >>> print(hidden_cosine(x, 5 * x), hidden_cosine(x, -x))
    [0.] [2.]

  Reference:
    Sanh et al., "DistilBERT, a distilled version of BERT", 2019,
    arXiv:1910.01108, section 3; TextBrewer's `cos_loss`.
  """
  layers = as_layers(student_features), as_layers(teacher_features)
  check_layers(*layers)
  total = 0.0
  for pair in zip(*layers, strict=True):
    student, teacher, present = _tokens(*pair, where)
    student, teacher = (l2_normalize(x, least=eps) for x in (student, teacher))
    total = total + 1 - jnp.sum(student * teacher, -1)
  return present_only(total / len(layers[0]), present)


def bert_pkd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Patient knowledge distillation: normalised states of the first token.

  `|x_s / |x_s| - x_t / |x_t||^2` at position 0, the [CLS] token.

  Args:
    student_features: [B, L, D], or the states of that token, [B, D].
    teacher_features: the same shape.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for different shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[1.0, 0.0], [5.0, 5.0]]])
    >>> print(bert_pkd(x, 5 * x), bert_pkd(x, -x))
    [0.] [4.]

  Reference:
    Sun et al., "Patient Knowledge Distillation for BERT Model Compression",
    2019, arXiv:1908.09355, equation 7. The mean over the batch is TextBrewer's
    `pkd_loss`; the paper sums over layers.
  """
  first = [
    x[:, 0] if jnp.ndim(x) == 3 else x
    for x in (student_features, teacher_features)
  ]
  student, teacher, where = _tokens(*first, where)
  gap = l2_normalize(student) - l2_normalize(teacher)
  return present_only(jnp.sum(jnp.square(gap), -1), where)


def _two_layers(
  features: Sequence[ArrayLike] | ArrayLike, side: str
) -> list[ArrayLike]:
  layers = as_layers(features)
  if len(layers) > 2:
    raise ValueError(
      f"{side}_features has {len(layers)} layers, expected one or two."
    )
  return [layers[0], layers[-1]]


def _pairs_of_layers(
  student: Sequence[ArrayLike] | ArrayLike,
  teacher: Sequence[ArrayLike] | ArrayLike,
  where: ArrayLike | None,
) -> tuple[list[jax.Array], list[jax.Array], jax.Array | None]:
  students = _two_layers(student, "student")
  teachers = _two_layers(teacher, "teacher")
  sides = [[], []]
  for pair in zip(students, teachers, strict=True):
    pair = as_float(pair[0]), as_float(jax.lax.stop_gradient(pair[1]))
    check_rank(*pair, "[B, L, D]")
    check_shapes(*pair, 0, 1)
    mask = position_mask(where, pair[0].shape[:2])
    for side, x in zip(sides, pair):
      side.append(x if mask is None else jnp.where(mask[..., None], x, 0))
  return *sides, mask


def hidden_mmd(
  student_features: Sequence[ArrayLike] | ArrayLike,
  teacher_features: Sequence[ArrayLike] | ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Similarity of positions, between two layers or within one.

  `(x_i . x'_j / D_s - y_i . y'_j / D_t)^2` for positions i of the first layer
  and j of the second. The widths of student and teacher may differ. TextBrewer
  calls the mean over pairs of real positions `mmd_loss` (or NST).

  Args:
    student_features: [B, L, D], or a list of two of them.
    teacher_features: [B, L, D'], or a list of two.
    where: boolean [B, L], True for real positions.

  Returns:
    One loss per pair of positions, [B, L, L]; 0 where one is not real.

  Raises:
    ValueError: for shapes that do not fit, or more than two layers.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 3, 4))
    >>> print(hidden_mmd(2 * x, x).mean())
    9.0

  Reference:
    Yang et al., "TextBrewer: An Open-Source Knowledge Distillation Toolkit for
    Natural Language Processing", 2020, arXiv:2002.12620.
  """
  students, teachers, _ = _pairs_of_layers(
    student_features, teacher_features, where
  )
  gram = lambda a, b: (
    jnp.einsum("bid,bjd->bij", a, b, precision=EXACT) / a.shape[-1]
  )
  return jnp.square(gram(*students) - gram(*teachers))


def hidden_fsp(
  student_features: Sequence[ArrayLike] | ArrayLike,
  teacher_features: Sequence[ArrayLike] | ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Flow between the channels of two layers, averaged over positions.

  `mean_de (G_s - G_t)^2`, `G = mean_l x_l x'_l^T` [D, D'] over the real
  positions of an example.

  Args:
    student_features: [B, L, D], or a list of two of them.
    teacher_features: the same widths.
    where: boolean [B, L], True for real positions.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for shapes that do not fit, or more than two layers.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 3, 4))
    >>> print(hidden_fsp(2 * x, x))
    [9.]

  Reference:
    Yang et al., "TextBrewer: An Open-Source Knowledge Distillation Toolkit for
    Natural Language Processing", 2020, arXiv:2002.12620, after FSP.
  """
  students, teachers, where = _pairs_of_layers(
    student_features, teacher_features, where
  )
  for pair in zip(students, teachers, strict=True):
    check_shapes(*pair)
  gram = lambda a, b: jnp.einsum("bld,ble->bde", a, b, precision=EXACT)
  gap = gram(*students) - gram(*teachers)
  if where is None:
    count = jnp.full(gap.shape[:1], students[0].shape[1], gap.dtype)
  else:
    count = jnp.maximum(jnp.sum(where, 1), 1).astype(gap.dtype)
  return per_example(jnp.square(gap / count[:, None, None]))
