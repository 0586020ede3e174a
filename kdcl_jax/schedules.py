"""Numbers that may change over a stage: coefficients and hyper-parameters."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax.errors import UserError, did_you_mean

# (share of the way, numpy or jax.numpy) -> share of the change.
CURVES: dict[str, Callable[[Any, Any], Any]] = {
  "linear": lambda u, xp: u,
  "cosine": lambda u, xp: (1 - xp.cos(math.pi * u)) / 2,
  "quadratic": lambda u, xp: u**2,
  "root": lambda u, xp: xp.sqrt(u),
  "step": lambda u, xp: xp.floor(u),
}


def is_number(value: Any) -> bool:
  """Whether a value is a finite number, and no flag."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and math.isfinite(value)


def build(spec: Any, path: str) -> Callable[[Any], Any]:
  """A number as a function of training progress.

  `value = start + (end - start) * curve(clip((progress - begin) / (reach -
  begin), 0, 1))`, or one of several values after the other.

  Args:
    spec: a number, or a mapping with `start` and `end` and, if wanted, `curve`
      (linear, cosine, quadratic, root, step), `begin` (share of the stage at
      which it starts to change, 0) and `reach` (share at which it arrives, 1).
      `values` in place of `start`, `end` and `curve` are several numbers, each
      for an equal part of the way from `begin` to `reach`.
    path: the field's name in messages.

  Returns:
    progress in [0, 1] -> value; a traced progress gives a traced value, while
    a number or a NumPy array is computed on the host.

  Raises:
    UserError: where the mapping is not of that form.

  Example:
    >>> build({"start": 4.0, "end": 1.0}, "temperature")(0.5)
    2.5
  """
  if not isinstance(spec, Mapping):
    return lambda progress: spec
  fields = ("start", "end", "curve", "begin", "reach")
  if "values" in spec:
    fields = ("values", "begin", "reach")
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
    k: v for k, v in spec.items() if k not in ("curve", "values")
  }
  values = spec.get("values")
  if values is not None:
    if not isinstance(values, list | tuple) or not all(map(is_number, values)):
      values = ()
    if not values:
      raise UserError(
        f"{path}.values is {spec['values']!r}, expected a tuple of numbers."
      )
    numbers |= {"start": 0, "end": len(values)}
  for key in ("start", "end", "begin", "reach"):
    value = numbers.get(key)
    if not is_number(value):
      raise UserError(f"{path}.{key} is {value!r}, expected a number.")
  begin, reach = numbers["begin"], numbers["reach"]
  if not 0 <= begin < reach:
    raise UserError(
      f"{path} begins at {begin} and reaches at {reach}, expected 0 <= begin <"
      " reach."
    )
  start, end = numbers["start"], numbers["end"]

  def value(progress: Any) -> Any:
    # NumPy on the host: the readers of batches must not wait for a device.
    xp = jnp if isinstance(progress, jax.Array) else np
    share = xp.clip((progress - begin) / (reach - begin), 0.0, 1.0)
    found = start + (end - start) * CURVES[curve](share, xp)
    if values is not None:
      # A part has come when it is as near as rounding; the last one stays.
      place = xp.floor(found * (1 + 2.0**-22))
      place = xp.clip(place, 0, len(values) - 1).astype(int)
      found = xp.asarray(values, found.dtype)[place]
    return float(found) if isinstance(found, np.generic) else found

  return value
