"""The arrays that every loss is measured on, at the shapes of three uses."""

import inspect
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdcl_jax import losses

RECORDS, NEGATIVES = 50_000, 16_384  # of CRD, as published for CIFAR-100
TEACHERS = 2  # of the losses with several


class Sizes(NamedTuple):
  """Shapes of the arrays of one use; None where it has no such array."""

  logits: tuple[int, ...]
  stored: int  # classes per token that a sparse teacher has stored
  maps: tuple[int, ...] | None = None
  layers: tuple[tuple[int, ...], ...] | None = None
  pooled: tuple[int, ...] | None = None
  embeddings: tuple[int, ...] | None = None
  hidden: tuple[int, ...] | None = None
  scores: tuple[int, ...] | None = None


SIZES = {
  "cifar": Sizes(
    logits=(64, 100),
    stored=16,
    maps=(64, 8, 8, 64),
    layers=((64, 16, 16, 32), (64, 8, 8, 64)),
    pooled=(64, 64),
    embeddings=(64, 128),
  ),
  "imagenet": Sizes(
    logits=(64, 1000),
    stored=32,
    maps=(64, 7, 7, 512),
    layers=((64, 14, 14, 256), (64, 7, 7, 512)),
    pooled=(64, 512),
    embeddings=(64, 128),
  ),
  "tokens": Sizes(
    logits=(4, 128, 32_000),
    stored=64,
    hidden=(4, 128, 512),
    scores=(4, 8, 128, 128),
  ),
}

# What `student_features` and `teacher_features` are. A loss without features
# needs no line.
FEATURES = {
  "maps": {
    *("ab", "at", "cwd", "fitnet", "ft", "mgd", "nst", "ofd", "pearson"),
    *("reviewkd", "sp", "srd", "vid"),
  },
  "layers": {"fsp"},
  "pooled": {
    *("cc", "cckd", "pkt", "rkd", "rkd_angle", "rkd_distance", "srrl"),
  },
  "embeddings": {"crd"},
  "hidden": {
    *("bert_pkd", "hidden_cosine", "hidden_fsp", "hidden_mmd", "hidden_mse"),
  },
  "scores": {"attention_ce", "attention_mse"},
}

# Why a loss is left out of a shape: by its features, or by its name.
IMAGES = "on feature maps and pooled features, which image models have"
TRANSFORMERS = "on hidden states and attention scores, see tokens"
PAIRS = "between the examples of a batch, [B, K], or K x K matrices"
LEFT_OUT = {
  "cifar": {"hidden": TRANSFORMERS, "scores": TRANSFORMERS},
  "imagenet": {"hidden": TRANSFORMERS, "scores": TRANSFORMERS},
  "tokens": {
    "maps": IMAGES,
    "layers": IMAGES,
    "pooled": IMAGES,
    "embeddings": IMAGES,
    "dist": PAIRS,
    "mlkd": PAIRS,
    "mlkd_batch": PAIRS,
    "mlkd_class": PAIRS,
  },
}


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return 2 * jax.random.normal(key, shape)


def _store(sizes: Sizes) -> losses.TopK:
  logits = _normal(jax.random.key(1), sizes.logits)
  return losses.top_k_targets(logits, sizes.stored)


# The arrays that are no features, by the name of the parameter.
ARRAYS: dict[str, Callable[[jax.Array, Sizes], Any]] = {
  "student_logits": lambda key, sizes: _normal(key, sizes.logits),
  "cross_logits": lambda key, sizes: _normal(key, sizes.logits),
  "teacher_logits": lambda key, sizes: _normal(key, sizes.logits),
  "teachers_logits": lambda key, sizes: _normal(key, (TEACHERS, *sizes.logits)),
  "labels": lambda key, sizes: jax.random.randint(
    key, sizes.logits[:-1], 0, sizes.logits[-1]
  ),
  "teacher_indices": lambda key, sizes: _store(sizes).indices,
  "teacher_log_probs": lambda key, sizes: _store(sizes).log_probs,
  "margin": lambda key, sizes: jnp.full(sizes.maps[-1:], -0.5),
  "log_scale": lambda key, sizes: jnp.full(sizes.maps[-1:], 5.0),
  "memory": lambda key, sizes: losses.crd_init(
    key, RECORDS, sizes.embeddings[-1]
  ),
  "contrast_index": lambda key, sizes: jax.random.randint(
    key, (sizes.embeddings[0], NEGATIVES + 1), 0, RECORDS
  ),
}
LEARNED = (
  "student_logits",
  "student_features",
  "cross_logits",
  "log_scale",
)


class Case(NamedTuple):
  """A loss at one shape.

  Attributes:
    loss: its name in `LOSSES`.
    sizes: the shapes of its arrays.
    chunk: tokens at a time, or None for all at once.
  """

  loss: str
  sizes: Sizes
  chunk: int | None = None

  @property
  def label(self) -> str:
    name = f"`{self.loss}`"
    return name if self.chunk is None else f"{name}, {self.chunk} at a time"

  @property
  def names(self) -> list[str]:
    """The parameters that are arrays, in order."""
    parameters = inspect.signature(losses.LOSSES[self.loss]).parameters
    return [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]

  @property
  def learned(self) -> tuple[int, ...]:
    """The arrays that get a gradient: the student's."""
    names = enumerate(self.names)
    return tuple(i for i, name in names if name in LEARNED)

  def array(self, name: str) -> Any:
    """One argument: an array, or a list or tuple of them."""
    key = jax.random.key(zlib.crc32(name.encode()))
    if name in ARRAYS:
      return ARRAYS[name](key, self.sizes)
    shape = getattr(self.sizes, kind(self.loss))
    if isinstance(shape[0], int):
      return _normal(key, shape)
    return [_normal(key, layer) for layer in shape]

  def specs(self) -> list[Any]:
    """The shapes and types of all arguments; makes no array."""
    return [jax.eval_shape(lambda name=n: self.array(name)) for n in self.names]

  def value(self, *arrays: Any) -> jax.Array:
    """The mean loss."""
    loss = losses.LOSSES[self.loss]
    if self.chunk is not None:
      loss = losses.chunked(loss, self.chunk)
    return jnp.mean(loss(*arrays))

  def value_and_gradients(self, *arrays: Any) -> Any:
    """The mean loss and its gradients for the student's arrays."""
    return jax.value_and_grad(self.value, self.learned)(*arrays)


# Rows beside the one that every loss has at a shape.
MORE = {
  ("imagenet", "rkd"): dict(
    sizes=SIZES["imagenet"]._replace(pooled=(1024, 128))
  ),
  ("tokens", "kd"): dict(sizes=SIZES["tokens"], chunk=64),
}

# Losses whose memory is compared with that of their chunked form.
VOCABULARY = Sizes(logits=(1, 256, 262_144), stored=64)
CHUNK = 16
CHUNKED = ("kd", "js", "dkd", "adaptive_kl")


def kind(loss: str) -> str | None:
  """Which features a loss is on; None for logits alone."""
  kinds = [kind for kind, names in FEATURES.items() if loss in names]
  return kinds[0] if kinds else None


def left_out(loss: str, shape: str) -> str | None:
  """Why a loss is not measured at a shape; None where it is."""
  reasons = LEFT_OUT[shape]
  return reasons.get(loss, reasons.get(kind(loss)))


def cases(loss: str, shape: str) -> list[Case]:
  """The rows of a loss at a shape; none where it is left out."""
  if left_out(loss, shape):
    return []
  more = MORE.get((shape, loss))
  rows = [Case(loss, SIZES[shape])]
  return rows if more is None else [*rows, Case(loss, **more)]
