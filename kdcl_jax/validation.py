"""Checks of a config that need more than one of its fields, in sentences.

Everything here happens before any device work: models and objectives are only
traced, on shapes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kdcl_jax import (
  augment,
  clashes,
  hosts,
  inputs,
  lanes,
  models,
  objective,
  optimizer,
  pretrained,
  projectors,
  scoring,
  screening,
  selection,
  stages,
  step,
  tables,
  teaching,
)
from kdcl_jax.curriculum import active_count
from kdcl_jax.dataset import Dataset
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.terms import Term

# Tried, in turn, where features do not fit.
_REGRESSORS = ("linear", "conv", "embeddings", "fusion", "tokens")

Section = Mapping[str, Any]


def check(config: Section) -> None:
  """What can be known without the data.

  Args:
    config: a resolved config.

  Raises:
    UserError: for the first mistake.
  """
  names = config["stages"]
  if not names:
    raise UserError("config.stages is (), expected the name of a section.")
  if config["export"] and config["export"] not in names:
    raise UserError(
      f"config.export is {config['export']!r}, which is no stage"
      f"{did_you_mean(config['export'], names)}; the stages are"
      f" {', '.join(names)}, and '' exports none."
    )
  if config["data"]["augment"]:
    augment.build(config["data"]["augment"])
  for place, name in enumerate(names):
    built = _check_stage(name, config[name], names[:place], names)
    if config["vmap_seeds"] > 1:
      lanes.check_terms(built, name)
    if scoring.uses_scorer(config[name]):
      check_scorer(config)
  teaching.check_snapshots(config)
  screening.check(config)


def check_scorer(config: Section) -> None:
  """What can be known of the scorer without the data; see `check`."""
  if config["data"]["augment"]:
    augment.build(config["data"]["augment"])
  _check_stage("scorer", config["scorer"], (), ())
  screening.check_trainable(config["scorer"], "config.scorer")
  clashes.check_scorer(config["scorer"])
  scoring.scores_of(config)
  scoring.streams_of(config)


def _check_stage(
  name: str, section: Section, earlier: tuple[str, ...], names: tuple[str, ...]
) -> tuple[Term, ...]:
  """Raises for what is wrong; returns the objective."""
  path = f"config.{name}"
  for teacher in section["teachers"]:
    if teacher not in earlier:
      late = teacher in names
      why = "does not come before it" if late else "is no stage"
      raise UserError(
        f"{path}.teachers names {teacher!r}, which {why}"
        f"{'' if late else did_you_mean(teacher, earlier)}; the earlier stages"
        f" are {', '.join(earlier) or 'none'}."
      )
  _check_length(section, path)
  if section["snapshots"] and not (section["steps"] or section["epochs"]):
    raise UserError(
      f"{path}.snapshots is {section['snapshots']!r}, but the stage is not"
      " trained; take them out."
    )
  if len(set(section["teachers"])) < len(section["teachers"]):
    raise UserError(
      f"{path}.teachers is {section['teachers']!r}, expected different names."
    )
  built = stages.terms_of(section, None, None, path)
  stages.reweighting_of(section, built, path)
  stages.reranking_of(
    section["curriculum"], np.arange(1), f"{path}.curriculum.rerank"
  )
  _check_selection(section, path)
  teaching.check(section, path)
  optimizer.build(section["optimizer"], 1000, path=f"{path}.optimizer")
  _check_curriculum(section, f"{path}.curriculum")
  _check_ranks(section, built, path)
  clashes.check(section, built, path)
  return built


def _check_selection(section: Section, path: str) -> None:
  built = selection.build(
    section["selection"], section["batch_size"], path=f"{path}.selection"
  )
  if built and built.asks_teachers and not section["teachers"]:
    raise UserError(
      f"{path}.selection.name is {built.name!r}, which compares with a teacher,"
      " but the stage has none; name one in its `teachers`."
    )


def _check_ranks(section: Section, built: tuple[Term, ...], path: str) -> None:
  """Whether what goes from easy to hard has an order to go by."""
  for term in built:
    for key in term.slopes:
      if section["curriculum"]["order"] == "none":
        raise UserError(
          f"{path}.objective.{term.name}.{key} goes from easy to hard, but"
          f" {path}.curriculum.order is 'none', which ranks nothing; expected"
          " 'curriculum', 'anti' or 'random'."
        )


def _check_length(section: Section, path: str) -> None:
  given = [key for key in ("steps", "epochs") if section[key]]
  if len(given) == 2:
    raise UserError(
      f"{path}.steps is {section['steps']} and {path}.epochs is"
      f" {section['epochs']}, expected only one of them."
    )
  if not given and not section["weights"]:
    raise UserError(
      f"{path}.steps is 0 and so is {path}.epochs: give one of them, or the"
      f" weights of a trained model in {path}.weights."
    )


def _check_curriculum(section: Section, path: str) -> None:
  curriculum = section["curriculum"]
  options = curriculum["difficulty"]
  stages.window_of(curriculum["pacing"], f"{path}.pacing")
  stages.score_of(options["score"], f"{path}.difficulty.score")
  if curriculum["order"] in ("none", "random"):
    return
  if options["source"] == "teacher" and not section["teachers"]:
    raise UserError(
      f"{path}.difficulty.source is 'teacher', but the stage has no teacher;"
      " expected 'scorer' or 'file', or a name in its teachers."
    )
  if options["source"] == "file" and not options["path"]:
    raise UserError(
      f"{path}.difficulty.path is '', expected the .npz file of a table of"
      " difficulties, since difficulty.source is 'file'."
    )


def check_data(config: Section, dataset: Dataset) -> None:
  """What can be known once the data is: sizes, shapes, classes, taps.

  Args:
    config: a resolved config that `check` has passed.
    dataset: its data.

  Raises:
    UserError: for the first mistake.
  """
  data = config["data"]
  inputs.check_numbers(data, dataset.shape, dataset.name)
  outputs: dict[str, Any] = {}
  for name in config["stages"]:
    section = config[name]
    outputs[name] = _outputs(name, section, data, dataset)
    _check_sizes(name, section, len(dataset.train.ids))
    _check_table(name, section, dataset)
    _check_shapes(name, section, outputs, dataset)
  if any(scoring.uses_scorer(config[name]) for name in config["stages"]):
    check_scorer_data(config, dataset)


def check_scorer_data(config: Section, dataset: Dataset) -> None:
  """What can be known of the scorer once the data is; see `check_data`."""
  section, data = config["scorer"], config["data"]
  inputs.check_numbers(data, dataset.shape, dataset.name)
  records, folds = len(dataset.train.ids), section["folds"]
  if folds > records:
    raise UserError(
      f"config.scorer.folds is {folds}, more than the {records} training"
      " records."
    )
  outputs = {"scorer": _outputs("scorer", section, data, dataset)}
  _check_sizes("scorer", section, records - -(-records // folds))
  _check_shapes("scorer", section, outputs, dataset)


def _check_sizes(name: str, section: Section, records: int) -> None:
  path = f"config.{name}"
  steps = stages.total_steps(section, records)
  moments = [round(share * steps) for share in section["snapshots"]]
  if len({0, *moments}) <= len(moments):
    raise UserError(
      f"{path}.snapshots is {section['snapshots']!r}, of which some fall on one"
      f" step of {steps}, or on none; give fewer."
    )
  rows = stages.rows_of(section)
  if rows > records:
    chosen = ""
    if rows > section["batch_size"]:
      candidates = section["selection"]["candidates"]
      chosen = f" times {path}.selection.candidates, {candidates},"
    raise UserError(
      f"{path}.batch_size is {section['batch_size']},{chosen} more than the"
      f" {records} training records{' of a fold' if name == 'scorer' else ''}."
    )
  bandit = section["curriculum"]["bandit"]
  if bandit["on"]:
    least = active_count(1 / bandit["buckets"], records)
    if least < rows:
      raise UserError(
        f"{path}.curriculum.bandit.buckets is {bandit['buckets']}, which makes"
        f" buckets of {least} records, and a step reads {rows}; give fewer"
        " buckets or a smaller batch."
      )
    return
  low, course = stages.window_of(
    section["curriculum"]["pacing"], f"{path}.curriculum.pacing"
  )
  grid = np.linspace(0.0, 1.0, 1001)
  share = np.asarray(course(grid)) - (np.asarray(low(grid)) if low else 0.0)
  highest = float(np.max(share))
  reached = active_count(highest, records)
  if reached < rows:
    raise UserError(
      f"{path}.curriculum.pacing never reaches a batch: its highest fraction,"
      f" {highest:.4g}, makes {reached} of {records} records active, and a"
      f" step reads {rows}; give"
      f" {'fewer buckets' if low else 'a higher end'} or a smaller batch."
    )


def _check_table(name: str, section: Section, dataset: Dataset) -> None:
  """Reads a table of difficulties, which must know every training record."""
  curriculum = section["curriculum"]
  options = curriculum["difficulty"]
  ordered = curriculum["order"] in ("curriculum", "anti")
  if ordered and options["source"] == "file":
    field = f"config.{name}.curriculum.difficulty.path"
    table = tables.load(options["path"], field)
    table.check_source(dataset.train, field)
    table.of(dataset.train.ids, field)


def _outputs(
  name: str, section: Section, data: Section, dataset: Dataset
) -> Any:
  """The shapes of a model's outputs for a batch of two; checks its weights."""
  path = f"config.{name}"
  module = stages.module_of(section, dataset.num_classes, None, path)
  batch = stages.batch_of(dataset.shape)
  view = pretrained.input_of(section, data, path)
  view.check(dataset.shape, f"{path}.input")
  forward = step.forward_of(module, "image", *view)
  shape = view.shape(dataset.shape)
  example = jax.ShapeDtypeStruct((1, *shape), np.float32)
  try:
    variables = jax.eval_shape(
      lambda key, x: models.init(module, key, x), jax.random.key(0), example
    )
    outputs = jax.eval_shape(forward, variables, batch)[0]
  except UserError:
    raise
  except Exception as error:  # whatever a module raises on these shapes
    raise UserError(
      f"{path}.model ({section['model']['name']!r}) cannot take inputs of shape"
      f" {shape} from {dataset.name!r}: {type(error).__name__}:"
      f" {str(error).strip().splitlines()[0]}"
    ) from error
  if outputs["logits"].shape != (2, dataset.num_classes):
    raise UserError(
      f"{path}.model ({section['model']['name']!r}) gives logits of shape"
      f" {outputs['logits'].shape[1:]} a record, but {dataset.name!r} has"
      f" {dataset.num_classes} classes."
    )
  if section["weights"]:
    classes = dataset.num_classes
    pretrained.variables(section, variables, path, classes=classes)
  return outputs | {"variables": variables}


