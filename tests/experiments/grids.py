"""Small experiments: configs for the command line, and made-up results."""

import json

from kdcl_jax import config as kdcl
from kdcl_jax.experiments import cells, definition, tuning
from kdcl_jax.writers import write_json

COURSE = dict(
  order="curriculum",
  pacing=dict(name="linear", start=0.3, reach=0.5),
  lessons=3,
)
CLAIM = dict(against=("baseline",), twin="kd_random")


def stage(steps=12, widths=(8,), **fields):
  return kdcl.stage(
    model=dict(name="mlp", widths=widths),
    steps=steps,
    batch_size=32,
    optimizer=dict(name="adam", learning_rate=0.02),
    **fields,
  )


def grid(rate=0.4, seeds=2, **fields):
  """The run of a cell: a teacher on a curriculum and its controls."""
  wide = dict(widths=(16,), steps=20)
  stages = dict(
    teacher=stage(**wide, curriculum=COURSE),
    teacher_random=stage(**wide, curriculum=COURSE | dict(order="random")),
    baseline=stage(),
    kd_random=stage(teachers=("teacher_random",)),
    student=stage(teachers=("teacher",)),
  )
  kind = "symmetric" if rate else "none"
  settings = dict(
    stages=tuple(stages),
    seeds=seeds,
    data=dict(
      validation=200,
      label_noise=dict(kind=kind, rate=rate, validation=True),
    ),
    scorer=kdcl.scorer(
      model=dict(name="mlp", widths=(8,)), steps=15, batch_size=32
    ),
    parallel=dict(devices=1),
    tensorboard=False,
    log_steps=100,
  )
  return kdcl.run(**(settings | stages | fields))


def experiment(**fields):
  """Two cells, the second with the values that are tuned for the first."""
  settings = dict(
    name="small",
    runs=dict(noisy=grid(0.4), clean=grid(0.0)),
    tuning=dict(
      values=dict(default=(0.01, 0.03), baseline=(0.03,)),
      seeds=2,
      at=dict(clean="noisy"),
    ),
    claims=dict(student=CLAIM),
  )
  return kdcl.experiment(**(settings | fields))


def quick(noise, names=("teacher", "baseline", "random", "student")):
  """A smaller run, which is quickly computed."""
  random = stage(curriculum=COURSE | dict(order="random"))
  return grid(noise, stages=names, random=random, export="")


def get_config():
  """An experiment that is quickly computed."""
  return experiment(
    runs=dict(noisy=quick(0.4), clean=quick(0.0, ("baseline", "random"))),
    tuning=dict(
      values=dict(default=(0.03,), teacher=(0.01, 0.03), student=(0.01, 0.03)),
      seeds=1,
      at=dict(clean="noisy"),
    ),
    claims=dict(student=dict(against=("baseline",), twin="random")),
  )


def resolved(**fields):
  return definition.resolve(experiment(**fields))


class Made:
  """Stands for the execution of runs: writes results that are made up.

  Args:
    accuracy: (stage, its section, seed) -> validation accuracy.
    test: the same for test accuracy.
  """

  def __init__(self, accuracy, test=lambda *_: 0.5):
    self.accuracy, self.test, self.configs = accuracy, test, {}

  def __call__(self, config, workdir):
    self.configs[workdir] = config
    write_json(workdir / "config.json", json.loads(json.dumps(config)))
    for name in config["stages"]:
      for seed in tuning.seeds_of(config):
        path = tuning.result_of(workdir, name, seed)
        if not path.exists():
          told = (name, config[name], seed)
          write_json(
            path,
            {
              "validation": {"accuracy": self.accuracy(*told)},
              "test": {"accuracy": self.test(*told)},
              "made_in": str(workdir),
            },
          )


def rate(section):
  return section["optimizer"]["learning_rate"]


def perform_all(experiment, workdir, names=None):
  """Does what is to be done, in this process; returns it in words."""
  tasks = cells.tasks(experiment, workdir, names or list(experiment["runs"]))
  for task in tasks:
    cells.perform(task, experiment, workdir, lambda: False)
  return [str(task) for task in tasks]
