"""Short trainings on the digits with any course, for these tests."""

import dataclasses
import functools
from unittest import mock

import jax
import numpy as np
from flax import linen as nn

from kdcl_jax import config as kdcl
from kdcl_jax import curriculum, dataset, models, parallel, stages, train
from kdcl_jax.models.batch_norm import BatchNorm

CONFIG = kdcl.resolve(
  kdcl.run(
    data=dict(train_size=250, validation=50),
    stages=("student",),
    student=kdcl.stage(steps=1),
  )
)
DATA = dataset.load(CONFIG["data"], seed=0)
RECORDS = len(DATA.train.ids)
# Any difficulty of the training records will do; this one has ties.
DIFFICULTY = np.round(np.random.default_rng(3).random(RECORDS), 2)
ONE = parallel.create("jit", 1)


class Net(nn.Module):
  """A model whose outputs differ between training and evaluation."""

  num_classes: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    x = nn.Dense(8)(x.reshape(x.shape[0], -1))
    x = BatchNorm(axis_name=self.axis_name)(x, train=train, mask=mask)
    return nn.Dense(self.num_classes)(nn.relu(x))


NET = dict(name="courses.Net")


def section(**fields):
  """A student's resolved section."""
  base = dict(
    model=dict(name="mlp", widths=(8,)),
    steps=24,
    batch_size=16,
    optimizer=dict(
      name="sgd", learning_rate=0.1, schedule=dict(name="constant")
    ),
  )
  made = kdcl.stage(**(base | fields))
  return kdcl.resolve(kdcl.run(student=made, stages=("student",)))["student"]


@functools.cache
def _initialiser(module):
  return jax.jit(functools.partial(_INIT, module))


# Most of the time of a short training goes into compiling its initialisation.
_INIT = models.init
_CACHED = mock.patch.object(
  models, "init", lambda module, key, x: _initialiser(module)(key, x)
)


@_CACHED
def training(place=ONE, teachers=(), seed=0, validation=True, **fields):
  """A student's training; its order is by `DIFFICULTY`."""
  return stages.training_of(
    "student",
    section(teachers=tuple(t.name for t in teachers), **fields),
    CONFIG,
    DATA,
    place,
    seed=seed,
    teachers=teachers,
    difficulties=DIFFICULTY,
    validation=validation,
  )


def fit(place=ONE, outlet=None, **fields):
  """The outcome of a training."""
  return train.fit(training(place, **fields), place, outlet)


@_CACHED
def model(name="teacher", seed=1, snapshots=(), place=ONE, **fields):
  """A model of random parameters, with random snapshots at these shares."""
  made = lambda seed: stages.model_of(
    name, section(**fields), CONFIG["data"], DATA, place, seed
  )
  moments = {
    share: made(seed + 1 + i).variables for i, share in enumerate(snapshots)
  }
  return dataclasses.replace(made(seed), snapshots=moments)


def batches_seen(monkeypatch):
  """Fills a dictionary: step -> the ids that are present in its batch."""
  seen = {}
  plan = curriculum.Curriculum.plan

  def spy(self, *arguments):
    made = plan(self, *arguments)

    def at(step):
      ids, visits, present = made(step)
      seen[step] = ids[present]
      return ids, visits, present

    return at

  monkeypatch.setattr(curriculum.Curriculum, "plan", spy)
  return seen


def assert_same(one, two):
  """Two trees agree bit for bit."""
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(one), jax.device_get(two)
  )
