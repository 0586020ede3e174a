"""The loss of a stage: terms and their projectors on a batch.

An objective is a sum of terms, `sum_k coefficient_k(progress) * loss_k`. A
stage with several teachers applies a term to each and takes the mean, unless
the term names one of them or its loss takes all at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdcl_jax import projectors
from kdcl_jax import reweighting as weightings
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.losses.reductions import all_sum
from kdcl_jax.reweighting import Reweighting
from kdcl_jax.terms import Term

Parts = Mapping[str, Mapping[str, Any]]


class Evaluation(NamedTuple):
  """What an objective makes of a (global) batch.

  Attributes:
    task: the weighted terms that need no other network, a scalar.
    distillation: those that compare with one, and the projectors' own losses.
    values: each term's value before its coefficient.
    state: the projectors' state after the batch, as in `init_parts`.
  """

  task: jax.Array
  distillation: jax.Array
  values: dict[str, jax.Array]
  state: Parts


def evaluate(
  terms: Sequence[Term],
  student: Mapping[str, Any],
  teachers: Sequence[Mapping[str, Any]],
  batch: Mapping[str, jax.Array],
  progress: jax.Array,
  axis_name: str | None = None,
  *,
  parts: Mapping[str, Parts] | None = None,
  key: jax.Array | None = None,
  reweighting: Reweighting | None = None,
) -> Evaluation:
  """The losses of a batch: `sum_k c_k * all_sum(w v l_k) / all_sum(w)`.

  v are the weights of a `reweighting`, 1 where there is none or where a term is
  not among those that it weighs.

  Args:
    terms: from `kdcl_jax.terms.build`.
    student: the student's `logits`, `taps` and `inputs`.
    teachers: each teacher's `logits`, `taps` and `variables`.
    batch: `label`, `weight`, `id`, and `mix_label` and `mix` where inputs are
      mixed: a loss with labels is `mix * l(label) + (1 - mix) * l(mix_label)`;
      `rank` where a term has slopes.
    progress: share of the stage that is done, in [0, 1].
    axis_name: the mesh axis under `shard_map`.
    parts: the projectors' variables, see `init_parts`.
    key: of this step, the same on all devices; projectors get one for each
      record. Needed where there are projectors.
    reweighting: how much each example counts.

  Returns:
    The `Evaluation`; the values of its terms are those of unweighted examples.
  """
  weight = batch["weight"]
  total = jnp.maximum(all_sum(jnp.sum(weight), axis_name), 1e-8)

  def mean(value: jax.Array, emphasis: jax.Array | float = 1.0) -> jax.Array:
    if not value.ndim:
      return value
    rows = _per_example(value) * weight * emphasis
    return all_sum(jnp.sum(rows), axis_name) / total

  parts = parts or {"params": {}, "state": {}}
  values, states = {}, dict(parts["state"])
  losses, own_losses = {}, {}
  task = distillation = jnp.zeros((), jnp.float32)
  for term in terms:
    options = {k: value(progress) for k, value in term.options.items()}
    for keyword, slope in term.slopes.items():
      options[keyword] = slope(progress, batch["rank"])
    if term.relational:
      options |= {"where": weight > 0, "axis_name": axis_name}
    results, auxiliaries = [], []
    for place in _places(term):
      context = _context(term, place, student, teachers, batch)
      context |= {"progress": progress, "train": True, "mask": weight > 0}
      given: dict[str, Any] = {}
      if term.projector is not None:
        if key is not None:
          fold = lambda i: jax.random.fold_in(key, i)
          context["keys"] = lambda fold=fold: jax.vmap(fold)(batch["id"])
        name = part_name(term, place)
        variables = {"params": parts["params"].get(name, {})}
        variables |= parts["state"].get(name, {})
        given, states[name] = _projected(term, context, variables)
        if "auxiliary" in given:
          auxiliaries.append(mean(given.pop("auxiliary")))
      results.append(_loss(term, context | given, given, batch, options))
    losses[term.name] = results
    if auxiliaries:
      own_losses[term.name] = sum(auxiliaries)
  emphasis = None
  if reweighting is not None:
    looked_at = losses[reweighting.term]
    emphasis = reweighting.weights(
      sum(_per_example(one) for one in looked_at) / len(looked_at),
      weight > 0,
      progress,
      axis_name,
    )
    values[weightings.NAME] = mean(emphasis)
  for term in terms:
    results = losses[term.name]
    values[term.name] = sum(mean(one) for one in results) / len(results)
    weighted = values[term.name]
    if emphasis is not None and term.name in reweighting.terms:
      weighted = sum(mean(one, emphasis) for one in results) / len(results)
    weighted = term.coefficient(progress) * weighted
    if term.name in own_losses:
      own = values[auxiliary_name(term)] = own_losses[term.name]
      weighted = weighted + own
    if term.distils:
      distillation = distillation + weighted
    else:
      task = task + weighted
  return Evaluation(task, distillation, values, states)


def auxiliary_name(term: Term) -> str:
  """The name of a projector's own loss in logs."""
  return f"{term.name}.auxiliary"


