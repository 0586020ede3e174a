"""What CRD remembers of every record, and how negatives are drawn."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import (
  EXACT,
  check_shapes,
  feature_pair,
  l2_normalize,
)
from kdcl_jax.losses.congruence import row_numbers
from kdcl_jax.losses.reductions import check_number, global_mean, row_mask


class CrdMemory(NamedTuple):
  """What CRD remembers of every record; a pytree to be checkpointed.

  Attributes:
    student: unit vectors of the student's embeddings, [N, D].
    teacher: unit vectors of the teacher's, [N, D].
    student_z: the constant Z of the student's scores, []; 0 until the first
      batch has fixed it.
    teacher_z: the same of the teacher's scores.
  """

  student: jax.Array
  teacher: jax.Array
  student_z: jax.Array
  teacher_z: jax.Array


def crd_init(key: jax.Array, records: int, features: int = 128) -> CrdMemory:
  """A memory of random vectors, uniform within +-1/sqrt(D/3).

  Args:
    key: a typed PRNG key.
    records: N, how many records the data set has.
    features: D, length of the embeddings.

  Returns:
    The state before the first batch; 2 N D floats.

  Raises:
    ValueError: if a length is not >= 1.

  Example:
    >>> import jax
    >>> memory = crd_init(jax.random.key(0), 100, 8)
    >>> print(memory.student.shape, memory.student_z)
    (100, 8) 0.0

  Reference:
    Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019,
    arXiv:1910.10699, section 3; RepDistiller's `ContrastMemory`.
  """
  check_number("records", records, low=1)
  check_number("features", features, low=1)
  bound = (features / 3) ** -0.5
  student, teacher = jax.random.uniform(
    key, (2, records, features), minval=-bound, maxval=bound
  )
  return CrdMemory(student, teacher, jnp.zeros(()), jnp.zeros(()))


def log_scores(
  embeddings: jax.Array,
  memory: jax.Array,
  contrast_index: jax.Array,
  temperature: ArrayLike,
) -> jax.Array:
  """Cosines with the remembered vectors over the temperature, [B, K + 1]."""
  rows = memory.at[contrast_index].get(mode="clip").astype(embeddings.dtype)
  unit = l2_normalize(embeddings)
  dots = jnp.einsum("bd,bkd->bk", unit, rows, precision=EXACT)
  return dots / temperature


def contrast_ids(contrast_index: ArrayLike, batch: int) -> jax.Array:
  """Checks record ids [B, K + 1], the positive first."""
  contrast_index = jnp.asarray(contrast_index)
  chex.assert_type(contrast_index, int)
  chex.assert_shape(
    contrast_index,
    (batch, None),
    custom_message="contrast_index is [B, K + 1] record ids, the positive"
    " first",
  )
  return contrast_index


def partition(
  known: jax.Array,
  logs: jax.Array,
  records: int,
  where: jax.Array,
  axis_name: str | None,
) -> jax.Array:
  """The known constant, or `N mean exp(score)` of this global batch."""
  scores = jnp.mean(jnp.exp(jax.lax.stop_gradient(logs)), -1)
  first = records * global_mean(scores, where, axis_name)
  # A first batch without any example leaves it open.
  return jnp.where(known > 0, known.astype(first.dtype), first)


def crd_update(
  memory: CrdMemory,
  student_features: ArrayLike,
  teacher_features: ArrayLike,
  contrast_index: ArrayLike,
  *,
  temperature: ArrayLike = 0.07,
  momentum: float = 0.5,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> CrdMemory:
  """The memory after a batch; call it after `crd`, with the same arrays.

  `M[y] <- l2(m M[y] + (1 - m) v)` for the records of the batch; and Z, if the
  memory has none yet.

  Args:
    memory: the state before the batch.
    student_features: [B, D].
    teacher_features: [B, D].
    contrast_index: [B, K + 1] record ids, as in `crd`; those of the first
      column all different.
    temperature: as in `crd`.
    momentum: m in [0, 1].
    where: boolean [B]; padded examples change nothing.
    axis_name: mapped axis over which the batch is spread; every device then
      makes the same update of the global batch.

  Returns:
    The new state, without gradient.

  Raises:
    ValueError: for shapes that do not fit or a number out of range.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> memory = crd_init(jax.random.key(0), 10, 4)
    >>> x = jnp.ones((2, 4))
    >>> contrast = jnp.array([[3, 1, 2], [5, 1, 2]])
    >>> memory = crd_update(memory, x, x, contrast, momentum=0.0)
    >>> print(memory.student[3])
    [0.5 0.5 0.5 0.5]

  Reference:
    RepDistiller's `ContrastMemory`; see `crd`.
  """
  check_number("temperature", temperature, above=0)
  check_number("momentum", momentum, low=0, high=1)
  student, teacher, where = feature_pair(
    jax.lax.stop_gradient(student_features),
    teacher_features,
    ranks=(2,),
    where=where,
  )
  check_shapes(student, teacher)
  contrast_index = contrast_ids(contrast_index, student.shape[0])
  where = row_mask(where, student)
  records = memory.student.shape[0]
  rows = _everywhere(jnp.where(where, contrast_index[:, 0], records), axis_name)

  def moved(old: jax.Array, embeddings: jax.Array) -> jax.Array:
    new = _everywhere(l2_normalize(embeddings), axis_name).astype(old.dtype)
    kept = old.at[rows].get(mode="clip")
    mixed = l2_normalize(momentum * kept + (1 - momentum) * new)
    return old.at[rows].set(mixed, mode="drop")

  def z(known: jax.Array, embeddings: jax.Array, other: jax.Array) -> jax.Array:
    logs = log_scores(embeddings, other, contrast_index, temperature)
    return partition(known, logs, records, where, axis_name).astype(known.dtype)

  return CrdMemory(
    moved(memory.student, student),
    moved(memory.teacher, teacher),
    z(memory.student_z, student, memory.teacher),
    z(memory.teacher_z, teacher, memory.student),
  )


def _everywhere(rows: jax.Array, axis_name: str | None) -> jax.Array:
  """All devices' rows, known to be the same on every device, [b] -> [B]."""
  if axis_name is None:
    return rows
  batch = rows.shape[0] * jax.lax.axis_size(axis_name)
  numbers = row_numbers(rows, axis_name)
  placed = jnp.zeros((batch, *rows.shape[1:]), rows.dtype)
  return jax.lax.psum(placed.at[numbers].set(rows), axis_name)


