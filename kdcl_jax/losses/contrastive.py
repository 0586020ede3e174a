"""Contrastive representation distillation, with its memory as explicit state.

A training step with `crd`:

    losses = crd(s, t, memory, contrast_index)          # differentiate
    memory = crd_update(memory, s, t, contrast_index)   # then carry on

`contrast_index` holds per example its own record id and K ids of records of
other classes, which `crd_negatives` draws.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import check_shapes, feature_pair
from kdcl_jax.losses.contrast_memory import (
  CrdMemory,
  contrast_ids,
  log_scores,
  partition,
)
from kdcl_jax.losses.probabilities import present_only
from kdcl_jax.losses.reductions import as_float, check_number, row_mask


def crd_nce(
  scores: ArrayLike,
  *,
  n_data: int,
  eps: float = 1e-7,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Noise-contrastive estimation: tell the positive from K noise samples.

  `-log(o_0 / (o_0 + c + eps)) - sum_k log(c / (o_k + c + eps))`, `c = K / N`,
  the sum over the K negatives.

  Args:
    scores: [B, K + 1], o >= 0, the positive first.
    n_data: N, how many records negatives are drawn from.
    eps: > 0.
    where: boolean [B], False for padded examples.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for no negatives, or a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> print(f"{crd_nce(jnp.ones((1, 3)), n_data=2)[0]:.4f}")
    2.0794

  Reference:
    Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019,
    arXiv:1910.10699, equations 18 and 19; RepDistiller's `ContrastLoss`.
  """
  check_number("n_data", n_data, low=1)
  check_number("eps", eps, above=0)
  scores = as_float(scores)
  if scores.ndim != 2 or scores.shape[1] < 2:
    raise ValueError(
      f"scores has the shape {scores.shape}, expected [B, K + 1] with K >= 1."
    )
  if where is not None:
    where = row_mask(where, scores)
    scores = jnp.where(where[:, None], scores, 0)
  noise = (scores.shape[1] - 1) / n_data
  evidence = jnp.log(scores + noise + eps)
  least = jnp.finfo(scores.dtype).tiny
  positive = jnp.log(jnp.maximum(scores[:, 0], least))
  negatives = jnp.sum(evidence[:, 1:] - jnp.log(noise), -1)
  return present_only(evidence[:, 0] - positive + negatives, where)


def crd(
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  memory: CrdMemory,
  contrast_index: ArrayLike,
  *,
  temperature: ArrayLike = 0.07,
  eps: float = 1e-7,
  teacher_gradient: bool = False,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Contrastive representation distillation against a memory.

  `nce(exp(v_s . M_t / T) / Z_s) + nce(exp(v_t . M_s / T) / Z_t)`, v the
  embeddings scaled to length 1, M the remembered vectors of the positive and
  the K negatives, `nce` as in `crd_nce`. Z is fixed by the first batch, `N mean
  exp(v . M / T)`, and has no gradient.

  Args:
    student_features: [B, D], a linear embedding of the student's feature.
    teacher_features: [B, D], a linear embedding of the teacher's.
    memory: from `crd_init` and `crd_update`; a constant. The same on all
      devices.
    contrast_index: [B, K + 1] record ids, the example's own first.
    temperature: T > 0.
    eps: as in `crd_nce`.
    teacher_gradient: lets the gradient pass to the teacher's embedding, which
      the published code trains (its frozen feature gets none). By default the
      teacher's side is a constant; its term then trains nothing.
    where: boolean [B], False for padded examples.
    axis_name: mapped axis over which the batch is spread, for Z.

  Returns:
    One loss per example, [B].

  Raises:
    ValueError: for shapes that do not fit or a number out of range.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from kdcl_jax.losses import crd_init
    >>> memory = crd_init(jax.random.key(0), 10, 4)
    >>> x = jnp.ones((2, 4))
    >>> contrast = jnp.array([[3, 1, 2], [5, 1, 2]])
    >>> print(crd(x, x, memory, contrast).shape)
    (2,)

  Reference:
    Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019,
    arXiv:1910.10699, equations 10, 18 and 19; RepDistiller's `CRDLoss`.
  """
  check_number("temperature", temperature, above=0)
  student, teacher, where = feature_pair(
    student_features,
    teacher_features,
    ranks=(2,),
    where=where,
    teacher_gradient=teacher_gradient,
  )
  check_shapes(student, teacher)
  contrast_index = contrast_ids(contrast_index, student.shape[0])
  memory = jax.lax.stop_gradient(memory)
  records = memory.student.shape[0]
  present = row_mask(where, student)
  total = 0.0
  for embeddings, rows, known in (
    (student, memory.teacher, memory.student_z),
    (teacher, memory.student, memory.teacher_z),
  ):
    logs = log_scores(embeddings, rows, contrast_index, temperature)
    z = partition(known, logs, records, present, axis_name)
    scores = jnp.exp(logs) / jnp.where(z > 0, z, 1)
    total = total + crd_nce(scores, n_data=records, eps=eps)
  return present_only(total, where)
