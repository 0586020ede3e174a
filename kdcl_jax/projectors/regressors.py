"""Projectors that give a student's feature the shape of the teacher's."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.losses import vid_initial_log_scale
from kdcl_jax.models.layers import Dense, kaiming_fan_out, uniform_fan_in
from kdcl_jax.projectors.projector import Projector, conv


class Linear(Projector):
  """A linear layer on the last axis, to the teacher's width.

  Attributes:
    features: output width; 0 for that of the teacher's feature.
    norm_output: whether BatchNorm follows, as SRD has it.
  """

  features: int = 0
  norm_output: bool = False

  @nn.compact
  def __call__(
    self,
    student_features: jax.Array,
    teacher_features: jax.Array,
    train: bool,
    mask: jax.Array | None,
  ) -> jax.Array:
    """[B, ..., D] -> [B, ..., D']."""
    width = self.features or teacher_features.shape[-1]
    x = Dense(width)(student_features.astype(jnp.float32))
    return self.norm(x, train, mask) if self.norm_output else x


class ConvRegressor(Projector):
  """FitNets' regressor: a convolution to the teacher's map, BatchNorm, ReLU.

  The kernel follows from the sizes: 3 x 3 of stride 2 from twice the teacher's
  size, 4 x 4 transposed of stride 2 from half of it, and otherwise the valid
  convolution that shrinks the map to the teacher's.

  Attributes:
    relu: whether ReLU ends it; False for taps before the ReLU.

  Reference: Romero et al., "FitNets: Hints for Thin Deep Nets", 2014,
  arXiv:1412.6550, section 2.2; sizes and ReLU are RepDistiller's `ConvReg`.
  """

  relu: bool = True

  @nn.compact
  def __call__(
    self,
    student_features: jax.Array,
    teacher_features: jax.Array,
    train: bool,
    mask: jax.Array | None,
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', C']."""
    x = student_features.astype(jnp.float32)
    _, height, width, channels = teacher_features.shape
    have, want = x.shape[1:3], (height, width)
    if have == (2 * height, 2 * width):
      x = conv(x, channels, 3, strides=2, padding=1)
    elif (2 * have[0], 2 * have[1]) == want:
      init = uniform_fan_in(16 * channels)
      x = nn.ConvTranspose(
        channels, (4, 4), (2, 2), kernel_init=init, bias_init=init
      )(x)
    elif have[0] >= height and have[1] >= width:
      x = conv(x, channels, (1 + have[0] - height, 1 + have[1] - width))
    else:
      raise ValueError(
        f"the projector 'conv' takes no student map of {have} to a teacher's"
        f" of {want}; expected twice, half, or at least the teacher's size."
      )
    x = self.norm(x, train, mask)
    return nn.relu(x) if self.relu else x


class VidRegressor(Projector):
  """VID's mean, three 1 x 1 convolutions, and its variance per channel.

  Attributes:
    hidden: channels in between; 0 for the teacher's.
    variance: the variance at the start.

  Reference: Ahn et al., "Variational Information Distillation for Knowledge
  Transfer", 2019, arXiv:1904.05835, section 2.2; as in RepDistiller.
  """

  hidden: int = 0
  variance: float = 5.0

  makes = ("student_features", "log_scale")

  @nn.compact
  def __call__(
    self, student_features: jax.Array, teacher_features: jax.Array
  ) -> dict[str, jax.Array]:
    """[B, H, W, C] -> [B, H, W, C'] and log_scale [C']."""
    channels = teacher_features.shape[-1]
    hidden = self.hidden or channels
    x = student_features.astype(jnp.float32)
    x = nn.relu(conv(x, hidden, use_bias=False))
    x = nn.relu(conv(x, hidden, use_bias=False))
    mean = conv(x, channels, use_bias=False)
    start = nn.initializers.constant(vid_initial_log_scale(self.variance))
    log_scale = self.param("log_scale", start, (channels,))
    return {"student_features": mean, "log_scale": log_scale}


class Tokens(Projector):
  """Maps as sequences of positions, and their widths made equal.

  Lets the losses on hidden states compare maps: [B, H, W, C] becomes
  [B, H W, C], and a linear layer takes the student's width to the teacher's
  where they differ.
  """

  makes = ("student_features", "teacher_features")

  @nn.compact
  def __call__(
    self, student_features: jax.Array, teacher_features: jax.Array
  ) -> dict[str, jax.Array]:
    """[B, H, W, C], [B, H, W, C'] -> [B, L, C'], [B, L, C']."""
    student, teacher = (
      x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
      for x in (student_features, teacher_features)
    )
    if student.shape[-1] != teacher.shape[-1]:
      student = Dense(teacher.shape[-1])(student)
    return {"student_features": student, "teacher_features": teacher}


class SrrlConnector(Projector):
  """SRRL's connector, and the teacher's classifier on top of it.

  1 x 1 convolution, BatchNorm, ReLU; the mean over positions then goes through
  the teacher's frozen last linear layer.

  Attributes:
    num_classes: number of classes.
    head: path of that layer in the teacher's parameters, such as
      `Classifier_0/Dense_0/Dense_0`; '' to find the one that fits.

  Reference: Yang et al., "Knowledge distillation via softmax regression
  representation learning", ICLR 2021, section 3.
  """

  num_classes: int = 0
  head: str = ""

  makes = ("student_features", "cross_logits")

  @nn.compact
  def __call__(
    self,
    student_features: jax.Array,
    teacher_features: jax.Array,
    teacher_variables: dict,
    train: bool,
    mask: jax.Array | None,
  ) -> dict[str, jax.Array]:
    """[B, H, W, C] or [B, C] -> the same with C', and [B, K]."""
    x = student_features.astype(jnp.float32)
    width = teacher_features.shape[-1]
    maps = x if x.ndim == 4 else x[:, None, None]
    maps = conv(maps, width, use_bias=False, init=kaiming_fan_out)
    maps = nn.relu(self.norm(maps, train, mask))
    layer = self._head(teacher_variables["params"], width)
    pooled = jnp.mean(maps, (1, 2))
    logits = pooled @ layer["kernel"]
    if "bias" in layer:
      logits = logits + layer["bias"][None]
    features = maps if x.ndim == 4 else pooled
    return {"student_features": features, "cross_logits": logits}

  def _head(self, params: dict, width: int) -> dict[str, jax.Array]:
    layers = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      *layer, last = (str(getattr(key, "key", key)) for key in path)
      layers.setdefault("/".join(layer), {})[last] = leaf
    fits = {
      path: layer
      for path, layer in layers.items()
      if "kernel" in layer
      and layer["kernel"].shape == (width, self.num_classes)
    }
    if self.head:
      fits = {k: v for k, v in fits.items() if k == self.head}
    if len(fits) != 1:
      raise ValueError(
        f"the projector 'srrl' looks for the teacher's classifier, a linear"
        f" layer of shape {(width, self.num_classes)} on the term's"
        f" teacher_tap; found {', '.join(fits) or 'none'}"
        f"{f' named {self.head!r}' if self.head else ''}."
      )
    return next(iter(fits.values()))
