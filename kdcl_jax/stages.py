"""From a section of the config to a training that `train.fit` can run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from kdcl_jax import (
  augment,
  controller,
  difficulty,
  lookup,
  models,
  objective,
  optimizer,
  pacing,
  step,
  terms,
  weights,
)
from kdcl_jax.curriculum import Curriculum, stage_seed
from kdcl_jax.dataset import Dataset, Split
from kdcl_jax.errors import UserError
from kdcl_jax.parallel import Parallel
from kdcl_jax.projectors import Records
from kdcl_jax.train import Model, Training

Section = Mapping[str, Any]


def arguments(section: Section) -> dict[str, Any]:
  """The further keys of a section that names a function: its arguments."""
  return {key: value for key, value in section.items() if key != "name"}


def total_steps(section: Section, records: int) -> int:
  """The length of a stage in steps, from its `steps` or its `epochs`."""
  if section["steps"]:
    return section["steps"]
  return round(section["epochs"] * -(-records // section["batch_size"]))


def module_of(
  section: Section, classes: int, axis_name: str | None, path: str
) -> nn.Module:
  """The linen module of a stage."""
  options = arguments(section["model"])
  for key in ("num_classes", "dtype", "axis_name", "field"):
    if key in options:
      raise UserError(
        f"{path}.model.{key} is {options[key]!r}, but the pipeline sets it"
        " itself; take it out (the type of the computation is"
        f" {path}.precision)."
      )
  return models.build(
    section["model"]["name"],
    num_classes=classes,
    dtype=jnp.dtype(section["precision"]),
    axis_name=axis_name,
    field=f"{path}.model",
    **options,
  )


def model_of(
  name: str,
  section: Section,
  data: Section,
  dataset: Dataset,
  parallel: Parallel,
  seed: int,
) -> Model:
  """A stage's model with its initial (or given) variables on the devices."""
  path = f"config.{name}"
  module = module_of(section, dataset.num_classes, parallel.axis_name, path)
  example = np.zeros((1, *dataset.shape), np.float32)
  key = jax.random.fold_in(jax.random.key(seed), 0)
  variables = models.init(module, key, example)
  if section["weights"]:
    field = f"{path}.weights"
    loaded = weights.load(section["weights"], field)
    variables = weights.fit(loaded, jax.device_get(variables), field)
  forward = step.forward_of(module, "image", data["mean"], data["std"])
  return Model(name, forward, parallel.put(variables))


def terms_of(
  section: Section,
  dataset: Dataset | None,
  axis_name: str | None,
  path: str,
) -> tuple[terms.Term, ...]:
  """The terms of a stage's objective; projectors are told about the data."""
  facts: dict[str, Any] = {"axis_name": axis_name}
  if dataset is not None:
    ids = np.sort(dataset.train.ids)
    facts["num_classes"] = dataset.num_classes
    facts["data"] = Records(ids, dataset.train.labels[ids])
  return terms.build(
    section["objective"],
    section["teachers"],
    facts=facts,
    path=f"{path}.objective",
  )


