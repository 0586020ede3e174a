"""Inputs for tests over all losses on features."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax import losses
from kdcl_jax.losses import LOSSES

# loss -> the shapes of one student's and one teacher's feature, for B rows.
MAPS = lambda b: ((b, 4, 4, 3), (b, 4, 4, 3))
WIDER = lambda b: ((b, 4, 4, 3), (b, 6, 6, 5))  # another size, more channels
POOLED = lambda b: ((b, 6), (b, 6))
UNLIKE = lambda b: ((b, 6), (b, 9))
TOKENS = lambda b: ((b, 3, 6), (b, 3, 6))
SCORES = lambda b: ((b, 2, 3, 3), (b, 2, 3, 3))
SHAPES = {
  "ab": MAPS,
  "at": WIDER,
  "attention_ce": SCORES,
  "attention_mse": SCORES,
  "bert_pkd": TOKENS,
  "cc": POOLED,
  "cckd": UNLIKE,
  "crd": POOLED,
  "cwd": MAPS,
  "fitnet": MAPS,
  "fsp": MAPS,
  "ft": WIDER,
  "hidden_cosine": TOKENS,
  "hidden_fsp": TOKENS,
  "hidden_mmd": TOKENS,
  "hidden_mse": TOKENS,
  "mgd": MAPS,
  "nst": WIDER,
  "ofd": MAPS,
  "pearson": MAPS,
  "pkt": UNLIKE,
  "reviewkd": MAPS,
  "rkd": UNLIKE,
  "rkd_angle": UNLIKE,
  "rkd_distance": UNLIKE,
  "sp": WIDER,
  "srd": POOLED,
  "srrl": POOLED,
  "vid": MAPS,
}
NAMES = list(SHAPES)
# Those that give one scalar for the batch: all that are relational but crd.
SCALAR = [
  name
  for name in NAMES
  if "axis_name" in inspect.signature(LOSSES[name]).parameters and name != "crd"
]
PER_EXAMPLE = [name for name in NAMES if name not in SCALAR]
RECORDS = 20


def features(name, batch=5, seed=0, dtype=np.float32):
  """A student's and a teacher's random feature."""
  generator = np.random.default_rng(seed)
  return [
    jnp.asarray(2 * generator.standard_normal(shape), dtype)
    for shape in SHAPES[name](batch)
  ]


def loss_of(name, batch=5, dtype=np.float32):
  """The loss as a function of both features and keywords, the rest fixed."""
  loss = LOSSES[name]
  if name == "fsp":  # a layer and its square, so that there are two
    return lambda s, t, **kw: loss([s, s**2], [t, t**2], **kw)
  if name in ("ab", "reviewkd"):
    return lambda s, t, **kw: loss([s], [t], **kw)
  if name == "ofd":
    margin = jnp.asarray([-0.5, -1.0, -0.1], dtype)
    return lambda s, t, **kw: loss(s, t, margin, **kw)
  if name == "vid":
    scale = jnp.asarray([0.5, 1.0, -1.0], dtype)
    return lambda s, t, **kw: loss(s, t, scale, **kw)
  if name == "srrl":
    head = np.random.default_rng(5).standard_normal((6, 4)).astype(dtype)
    return lambda s, t, **kw: loss(s, s @ head, t, t @ head, **kw)
  if name == "crd":
    memory = losses.crd_init(jax.random.key(0), RECORDS, 6)
    rows = np.random.default_rng(6).permuted(
      np.tile(np.arange(RECORDS), (64, 1)), axis=1
    )
    index = jnp.asarray(rows[:, :4])

    def value(s, t, **kw):
      return loss(s, t, memory, index[: s.shape[0]], **kw)

    return value
  return loss
