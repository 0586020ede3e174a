"""Numbers that may change over a stage: coefficients and hyper-parameters."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from kdcl_jax.errors import UserError, did_you_mean

CURVES: dict[str, Callable[[Any], Any]] = {
  "linear": lambda u: u,
  "cosine": lambda u: (1 - jnp.cos(math.pi * u)) / 2,
  "quadratic": lambda u: u**2,
  "root": lambda u: jnp.sqrt(u),
  "step": lambda u: jnp.floor(u),
}


def build(spec: Any, path: str) -> Callable[[Any], Any]:
  """A number as a function of training progress.

  `value = start + (end - start) * curve(clip((progress - begin) / (reach -
  begin), 0, 1))`.

  Args:
    spec: a number, or a mapping with `start` and `end` and, if wanted, `curve`
      (linear, cosine, quadratic, root, step), `begin` (share of the stage at
      which it starts to change, 0) and `reach` (share at which it arrives, 1).
    path: the field's name in messages.

  Returns:
    progress in [0, 1] -> value; a traced progress gives a traced value.

  Raises:
    UserError: where the mapping is not of that form.

  Example:
    >>> float(build({"start": 4.0, "end": 1.0}, "temperature")(0.5))
    2.5
  """
  if not isinstance(spec, Mapping):
    return lambda progress: spec
  fields = ("start", "end", "curve", "begin", "reach")
  for key in spec:
    if key not in fields:
      raise UserError(
        f"{path}.{key} is no field of a schedule{did_you_mean(key, fields)};"
        f" valid are {', '.join(fields)}."
      )
  curve = spec.get("curve", "linear")
  if curve not in CURVES:
    raise UserError(
      f"{path}.curve is {curve!r}{did_you_mean(curve, CURVES)}; valid are"
      f" {', '.join(CURVES)}."
    )
  numbers = {"begin": 0.0, "reach": 1.0} | {
    k: v for k, v in spec.items() if k != "curve"
  }
  for key in ("start", "end", "begin", "reach"):
    value = numbers.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
      raise UserError(f"{path}.{key} is {value!r}, expected a number.")
  begin, reach = numbers["begin"], numbers["reach"]
  if not 0 <= begin < reach:
    raise UserError(
      f"{path} begins at {begin} and reaches at {reach}, expected 0 <= begin <"
      " reach."
    )
  start, end = numbers["start"], numbers["end"]

  def value(progress: Any) -> Any:
    share = jnp.clip((progress - begin) / (reach - begin), 0.0, 1.0)
    return start + (end - start) * CURVES[curve](share)

  return value
