"""The step: one pure body for training, one for looking at records."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kdcl_jax import difficulty, models, objective
from kdcl_jax import reweighting as weightings
from kdcl_jax.difficulty import Stream
from kdcl_jax.inputs import Input
from kdcl_jax.losses.reductions import all_sum
from kdcl_jax.reweighting import Reweighting
from kdcl_jax.selection import Selection
from kdcl_jax.state import TrainState
from kdcl_jax.terms import Term

Batch = Mapping[str, jax.Array]
Forward = Callable[..., tuple[dict[str, Any], dict[str, Any]]]
_RECORDS = 2**31  # folds the step's key into that of the records


@dataclasses.dataclass(frozen=True)
class _ForwardPass:
  """A forward pass; equal ones share what is compiled of them."""

  module: nn.Module
  input_name: str
  view: Input

  def __call__(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    train: bool = False,
    rngs: Mapping[str, jax.Array] | None = None,
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    x = self.view(batch[self.input_name])
    mask = batch["weight"] > 0
    outputs, stats = models.forward(
      self.module, variables, x, train=train, mask=mask, rngs=rngs
    )
    return outputs | {"inputs": x}, stats


def forward_of(
  module: nn.Module,
  input_name: str,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  size: Sequence[int] = (),
  channels: str = "",
  interpolation: str = "bilinear",
) -> Forward:
  """The forward pass of a model from a batch as the pipeline delivers it.

  Integer inputs are scaled to [0, 1], then come channels, size, and `(x - mean)
  / std` per channel.

  Args:
    module: the model.
    input_name: the batch's key of the input.
    mean: per channel, or empty for none.
    std: per channel, or empty for none.
    size: (height, width), or empty for as it comes.
    channels: see `kdcl_jax.inputs.Input`.
    interpolation: see `kdcl_jax.inputs.Input`.

  Returns:
    `forward(variables, batch, train=False, rngs=None) -> (outputs,
    batch_stats)`. Forward passes of equal arguments are equal.
  """
  view = Input(tuple(mean), tuple(std), tuple(size), channels, interpolation)
  return _ForwardPass(module, input_name, view)


def train_body(
  forward: Forward,
  terms: Sequence[Term],
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  teachers: Sequence[Forward] = (),
  two_gradients: bool = False,
  reweighting: Reweighting | None = None,
  streams: Mapping[str, Stream] | None = None,
  selection: Selection | None = None,
  total_steps: int,
  ema: float = 0.0,
  skip_not_finite: int = 0,
  axis_name: str | None = None,
  traced: Callable[[], None] = lambda: None,
) -> Callable[[TrainState, Sequence[Any], Batch], tuple[TrainState, jax.Array]]:
  """One training step as a pure function of the state and a batch.

  Args:
    forward: the model's forward pass.
    terms: the objective.
    optimizer: from `kdcl_jax.optimizer.build`; it updates `TrainState.trained`.
    schedule: the learning rate, for the logs.
    teachers: forward passes of the teachers.
    two_gradients: whether the optimizer wants the gradient of distillation
      apart, as the extra argument `distillation`.
    reweighting: how much each example counts; None for all alike.
    streams: what is kept of how each record does, by name; None for nothing.
    selection: which rows of an oversized batch are trained on; None for all.
    total_steps: length of the stage.
    ema: decay of the moving average; 0 for none.
    skip_not_finite: so many steps in a row whose loss, gradient or update is
      not finite change nothing but what counts them; 0 for none.
    axis_name: the mesh axis under `shard_map`.
    traced: called once for each trace.

  Returns:
    `body(state, teacher_variables, batch) -> (state, loss)`.
  """

  def _selected(
    selection: Selection,
    state: TrainState,
    teacher_variables: Sequence[Any],
    batch: Batch,
    key: jax.Array,
  ) -> Batch:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = forward(variables, batch)[0]["logits"]
    taught = [
      teach(variables, batch)[0]["logits"]
      for teach, variables in zip(teachers, teacher_variables, strict=True)
      if selection.asks_teachers
    ]
    return selection.choose(logits, taught, batch, key, axis_name)

  def body(
    state: TrainState, teacher_variables: Sequence[Any], batch: Batch
  ) -> tuple[TrainState, jax.Array]:
    traced()
    progress = state.step.astype(jnp.float32) / total_steps
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    if axis_name:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    records = jax.random.fold_in(jax.random.key(state.seed), state.step)
    records = jax.random.fold_in(records, _RECORDS)
    if selection is not None:
      batch = _selected(selection, state, teacher_variables, batch, records)
    taught = [
      jax.lax.stop_gradient(teach(variables, batch)[0])
      | {"variables": variables}
      for teach, variables in zip(teachers, teacher_variables, strict=True)
    ]

    def losses_of(trained: Any) -> tuple[tuple[jax.Array, ...], tuple]:
      variables = {
        "params": trained["model"],
        "batch_stats": state.batch_stats,
      }
      outputs, stats = forward(
        variables, batch, train=True, rngs={"dropout": key}
      )
      found = objective.evaluate(
        terms,
        outputs,
        taught,
        batch,
        progress,
        axis_name,
        parts=state.parts | {"params": trained["projectors"]},
        key=records,
        reweighting=reweighting,
      )
      losses = found.task, found.distillation
      aux = stats, found.values, found.state, outputs["logits"]
      return losses if two_gradients else (sum(losses),), aux

    trained = state.trained()
    losses, pullback, (stats, values, parts_state, logits) = jax.vjp(
      losses_of, trained, has_aux=True
    )
    loss = sum(losses)
    ones = [jnp.ones_like(one) for one in losses]
    zeros = [jnp.zeros_like(one) for one in losses]
    gradients = [
      pullback((*zeros[:i], ones[i], *zeros[i + 1 :]))[0]
      for i in range(len(losses))
    ]
    extra = {"distillation": gradients[1]} if two_gradients else {}
    updates, opt_state = optimizer.update(
      gradients[0], state.opt_state, trained, **extra
    )
    updates = jax.tree.map(
      lambda u: u * state.learning_rate_scale.astype(u.dtype), updates
    )
    trained = optax.apply_updates(trained, updates)
    params = trained["model"]
    grads = jax.tree.map(lambda *g: sum(g), *(g["model"] for g in gradients))
    variables = {"params": params, "batch_stats": stats}
    average = state.ema
    if average:
      average = jax.tree.map(
        lambda a, v: ema * a + (1 - ema) * v, average, variables
      )
    weight = batch["weight"]
    dynamics = {
      name: stream.update(
        state.dynamics[name],
        batch["id"],
        logits,
        batch["label"],
        where=weight > 0,
        axis_name=axis_name,
      )
      for name, stream in (streams or {}).items()
    }
    count = all_sum(jnp.sum(weight), axis_name)
    hits = all_sum(
      jnp.sum(weight * (jnp.argmax(logits, -1) == batch["label"])), axis_name
    )
    rate = schedule(state.step - state.schedule_start)
    rate = rate * state.learning_rate_scale
    measured = {
      "loss": _weighed(loss, count),
      "accuracy": jnp.stack([hits, count]),
      "grad_norm": _weighed(optax.tree.norm(grads), 1.0),
      "learning_rate": _weighed(rate, 1.0),
      **{f"terms/{k}": _weighed(v, count) for k, v in values.items()},
    }
    sums = {k: state.sums[k] + measured[k] for k in state.sums}
    finite = jnp.isfinite(loss) & jnp.isfinite(measured["grad_norm"][0])
    bad_step = jnp.where(
      (state.bad_step < 0) & ~finite, state.step, state.bad_step
    )
    new = state.replace(
      step=state.step + 1,
      params=params,
      parts={"params": trained["projectors"], "state": parts_state},
      batch_stats=stats,
      opt_state=opt_state,
      ema=average,
      dynamics=dynamics,
      sums=sums,
      lesson=state.lesson + jnp.stack([loss * count, hits, count]),
      bad_step=bad_step,
    )
    if skip_not_finite:
      finite &= _finite((updates, stats, parts_state, gradients))
      new = _unless(finite, state, new, skip_not_finite)
    return new, loss

  return body


def _finite(tree: Any) -> jax.Array:
  """Whether all numbers are."""
  leaves = [
    jnp.all(jnp.isfinite(leaf))
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(leaves))


def _unless(
  finite: jax.Array, old: TrainState, new: TrainState, most: int
) -> TrainState:
  """The new state; the old one, a step on, where that is not finite."""
  row = jnp.where(finite, 0, old.skips[1] + 1)
  kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
  bad = (old.bad_step < 0) & (row > most)
  return kept.replace(
    step=new.step,
    skips=jnp.stack([old.skips[0] + ~finite, row]),
    bad_step=jnp.where(bad, old.step, old.bad_step),
  )


def metric_names(
  terms: Sequence[Term], reweighting: Reweighting | None = None
) -> tuple[str, ...]:
  """The names of what `train_body` sums up."""
  names = [term.name for term in terms]
  names += [weightings.NAME] if reweighting is not None else []
  names += [objective.auxiliary_name(t) for t in terms if t.has_auxiliary]
  own = ("loss", "accuracy", "grad_norm", "learning_rate")
  return own + tuple(f"terms/{name}" for name in names)


def _weighed(value: Any, weight: Any) -> jax.Array:
  return jnp.stack(
    [jnp.asarray(value, jnp.float32) * weight, jnp.asarray(weight, jnp.float32)]
  )


def record_body(
  forward: Forward,
  scores: Mapping[str, Callable[..., jax.Array]],
  axis_name: str | None = None,
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
  """What a model makes of each record of a batch, in evaluation mode.

  Args:
    forward: the model's forward pass.
    scores: name -> function of what it needs, by default (logits [B, K],
      labels [B]), giving [B, ...]; see `kdcl_jax.difficulty.needs`.
    axis_name: the mesh axis under `shard_map`.

  Returns:
    `body(variables, batch)` -> arrays [B]: `readable` (bool), `prediction`,
    `confidence` (the largest probability), `loss` (cross-entropy), and the
    scores.
  """

  def body(variables: Any, batch: Batch) -> dict[str, jax.Array]:
    outputs = forward(variables, batch)[0]
    logits, labels = outputs["logits"], batch["label"]
    given = {
      "logits": lambda: logits,
      "labels": lambda: labels,
      "outputs": lambda: outputs,
      "layers": lambda: difficulty.layers_of(outputs),
      "forward": lambda: forward,
      "variables": lambda: _own(variables, axis_name),
      "batch": lambda: batch,
    }
    values = {
      name: score(*(given[need]() for need in difficulty.needs_of(score)))
      for name, score in scores.items()
    }
    log_p = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return {
      "readable": batch["weight"] > 0,
      "prediction": jnp.argmax(logits, -1),
      "confidence": jnp.exp(jnp.max(log_p, -1)),
      "loss": loss,
      **values,
    }

  return body


def _own(tree: Any, axis_name: str | None) -> Any:
  """A device's own copy, whose gradients are not summed over the devices."""
  if axis_name is None:
    return tree
  return jax.tree.map(
    lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), tree
  )


def device_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of a batch that a device needs: not `visit`, `unreadable`."""
  return {k: v for k, v in batch.items() if k not in ("visit", "unreadable")}
