"""Checks of when which snapshot of its teachers teaches a stage.

By a pacing, as progressive distillation has it (Panigrahi et al., 2024,
arXiv:2410.05464), or on to the next one when validation stops improving, its
rule "till saturation"; RCO (Jin et al., 2019, arXiv:1904.09149) takes snapshots
at equal intervals. Its gains took millions of samples; at small budgets none is
shown to beat the teacher as it ended.
"""

from collections.abc import Mapping
from typing import Any

from kdcl_jax import stages
from kdcl_jax.errors import UserError

Section = Mapping[str, Any]


def check(section: Section, path: str) -> None:
  """What can be known of one stage.

  Args:
    section: a stage's section of a resolved config.
    path: its name in messages.

  Raises:
    UserError: for the first mistake.
  """
  asked = _asked(section, path)
  if asked and not section["teachers"]:
    raise UserError(
      f"{asked}, but the stage has no teacher; name one in its `teachers`."
    )
  paced = stages.teacher_pacing_of(section, path) is not None
  if paced and section["curriculum"]["advance_teacher"]["on"]:
    raise UserError(
      f"{path}.curriculum.advance_teacher.on is True, but"
      f" {path}.teacher_pacing.name is {section['teacher_pacing']['name']!r},"
      " which decides the same; take one of them out."
    )


def check_snapshots(config: Section) -> None:
  """Whether teachers that teach as they were have been kept so.

  Args:
    config: a resolved config of which every stage has passed `check`.

  Raises:
    UserError: for the first stage whose teachers have not.
  """
  for name in config["stages"]:
    section = config[name]
    asked = _asked(section, f"config.{name}")
    if not asked or any(
      config[teacher]["snapshots"] for teacher in section["teachers"]
    ):
      continue
    raise UserError(
      f"{asked}, but no teacher keeps snapshots; give"
      f" config.{section['teachers'][0]}.snapshots shares of its training, such"
      " as (0.25, 0.5)."
    )


def _asked(section: Section, path: str) -> str:
  """What asks for snapshots, the beginning of a sentence; '' for nothing."""
  if stages.teacher_pacing_of(section, path) is not None:
    name = section["teacher_pacing"]["name"]
    return f"{path}.teacher_pacing.name is {name!r}"
  if section["curriculum"]["advance_teacher"]["on"]:
    return f"{path}.curriculum.advance_teacher.on is True"
  return ""
