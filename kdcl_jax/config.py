"""Configs: how a config file makes one, and how it is checked.

A config file calls `run(...)` and `stage(...)`, which return complete
`ml_collections` dictionaries, so that every field can be overridden on the
command line. `resolve` turns the result into plain dictionaries and raises
`UserError` for the first field that is unknown, of the wrong type or out of
range (see `kdcl_jax.fields`). Checks that need more than one section live in
`kdcl_jax.validation`.
"""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.experiments.schema import EXPERIMENT
from kdcl_jax.fields import RUN, SCORER, STAGE, Field, Free
from kdcl_jax.models import called

_DIRECTORIES = ("difficulty", "export", "report", "score")  # of a run itself


def _defaults(schema: Any) -> Any:
  if isinstance(schema, Free):
    schema = schema.fields
  if isinstance(schema, Field):
    return schema.default
  return {key: _defaults(value) for key, value in schema.items()}


def _merged(base: dict, update: Mapping) -> dict:
  merged = dict(base)
  for key, value in update.items():
    if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
      merged[key] = _merged(merged[key], value)
    else:
      merged[key] = value
  return merged


def _config_dict(tree: Mapping) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dict(tree))


def stage(**fields: Any) -> ml_collections.ConfigDict:
  """A complete stage section: the defaults with `fields` laid over them.

  Without an `objective` the stage learns by cross-entropy; with teachers it
  adds the classic distillation term, `lambda * T^2 * KL(teacher || student)`
  with lambda 1 and T 4 (Hinton, Vinyals and Dean, "Distilling the knowledge in
  a neural network", 2015, arXiv:1503.02531).

  Args:
    **fields: values of the stage's fields; dictionaries are merged deeply.

  Returns:
    A `ConfigDict` with every field of a stage.

  Example:
    >>> stage(steps=100, model=dict(name="mlp")).batch_size
    64
  """
  merged = _merged(_defaults(STAGE), plain(fields))
  return _config_dict(merged | {"objective": _objective(merged)})


def scorer(**fields: Any) -> ml_collections.ConfigDict:
  """A complete section for the models that score difficulty out of fold."""
  merged = _merged(_defaults(SCORER), plain(fields))
  return _config_dict(merged | {"objective": _objective(merged)})


def run(**fields: Any) -> ml_collections.ConfigDict:
  """A complete config: run fields, data, and one section for each stage.

  Args:
    **fields: values of the run's fields, and a section (see `stage`) under the
      name of each of its stages.

  Returns:
    A `ConfigDict` with every field.

  Example:
    >>> config = run(stages=("teacher",), teacher=stage(steps=10))
    >>> config.teacher.steps, config.data.source
    (10, 'digits')
  """
  merged = _merged(_defaults(RUN), plain(fields))
  if not merged["scorer"]["objective"]:
    merged["scorer"]["objective"] = _objective(merged["scorer"])
  return _config_dict(merged)


def _objective(section: Mapping) -> dict:
  if section["objective"]:
    return section["objective"]
  objective = {"cross_entropy": {"coefficient": 1.0}}
  if section["teachers"]:
    objective["kd"] = {"coefficient": 1.0, "temperature": 4.0}
  return objective


def experiment(**fields: Any) -> ml_collections.ConfigDict:
  """A complete config of an experiment: runs to be tuned and compared.

  Args:
    **fields: values of `kdcl_jax.experiments.schema.EXPERIMENT`: in `runs` a
      complete config (see `run`) under the name of each cell, and `tuning`,
      `claims` and `groups` as docs/experiments.md describes them.

  Returns:
    A `ConfigDict` with every field.

  Example:
    >>> short = run(stages=("student",), student=stage(steps=10))
    >>> experiment(runs=dict(short=short)).tuning.field
    'optimizer.learning_rate'
  """
  # A ConfigDict sorts its keys, so that the sequence has a field of its own.
  cells = {"cells": tuple(fields.get("runs", ()))}
  merged = _merged(_defaults(EXPERIMENT) | cells, plain(fields))
  return _config_dict(merged)


def plain(tree: Any) -> Any:
  """ConfigDicts, dicts, tuples and lists as dicts and tuples."""
  if isinstance(tree, ml_collections.ConfigDict):
    tree = tree.to_dict()
  if isinstance(tree, Mapping):
    return {key: plain(value) for key, value in tree.items()}
  if isinstance(tree, list | tuple):
    return tuple(plain(value) for value in tree)
  return tree


