"""Projectors by name: learned parts between the networks and a loss.

See `kdcl_jax.projectors.projector.Projector` for what one is.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from kdcl_jax import lookup
from kdcl_jax.errors import UserError
from kdcl_jax.projectors import (
  companions,
  contrast,
  fusion,
  generator,
  logits,
  margins,
  regressors,
  temperatures,
)
from kdcl_jax.projectors.contrast import Records
from kdcl_jax.projectors.projector import ARRAYS, Projector

__all__ = ["ARRAYS", "PROJECTORS", "Projector", "Records", "build", "needs"]

PROJECTORS: dict[str, Callable[..., nn.Module]] = {
  "linear": regressors.Linear,
  "conv": regressors.ConvRegressor,
  "vid": regressors.VidRegressor,
  "tokens": regressors.Tokens,
  "srrl": regressors.SrrlConnector,
  "fusion": fusion.Fusion,
  "ofd": margins.OfdConnector,
  "generator": generator.Generator,
  "embeddings": contrast.Embeddings,
  "memory": contrast.Memory,
  "factors": companions.Factors,
  "peer": companions.Peer,
  "ctkd": temperatures.Ctkd,
  "flsw": temperatures.Flsw,
  "cwsm": temperatures.Cwsm,
  "standardize": logits.Standardize,
  "top_k": logits.TopK,
}

_PIPELINE = ("axis_name", "num_classes", "data")  # set here, never by a config


def build(
  section: Mapping[str, Any], facts: Mapping[str, Any], path: str
) -> nn.Module:
  """The projector that a term's section names.

  Args:
    section: `name`, a name in `PROJECTORS` or a dotted path, and the fields of
      the module.
    facts: `axis_name`, `num_classes` and `data`, where they are known.
    path: the section's name in messages.

  Returns:
    The module.

  Raises:
    UserError: for an unknown name or field, or a `__call__` that asks for what
      there is not.
  """
  if not isinstance(section, Mapping) or "name" not in section:
    raise UserError(
      f"{path} is {section!r}, expected a section like dict(name='linear')."
    )
  factory = lookup.find(PROJECTORS, section["name"], f"{path}.name")
  options = {key: value for key, value in section.items() if key != "name"}
  fields = inspect.signature(factory).parameters
  for key in options:
    if key in _PIPELINE:
      raise UserError(
        f"{path}.{key} is set by the pipeline itself; take it out."
      )
  known = {k: v for k, v in facts.items() if k in fields}
  public = [k for k in fields if k not in _PIPELINE]
  lookup.check_names(options, public, section["name"], path)
  module = lookup.call(factory, options | known, path)
  if not isinstance(module, nn.Module):
    raise UserError(
      f"{path}.name is {section['name']!r}, which makes a"
      f" {type(module).__name__}, expected a flax.linen module."
    )
  for name in needs(module):
    if name not in ARRAYS:
      raise UserError(
        f"{path}: the projector {section['name']!r} asks for {name!r}, which a"
        f" stage does not have; it has {', '.join(ARRAYS)}."
      )
  return module


def needs(module: nn.Module) -> tuple[str, ...]:
  """The parameters of a projector's `__call__`."""
  return tuple(
    name
    for name in inspect.signature(type(module).__call__).parameters
    if name != "self"
  )


def makes(module: nn.Module) -> tuple[str, ...]:
  """The parameters of a loss that a projector provides."""
  return getattr(module, "makes", Projector.makes)


def that_make(name: str) -> list[str]:
  """The projectors that provide a parameter of a loss."""
  return [k for k, module in PROJECTORS.items() if name in module.makes]
