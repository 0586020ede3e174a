"""How much each example of a batch counts in a stage's objective."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax import lookup, schedules
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.weighting import WEIGHTINGS, quantile_threshold

FIELDS = ("name", "loss", "terms", "quantile")
NAME = "weighting"  # of the mean weight among the logged terms
# Progress at which options are tried: first the ends, which a config names.
_GRID = (0.0, 1.0, *(i / 16 for i in range(1, 16)))
_BATCH = ("where", "axis_name")  # keywords that are set by the step


@dataclasses.dataclass(frozen=True)
class Reweighting:
  """A weighting bound to the terms of an objective.

  Attributes:
    function: losses [B] and keywords -> weights [B].
    term: the term whose losses it looks at.
    terms: the terms whose losses it multiplies.
    options: keyword -> (progress -> value).
    quantile: progress -> the share of a batch below the threshold; None where
      the threshold is an option.
  """

  function: Callable[..., jax.Array]
  term: str
  terms: tuple[str, ...]
  options: Mapping[str, Callable[[Any], Any]]
  quantile: Callable[[Any], Any] | None

  def weights(
    self,
    losses: jax.Array,
    present: jax.Array,
    progress: jax.Array,
    axis_name: str | None,
  ) -> jax.Array:
    """The weights of a batch, without gradient; 0 where not present.

    Args:
      losses: [B].
      present: boolean [B].
      progress: share of the stage that is done.
      axis_name: the mesh axis under `shard_map`.

    Returns:
      [B] float32.
    """
    losses = jax.lax.stop_gradient(losses)
    options = {k: value(progress) for k, value in self.options.items()}
    batch = {"where": present, "axis_name": axis_name}
    if self.quantile is not None:
      options["threshold"] = quantile_threshold(
        losses, self.quantile(progress), **batch
      )
    taken = inspect.signature(self.function).parameters
    options |= {k: v for k, v in batch.items() if k in taken}
    weights = self.function(losses, **options)
    return jnp.where(present, jax.lax.stop_gradient(weights), 0.0)


def build(
  section: Mapping[str, Any],
  terms: Sequence[str],
  *,
  path: str = "weighting",
) -> Reweighting | None:
  """The weighting that a stage's section names.

  Args:
    section: `name`, '' for none, a name in `kdcl_jax.weighting.WEIGHTINGS` or a
      dotted path; `loss`, the term whose losses decide ('' for the first);
      `terms`, those that are weighted (() for all); `quantile`, a share of the
      batch that sets the threshold; and the function's keywords. Numbers may be
      schedules, see `kdcl_jax.schedules`.
    terms: names of the stage's terms that have one value per example.
    path: name of the section in messages.

  Returns:
    The weighting, or None.

  Raises:
    UserError: for an unknown name, field or term.
  """
  if not section["name"]:
    return None
  function = lookup.find(WEIGHTINGS, section["name"], f"{path}.name")
  if not terms:
    raise UserError(
      f"{path}.name is {section['name']!r}, but no term of the objective has"
      " one value per example; add one such as cross_entropy."
    )
  term = section["loss"] or terms[0]
  chosen = tuple(section["terms"]) or tuple(terms)
  for field, name in [("loss", term), *(("terms", n) for n in chosen)]:
    if name not in terms:
      raise UserError(
        f"{path}.{field} names {name!r}, which is no term with one value per"
        f" example{did_you_mean(name, terms)}; these are {', '.join(terms)}."
      )
  parameters = inspect.signature(function).parameters
  keywords = [
    p.name
    for p in parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.name not in _BATCH
  ]
  options = {k: v for k, v in section.items() if k not in FIELDS}
  lookup.check_names(options, keywords, section["name"], path)
  quantile = section.get("quantile")
  if quantile is not None:
    if "threshold" not in keywords or "threshold" in options:
      why = "is given too" if "threshold" in options else "it does not take"
      raise UserError(
        f"{path}.quantile sets the threshold of {section['name']!r}, which"
        f" {why}; take one of them out."
      )
    quantile = _share(quantile, f"{path}.quantile")
  given = {*options, *(["threshold"] if quantile is not None else [])}
  for name in keywords:
    if parameters[name].default is inspect.Parameter.empty and (
      name not in given
    ):
      cure = " or quantile" if name == "threshold" else ""
      raise UserError(
        f"{path}.{name} is missing: {section['name']!r} needs {name}{cure}."
      )
  built = {k: schedules.build(v, f"{path}.{k}") for k, v in options.items()}
  _try(function, built, section["name"], path)
  return Reweighting(function, term, chosen, built, quantile)


def _share(spec: Any, path: str) -> Callable[[Any], Any]:
  """A share, or a schedule of shares, as a function of progress."""
  share = schedules.build(spec, path)
  for progress in _GRID:
    value = share(progress)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
      raise UserError(f"{path} is {value!r}, expected a share in (0, 1].")
  return share


def _try(
  function: Callable[..., Any],
  options: Mapping[str, Callable[[Any], Any]],
  name: str,
  path: str,
) -> None:
  """Calls the function with what the options are all along."""
  given = {"threshold": 0.5, "where": np.ones(2, bool), "axis_name": None}
  taken = inspect.signature(function).parameters
  given = {k: v for k, v in given.items() if k in taken}
  for progress in _GRID:
    values = given | {k: option(progress) for k, option in options.items()}
    try:
      jax.eval_shape(
        lambda losses, values=values: function(losses, **values),
        jax.ShapeDtypeStruct((2,), jnp.float32),
      )
    except (TypeError, ValueError) as error:
      text = str(error).strip().splitlines()[0]
      raise UserError(f"{path} ({name}): {text}") from error
