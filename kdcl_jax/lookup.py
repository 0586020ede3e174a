"""From a name in a config to the function that it names."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kdcl_jax.errors import UserError, did_you_mean


def find(table: Mapping[str, Any], name: str, field: str) -> Any:
  """The entry of a visible table, or what a dotted path names.

  Args:
    table: name -> entry.
    name: a name of the table, or 'package.module.name' of a user's own.
    field: the config field, for messages.

  Returns:
    The entry.

  Raises:
    UserError: where there is none, with the names that there are.

  Example:
    >>> find({"one": 1}, "one", "config.x")
    1
    >>> find({}, "math.sqrt", "config.x")(9)
    3.0
  """
  if name in table:
    return table[name]
  found = _imported(table, name, field)
  if not callable(found):
    raise UserError(
      f"{field} is {name!r}, which is {type(found).__name__}, expected a"
      " callable."
    )
  return found


def _imported(table: Mapping[str, Any], name: str, field: str) -> Any:
  if "." not in name:
    raise UserError(
      f"{field} is {name!r}, which does not exist{did_you_mean(name, table)};"
      f" valid are {', '.join(table)}, or the dotted path of your own."
    )
  module_name, _, attribute = name.rpartition(".")
  try:
    return getattr(importlib.import_module(module_name), attribute)
  except (ImportError, AttributeError, ValueError, TypeError) as error:
    raise UserError(
      f"{field} is {name!r}, which cannot be imported ({error}); is the file in"
      " the working directory or installed?"
    ) from error


def call(
  function: Callable[..., Any], arguments: Mapping[str, Any], field: str
) -> Any:
  """Calls what a section names with the section's other fields.

  Raises:
    UserError: for an argument that it does not take or refuses.
  """
  parameters = inspect.signature(function).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    name = getattr(function, "__name__", type(function).__name__)
    check_names(arguments, parameters, name, field)
  try:
    return function(**arguments)
  except (TypeError, ValueError) as error:
    raise UserError(f"{field}: {error}") from error


def check_names(
  given: Iterable[str], known: Iterable[str], name: str, field: str
) -> None:
  """Raises `UserError` for the first name that is not known."""
  known = [k for k in known if k not in ("parent", "name")]  # linen's own
  for key in given:
    if key not in known:
      raise UserError(
        f"{field}.{key} is no field of {name!r}{did_you_mean(key, known)}; it"
        f" takes {', '.join(known) or 'none'}."
      )
