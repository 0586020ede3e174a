"""Optax optimizers and learning-rate schedules from a config section."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdcl_jax import lookup
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.fields import OPTIMIZER
from kdcl_jax.momentum import DotState, dot

# Those that take `weight_decay` apply it as their papers have it; for the rest
# it is added to the gradient.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": optax.sgd,
  "adam": optax.adam,
  "adamw": optax.adamw,
  "nadam": optax.nadam,
  "nadamw": optax.nadamw,
  "radam": optax.radam,
  "rmsprop": optax.rmsprop,
  "adagrad": optax.adagrad,
  "adabelief": optax.adabelief,
  "adafactor": optax.adafactor,
  "amsgrad": optax.amsgrad,
  "dot": dot,
  "lamb": optax.lamb,
  "lars": optax.lars,
  "lion": optax.lion,
  "novograd": optax.novograd,
  "yogi": optax.yogi,
}


def schedule(section: Mapping[str, Any], total_steps: int) -> optax.Schedule:
  """The learning rate as a function of the step.

  Args:
    section: `config.<stage>.optimizer`; see `kdcl_jax.fields.OPTIMIZER`.
    total_steps: length of the stage.

  Returns:
    step -> learning rate. A warmup is linear from 0. `multistep` multiplies by
    `factor` at each of the `boundaries`, which are shares of the stage.
  """
  options = section["schedule"]
  peak = section["learning_rate"]
  warmup = round(options["warmup"] * total_steps)
  rest = max(total_steps - warmup, 1)
  name = options["name"]
  if name == "constant":
    main = optax.constant_schedule(peak)
  elif name == "cosine":
    main = optax.cosine_decay_schedule(peak, rest, alpha=options["end"])
  elif name == "linear":
    main = optax.linear_schedule(peak, peak * options["end"], rest)
  else:
    main = optax.piecewise_constant_schedule(
      peak,
      {
        round(share * total_steps) - warmup: options["factor"]
        for share in options["boundaries"]
      },
    )
  if not warmup:
    return main
  return optax.join_schedules(
    [optax.linear_schedule(0.0, peak, warmup), main], [warmup]
  )


_MOMENTUM = inspect.signature(dot).parameters["momentum"].default


def wants_two_gradients(section: Mapping[str, Any]) -> bool:
  """Whether the optimizer takes the gradient of distillation apart."""
  return section["name"] == "dot"


def build(
  section: Mapping[str, Any], total_steps: int, *, path: str = "optimizer"
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a stage: one for the model, one for the projectors.

  Args:
    section: `config.<stage>.optimizer`; what `projectors` holds is laid over it
      for the projectors' group. Under `dot` these have only one gradient, and
      plain momentum.
    total_steps: length of the stage.
    path: name of the section in messages.

  Returns:
    A transformation of `{"model": ..., "projectors": ...}`, see
    `kdcl_jax.state.groups`; `distillation`, if given, is of the same form.

  Raises:
    UserError: see `single`.
  """
  own = dict(section["projectors"])
  for key in ("schedule", "projectors", "ema"):
    if key in own:
      raise UserError(
        f"{path}.projectors.{key} is given, but projectors share that of the"
        " model; take it out."
      )
  base = dict(section)
  if wants_two_gradients(section):
    if section["clip"]:
      raise UserError(
        f"{path}.clip is {section['clip']!r}, but dot keeps two gradients apart"
        " and clips none; expected 0."
      )
    base["name"] = "sgd"
    base.pop("delta", None)
    base.setdefault("momentum", _MOMENTUM)
  if own.get("name", base["name"]) != base["name"]:  # takes other arguments
    base = {k: v for k, v in base.items() if k in OPTIMIZER.fields}
  model = optax.with_extra_args_support(single(section, total_steps, path=path))
  other = optax.with_extra_args_support(
    single(base | own, total_steps, path=f"{path}.projectors")
  )

  def init(params: Any) -> dict[str, Any]:
    return {
      "model": model.init(params["model"]),
      "projectors": other.init(params["projectors"]),
    }

  def update(
    gradients: Any,
    state: Any,
    params: Any = None,
    *,
    distillation: Any = None,
  ) -> tuple[Any, Any]:
    extra = {}
    whole = gradients["projectors"]
    if distillation is not None:
      extra = {"distillation": distillation["model"]}
      whole = jax.tree.map(
        lambda a, b: a + b, whole, distillation["projectors"]
      )
    first, first_state = model.update(
      gradients["model"], state["model"], params["model"], **extra
    )
    second, second_state = other.update(
      whole, state["projectors"], params["projectors"]
    )
    return (
      {"model": first, "projectors": second},
      {"model": first_state, "projectors": second_state},
    )

  return optax.GradientTransformationExtraArgs(init, update)


def restarted(state: Any) -> Any:
  """The state of an optimizer whose learning rate starts its schedule again.

  Moments and their counts stay as they are.

  Args:
    state: of what `build` returns.

  Returns:
    The same with the schedules' counts at 0.
  """
  kinds = (optax.ScaleByScheduleState, DotState)

  def reset(node: Any) -> Any:
    if not isinstance(node, kinds):
      return node
    return node._replace(count=jnp.zeros_like(node.count))

  is_leaf = lambda node: isinstance(node, kinds)
  return jax.tree.map(reset, state, is_leaf=is_leaf)


def single(
  section: Mapping[str, Any], total_steps: int, *, path: str = "optimizer"
) -> optax.GradientTransformation:
  """The optimizer of one group of parameters.

  Weight decay leaves out biases and the scales of normalisation (every
  parameter with fewer than two axes) unless `decay_all` is set.

  Args:
    section: `config.<stage>.optimizer`; keys that are not in
      `kdcl_jax.fields.OPTIMIZER` go to the optax function.
    total_steps: length of the stage.
    path: name of the section in messages.

  Returns:
    An optax transformation whose updates carry the learning rate.

  Raises:
    UserError: for an unknown optimizer or an argument that it does not take.
  """
  name = section["name"]
  factory = lookup.find(OPTIMIZERS, name, f"{path}.name")
  parameters = inspect.signature(factory).parameters
  arguments = {k: v for k, v in section.items() if k not in OPTIMIZER.fields}
  for key in arguments:
    if key not in parameters or key == "learning_rate":
      raise UserError(
        f"{path}.{key} is no field of the optimizer {name!r}"
        f"{did_you_mean(key, [*parameters, *OPTIMIZER.fields])}; it takes"
        f" {', '.join(p for p in parameters if p != 'learning_rate')}."
      )
  decay = section["weight_decay"]
  mask = None if section["decay_all"] else _matrices
  chain = []
  if section["clip"]:
    chain.append(optax.clip_by_global_norm(section["clip"]))
  if "weight_decay" in parameters:  # 0 as well: optax has defaults of its own
    arguments["weight_decay"] = decay
    for key in {"mask", "weight_decay_mask"} & set(parameters):
      arguments[key] = mask
  elif decay:
    chain.append(optax.add_decayed_weights(decay, mask))
  try:
    chain.append(factory(schedule(section, total_steps), **arguments))
  except (TypeError, ValueError) as error:
    raise UserError(f"{path}: optax.{name} says: {error}.") from error
  return optax.chain(*chain)


def _matrices(params: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
