"""Our models with the weights of torch's, for these tests."""

import functools
import json

import jax
import numpy as np
import torch_references as references

from kdcl_jax import models, weights
from kdcl_jax.models import porting

PREFIX = "config.teacher.weights"
CASES = references.REDUCED | references.PUBLISHED


@functools.cache
def goldens():
  with np.load(references.GOLDEN) as file:
    return dict(file)


@functools.cache
def shapes_of(case):
  return json.loads(str(goldens()[f"{case}/shapes"]))


@functools.cache
def forward_of(case, train):
  *_, name, options = CASES[case]
  module = models.build(name, num_classes=references.CLASSES, **options)
  return jax.jit(functools.partial(models.forward, module, train=train))


def ported(case, arrays):
  """Our variables, of which none is missing and none is left over."""
  *_, size, name, options = CASES[case]
  variables, unused = porting.variables_from_torch(name, arrays, PREFIX)
  assert unused == []
  module = models.build(name, num_classes=references.CLASSES, **options)
  x = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
  like = jax.eval_shape(lambda x: models.init(module, jax.random.key(0), x), x)
  return weights.fit(variables, like, PREFIX)


def ours(case, arrays, train):
  """Outputs by name, and the running statistics by torch's names."""
  x = references.images(CASES[case][2]).transpose(0, 2, 3, 1)
  outputs, statistics = forward_of(case, train)(ported(case, arrays), x)
  names = list(arrays)
  marks = {
    name: np.broadcast_to(i, arrays[name].shape) for i, name in enumerate(names)
  }
  places, _ = porting.variables_from_torch(CASES[case][3], marks, PREFIX)
  named = {}
  jax.tree.map(
    lambda mark, array: named.update({names[mark[0]]: np.asarray(array)}),
    places.get("batch_stats", {}),
    statistics,
  )
  return outputs["taps"] | {"logits": outputs["logits"]}, named


def close(got, want, tolerance=1e-4):
  """Within a share of the largest value."""
  want = np.asarray(want)
  bound = tolerance * max(1.0, np.abs(want).max(initial=0.0))
  np.testing.assert_allclose(got, want, rtol=0, atol=bound)
