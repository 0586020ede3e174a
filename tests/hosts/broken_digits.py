"""A run of seconds on digits of which some cannot be read; also its source."""

import dataclasses

import numpy as np

from kdcl_jax import config as kdcl
from kdcl_jax import sources
from kdcl_jax.sources import digits

BROKEN = (3, 17, 40, 41, 100)


@dataclasses.dataclass(frozen=True)
class Broken:
  """Some records of a source, of which some cannot be read."""

  whole: sources.Source
  count: int

  def __len__(self):
    return self.count

  def __getitem__(self, record_id):
    if record_id in BROKEN:
      raise sources.UnreadableRecord("broken")
    return self.whole[record_id]

  def labels(self):
    return np.asarray(self.whole.labels())[: self.count]


def load():
  splits = digits.load({"options": {}}, seed=0)
  return Broken(splits.train, 240), Broken(splits.test, 150)


def get_config():
  """Two seeds would be two runs; one is enough here."""

  def stage(**fields):
    optimizer = dict(name="sgd", learning_rate=0.1)
    return kdcl.stage(batch_size=16, steps=24, optimizer=optimizer, **fields)

  course = dict(
    order="curriculum",
    pacing=dict(name="linear", start=0.4, reach=0.5),
    lessons=3,
    freeze=dict(on=True),
  )
  return kdcl.run(
    data=dict(
      source="broken_digits.load",
      validation=40,
      label_noise=dict(kind="symmetric", rate=0.3),
    ),
    teacher=stage(
      model=dict(name="mlp", widths=(32,)),
      curriculum=course,
      keep="best",
      snapshots=(0.5,),
    ),
    baseline=stage(model=dict(name="mlp", widths=(8,))),
    student=stage(model=dict(name="mlp", widths=(8,)), teachers=("teacher",)),
    scorer=kdcl.scorer(
      model=dict(name="mlp", widths=(16,)), steps=8, batch_size=16
    ),
    log_steps=8,
    checkpoint_steps=8,
  )