def part_name(term: Term, place: int | None) -> str:
  """The name of a projector's variables: one set for each teacher."""
  return term.name if place is None else f"{term.name}.{place}"


def init_parts(
  terms: Sequence[Term],
  student: Mapping[str, Any],
  teachers: Sequence[Mapping[str, Any]],
  batch: Mapping[str, Any],
  key: jax.Array,
) -> dict[str, dict[str, Any]]:
  """The projectors' variables at step 0.

  Args:
    terms: the objective.
    student: as for `evaluate`, of the right shapes.
    teachers: as for `evaluate`.
    batch: as for `evaluate`.
    key: a typed PRNG key.

  Returns:
    {`params`: part -> trained parameters, `state`: part -> collection ->
    whatever else the projector keeps}; parts without variables have {}.
  """
  params, state = {}, {}
  for number, term in enumerate(terms):
    if term.projector is None:
      continue
    for place in _places(term):
      context = _context(term, place, student, teachers, batch)
      rows = batch["weight"].shape[0]
      context |= {
        "progress": jnp.zeros(()),
        "train": False,
        "mask": jnp.ones(rows, bool),
        "keys": lambda rows=rows: jax.random.split(key, rows),
      }
      arguments = _arguments(projectors.needs(term.projector), context)
      own = jax.random.fold_in(key, 1000 * number + (place or 0))
      variables = dict(term.projector.init(own, **arguments))
      name = part_name(term, place)
      params[name] = variables.pop("params", {})
      state[name] = variables
  return {"params": params, "state": state}


def _places(term: Term) -> Sequence[int | None]:
  return [None] if term.together or not term.teachers else term.teachers


def _context(
  term: Term,
  place: int | None,
  student: Mapping[str, Any],
  teachers: Sequence[Mapping[str, Any]],
  batch: Mapping[str, jax.Array],
) -> dict[str, Any]:
  """What losses and projectors can ask for; functions are called if asked."""
  teacher = {} if place is None else teachers[place]
  return {
    "student_logits": lambda: _logits(student, term.student_logits, "student"),
    "teacher_logits": lambda: _logits(teacher, term.teacher_logits, "teacher"),
    "teachers_logits": lambda: jnp.stack(
      [
        _logits(teachers[i], term.teacher_logits, "teacher")
        for i in term.teachers
      ]
    ),
    "labels": lambda: batch["label"],
    "student_features": lambda: _taps(student, term.student_tap, "student"),
    "teacher_features": lambda: _taps(teacher, term.teacher_tap, "teacher"),
    "teacher_variables": lambda: teacher["variables"],
    "inputs": lambda: student["inputs"],
    "ids": lambda: batch["id"],
  }


def _arguments(
  names: Sequence[str], context: Mapping[str, Any]
) -> dict[str, Any]:
  values = {name: context[name] for name in names}
  return {k: v() if callable(v) else v for k, v in values.items()}


def _projected(
  term: Term, context: Mapping[str, Any], variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What a projector provides, and its state afterwards."""
  arguments = _arguments(projectors.needs(term.projector), context)
  collections = [name for name in variables if name != "params"]
  made, state = term.projector.apply(
    variables, **arguments, mutable=collections
  )
  made = dict(made) if isinstance(made, Mapping) else {"student_features": made}
  return made, dict(state)


def _loss(
  term: Term,
  context: Mapping[str, Any],
  given: Mapping[str, Any],
  batch: Mapping[str, jax.Array],
  options: Mapping[str, Any],
) -> jax.Array:
  keywords = {k: v for k, v in given.items() if k not in term.arrays}

  def value(labels: jax.Array) -> jax.Array:
    arrays = _arguments(term.arrays, context | {"labels": labels})
    return term.loss(
      *(arrays[name] for name in term.arrays), **options, **keywords
    )

  if "labels" not in term.arrays or "mix" not in batch:
    return value(batch["label"])
  mix = batch["mix"]
  if term.relational:
    raise UserError(
      f"the loss {term.name!r} relates examples by their labels and cannot be"
      " used with mixed inputs; take mixup out of config.data.augment."
    )
  return mix * value(batch["label"]) + (1 - mix) * value(batch["mix_label"])


def _logits(outputs: Mapping[str, Any], tap: str | None, side: str) -> Any:
  return outputs["logits"] if tap is None else _taps(outputs, tap, side)


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
