"""Distillation-oriented momentum: one momentum for each of two gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class DotState(NamedTuple):
  """The state of `dot`.

  Attributes:
    task: momentum of the task's gradient.
    distillation: momentum of the gradient of distillation.
    touched: for each parameter, which of the two gradients has ever been other
      than zero, bool [2].
    count: steps done.
  """

  task: Any
  distillation: Any
  touched: Any
  count: jax.Array


def dot(
  learning_rate: optax.ScalarOrSchedule,
  momentum: float = 0.9,
  delta: float = 0.075,
  weight_decay: float = 0.0,
  mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """Distillation-oriented trainer (DOT): distillation leads, the task follows.

  `v_t <- (m - d) v_t + g_t`, `v_d <- (m + d) v_d + g_d`, `update = -rate (v_t +
  v_d)`. A parameter that only one of the two losses reaches has momentum m.
  Weight decay is part of g_t.

  Args:
    learning_rate: a number or a schedule.
    momentum: m in [0, 1).
    delta: d >= 0 with m + d < 1; 0.075 for CIFAR and Tiny-ImageNet, 0.09 for
      ImageNet.
    weight_decay: >= 0.
    mask: which parameters decay, see `optax.add_decayed_weights`.

  Returns:
    A transformation of the task's gradient; `update` takes the other one as the
    extra argument `distillation`.

  Raises:
    ValueError: for numbers out of range; in `update`, without `distillation`.

  Example:
    >>> import jax.numpy as jnp
    >>> trainer = dot(1.0, momentum=0.5, delta=0.25)
    >>> state = trainer.init(jnp.zeros(()))
    >>> one = jnp.ones(())
    >>> _, state = trainer.update(one, state, distillation=one)
    >>> update, state = trainer.update(one, state, distillation=one)
    >>> print(update, state.task, state.distillation)
    -3.0 1.25 1.75

  Reference:
    Zhao et al., "DOT: A Distillation-Oriented Trainer", 2023, arXiv:2307.08436,
    section 3.3; as in mdistiller.
  """
  if not 0 <= momentum < 1 or not 0 <= delta < 1 - momentum:
    raise ValueError(
      f"momentum is {momentum!r} and delta {delta!r}, expected 0 <= momentum <"
      " 1 and 0 <= delta < 1 - momentum."
    )

  decay = optax.add_decayed_weights(weight_decay, mask)

  def init(params: Any) -> DotState:
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    touched = jax.tree.map(lambda _: jnp.zeros(2, bool), params)
    return DotState(zeros(), zeros(), touched, jnp.zeros((), jnp.int32))

  def update(
    updates: Any,
    state: DotState,
    params: Any = None,
    *,
    distillation: Any = None,
    **extra: Any,
  ) -> tuple[Any, DotState]:
    del extra
    if distillation is None:
      raise ValueError(
        "update got no `distillation`, expected the gradient of the"
        " distillation losses, a tree like the first argument."
      )
    seen = lambda before, *gradients: (
      before | jnp.stack([jnp.any(g != 0) for g in gradients])
    )
    touched = jax.tree.map(seen, state.touched, updates, distillation)

    def moved(sign: float) -> Any:
      return lambda v, g, seen: (
        (momentum + sign * delta * jnp.all(seen)).astype(v.dtype) * v + g
      )

    if weight_decay:
      updates, _ = decay.update(updates, decay.init(params), params)
    task = jax.tree.map(moved(-1.0), state.task, updates, touched)
    other = jax.tree.map(moved(1.0), state.distillation, distillation, touched)
    rate = learning_rate
    if callable(learning_rate):
      rate = learning_rate(state.count)
    step = jax.tree.map(lambda a, b: -rate * (a + b), task, other)
    return step, DotState(task, other, touched, state.count + 1)

  return optax.GradientTransformationExtraArgs(init, update)
