"""Small surveys, and what tests look at of them."""

from kdcl_jax import config as kdcl
from kdcl_jax import tables

SMALL = dict(
  model=dict(name="mlp", widths=(32,)),
  steps=100,
  batch_size=32,
  optimizer=dict(name="adam", learning_rate=0.01),
)
FEW = dict(scores=("loss",), streams=("aum",))  # quick to compile
COURSE = dict(
  order="curriculum", pacing=dict(name="linear", start=0.3, reach=0.5)
)


def configured(rate=0.4, **fields):
  """The digits, their scorer, and stages that need two scores."""
  noise = dict(kind="symmetric" if rate else "none", rate=rate)
  short = SMALL | dict(steps=10)
  margins = COURSE | dict(difficulty=dict(score="margin"))
  base = dict(
    stages=("losses", "margins"),
    export="",
    tensorboard=False,
    parallel=dict(devices=1),
    data=dict(validation=200, label_noise=noise),
    scorer=kdcl.scorer(**SMALL),
    losses=kdcl.stage(**short, curriculum=COURSE),
    margins=kdcl.stage(**short, curriculum=margins),
  )
  return kdcl.resolve(kdcl.run(**(base | fields)))


def files_of(folder):
  """Every file under a folder, with its content."""
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def no_training(*_, **__):
  raise AssertionError("a scorer was trained")


def table(workdir, name, folder="seed_0"):
  return tables.load(workdir / "difficulty" / folder / f"{name}.npz", name)
