"""From the names in a config to one pure function: the loss of a stage.

An objective is a sum of terms, `sum_k coefficient_k(progress) * loss_k`. A term
names a function of `kdcl_jax.losses`, and its arrays are bound by the names of
that function's parameters: `student_logits`, `teacher_logits`, `labels`,
`student_features`, `teacher_features`. A stage with several teachers applies a
term to each and takes the mean, unless the term names one of them.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdcl_jax import lookup, schedules
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.losses import LOSSES

ARRAYS = (
  "student_logits",
  "teacher_logits",
  "labels",
  "student_features",
  "teacher_features",
)
_TERM_FIELDS = ("loss", "coefficient", "teacher", "student_tap", "teacher_tap")
_PIPELINE = ("where", "axis", "axis_name")  # set here, never by a config


@dataclasses.dataclass(frozen=True)
class Term:
  """One named loss of an objective.

  Attributes:
    name: the term's name in the config, in logs and in plots.
    loss: the function.
    arrays: names of its array parameters, in order.
    teachers: which of the stage's teachers it compares with; () for none.
    student_tap, teacher_tap: the taps of feature losses, or lists of them.
    coefficient: progress -> factor.
    options: keyword -> (progress -> value).
    takes_axis_name, takes_where: whether the function is relational, and takes
      the mesh axis and the mask of present rows.
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


def build(
  section: Mapping[str, Mapping[str, Any]],
  teachers: Sequence[str],
  *,
  path: str = "objective",
) -> tuple[Term, ...]:
  """Checks the terms of an objective and binds them to their functions.

  Args:
    section: term name -> {loss (the term's name where not given), coefficient,
      teacher, student_tap, teacher_tap, and the loss's own keywords}. Numbers
      may be schedules, see `kdcl_jax.schedules`.
    teachers: names of the stage's teachers.
    path: name of the section in messages.

  Returns:
    The terms.

  Raises:
    UserError: for an unknown loss, field or teacher, or a value out of range.
  """
  terms = tuple(
    _term(name, fields, teachers, f"{path}.{name}")
    for name, fields in section.items()
  )
  if teachers and not any(term.teachers for term in terms):
    raise UserError(
      f"{path} has no term that uses a teacher, but the stage names"
      f" {', '.join(teachers)}; add a distillation term such as kd, or take"
      " the teachers out."
    )
  return terms


def _term(name: str, fields: Any, teachers: Sequence[str], path: str) -> Term:
  if not isinstance(fields, Mapping):
    raise UserError(
      f"{path} is {fields!r}, expected a section like dict(coefficient=1.0)."
    )
  loss_name = fields.get("loss", name)
  loss = lookup.find(LOSSES, loss_name, f"{path}.loss")
  parameters = inspect.signature(loss).parameters
  arrays = tuple(
    p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY
  )
  for array in arrays:
    if array not in ARRAYS:
      raise UserError(
        f"{path}: the loss {loss_name!r} needs the array {array!r}, which a"
        f" stage does not have; it has {', '.join(ARRAYS)}."
      )
  keywords = [
    p.name
    for p in parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.name not in _PIPELINE
  ]
  options = {k: v for k, v in fields.items() if k not in _TERM_FIELDS}
  for key in options:
    if key not in keywords:
      raise UserError(
        f"{path}.{key} is no field of the loss {loss_name!r}"
        f"{did_you_mean(key, [*keywords, *_TERM_FIELDS])}; it takes"
        f" {', '.join([*keywords, 'coefficient'])}."
      )
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
    if f"{side}_features" in arrays and f"{side}_tap" not in fields:
      raise UserError(
        f"{path}.{side}_tap is missing: the loss {loss_name!r} compares"
        " features and needs the names of the taps."
      )
  return Term(
    name=name,
    loss=loss,
    arrays=arrays,
    teachers=_teachers(fields, arrays, teachers, path),
    student_tap=fields.get("student_tap"),
    teacher_tap=fields.get("teacher_tap"),
    coefficient=schedules.build(coefficient, f"{path}.coefficient"),
    options={k: schedules.build(v, f"{path}.{k}") for k, v in options.items()},
    relational="axis_name" in parameters,
  )