def _check_shapes(
  name: str, section: Section, outputs: Section, dataset: Dataset
) -> None:
  """Traces the objective, which finds unknown taps and misfitting shapes."""
  path = f"config.{name}.objective"
  terms = stages.terms_of(section, dataset, None, f"config.{name}")
  taught = [outputs[teacher] for teacher in section["teachers"]]

  def trace(term: Term) -> None:
    def evaluated(key: jax.Array, student: Any, teachers: Any, b: Any) -> Any:
      parts = stages.parts_of([term], student, teachers, dataset.shape, key)
      return objective.evaluate(
        [term], student, teachers, b, 0.0, parts=parts, key=key
      ).values

    batch = stages.batch_of(dataset.shape)
    jax.eval_shape(evaluated, jax.random.key(0), outputs[name], taught, batch)

  for term in terms:
    try:
      for one in (term, *term.at_ends()):
        trace(one)
    except UserError as error:
      raise UserError(f"{path}.{term.name}: {error}") from error
    except Exception as error:  # a loss says what does not fit
      raise UserError(
        f"{path}.{term.name} does not fit its arrays:"
        f" {str(error).strip().splitlines()[0]}{_cure(term, trace)}"
      ) from error


def _cure(term: Term, trace: Callable[[Term], None]) -> str:
  """The projectors that would make a term's features fit."""
  if term.projector is not None or "student_features" not in term.arrays:
    return ""
  fits = []
  for name in _REGRESSORS:
    module = projectors.build({"name": name}, {}, name)
    try:
      trace(dataclasses.replace(term, projector=module))
    except Exception:  # noqa: S112 - does not fit either
      continue
    fits.append(f"projector=dict(name={name!r})")
  if not fits:
    return ""
  return f" Would fit: {' or '.join(fits)} in the term."


def check_devices(
  config: Section, devices: int, *, scorer_only: bool = False
) -> None:
  """Whether every batch can be split over the devices.

  Args:
    config: a resolved config.
    devices: number of devices.
    scorer_only: whether the stages are left alone.

  Raises:
    UserError: where one cannot, or more devices are asked for than there are.
  """
  wanted = config["parallel"]["devices"]
  if wanted > devices:
    raise UserError(
      f"config.parallel.devices is {wanted}, but there are only {devices}."
    )
  if wanted and hosts.are_several():
    raise UserError(
      f"config.parallel.devices is {wanted}, but the run has several processes,"
      " which use all of their devices; expected 0."
    )
  names = [] if scorer_only else list(config["stages"])
  if scorer_only or any(scoring.uses_scorer(config[name]) for name in names):
    names.append("scorer")
  for name in names:
    size = config[name]["batch_size"]
    if size % devices:
      raise UserError(
        f"config.{name}.batch_size is {size}, which cannot be divided among"
        f" {devices} devices; expected a multiple of {devices}."
      )
