"""A small finished run, whose student the tests export."""

from kdcl_jax import config as kdcl
from kdcl_jax import run

MODEL = dict(name="resnet", depth=8, widths=(8, 8, 16, 16))


def config(**fields):
  adam = dict(name="adam", learning_rate=0.01)
  shared = dict(batch_size=40, optimizer=adam)
  settings = dict(
    name="small",
    stages=("teacher", "student"),
    data=dict(train_size=500, validation=100, mean=(0.3,), std=(0.35,)),
    parallel=dict(devices=1),
    tensorboard=False,
    teacher=kdcl.stage(
      model=dict(name="cnn", widths=(8, 8), hidden=16), steps=60, **shared
    ),
    student=kdcl.stage(model=MODEL, steps=60, teachers=("teacher",), **shared),
  )
  return kdcl.resolve(kdcl.run(**(settings | fields)))


def finished(workdir, **fields):
  resolved = config(**fields)
  return resolved, run.execute(resolved, workdir)
