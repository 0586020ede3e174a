"""Short trainings of a small student with any objective, for these tests."""

import jax
import numpy as np

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, parallel, stages, train

TEACHER = dict(name="cnn", widths=(6, 10), hidden=12)
STUDENT = dict(name="cnn", widths=(3, 5), hidden=7)
CONFIG = kdcl.resolve(
  kdcl.run(
    data=dict(train_size=300),
    **{
      name: kdcl.stage(steps=1) for name in ("teacher", "baseline", "student")
    },
  )
)
DATA = dataset.load(CONFIG["data"], seed=0)
PAIR = dict(student_tap="f1", teacher_tap="f1")
POOLED = dict(student_tap="f2", teacher_tap="f2")


def stage(objective, **fields):
  """A student's resolved section; plain SGD, which hides no wrong factor."""
  base = dict(
    model=STUDENT,
    teachers=("teacher",),
    steps=4,
    batch_size=16,
    optimizer=dict(name="sgd", learning_rate=0.02),
    curriculum=dict(lessons=1),
  )
  section = kdcl.stage(**(base | fields), objective=objective)
  config = kdcl.run(student=section, stages=("student",))
  return kdcl.resolve(config)["student"]


def training(objective, place=None, **fields):
  """A student's training, with a teacher of random parameters."""
  place = place or parallel.create("jit", 1)
  teacher = stages.model_of(
    "teacher",
    stage({"cross_entropy": {}}, model=TEACHER, teachers=()),
    CONFIG["data"],
    DATA,
    place,
    1,
  )
  section = stage(objective, **fields)
  return stages.training_of(
    "student",
    section,
    CONFIG,
    DATA,
    place,
    seed=0,
    teachers=[teacher] * bool(section["teachers"]),
    validation=False,
  )


def fit(objective, mode="jit", devices=1, **fields):
  """The outcome, on the host."""
  place = parallel.create(mode, devices)
  made = training(objective, place, **fields)
  outcome = train.fit(made, place)
  return jax.device_get(outcome.variables), jax.device_get(outcome.parts)


def assert_close(one, two, rtol=2e-4, atol=2e-5):
  """Two trees agree to float32 rounding."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    one,
    two,
  )


def changed(before, after):
  """Whether each leaf of a tree is another than before."""
  return [
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    )
  ]