def resolve(config: Mapping) -> dict:
  """Checks a config field by field and completes it with the defaults.

  Args:
    config: what a config file's `get_config` returned, overrides included.

  Returns:
    The whole config as nested plain dictionaries and tuples.

  Raises:
    UserError: for an unknown field, a wrong type or a value out of range.
  """
  config = plain(config)
  names = config.get("stages", RUN["stages"].default)
  if isinstance(names, str):
    names = (names,)
  if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
    raise UserError(
      f"config.stages is {names!r}, expected a tuple of names of sections."
    )
  for name in names:
    if name in RUN:
      raise UserError(
        f"config.stages names {name!r}, which is a field of every config; give"
        " the stage another name."
      )
    if not name.isidentifier() or len(name) > 100 or name in _DIRECTORIES:
      raise UserError(
        f"config.stages names {name!r}, which would be the name of a directory"
        " of the run; expected letters, digits and '_', not beginning with a"
        f" digit, and none of {', '.join(_DIRECTORIES)}."
      )
    if not isinstance(config.get(name), dict):
      others = [k for k in config if k not in RUN]
      raise UserError(
        f"config.stages names {name!r}, but there is no section config.{name}"
        f"{did_you_mean(name, others)}; the sections are"
        f" {', '.join(others) or 'none'}."
      )
  schema = RUN | dict.fromkeys(names, STAGE)
  unused = [k for k in config if k not in schema and _is_stage(config[k])]
  for name in unused:  # a section that this variant of the config does not use
    config.pop(name)
  resolved = checked(config | {"stages": names}, schema, "config")
  for name in (*names, "scorer"):
    resolved[name]["objective"] = _objective(resolved[name])
    resolved[name] = called.named(resolved[name], _defaults(STAGE["model"]))
  return resolved


def _is_stage(section: Any) -> bool:
  return isinstance(section, dict) and {"model", "objective"} <= set(section)


def checked(value: Any, schema: Any, path: str) -> Any:
  """A section as its schema has it, completed with the defaults.

  Args:
    value: nested plain dictionaries and tuples.
    schema: a `Field`, a `Free` section, or a mapping of schemas by name.
    path: the section's name in messages.

  Returns:
    The same, whole.

  Raises:
    UserError: for an unknown field, a wrong type or a value out of range.
  """
  if isinstance(schema, Field):
    return _checked_leaf(value, schema, path)
  if not isinstance(value, dict):
    raise UserError(f"{path} is {value!r}, expected a section with fields.")
  fields = schema.fields if isinstance(schema, Free) else schema
  if not isinstance(schema, Free):
    for key in value:
      if key not in fields:
        raise UserError(
          f"{path}.{key} is no known field{did_you_mean(key, fields)}; the"
          f" fields of {path} are {', '.join(fields)}."
        )
  for key in value.keys() - fields.keys():
    _check_plain(value[key], f"{path}.{key}")
  whole = {
    key: checked(value.get(key, _defaults(field)), field, f"{path}.{key}")
    for key, field in fields.items()
  }
  return {key: value[key] for key in value if key not in fields} | whole


def _check_plain(value: Any, path: str) -> None:
  """Refuses what config.json could not hold."""
  if isinstance(value, dict):
    for key, one in value.items():
      _check_plain(one, f"{path}.{key}")
      if not isinstance(key, str):
        raise UserError(f"{path} has the key {key!r}, expected a text.")
  elif isinstance(value, tuple):
    for one in value:
      _check_plain(one, path)
  elif type(value) is float and not math.isfinite(value):
    raise UserError(f"{path} is {value!r}, expected a finite number.")
  elif not (value is None or type(value) in (bool, int, float, str)):
    raise UserError(
      f"{path} is {value!r}, which is a {type(value).__name__}; expected"
      " numbers, texts, True, False, and tuples and dictionaries of them."
    )


def _checked_leaf(value: Any, field: Field, path: str) -> Any:
  kinds = field.kinds or (type(field.default),)
  if kinds == (float,) and type(value) is int:
    value = float(value)
  elif kinds == (tuple,) and isinstance(value, str):
    value = (value,)
  if type(value) not in kinds or not field.accepts(value):
    raise UserError(f"{path} is {value!r}, expected {field.expected}.")
  return value
