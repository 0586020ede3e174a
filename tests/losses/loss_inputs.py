"""Inputs for tests over all of LOSSES, made by the names of the parameters."""

import inspect

import jax
import numpy as np

from kdcl_jax.losses import LOSSES

# A loss joins the tests over all losses when its arrays are made here.
SHAPES = {
  "student_logits": lambda b, k: (b, k),
  "teacher_logits": lambda b, k: (b, k),
}


def parameters(name):
  return inspect.signature(LOSSES[name]).parameters


def array_names(name):
  return [
    p.name for p in parameters(name).values() if p.kind is not p.KEYWORD_ONLY
  ]


def is_relational(name):
  return "axis_name" in parameters(name)


NAMES = [
  name for name in LOSSES if set(array_names(name)) <= {*SHAPES, "labels"}
]
RELATIONAL = [name for name in NAMES if is_relational(name)]
POINTWISE = [name for name in NAMES if not is_relational(name)]
WITH_TEACHER = [n for n in NAMES if "teacher_logits" in array_names(n)]


def arrays(name, batch=6, classes=7, seed=0, dtype=np.float32):
  """Random arrays for the loss, in the order of its parameters."""
  generator = np.random.default_rng(seed)
  made = {
    key: 2 * generator.standard_normal(shape(batch, classes)).astype(dtype)
    for key, shape in SHAPES.items()
  }
  made["labels"] = generator.integers(0, classes, batch)
  return [jax.numpy.asarray(made[key]) for key in array_names(name)]