def batch_of(shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch of two, for tracing."""
  rows = {
    "image": (shape, np.float32),
    "label": ((), np.int32),
    "weight": ((), np.float32),
    "id": ((), np.int32),
  }
  return {
    name: jax.ShapeDtypeStruct((2, *one), kind)
    for name, (one, kind) in rows.items()
  }


def parts_of(
  built: Sequence[terms.Term],
  student: Any,
  teachers: Sequence[Any],
  shape: tuple[int, ...],
  key: jax.Array,
) -> Any:
  """The projectors' initial variables.

  Args:
    built: the objective.
    student: the shapes of the model's outputs for `batch_of(shape)`.
    teachers: those of the teachers', with `variables`.
    shape: of one input.
    key: a typed PRNG key.

  Returns:
    See `kdcl_jax.objective.init_parts`.
  """
  shapes = (student, list(teachers), batch_of(shape))
  zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return objective.init_parts(built, *zeros(), key)


def order_of(
  section: Section, split: Split, values: np.ndarray | None, seed: int
) -> np.ndarray:
  """The order of a split's record ids, easiest first."""
  kind = section["curriculum"]["order"]
  if values is None:
    values = np.zeros(len(split.ids))
  return difficulty.order(values, kind=kind, ids=split.ids, seed=seed)


def training_of(
  name: str,
  section: Section,
  config: Section,
  dataset: Dataset,
  parallel: Parallel,
  *,
  seed: int,
  teachers: Sequence[Model] = (),
  difficulties: np.ndarray | None = None,
  validation: bool = True,
) -> Training:
  """Everything that decides the outcome of a stage.

  Args:
    name: the stage's name.
    section: its section of the resolved config.
    config: the resolved config.
    dataset: the data.
    parallel: the devices.
    seed: the run's seed; the stage derives its own.
    teachers: the models that it learns from.
    difficulties: [N] of `dataset.train.ids`, where its order needs them.
    validation: whether the course looks at the validation split.

  Returns:
    The training.
  """
  path = f"config.{name}"
  own_seed = stage_seed(seed, name)
  course = section["curriculum"]
  steps = total_steps(section, len(dataset.train.ids))
  curriculum = Curriculum(
    order=order_of(section, dataset.train, difficulties, own_seed),
    controller=controller.build(
      pacing_of(course["pacing"], f"{path}.curriculum.pacing"),
      total_steps=steps,
      lessons=course["lessons"],
      validation_size=len(dataset.validation.ids),
      options={name: course[name] for name in controller.OPTIONS},
    ),
    seed=own_seed,
    batch_size=section["batch_size"],
  )
  data = config["data"]
  model = model_of(name, section, data, dataset, parallel, own_seed)
  built = terms_of(section, dataset, parallel.axis_name, path)
  batch = batch_of(dataset.shape)
  shapes = [
    jax.eval_shape(one.forward, one.variables, batch)[0]
    | {"variables": one.variables}
    for one in (model, *teachers)
  ]
  key = jax.random.fold_in(jax.random.key(own_seed), 1)
  init = lambda key: parts_of(built, shapes[0], shapes[1:], dataset.shape, key)
  return Training(
    model=model,
    teachers=tuple(teachers),
    terms=built,
    parts=jax.jit(init)(key),
    two_gradients=optimizer.wants_two_gradients(section["optimizer"]),
    optimizer=optimizer.build(
      section["optimizer"], steps, path=f"{path}.optimizer"
    ),
    schedule=optimizer.schedule(section["optimizer"], steps),
    curriculum=curriculum,
    train=dataset.train,
    validation=dataset.validation if validation else None,
    augment=augment.build(data["augment"]) if data["augment"] else None,
    total_steps=steps,
    ema=section["optimizer"]["ema"],
    keep=section["keep"],
  )


def pacing_of(section: Section, path: str) -> controller.Pacing:
  """The pacing function of a curriculum; see `kdcl_jax.pacing`."""
  factory = lookup.find(pacing.PACINGS, section["name"], f"{path}.name")
  return lookup.call(factory, arguments(section), path)


def score_of(name: str, path: str) -> Callable[..., Any]:
  """The score of a curriculum's difficulty; see `kdcl_jax.difficulty`."""
  return lookup.find(difficulty.SCORES, name, path)


def scorer_trainings(
  config: Section, dataset: Dataset, parallel: Parallel, seed: int
) -> Any:
  """A function from (split, fold) to the training of that fold's scorer."""

  def training(split: Split, fold: int) -> Training:
    return training_of(
      "scorer",
      config["scorer"],
      config,
      dataclasses.replace(dataset, train=split),
      parallel,
      seed=stage_seed(seed, f"scorer fold {fold}"),
      validation=False,
    )

  return training
