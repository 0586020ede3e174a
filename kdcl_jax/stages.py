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
  lessons,
  lookup,
  models,
  objective,
  optimizer,
  pacing,
  pretrained,
  reranking,
  reweighting,
  selection,
  step,
  terms,
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
  return round(section["epochs"] * -(-records // rows_of(section)))


def rows_of(section: Section) -> int:
  """Rows that a step reads: the batch, or what it is chosen from."""
  selection = section["selection"]
  candidates = selection["candidates"] if selection["name"] else 1
  return section["batch_size"] * candidates


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
  *,
  shapes_only: bool = False,
) -> Model:
  """A stage's model with its initial (or given) variables on the devices.

  With `shapes_only` the variables are shapes, for a plan.
  """
  path = f"config.{name}"
  module = module_of(section, dataset.num_classes, parallel.axis_name, path)
  view = pretrained.input_of(section, data, path)
  example = np.zeros((1, *view.shape(dataset.shape)), np.float32)
  key = jax.random.fold_in(jax.random.key(seed), 0)
  forward = step.forward_of(module, "image", *view)
  if shapes_only:
    init = lambda: models.init(module, key, example)
    return Model(name, forward, jax.eval_shape(init))
  variables = models.init(module, key, example)
  if section["weights"]:
    variables = pretrained.variables(section, jax.device_get(variables), path)
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


def reweighting_of(
  section: Section, built: Sequence[terms.Term], path: str
) -> reweighting.Reweighting | None:
  """The weighting of a stage; see `kdcl_jax.reweighting.build`."""
  names = [term.name for term in built if term.per_example]
  field = f"{path}.weighting"
  return reweighting.build(section["weighting"], names, path=field)


def reranking_of(
  course: Section, order: np.ndarray, path: str
) -> reranking.Reranking | None:
  """What ranks a stage's records anew; None for nothing."""
  options = course["rerank"]
  if not options["on"]:
    return None
  if course["order"] not in ("curriculum", "anti"):
    raise UserError(
      f"{path}.on is True, but the order is {course['order']!r}, which no"
      " difficulty decides; expected the order 'curriculum' or 'anti'."
    )
  stream = None
  if options["stream"]:
    if options["records"] == "rest":
      raise UserError(
        f"{path}.records is 'rest', but the stream {options['stream']!r} knows"
        " nothing of records that were never active; expected 'all'."
      )
    stream = lookup.find(
      difficulty.STREAMS, options["stream"], f"{path}.stream"
    )()
  score = score_of(options["score"], f"{path}.score")
  if set(difficulty.needs_of(score)) - {"logits", "labels", "outputs"}:
    raise UserError(
      f"{path}.score is {options['score']!r}, which takes more than a forward"
      f" pass; expected one of {', '.join(difficulty.SCORES)}, or another"
      " function of logits and labels."
    )
  return reranking.Reranking(
    every=options["every"],
    score=score,
    stream=stream,
    everything=options["records"] == "all",
    anti=course["order"] == "anti",
    order=order,
  )


def teacher_pacing_of(section: Section, path: str) -> lessons.Pacing | None:
  """The pacing of the teachers; None where the final ones teach throughout."""
  options = section["teacher_pacing"]
  field = f"{path}.teacher_pacing"
  factory = lookup.find(pacing.PACINGS, options["name"], f"{field}.name")
  pace = lookup.call(factory, arguments(options), field)
  return None if options == {"name": "constant"} else pace


def batch_of(shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch of two, for tracing."""
  rows = {
    "image": (shape, np.float32),
    "label": ((), np.int32),
    "weight": ((), np.float32),
    "id": ((), np.int32),
    "rank": ((), np.float32),  # see kdcl_jax.slopes
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
  """The order of a split's record ids, easiest first, and class by class if so.

  Checks at every run that `curriculum` ascends and `anti` really descends.
  """
  kind = section["curriculum"]["order"]
  if values is None:
    values = np.zeros(len(split.ids))
  order = difficulty.order(values, kind=kind, ids=split.ids, seed=seed)
  slope = np.diff(values[np.searchsorted(split.ids, order)])
  if (kind == "curriculum" and (slope < 0).any()) or (
    kind == "anti" and (slope > 0).any()
  ):
    raise RuntimeError(f"the order {kind!r} does not follow the difficulties")
  if section["curriculum"]["balanced"]:
    order = difficulty.balance_order(order, split.labels)
  return order


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
  shapes_only: bool = False,
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
    shapes_only: whether shapes stand for the arrays on the devices, for a plan.

  Returns:
    The training.
  """
  path = f"config.{name}"
  own_seed = stage_seed(seed, name)
  course = section["curriculum"]
  steps = total_steps(section, len(dataset.train.ids))
  low, pace = window_of(course["pacing"], f"{path}.curriculum.pacing")
  order = order_of(section, dataset.train, difficulties, own_seed)
  curriculum = Curriculum(
    order=order,
    controller=controller.build(
      pace,
      low=low,
      seed=own_seed,
      total_steps=steps,
      lessons=course["lessons"],
      validation_size=len(dataset.validation.ids),
      options={name: course[name] for name in controller.OPTIONS},
      snapshots=max((len(t.snapshots) for t in teachers), default=0),
    ),
    seed=own_seed,
    batch_size=rows_of(section),
    anti=course["order"] == "anti",
  )
  cycle = steps
  if course["restart_learning_rate"]["on"]:
    cycle = max(np.diff([0, *curriculum.controller.boundaries]))
  data = config["data"]
  model = model_of(
    name, section, data, dataset, parallel, own_seed, shapes_only=shapes_only
  )
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
    parts=jax.eval_shape(init, key) if shapes_only else jax.jit(init)(key),
    reweighting=reweighting_of(section, built, path),
    selection=selection.build(
      section["selection"], section["batch_size"], path=f"{path}.selection"
    ),
    reranking=reranking_of(course, order, f"{path}.curriculum.rerank"),
    teacher_pacing=teacher_pacing_of(section, path) if teachers else None,
    snapshots=section["snapshots"],
    skip_not_finite=section["skip_not_finite"],
    two_gradients=optimizer.wants_two_gradients(section["optimizer"]),
    optimizer=optimizer.build(
      section["optimizer"], cycle, path=f"{path}.optimizer"
    ),
    schedule=optimizer.schedule(section["optimizer"], cycle),
    curriculum=curriculum,
    train=dataset.train,
    validation=dataset.validation if validation else None,
    augment=augment.build(data["augment"]) if data["augment"] else None,
    total_steps=steps,
    ema=section["optimizer"]["ema"],
    keep=section["keep"],
  )


def window_of(
  section: Section, path: str
) -> tuple[lessons.Pacing | None, lessons.Pacing]:
  """The lower end (None for 0) and the fraction of a curriculum's pacing.

  See `kdcl_jax.pacing`.
  """
  known = pacing.PACINGS | pacing.WINDOWS
  factory = lookup.find(known, section["name"], f"{path}.name")
  pace = lookup.call(factory, arguments(section), path)
  if section["name"] not in pacing.WINDOWS:
    return None, pace
  end = lambda which: lambda progress: pace(progress)[which]
  return end(0), end(1)


def score_of(name: str, path: str) -> Callable[..., Any]:
  """The score of a curriculum's difficulty; see `kdcl_jax.difficulty`."""
  known = difficulty.SCORES | difficulty.MODEL_SCORES
  score = lookup.find(known, name, path)
  try:
    difficulty.needs(*difficulty.needs_of(score))
  except ValueError as error:  # a user's own, declared by hand
    raise UserError(f"{path} is {name!r}, whose {error}") from error
  return score


def scorer_trainings(
  config: Section,
  dataset: Dataset,
  parallel: Parallel,
  seed: int,
  *,
  shapes_only: bool = False,
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
      shapes_only=shapes_only,
    )

  return training
