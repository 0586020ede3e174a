"""The terms of an objective, from the names in a config to their functions.

A term names a function of `kdcl_jax.losses`, whose arrays are bound by the
names of its parameters: `student_logits`, `teacher_logits`, `labels`,
`student_features`, `teacher_features`, and `teachers_logits` for those of all
teachers at once. Features are the taps that the term names, and logits may be,
such as those of a second head. A projector (see
`kdcl_jax.projectors`) may stand in front of the loss and provide further ones.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from kdcl_jax import lookup, projectors, schedules, slopes
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.losses import LOSSES
from kdcl_jax.slopes import Slope

ARRAYS = (
  "student_logits",
  "teacher_logits",
  "labels",
  "student_features",
  "teacher_features",
  "teachers_logits",
)
_FIELDS = (
  "loss",
  "coefficient",
  "teacher",
  "student_tap",
  "teacher_tap",
  "student_logits",
  "teacher_logits",
  "projector",
)
# Set here or by a projector, never by a config.
_PIPELINE = (
  "where",
  "axis",
  "axis_name",
  "keep",
  "key",
  "generate",
  "teacher_gradient",
)


@dataclasses.dataclass(frozen=True)
class Term:
  """One named loss of an objective.

  Attributes:
    name: the term's name in the config, in logs and in plots.
    loss: the function.
    arrays: names of its array parameters, in order.
    teachers: which of the stage's teachers it compares with; () for none.
    student_tap, teacher_tap: the taps of feature losses, or lists of them.
    student_logits, teacher_logits: the taps that take the place of a network's
      logits, or None.
    coefficient: progress -> factor.
    options: keyword -> (progress -> value).
    slopes: keyword -> what differs from example to example, by their rank.
    relational: whether the function takes the mesh axis and the mask of
      present rows.
    projector: the module in front of the loss, or None.
  """

  name: str
  loss: Callable[..., jax.Array]
  arrays: tuple[str, ...]
  teachers: tuple[int, ...]
  student_tap: Any
  teacher_tap: Any
  coefficient: Callable[[Any], Any]
  options: Mapping[str, Callable[[Any], Any]]
  relational: bool
  projector: nn.Module | None = None
  slopes: Mapping[str, Slope] = dataclasses.field(default_factory=dict)
  student_logits: str | None = None
  teacher_logits: str | None = None

  @property
  def distils(self) -> bool:
    """Whether the loss compares the student with another network."""
    return any(array.startswith("teacher") for array in self.arrays)

  @property
  def per_example(self) -> bool:
    """Whether the loss has one value per example, whatever the others are."""
    return not self.relational

  @property
  def together(self) -> bool:
    """Whether the loss takes all teachers at once."""
    return "teachers_logits" in self.arrays

  @property
  def has_auxiliary(self) -> bool:
    """Whether the projector has a loss of its own."""
    return getattr(self.projector, "has_auxiliary", False)

  def at_ends(self) -> tuple["Term", ...]:
    """The terms of the easiest and of the hardest example, without slopes."""
    if not self.slopes:
      return ()
    return tuple(
      dataclasses.replace(
        self,
        options=self.options
        | {key: getattr(slope, end) for key, slope in self.slopes.items()},
        slopes={},
      )
      for end in ("easy", "hard")
    )


def build(
  section: Mapping[str, Mapping[str, Any]],
  teachers: Sequence[str],
  *,
  facts: Mapping[str, Any] | None = None,
  path: str = "objective",
) -> tuple[Term, ...]:
  """Checks the terms of an objective and binds them to their functions.

  A loss on one pair of features whose taps are lists becomes one term for each
  pair of taps, named `<term>.<student tap>`.

  Args:
    section: term name -> {loss (the term's name where not given), coefficient,
      teacher, student_tap, teacher_tap, student_logits, teacher_logits,
      projector, and the loss's own keywords}. Numbers may be schedules, see
      `kdcl_jax.schedules`; a keyword of which a loss takes one value per
      example may go by their ranks, see `kdcl_jax.slopes`.
    teachers: names of the stage's teachers.
    facts: what projectors are told, see `kdcl_jax.projectors.build`.
    path: name of the section in messages.

  Returns:
    The terms.

  Raises:
    UserError: for an unknown loss, field or teacher, or a value out of range.
  """
  terms = tuple(
    _term(*one, teachers, facts or {}, f"{path}.{name}")
    for name, fields in section.items()
    for one in _layers(name, fields, f"{path}.{name}")
  )
  if teachers and not any(term.teachers for term in terms):
    raise UserError(
      f"{path} has no term that uses a teacher, but the stage names"
      f" {', '.join(teachers)}; add a distillation term such as kd, or take"
      " the teachers out."
    )
  return terms


def _layers(name: str, fields: Any, path: str) -> list[tuple[str, Any]]:
  """One (name, fields) for each layer, where the loss takes one layer."""
  if not isinstance(fields, Mapping):
    raise UserError(
      f"{path} is {fields!r}, expected a section like dict(coefficient=1.0)."
    )
  taps = [fields.get(f"{side}_tap", "") for side in ("student", "teacher")]
  if all(isinstance(tap, str) for tap in taps):
    return [(name, fields)]
  loss = lookup.find(LOSSES, fields.get("loss", name), f"{path}.loss")
  parameter = inspect.signature(loss).parameters.get("student_features")
  if parameter is None or "Sequence" in str(parameter.annotation):
    return [(name, fields)]
  if any(isinstance(tap, str) for tap in taps) or len(taps[0]) != len(taps[1]):
    raise UserError(
      f"{path} has the student taps {taps[0]!r} and the teacher taps"
      f" {taps[1]!r}, expected as many of both."
    )
  return [
    (
      f"{name}.{student}",
      {"loss": name}
      | fields
      | {"student_tap": student, "teacher_tap": teacher},
    )
    for student, teacher in zip(*taps, strict=True)
  ]


def _term(
  name: str,
  fields: Mapping[str, Any],
  teachers: Sequence[str],
  facts: Mapping[str, Any],
  path: str,
) -> Term:
  loss_name = fields.get("loss", name)
  loss = lookup.find(LOSSES, loss_name, f"{path}.loss")
  parameters = inspect.signature(loss).parameters
  arrays = tuple(
    p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY
  )
  projector, made, needed = None, (), arrays
  if fields.get("projector"):
    projector = projectors.build(
      fields["projector"], facts, f"{path}.projector"
    )
    made = projectors.makes(projector)
    unused = [n for n in made if n not in parameters]
    if unused:
      raise UserError(
        f"{path}.projector is {fields['projector']['name']!r}, which makes"
        f" {', '.join(unused)}, but the loss {loss_name!r} takes"
        f" {', '.join(parameters)}."
      )
    needed = (
      *(a for a in arrays if a not in made),
      *projectors.needs(projector),
    )
  _check_arrays(arrays, made, loss_name, path)
  keywords = [
    p.name
    for p in parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.name not in _PIPELINE
  ]
  options = {k: v for k, v in fields.items() if k not in _FIELDS}
  for key in options:
    if key not in keywords:
      raise UserError(
        f"{path}.{key} is no field of the loss {loss_name!r}"
        f"{did_you_mean(key, [*keywords, *_FIELDS])}; it takes"
        f" {', '.join([*keywords, 'coefficient'])}."
      )
    if key in made:
      raise UserError(
        f"{path}.{key} is {options[key]!r}, but the projector"
        f" {fields['projector']['name']!r} provides it; take one of them out."
      )
  sloping = {}
  for key, value in options.items():
    if slopes.is_slope(value):
      sloping[key] = slopes.build(value, f"{path}.{key}")
      _check_slope(parameters, key, path)
  if "temperature" in options:
    _check_temperature(options["temperature"], f"{path}.temperature")
  coefficient = fields.get("coefficient", 1.0)
  if isinstance(coefficient, bool) or not isinstance(
    coefficient, int | float | Mapping
  ):
    raise UserError(
      f"{path}.coefficient is {coefficient!r}, expected a number or a schedule"
      " like dict(start=1.0, end=0.0)."
    )
  for side in ("student", "teacher"):
    if f"{side}_features" in needed and f"{side}_tap" not in fields:
      raise UserError(
        f"{path}.{side}_tap is missing: the loss {loss_name!r} compares"
        " features and needs the names of the taps."
      )
  for side in ("student", "teacher"):
    _check_logits(fields.get(f"{side}_logits"), side, needed, loss_name, path)
  return Term(
    name=name,
    loss=loss,
    arrays=arrays,
    teachers=_teachers(fields, needed, teachers, path),
    student_tap=fields.get("student_tap"),
    teacher_tap=fields.get("teacher_tap"),
    coefficient=schedules.build(coefficient, f"{path}.coefficient"),
    options={
      k: schedules.build(v, f"{path}.{k}")
      for k, v in options.items()
      if k not in sloping
    },
    relational="axis_name" in parameters,
    projector=projector,
    slopes=sloping,
    student_logits=fields.get("student_logits"),
    teacher_logits=fields.get("teacher_logits"),
  )


def _check_logits(
  tap: Any, side: str, needed: Sequence[str], loss: str, path: str
) -> None:
  """Whether a term can take the place of a network's logits by a tap."""
  if tap is None:
    return
  if not isinstance(tap, str):
    raise UserError(
      f"{path}.{side}_logits is {tap!r}, expected the name of a tap such as"
      " 'distillation_logits'."
    )
  if not {f"{side}_logits", f"{side}s_logits"} & set(needed):
    raise UserError(
      f"{path}.{side}_logits is {tap!r}, but the loss {loss!r} does not take"
      f" the {side}'s logits; it takes {', '.join(needed)}."
    )


def _check_slope(parameters: Mapping[str, Any], key: str, path: str) -> None:
  """Whether a loss takes one value of a keyword for each example."""
  parameter = parameters[key]
  if "axis_name" in parameters:
    why = "relates the examples of a batch"
  elif "Array" in str(parameter.annotation) and schedules.is_number(
    parameter.default
  ):
    return
  else:
    why = f"is not written for a {key} of each example"
  raise UserError(
    f"{path}.{key} goes from easy to hard, but the loss {why}; expected one"
    " value for all."
  )


def _check_arrays(
  arrays: Sequence[str], made: Sequence[str], loss: str, path: str
) -> None:
  for array in arrays:
    if array in ARRAYS or array in made:
      continue
    helpers = projectors.that_make(array)
    cure = (
      "give the term projector=dict(name=...) with "
      + " or ".join(map(repr, helpers))
      if helpers
      else f"it has {', '.join(ARRAYS)}"
    )
    raise UserError(
      f"{path}: the loss {loss!r} needs the array {array!r}, which a stage"
      f" does not have; {cure}."
    )


def _teachers(
  fields: Mapping[str, Any],
  needed: Sequence[str],
  teachers: Sequence[str],
  path: str,
) -> tuple[int, ...]:
  if not any(array.startswith("teacher") for array in needed):
    return ()
  if not teachers:
    raise UserError(
      f"{path} compares with a teacher, but the stage has none; name one in"
      " its `teachers`."
    )
  if "teacher" not in fields:
    return tuple(range(len(teachers)))
  if fields["teacher"] not in teachers:
    raise UserError(
      f"{path}.teacher is {fields['teacher']!r}, expected one of the stage's"
      f" teachers: {', '.join(teachers)}."
    )
  return (list(teachers).index(fields["teacher"]),)


def _check_temperature(value: Any, path: str) -> None:
  if slopes.is_slope(value):
    for end in ("easy", "hard"):
      _check_temperature(value[end], f"{path}.{end}")
    return
  numbers = [value]
  if isinstance(value, Mapping):
    ends = [value[key] for key in ("start", "end") if key in value]
    numbers = [*ends, *value.get("values", ())]
  for number in numbers:
    if isinstance(number, bool) or (
      isinstance(number, int | float) and not number > 0
    ):
      raise UserError(f"{path} is {number!r}, expected a number > 0.")
