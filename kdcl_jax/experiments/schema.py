"""The fields of an experiment's config: defaults, types, what is valid."""

import math
from typing import Any

from kdcl_jax.fields import Field, Free


def _range(values: Any) -> bool:
  numbers = all(type(v) in (int, float) and math.isfinite(v) for v in values)
  return numbers and len(set(values)) == len(values)


def _ranges(values: Any) -> bool:
  if isinstance(values, dict):
    return all(isinstance(v, tuple) and _range(v) for v in values.values())
  return _range(values)


def _names(values: Any) -> bool:
  return all(isinstance(v, str) for v in values)


EXPERIMENT = {
  "name": Field("experiment", "a text"),
  # Seeds of every run; 0 leaves what each run says.
  "seeds": Field(0, "a whole number >= 0", lambda v: v >= 0),
  "runs": Free({}),  # a complete run config under the name of each cell
  # The cells that are done, in the sequence of the report; () for all.
  "cells": Field(
    (),
    "a tuple of different names of runs",
    lambda v: _names(v) and len(set(v)) == len(v),
  ),
  # Which value of a stage's field each stage of a cell takes: the one with the
  # highest mean validation accuracy over seeds that are used for nothing else.
  "tuning": {
    "field": Field(
      "optimizer.learning_rate", "the dotted path of a field of a stage"
    ),
    # For all stages, or by stage with those of the others under 'default'; ()
    # tunes nothing.
    "values": Field(
      (),
      "a tuple of different numbers, or a dictionary of such tuples with"
      " 'default' for stages that it does not name",
      _ranges,
      kinds=(tuple, dict),
    ),
    "seeds": Field(5, "a whole number >= 1", lambda v: v >= 1),
    "seed": Field(1000, "a whole number >= 0", lambda v: v >= 0),
    "at": Free({}),  # cell -> the cell whose tuned values it takes over
  },
  "claims": Free({}),  # see CLAIM, under the name of the stage that is judged
  "groups": Free({}),  # title -> cells shown together; all in one where empty
}

CLAIM = {
  "against": Field(
    (),
    "a tuple of names of stages, at least one",
    lambda v: len(v) > 0 and _names(v),
  ),
  "twin": Field("", "'' or the name of a stage"),
}
