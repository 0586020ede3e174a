"""OFD's connector, and the margin below which a teacher's neuron is off."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.losses import ofd_margin
from kdcl_jax.models.layers import kaiming_fan_out
from kdcl_jax.projectors.projector import Projector, conv


class OfdConnector(Projector):
  """1 x 1 convolution and BatchNorm, and the teacher's margins.

  The margin of a channel is the mean of the teacher's negative responses. By
  default it is measured, over all batches so far, as state of the stage. The
  published code takes it from the BatchNorm in front of the ReLU: give its
  path in `batch_norm`.

  Attributes:
    batch_norm: path of that layer in the teacher's parameters, such as
      `BasicBlock_2/BatchNorm_1`; '' to measure.

  Reference: Heo et al., "A Comprehensive Overhaul of Feature Distillation",
  2019, arXiv:1904.01866, sections 3.1 and 3.2.
  """

  batch_norm: str = ""

  makes = ("student_features", "margin")

  @nn.compact
  def __call__(
    self,
    student_features: jax.Array,
    teacher_features: jax.Array,
    teacher_variables: dict,
    train: bool,
    mask: jax.Array | None,
  ) -> dict[str, jax.Array]:
    """[B, H, W, C] -> [B, H, W, C'], and the margins [C']."""
    channels = teacher_features.shape[-1]
    x = student_features.astype(jnp.float32)
    x = conv(x, channels, use_bias=False, init=kaiming_fan_out)
    if self.batch_norm:
      layer = _layer(teacher_variables["params"], self.batch_norm, channels)
      margin = ofd_margin(layer["scale"], layer["bias"])
    else:
      margin = self._measured(teacher_features, train, mask)
    return {"student_features": self.norm(x, train, mask), "margin": margin}

  def _measured(
    self, features: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    zeros = lambda: jnp.zeros((2, features.shape[-1]))
    sums = self.variable("responses", "negative", zeros)
    if train and not self.is_initializing():
      negative = features < 0
      if mask is not None:
        negative &= mask[:, None, None, None]
      values = jnp.where(negative, features.astype(jnp.float32), 0)
      new = jnp.stack([jnp.sum(x, (0, 1, 2)) for x in (values, negative)])
      new = jax.lax.stop_gradient(new)
      sums.value += jax.lax.psum(new, self.axis) if self.axis else new
    total, count = sums.value
    return total / jnp.maximum(count, 1)


def _layer(params: Mapping[str, Any], path: str, channels: int) -> Any:
  layer: Any = params
  for name in path.split("/"):
    layer = layer.get(name, {}) if isinstance(layer, Mapping) else {}
  scale = layer.get("scale") if isinstance(layer, Mapping) else None
  if getattr(scale, "shape", None) != (channels,):
    raise ValueError(
      f"the projector 'ofd' looks for the teacher's BatchNorm {path!r} of"
      f" {channels} channels; there are {', '.join(_norms(params, channels))}."
    )
  return layer


def _norms(params: Mapping[str, Any], channels: int) -> list[str]:
  return [
    "/".join(str(getattr(key, "key", key)) for key in path[:-1])
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if getattr(path[-1], "key", "") == "scale" and leaf.shape == (channels,)
  ] or ["none"]