def _teachers(
  fields: Mapping[str, Any],
  arrays: Sequence[str],
  teachers: Sequence[str],
  path: str,
) -> tuple[int, ...]:
  if not any(array.startswith("teacher_") for array in arrays):
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
  ends = value.values() if isinstance(value, Mapping) else (value,)
  for number in ends:
    if isinstance(number, bool) or (
      isinstance(number, int | float) and not number > 0
    ):
      raise UserError(f"{path} is {number!r}, expected a number > 0.")


def all_sum(value: jax.Array, axis_name: str | None) -> jax.Array:
  """The sum over devices where an axis is given, the value itself otherwise."""
  return jax.lax.psum(value, axis_name) if axis_name else value


def evaluate(
  terms: Sequence[Term],
  student: Mapping[str, Any],
  teachers: Sequence[Mapping[str, Any]],
  batch: Mapping[str, jax.Array],
  progress: jax.Array,
  axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of a (global) batch: `sum_k c_k * all_sum(w l_k) / all_sum(w)`.

  Args:
    terms: from `build`.
    student: the student's `logits` and `taps`.
    teachers: each teacher's `logits` and `taps`.
    batch: `label`, `weight`, and `mix_label` and `mix` where inputs are mixed:
      a loss with labels is then `mix * l(label) + (1 - mix) * l(mix_label)`.
    progress: share of the stage that is done, in [0, 1].
    axis_name: the mesh axis under `shard_map`.

  Returns:
    The scalar loss and each term's value before its coefficient.
  """
  weight = batch["weight"]
  total = jnp.maximum(all_sum(jnp.sum(weight), axis_name), 1e-8)
  values = {}
  loss = jnp.zeros((), jnp.float32)
  for term in terms:
    options = {k: value(progress) for k, value in term.options.items()}
    if term.relational:
      options |= {"where": weight > 0, "axis_name": axis_name}
    results = []
    for teacher in [teachers[i] for i in term.teachers] or [None]:
      value = _mixed(term, student, teacher, batch, options)
      if value.ndim:
        value = (
          all_sum(jnp.sum(_per_example(value) * weight), axis_name) / total
        )
      results.append(value)
    values[term.name] = sum(results) / len(results)
    loss = loss + term.coefficient(progress) * values[term.name]
  return loss, values


def _mixed(
  term: Term,
  student: Mapping[str, Any],
  teacher: Mapping[str, Any] | None,
  batch: Mapping[str, jax.Array],
  options: Mapping[str, Any],
) -> jax.Array:
  def value(labels: jax.Array) -> jax.Array:
    available = {
      "student_logits": lambda: student["logits"],
      "teacher_logits": lambda: teacher["logits"],
      "labels": lambda: labels,
      "student_features": lambda: _taps(student, term.student_tap, "student"),
      "teacher_features": lambda: _taps(teacher, term.teacher_tap, "teacher"),
    }
    return term.loss(*(available[name]() for name in term.arrays), **options)

  if "labels" not in term.arrays or "mix" not in batch:
    return value(batch["label"])
  mix = batch["mix"]
  if term.relational:
    raise UserError(
      f"the loss {term.name!r} relates examples by their labels and cannot be"
      " used with mixed inputs; take mixup out of config.data.augment."
    )
  return mix * value(batch["label"]) + (1 - mix) * value(batch["mix_label"])


def _taps(outputs: Mapping[str, Any], names: Any, side: str) -> Any:
  if not isinstance(names, str):
    return [_taps(outputs, name, side) for name in names]
  if names not in outputs["taps"]:
    raise UserError(
      f"the {side}'s model has no tap {names!r}"
      f"{did_you_mean(names, outputs['taps'])}; its taps are"
      f" {', '.join(outputs['taps']) or 'none'}."
    )
  return outputs["taps"][names]


def _per_example(value: jax.Array) -> jax.Array:
  """[B, ...] -> [B]: the mean over whatever an example consists of."""
  return jnp.mean(value, axis=tuple(range(1, value.ndim)))
