"""Checks for fields that would do nothing, or not what they say, as they stand.

What a config says and nobody heeds is a mistake that only the results would
tell, and they would not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcl_jax import reweighting
from kdcl_jax.controller import OPTIONS
from kdcl_jax.errors import UserError
from kdcl_jax.terms import Term

Section = Mapping[str, Any]


def check(section: Section, built: Sequence[Term], path: str) -> None:
  """What can be known of a stage, or of the scorer.

  Args:
    section: its section of a resolved config.
    built: its objective.
    path: its name in messages.

  Raises:
    UserError: for the first mistake.
  """
  for term in built:
    if term.name == reweighting.NAME:
      raise UserError(
        f"{path}.objective has a term {term.name!r}, which is the name of the"
        " mean weight in the logs; give it another, which needs not be that of"
        " its loss."
      )
  course, field = section["curriculum"], f"{path}.curriculum"
  if not course["bandit"]["on"]:
    return
  if course["hold"]["on"]:
    raise UserError(
      f"{field}.hold.on is True, but {field}.bandit.on is True too, which"
      " chooses every lesson's records, so that there is nothing to hold; take"
      " one of them out."
    )
  if course["pacing"] != {"name": "constant"}:
    raise UserError(
      f"{field}.pacing is {dict(course['pacing'])!r}, but {field}.bandit.on is"
      " True, which chooses every lesson's records; take the pacing out"
      f" ({field}.lessons says how many lessons there are)."
    )


def check_scorer(section: Section) -> None:
  """What a scorer has no use for.

  Args:
    section: `config.scorer` of a resolved config.

  Raises:
    UserError: for the first mistake.
  """
  path = "config.scorer"
  for name in OPTIONS:
    if section["curriculum"][name]["on"]:
      raise UserError(
        f"{path}.curriculum.{name}.on is True, but the scorer's folds are not"
        " validated; expected False."
      )
  if section["curriculum"]["rerank"]["on"]:
    raise UserError(
      f"{path}.curriculum.rerank.on is True, but the scorer's folds rank"
      " nothing anew; expected False."
    )
  if section["snapshots"]:
    raise UserError(
      f"{path}.snapshots is {section['snapshots']!r}, but nobody learns from"
      " the scorer; expected ()."
    )
