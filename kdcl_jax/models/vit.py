"""Vision transformers: patches as tokens, pre-norm blocks, a class token."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdcl_jax.models.layers import Classifier

_NORMAL = nn.initializers.truncated_normal(0.02)


class Attention(nn.Module):
  """Multi-head self-attention that also returns its scores.

  Attributes:
    heads: number of heads; they share the width.
    dtype: compute type.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, L, D] -> the same, and scores before the softmax [B, heads, L, L]."""
    width = x.shape[-1]
    split = (*x.shape[:2], 3, self.heads, width // self.heads)
    dense = lambda features: nn.Dense(
      features, kernel_init=_NORMAL, dtype=self.dtype
    )
    q, k, v = jnp.moveaxis(dense(3 * width)(x).reshape(split), 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (width // self.heads) ** -0.5
    weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(v.dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
    return dense(width)(mixed), scores


class VisionTransformer(nn.Module):
  """A vision transformer (ViT) of any size, or DeiT's with a second token.

  Positions are learned on the patches of the first input; on another number of
  them they are resampled (bicubic), for which the first ones must be a square.

  DeiT's distillation token stands behind the class token and has a head of its
  own. In training `logits` are the class head's, and a term reaches the other's
  by `student_logits="distillation_logits"`; in evaluation they are the mean of
  both.

  Taps: `h0` the embedded tokens, `h1` ... the tokens after each block
  [B, 1 + patches, width], `a1` ... the attention scores of each block before
  the softmax [B, heads, L, L], `pooled` the class token after the last norm;
  with a distillation token L is one more, and there are `class_logits` and
  `distillation_logits` [B, num_classes].

  Attributes:
    num_classes: number of classes.
    patch: height and width of a patch; the image is a multiple of it.
    width: of the tokens, a multiple of `heads`.
    depth: number of blocks.
    heads: attention heads.
    ratio: width of the MLP over that of the tokens.
    dropout: rate, in training.
    distilled: whether there is a distillation token.
    dtype: compute type.

  Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020,
  arXiv:2010.11929, equations 1 to 4; Touvron et al., "Training data-efficient
  image transformers and distillation through attention", 2020,
  arXiv:2012.12877, section 4.
  """

  num_classes: int
  patch: int = 16
  width: int = 192
  depth: int = 12
  heads: int = 3
  ratio: int = 4
  dropout: float = 0.0
  distilled: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    """Refuses a width that the heads cannot share."""
    super().__post_init__()
    if self.width % self.heads:
      raise ValueError(
        f"width is {self.width}, expected a multiple of heads, {self.heads}"
      )

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, Any]:
    """[B, H, W, C] -> logits [B, num_classes] and taps."""
    if x.shape[1] % self.patch or x.shape[2] % self.patch:
      raise ValueError(
        f"the image is {x.shape[1]} x {x.shape[2]}, expected multiples of the"
        f" patch, {self.patch}"
      )
    size = (self.patch, self.patch)
    norm = lambda y: nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(y)
    drop = lambda y: nn.Dropout(self.dropout, deterministic=not train)(y)
    dense = lambda y, features: nn.Dense(
      features, kernel_init=_NORMAL, dtype=self.dtype
    )(y)
    x = nn.Conv(self.width, size, size, "VALID", dtype=self.dtype)(x)
    grid = x.shape[1:3]
    x = x.reshape(x.shape[0], -1, self.width)
    names = ["token", "distillation_token"] if self.distilled else ["token"]
    tokens = [self.param(name, _NORMAL, (1, 1, self.width)) for name in names]
    tokens = [
      jnp.broadcast_to(token, (x.shape[0], 1, self.width)).astype(x.dtype)
      for token in tokens
    ]
    x = jnp.concatenate([*tokens, x], 1)
    x = drop(x + self._position(grid, len(tokens)).astype(x.dtype))
    taps = {"h0": x}
    for block in range(1, self.depth + 1):
      mixed, taps[f"a{block}"] = Attention(self.heads, self.dtype)(norm(x))
      x = x + drop(mixed)
      y = drop(nn.gelu(dense(norm(x), self.ratio * self.width), False))
      x = x + drop(dense(y, self.width))
      taps[f"h{block}"] = x
    x = norm(x)
    taps["pooled"] = x[:, 0]
    logits = Classifier(self.num_classes)(x[:, 0])
    if self.distilled:
      second = Classifier(self.num_classes)(x[:, 1])
      taps |= {"class_logits": logits, "distillation_logits": second}
      if not train:
        logits = (logits + second) / 2
    return {"logits": logits, "taps": taps}

  def _position(self, grid: tuple[int, int], tokens: int) -> jax.Array:
    """The learned positions on a grid of patches: [1, tokens + patches, D]."""
    length = tokens + grid[0] * grid[1]
    learned = length
    if self.has_variable("params", "position"):
      learned = self.get_variable("params", "position").shape[1]
    position = self.param("position", _NORMAL, (1, learned, self.width))
    if learned == length:
      return position
    side = math.isqrt(learned - tokens)
    if side * side != learned - tokens:
      raise ValueError(
        f"the image has {grid[0]} x {grid[1]} patches and the positions are"
        f" those of {learned - tokens}, expected as many or a square number"
      )
    square = position[:, tokens:].reshape(1, side, side, self.width)
    resampled = jax.image.resize(
      square, (1, *grid, self.width), "cubic", antialias=True
    ).reshape(1, -1, self.width)
    return jnp.concatenate([position[:, :tokens], resampled], 1)
