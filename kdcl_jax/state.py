"""What a training step changes: arrays only, so a checkpoint is the state."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Tree = Any


@flax.struct.dataclass
class TrainState:
  """Everything that a step reads and writes.

  Attributes:
    step: int32, steps done.
    seed: uint32, keys dropout.
    params: the trained parameters.
    parts: `params` and `state` of the objective's projectors, which are trained
      with the model and are no part of it; see `objective.init_parts`.
    batch_stats: the model's running statistics; {} where it has none.
    opt_state: the optimizer's state.
    ema: moving average of {'params', 'batch_stats'}; {} where it is off.
    learning_rate_scale: float32 factor on the schedule, set by the course.
    schedule_start: int32, the step at which the schedule was last started.
    dynamics: name -> what a stream knows of each record, see
      `kdcl_jax.difficulty.STREAMS`; {} where there is none.
    sums: metric name -> float32 (2,) sum and weight since the last log line.
    lesson: float32 (3,), loss, hits and examples summed since the lesson began.
    skips: int32 (2,), steps skipped because loss or gradient was not finite,
      and how many of them the last steps were, in a row.
    bad_step: int32, the first step that was not finite and not skipped; -1 if
      none.
  """

  step: jax.Array
  seed: jax.Array
  params: Tree
  parts: dict[str, Tree]
  batch_stats: Tree
  opt_state: Tree
  ema: Tree
  learning_rate_scale: jax.Array
  schedule_start: jax.Array
  dynamics: dict[str, Tree]
  sums: dict[str, jax.Array]
  lesson: jax.Array
  skips: jax.Array
  bad_step: jax.Array

  def variables(self) -> dict[str, Tree]:
    """What the model is evaluated with: the moving average where it is on."""
    if self.ema:
      return self.ema
    return {"params": self.params, "batch_stats": self.batch_stats}

  def trained(self) -> dict[str, Tree]:
    """What the optimizer updates, in its two groups."""
    return groups(self.params, self.parts["params"])


def groups(model: Tree, projectors: Tree) -> dict[str, Tree]:
  """The parameters in the groups that have optimizers of their own."""
  return {"model": model, "projectors": projectors}


def create(
  variables: dict[str, Tree],
  optimizer: optax.GradientTransformation,
  metrics: tuple[str, ...],
  *,
  seed: int,
  ema: bool,
  parts: dict[str, Tree] | None = None,
  dynamics: dict[str, Tree] | None = None,
) -> TrainState:
  """The state at step 0.

  Args:
    variables: the model's `params` and, where it has them, `batch_stats`.
    optimizer: what will update the parameters.
    metrics: names of the metrics that the step sums up.
    seed: keys dropout, in [0, 2**32).
    ema: whether a moving average of the variables is kept.
    parts: the projectors' variables at step 0; None for no projectors.
    dynamics: the states of the streams at step 0; None for no stream.

  Returns:
    A `TrainState`.
  """
  params = variables["params"]
  batch_stats = variables.get("batch_stats", {})
  # Copied: a donated buffer must not be reachable from two places.
  average = {"params": params, "batch_stats": batch_stats} if ema else {}
  parts = parts or {"params": {}, "state": {}}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=jnp.asarray(seed, jnp.uint32),
    params=params,
    parts=parts,
    batch_stats=batch_stats,
    opt_state=optimizer.init(groups(params, parts["params"])),
    ema=jax.tree.map(jnp.copy, average),
    learning_rate_scale=jnp.ones((), jnp.float32),
    schedule_start=jnp.zeros((), jnp.int32),
    dynamics=dynamics or {},
    sums={name: jnp.zeros(2, jnp.float32) for name in metrics},
    lesson=jnp.zeros(3, jnp.float32),
    skips=jnp.zeros(2, jnp.int32),
    bad_step=jnp.full((), -1, jnp.int32),
  )
