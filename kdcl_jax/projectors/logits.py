"""Projectors without parameters: logits in another form."""

import jax
from flax import linen as nn

from kdcl_jax.losses import standardize_logits, top_k_targets
from kdcl_jax.projectors.projector import Projector


class Standardize(Projector):
  """Logit standardisation of both networks, for any loss on logits.

  Reference: Sun et al., "Logit Standardization in Knowledge Distillation",
  2024, arXiv:2403.01427.
  """

  makes = ("student_logits", "teacher_logits")

  @nn.compact
  def __call__(
    self, student_logits: jax.Array, teacher_logits: jax.Array
  ) -> dict[str, jax.Array]:
    """[B, K], [B, K] -> the same shapes."""
    return {
      "student_logits": standardize_logits(student_logits),
      "teacher_logits": standardize_logits(teacher_logits),
    }


class TopK(Projector):
  """The teacher's k most probable classes, for the sparse losses.

  Attributes:
    k: how many classes.
  """

  k: int = 3

  makes = ("teacher_indices", "teacher_log_probs")

  @nn.compact
  def __call__(self, teacher_logits: jax.Array) -> dict[str, jax.Array]:
    """[B, K] -> two arrays [B, k]."""
    stored = top_k_targets(teacher_logits, self.k)
    return {
      "teacher_indices": stored.indices,
      "teacher_log_probs": stored.log_probs,
    }