def crd_negatives(
  key: jax.Array, labels: ArrayLike, data_labels: np.ndarray, negatives: int
) -> jax.Array:
  """Draws records of other classes, uniformly and with replacement.

  Args:
    key: a typed PRNG key.
    labels: [B], classes of the batch.
    data_labels: [N], classes of all records, in memory of the host (its order
      by class is computed when traced).
    negatives: K >= 1.

  Returns:
    Record ids, [B, K]. The published code draws without replacement where a
    class leaves K others; at K = 16,384 of 49,500 the difference is small.

  Raises:
    ValueError: if there are not two classes, or K is not >= 1.

  Example:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> classes = np.array([0, 1, 0, 1])
    >>> ids = crd_negatives(jax.random.key(0), jnp.array([0]), classes, 5)
    >>> print(ids.shape, set(classes[ids[0]].tolist()))
    (1, 5) {1}

  Reference:
    Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019,
    arXiv:1910.10699, section 4.
  """
  check_number("negatives", negatives, low=1)
  data_labels = np.asarray(data_labels)
  counts = np.bincount(data_labels)
  if np.count_nonzero(counts) < 2:
    raise ValueError("data_labels has one class, expected at least two.")
  order = jnp.asarray(np.argsort(data_labels, kind="stable"))
  starts = jnp.asarray(np.cumsum(counts) - counts)
  labels = jnp.asarray(labels)
  own, start = (x[labels][:, None] for x in (jnp.asarray(counts), starts))
  draw = jax.random.randint(
    key, (labels.shape[0], negatives), 0, data_labels.size - own
  )
  return order[jnp.where(draw < start, draw, draw + own)]
