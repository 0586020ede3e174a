"""Networks that are trained beside the student: a peer, FT's two factors."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax import models
from kdcl_jax.losses import cross_entropy, dml
from kdcl_jax.projectors.projector import Projector, conv


class Peer(Projector):
  """A second network that learns together with the student, for `dml`.

  It is trained on its own cross-entropy and towards the student; the student
  learns from it through the term's loss. It is no part of the export.

  Attributes:
    model: a name in `kdcl_jax.models.MODELS` or a dotted path.
    options: fields of that model, as (name, value) pairs or a dictionary.
    temperature: of its own mutual loss.
    num_classes: number of classes.

  Reference: Zhang et al., "Deep Mutual Learning", 2017, arXiv:1706.00384.
  """

  model: str = "cnn"
  options: tuple = ()
  temperature: float = 1.0
  num_classes: int = 0

  makes = ("teacher_logits", "train_peer")
  has_auxiliary = True

  @nn.compact
  def __call__(
    self,
    student_logits: jax.Array,
    labels: jax.Array,
    inputs: jax.Array,
    train: bool,
    mask: jax.Array | None,
  ) -> dict[str, jax.Array]:
    """The peer's logits [B, K], and its own loss [B]."""
    network = models.build(
      self.model,
      num_classes=self.num_classes,
      axis_name=self.axis_name,
      field="projector.model",
      **dict(self.options),
    )
    logits = models.call(network, inputs, train=train, mask=mask)["logits"]
    towards = dml(
      logits,
      student_logits,
      temperature=self.temperature,
      train_peer=False,
    )
    return {
      "teacher_logits": jax.lax.stop_gradient(logits),
      "train_peer": False,
      "auxiliary": cross_entropy(logits, labels) + towards,
    }


class Factors(Projector):
  """FT's factors: a paraphraser of the teacher, a translator of the student.

  The paraphraser is an autoencoder of the teacher's map, trained here on its
  reconstruction while the student learns; in the paper it is trained first, for
  30 epochs. The student's translator learns to give the same factor.

  Attributes:
    ratio: channels of the factor over those of the teacher's map.

  Reference: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression
  via Factor Transfer", 2018, arXiv:1802.04977, section 3.
  """

  ratio: float = 0.5

  makes = ("student_features", "teacher_features")
  has_auxiliary = True

  @nn.compact
  def __call__(
    self,
    student_features: jax.Array,
    teacher_features: jax.Array,
    train: bool,
    mask: jax.Array | None,
  ) -> dict[str, jax.Array]:
    """Maps -> factors [B, H, W, ratio C'], and the reconstruction's error."""
    teacher = teacher_features.astype(jnp.float32)
    channels = teacher.shape[-1]
    width = max(1, round(self.ratio * channels))
    factor = self._layers(teacher, (channels, width, width), train, mask)
    again = self._layers(factor, (width, channels, channels), train, mask)
    student = student_features.astype(jnp.float32)
    own = (student.shape[-1], width, width)
    return {
      "student_features": self._layers(student, own, train, mask),
      "teacher_features": jax.lax.stop_gradient(factor),
      "auxiliary": jnp.mean(jnp.square(again - teacher), (1, 2, 3)),
    }

  def _layers(
    self,
    x: jax.Array,
    widths: tuple[int, ...],
    train: bool,
    mask: jax.Array | None,
  ) -> jax.Array:
    for width in widths:
      x = conv(x, width, 3, padding=1)
      x = nn.leaky_relu(self.norm(x, train, mask), 0.1)
    return x
