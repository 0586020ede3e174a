"""The fields of a config: defaults, types, what is valid, one sentence each.

A config file calls `run(...)` and `stage(...)`, which return complete
`ml_collections` dictionaries, so that every field can be overridden on the
command line. `resolve` turns the result into plain dictionaries and raises
`UserError` for the first field that is unknown, of the wrong type or out of
range. Checks that need more than one section live in `validation`.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from kdcl_jax.controller import OPTIONS
from kdcl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Field:
  """A leaf of the config: its default and the values it may take."""

  default: Any
  expected: str
  valid: Callable[[Any], bool] = lambda value: True
  kinds: tuple[type, ...] = ()  # the type of the default where empty


@dataclasses.dataclass(frozen=True)
class Free:
  """A section whose further keys belong to the function that it names."""

  fields: Mapping[str, Field]


def _one_of(*names: str) -> Field:
  return Field(
    names[0], "one of " + ", ".join(map(repr, names)), names.__contains__
  )


def _whole(default: int, least: int = 0) -> Field:
  return Field(default, f"a whole number >= {least}", lambda v: v >= least)


def _number(
  default: float, expected: str, valid: Callable[[float], bool]
) -> Field:
  return Field(
    float(default), expected, lambda v: math.isfinite(v) and valid(v)
  )


def _share(default: float, *, zero: bool = True) -> Field:
  expected = "a number in [0, 1]" if zero else "a number in (0, 1]"
  return _number(
    default, expected, lambda v: (v >= 0 if zero else v > 0) and v <= 1
  )


def _positive(default: float) -> Field:
  return _number(default, "a number > 0", lambda v: v > 0)


def _not_negative(default: float) -> Field:
  return _number(default, "a number >= 0", lambda v: v >= 0)


def _flag(default: bool) -> Field:
  return Field(default, "True or False")


def _text(default: str = "") -> Field:
  return Field(default, "a text")


def _names() -> Field:
  return Field(
    (), "a tuple of names", lambda v: all(isinstance(n, str) for n in v)
  )


def _numbers(values: Any) -> bool:
  return all(type(v) in (int, float) and math.isfinite(v) for v in values)


DATA = {
  "source": Field(
    "digits",
    "'digits', 'npz', 'folder', 'tfds:NAME' or the dotted path of a callable",
  ),
  "path": _text(),
  "data_dir": _text(),
  "options": Free({}),
  "validation": Field(
    0.2,
    "a share in (0, 1) or a whole number >= 1",
    lambda v: 0 < v < 1 if isinstance(v, float) else v >= 1,
    kinds=(float, int),
  ),
  "train_size": _whole(0),
  "test_size": _whole(0),
  "image_size": _whole(0),
  "memory_gb": _not_negative(2.0),  # keep decoded pictures up to this size
  "channels": _whole(0),
  "label_noise": {
    "kind": _one_of("none", "symmetric", "pair_flip", "confusion"),
    "rate": _share(0.0),
    "validation": _flag(False),
    "table": _text(),
  },
  "augment": Field(
    (),
    "a tuple of dictionaries like dict(name='flip')",
    lambda v: all(isinstance(a, Mapping) and "name" in a for a in v),
  ),
  "mean": Field((), "a tuple of numbers, one per channel", _numbers),
  "std": Field(
    (),
    "a tuple of numbers > 0, one per channel",
    lambda v: _numbers(v) and all(s > 0 for s in v),
  ),
}

OPTIMIZER = Free(
  {
    "name": Field("sgd", "the name of an optax optimizer"),
    "learning_rate": _positive(0.05),
    "schedule": {
      "name": _one_of("cosine", "constant", "linear", "multistep"),
      "warmup": _share(0.0),
      "end": _share(0.0),
      "boundaries": Field(
        (),
        "increasing shares of the training in (0, 1)",
        lambda v: all(0 < b < 1 for b in v) and list(v) == sorted(set(v)),
      ),
      "factor": _share(0.1, zero=False),
    },
    "weight_decay": _not_negative(0.0),
    "decay_all": _flag(False),
    "clip": _not_negative(0.0),
    "ema": _number(0.0, "a number in [0, 1)", lambda v: 0 <= v < 1),
  }
)

CURRICULUM = {
  "order": _one_of("none", "curriculum", "anti", "random"),
  "difficulty": {
    "source": _one_of("scorer", "teacher", "file"),
    "score": Field("loss", "the name of a score in kdcl_jax.difficulty.SCORES"),
    "path": _text(),
  },
  "pacing": Free(
    {"name": Field("constant", "a name in kdcl_jax.pacing.PACINGS")}
  ),
  "lessons": _whole(20, 1),
  "freeze": {
    "on": _flag(False),
    "patience": _whole(OPTIONS["freeze"]["patience"], 1),
    "tolerance": _positive(OPTIONS["freeze"]["tolerance"]),
  },
  "hold": {
    "on": _flag(False),
    "train_accuracy": _share(OPTIONS["hold"]["train_accuracy"]),
    "most": _whole(OPTIONS["hold"]["most"], 1),
  },
  "reduce_learning_rate": {
    "on": _flag(False),
    "factor": _number(
      OPTIONS["reduce_learning_rate"]["factor"],
      "a number in (0, 1)",
      lambda v: 0 < v < 1,
    ),
    "patience": _whole(OPTIONS["reduce_learning_rate"]["patience"], 1),
    "floor": _share(OPTIONS["reduce_learning_rate"]["floor"]),
  },
  "stop": {
    "on": _flag(False),
    "patience": _whole(OPTIONS["stop"]["patience"], 1),
  },
}

STAGE = {
  "model": Free({"name": Field("mlp", "a model name or a dotted path")}),
  "weights": _text(),
  "teachers": _names(),
  "objective": Free({}),
  "steps": _whole(0),
  "epochs": _not_negative(0.0),
  "batch_size": _whole(64, 1),
  "precision": _one_of("float32", "bfloat16"),
  "optimizer": OPTIMIZER,
  "curriculum": CURRICULUM,
  "keep": _one_of("last", "best"),
}

SCORER = STAGE | {"folds": _whole(2, 2)}

RUN = {
  "name": _text("run"),
  "seed": _whole(0),
  "seeds": _whole(1, 1),
  "stages": Field(
    ("teacher", "baseline", "student"),
    "a tuple of different names",
    lambda v: len(v) > 0 and len(set(v)) == len(v),
  ),
  "data": DATA,
  "scorer": SCORER,
  "parallel": {"mode": _one_of("jit", "shard_map"), "devices": _whole(0)},
  "log_steps": _whole(50, 1),
  "checkpoint_steps": _whole(1000, 1),
  "tensorboard": _flag(True),
  "export": _text("student"),
}

# How often a run looks at itself changes nothing of what it computes, so a
# resumed run may change these.
CHANGEABLE = (
  "log_steps",
  "checkpoint_steps",
  "tensorboard",
  "seeds",
  "export",
)


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
  merged = _merged(_defaults(STAGE), _plain(fields))
  return _config_dict(merged | {"objective": _objective(merged)})


def scorer(**fields: Any) -> ml_collections.ConfigDict:
  """A complete section for the models that score difficulty out of fold."""
  merged = _merged(_defaults(SCORER), _plain(fields))
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
  merged = _merged(_defaults(RUN), _plain(fields))
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


def _plain(tree: Any) -> Any:
  """ConfigDicts, dicts, tuples and lists as dicts and tuples."""
  if isinstance(tree, ml_collections.ConfigDict):
    tree = tree.to_dict()
  if isinstance(tree, Mapping):
    return {key: _plain(value) for key, value in tree.items()}
  if isinstance(tree, list | tuple):
    return tuple(_plain(value) for value in tree)
  return tree


def did_you_mean(name: Any, names: Any) -> str:
  """Returns "; did you mean 'x'?" for the nearest of the names, or nothing."""
  close = difflib.get_close_matches(str(name), [str(n) for n in names], 1)
  return f"; did you mean {close[0]!r}?" if close else ""


def resolve(config: Mapping) -> dict:
  """Checks a config field by field and completes it with the defaults.

  Args:
    config: what a config file's `get_config` returned, overrides included.

  Returns:
    The whole config as nested plain dictionaries and tuples.

  Raises:
    UserError: for an unknown field, a wrong type or a value out of range.
  """
  config = _plain(config)
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
  resolved = _checked(config | {"stages": names}, schema, "config")
  for name in (*names, "scorer"):
    resolved[name]["objective"] = _objective(resolved[name])
  return resolved


def _is_stage(section: Any) -> bool:
  return isinstance(section, dict) and {"model", "objective"} <= set(section)


def _checked(value: Any, schema: Any, path: str) -> Any:
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
  checked = {
    key: _checked(value.get(key, _defaults(field)), field, f"{path}.{key}")
    for key, field in fields.items()
  }
  return {key: value[key] for key in value if key not in fields} | checked


def _checked_leaf(value: Any, field: Field, path: str) -> Any:
  kinds = field.kinds or (type(field.default),)
  if kinds == (float,) and type(value) is int:
    value = float(value)
  elif kinds == (tuple,) and isinstance(value, str):
    value = (value,)
  if type(value) not in kinds or not _accepted(field, value):
    raise UserError(f"{path} is {value!r}, expected {field.expected}.")
  return value


def _accepted(field: Field, value: Any) -> bool:
  try:
    return bool(field.valid(value))
  except TypeError:  # a tuple of something else
    return False
