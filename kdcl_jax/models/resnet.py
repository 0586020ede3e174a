"""Residual networks for small and large images; basic and bottleneck blocks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.batch_norm import BatchNorm
from kdcl_jax.models.layers import Classifier, Conv, global_pool, stem_pool


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut (1 x 1 where the shape changes).

  Attributes:
    features: output channels.
    strides: of the first convolution.
    dtype: compute type.
    axis_name: see `BatchNorm`.
  """

  features: int
  strides: int = 1
  dtype: Any = jnp.float32
  axis_name: str | None = None
  expansion = 1

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', features], before the last ReLU."""
    norm = lambda y: BatchNorm(dtype=self.dtype, axis_name=self.axis_name)(
      y, train=train, mask=mask
    )
    conv = lambda y, *args, **kw: Conv(*args, dtype=self.dtype, **kw)(y)
    y = nn.relu(norm(conv(x, self.features, 3, self.strides)))
    y = norm(conv(y, self.features, 3))
    if self.strides != 1 or x.shape[-1] != self.features:
      x = norm(conv(x, self.features, 1, self.strides))
    return x + y


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions, and a shortcut.

  Attributes:
    features: channels inside; four times as many come out.
    strides: of the 3 x 3 convolution.
    dtype: compute type.
    axis_name: see `BatchNorm`.
  """

  features: int
  strides: int = 1
  dtype: Any = jnp.float32
  axis_name: str | None = None
  expansion = 4

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, mask: jax.Array | None
  ) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', 4 features], before the last ReLU."""
    norm = lambda y: BatchNorm(dtype=self.dtype, axis_name=self.axis_name)(
      y, train=train, mask=mask
    )
    conv = lambda y, *args, **kw: Conv(*args, dtype=self.dtype, **kw)(y)
    wide = 4 * self.features
    y = nn.relu(norm(conv(x, self.features, 1)))
    y = nn.relu(norm(conv(y, self.features, 3, self.strides)))
    y = norm(conv(y, wide, 1))
    if self.strides != 1 or x.shape[-1] != wide:
      x = norm(conv(x, wide, 1, self.strides))
    return x + y


class ResNet(nn.Module):
  """A residual network.

  The stem is a 3 x 3 convolution of stride 1, or for large images one of 7 x 7
  and stride 2 and a max-pooling of stride 2.

  Taps: `f0` after the stem's ReLU, `f1` ... after each stage (`f1_pre` ...
  before its last ReLU), the last one the pooled feature.

  Attributes:
    num_classes: number of classes.
    blocks: blocks in each stage; every stage but the first halves the map.
    widths: channels of the stem and of each stage.
    block: `BasicBlock` or `Bottleneck`.
    large: whether images are large, as ImageNet's.
    dtype: compute type.
    axis_name: see `BatchNorm`.

  Reference: He, Zhang, Ren and Sun, "Deep residual learning for image
  recognition", 2016, arXiv:1512.03385, sections 4.1 and 4.2; shortcuts are
  option B, and the stride of a bottleneck is on its 3 x 3 convolution.
  """

  num_classes: int
  blocks: tuple[int, ...] = (3, 3, 3)
  widths: tuple[int, ...] = (16, 16, 32, 64)
  block: Any = BasicBlock
  large: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
  ) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    shared = {"dtype": self.dtype, "axis_name": self.axis_name}
    kernel, strides = (7, 2) if self.large else (3, 1)
    x = Conv(self.widths[0], kernel, strides, dtype=self.dtype)(x)
    x = nn.relu(BatchNorm(**shared)(x, train=train, mask=mask))
    taps = {"f0": x}
    if self.large:
      x = stem_pool(x)
    for stage, (count, width) in enumerate(
      zip(self.blocks, self.widths[1:], strict=True), start=1
    ):
      for place in range(count):
        strides = 2 if stage > 1 and place == 0 else 1
        before = self.block(width, strides, **shared)(x, train, mask)
        x = nn.relu(before)
      taps[f"f{stage}_pre"] = before
      taps[f"f{stage}"] = x
    pooled = global_pool(x)
    taps[f"f{len(self.blocks) + 1}"] = pooled
    return {"logits": Classifier(self.num_classes)(pooled), "taps": taps}


def cifar_resnet(
  num_classes: int,
  depth: int = 20,
  widths: tuple[int, ...] = (16, 16, 32, 64),
  **kwargs: Any,
) -> ResNet:
  """The CIFAR residual network of depth 6n + 2.

  Args:
    num_classes: number of classes.
    depth: 8, 14, 20, 26, ...
    widths: channels of the stem and of the three stages.
    **kwargs: `dtype` and `axis_name`.

  Raises:
    ValueError: where the depth is not 6n + 2.
  """
  if depth < 8 or (depth - 2) % 6:
    raise ValueError(f"depth is {depth}, expected 6n + 2 with n >= 1")
  count = (depth - 2) // 6
  return ResNet(num_classes, (count,) * 3, widths, **kwargs)


def cifar_resnet50(num_classes: int, **kwargs: Any) -> ResNet:
  """ResNet-50 with a stem for 32 x 32 images."""
  return ResNet(
    num_classes,
    (3, 4, 6, 3),
    (64, 64, 128, 256, 512),
    block=Bottleneck,
    **kwargs,
  )
