"""The fields of a config: defaults, types, what is valid, one sentence each.

`RUN` is the whole; each stage has a section of the form `STAGE` under its name.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from kdcl_jax.bandit import POLICIES, REWARDS
from kdcl_jax.controller import OPTIONS
from kdcl_jax.inputs import CHANNELS, METHODS


@dataclasses.dataclass(frozen=True)
class Field:
  """A leaf of the config: its default and the values it may take."""

  default: Any
  expected: str
  valid: Callable[[Any], bool] = lambda value: True
  kinds: tuple[type, ...] = ()  # the type of the default where empty

  def accepts(self, value: Any) -> bool:
    """Whether a value, of the right type, is valid."""
    try:
      return bool(self.valid(value))
    except TypeError:  # a tuple of something else
      return False


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
  # Of every picture outside training: the middle of this share of its shorter
  # side; 0 for all of it, its proportions lost.
  "crop": _share(0.0),
  "memory_gb": _not_negative(2.0),  # keep decoded pictures up to this size
  "threads": _whole(0),  # that read records; 0 for one for each core
  "patience": _not_negative(600.0),  # seconds without a batch; 0 for any number
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
    "projectors": Free({}),  # laid over these for the projectors' parameters
  }
)

CURRICULUM = {
  "order": _one_of("none", "curriculum", "anti", "random"),
  "balanced": _flag(False),  # as many of each class in every part of the order
  "difficulty": {
    "source": _one_of("scorer", "teacher", "file"),
    # A name in kdcl_jax.difficulty.SCORES or MODEL_SCORES, or a dotted path.
    "score": Field("loss", "the name of a score of kdcl_jax.difficulty"),
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
  "restart_learning_rate": {
    "on": _flag(False),
    "factor": _share(OPTIONS["restart_learning_rate"]["factor"], zero=False),
    "floor": _share(OPTIONS["restart_learning_rate"]["floor"]),
  },
  "stop": {
    "on": _flag(False),
    "patience": _whole(OPTIONS["stop"]["patience"], 1),
  },
  # In place of teacher_pacing: the next snapshot when validation says so.
  "advance_teacher": {
    "on": _flag(False),
    "patience": _whole(OPTIONS["advance_teacher"]["patience"], 1),
  },
  # Rank the records anew at every so many lesson ends, those not active yet or
  # all, by the stage's own model: as it evaluates them then (`score`), or by
  # how it has done on those that it has seen so far (`stream`).
  "rerank": {
    "on": _flag(False),
    "every": _whole(1, 1),
    "records": _one_of("rest", "all"),
    "score": Field("loss", "a name in kdcl_jax.difficulty.SCORES"),
    "stream": Field("", "'' or a name in kdcl_jax.difficulty.STREAMS"),
  },
  "bandit": {
    "on": _flag(False),
    "buckets": _whole(OPTIONS["bandit"]["buckets"], 2),
    "policy": _one_of(*POLICIES),
    "reward": _one_of(*REWARDS),
    "rate": _share(OPTIONS["bandit"]["rate"], zero=False),
    "window": _whole(OPTIONS["bandit"]["window"], 2),
    "epsilon": _share(OPTIONS["bandit"]["epsilon"]),
    "temperature": _not_negative(OPTIONS["bandit"]["temperature"]),
  },
}

WEIGHTING = Free(
  {
    "name": Field("", "'' or a name in kdcl_jax.weighting.WEIGHTINGS"),
    "loss": _text(),  # the term whose losses decide; '' for the first
    "terms": _names(),  # the terms that are weighted; () for all
  }
)

# Train on the best rows, by this score, of a batch that is larger.
SELECTION = {
  "name": Field("", "'' or a name in kdcl_jax.selection.NAMES"),
  "candidates": _whole(10, 1),  # rows to choose from, times batch_size
}

# How the model takes a picture; what is empty is as its weights say, or as the
# data is.
INPUT = {
  "mean": DATA["mean"],
  "std": DATA["std"],
  "size": Field(
    0,
    "a whole number >= 0, or (height, width)",
    lambda v: (
      v >= 0
      if isinstance(v, int)
      else len(v) == 2 and all(type(side) is int and side >= 1 for side in v)
    ),
    kinds=(int, tuple),
  ),
  "channels": _one_of("", *CHANNELS),
  "interpolation": _one_of("", *METHODS),
}

STAGE = {
  "model": Free({"name": Field("mlp", "a model name or a dotted path")}),
  # 'timm:NAME', 'hf:OWNER/REPOSITORY', a file, or a stage's directory.
  "weights": _text(),
  "input": INPUT,
  # Of a model that is not trained here and knows no more than chance does.
  "near_chance": _one_of("stop", "warn"),
  "teachers": _names(),
  "objective": Free({}),
  "weighting": WEIGHTING,
  "selection": SELECTION,
  # Shares of the training after which a copy is kept, for students that follow.
  "snapshots": Field(
    (),
    "increasing shares of the training in (0, 1)",
    lambda v: all(0 < b < 1 for b in v) and list(v) == sorted(set(v)),
  ),
  # The share of their own training that the teachers have had, lesson by
  # lesson: the snapshot at or after it teaches.
  "teacher_pacing": Free(
    {"name": Field("constant", "a name in kdcl_jax.pacing.PACINGS")}
  ),
  "steps": _whole(0),
  "epochs": _not_negative(0.0),
  "batch_size": _whole(64, 1),
  "precision": _one_of("float32", "bfloat16"),
  "optimizer": OPTIMIZER,
  "curriculum": CURRICULUM,
  "keep": _one_of("last", "best"),
  # So many steps in a row are skipped, and counted, whose loss or gradient is
  # not finite; 0 stops at the first.
  "skip_not_finite": _whole(0),
}

SCORER = STAGE | {
  "folds": _whole(2, 2),
  # Names in kdcl_jax.difficulty.SCORES and MODEL_SCORES (or dotted paths), and
  # in STREAMS; () for all of SCORES and of STREAMS.
  "scores": _names(),
  "streams": _names(),
}

RUN = {
  "name": _text("run"),
  "seed": _whole(0),
  "seeds": _whole(1, 1),
  "vmap_seeds": _whole(1, 1),
  "stages": Field(
    ("teacher", "baseline", "student"),
    "a tuple of different names",
    lambda v: len(set(v)) == len(v),
  ),
  "data": DATA,
  "scorer": SCORER,
  "parallel": {
    "mode": _one_of("jit", "shard_map"),
    "devices": _whole(0),
    # Arrays of at least so many elements are split over the devices.
    "fsdp": _whole(0),
  },
  "log_steps": _whole(50, 1),
  "checkpoint_steps": _whole(1000, 1),
  "checkpoints_kept": _whole(2, 1),  # the last ones; the best stays besides
  "tensorboard": _flag(True),
  "export": _text("student"),
}

# How often a run looks at itself changes nothing of what it computes, so a
# resumed run may change these.
CHANGEABLE = (
  "log_steps",
  "checkpoint_steps",
  "checkpoints_kept",
  "tensorboard",
  "seeds",
  "export",
  "data.memory_gb",
  "data.threads",
  "data.patience",
)
