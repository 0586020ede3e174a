"""Embeddings of both networks' features, and CRD's memory of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from kdcl_jax.losses import (
  CrdMemory,
  crd_init,
  crd_negatives,
  crd_update,
)
from kdcl_jax.models.layers import Dense
from kdcl_jax.projectors.projector import Projector


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
  """The training records that a memory is about.

  Attributes:
    ids: their record ids, ascending, [N].
    labels: their classes, [N].
  """

  ids: np.ndarray
  labels: np.ndarray


class Embeddings(Projector):
  """A linear layer on each network's feature, both trained.

  The teacher's feature itself gets no gradient.

  Attributes:
    features: width of the embeddings.
  """

  features: int = 128

  makes = ("student_features", "teacher_features", "teacher_gradient")

  @nn.compact
  def __call__(
    self, student_features: jax.Array, teacher_features: jax.Array
  ) -> dict[str, Any]:
    """[B, ...], [B, ...] -> [B, features] of both."""
    return embed(student_features, teacher_features, self.features)


def embed(
  student: jax.Array, teacher: jax.Array, features: int
) -> dict[str, Any]:
  """Flattens and embeds both features, inside a module."""
  flat = lambda x: x.reshape(x.shape[0], -1).astype(jnp.float32)
  return {
    "student_features": Dense(features, name="student")(flat(student)),
    "teacher_features": Dense(features, name="teacher")(flat(teacher)),
    "teacher_gradient": True,
  }


class Memory(Projector):
  """CRD's embeddings, its memory of every record, and its negatives.

  Negatives of a record are drawn from the step and its id, so they are the same
  on any number of devices. The memory holds 2 N `features` floats.

  Attributes:
    features: width of the embeddings.
    negatives: K, negatives of a record; the paper has 16384.
    temperature: of the scores; give the loss the same.
    momentum: share of the old vector that is kept.
    data: the training records, set by the pipeline.

  Reference: Tian, Krishnan, Isola, "Contrastive Representation Distillation",
  2019, arXiv:1910.10699, sections 3 and 4.
  """

  features: int = 128
  negatives: int = 16384
  temperature: float = 0.07
  momentum: float = 0.5
  data: Records | None = None

  makes = (
    "student_features",
    "teacher_features",
    "memory",
    "contrast_index",
    "temperature",
    "teacher_gradient",
  )

  @nn.compact
  def __call__(
    self,
    student_features: jax.Array,
    teacher_features: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    keys: jax.Array,
    train: bool,
    mask: jax.Array | None,
  ) -> dict[str, Any]:
    """Features -> embeddings, the memory, and [B, K + 1] rows of it."""
    made = embed(student_features, teacher_features, self.features)
    records = len(self.data.ids)
    start = lambda: crd_init(
      self.make_rng("params"), records, self.features
    )._asdict()
    bank = self.variable("memory", "bank", start)
    memory = CrdMemory(**bank.value)
    own = jnp.searchsorted(jnp.asarray(self.data.ids), ids)
    draw = lambda key, label: crd_negatives(
      key, label[None], self.data.labels, self.negatives
    )[0]
    others = jax.vmap(draw)(keys, labels)
    index = jnp.concatenate([own[:, None], others], 1)
    if train and not self.is_initializing():
      bank.value = crd_update(
        memory,
        made["student_features"],
        made["teacher_features"],
        index,
        temperature=self.temperature,
        momentum=self.momentum,
        where=mask,
        axis_name=self.axis,
      )._asdict()
    return made | {
      "memory": memory,
      "contrast_index": index,
      "temperature": self.temperature,
    }
