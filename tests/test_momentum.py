"""DOT against its formula, on its own and as the optimizer of a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import optimizer
from kdcl_jax.errors import UserError
from kdcl_jax.momentum import dot

RNG = np.random.default_rng(0)
START = {"both": RNG.normal(size=3), "task": RNG.normal(size=2)}
GRADIENTS = [
  {name: RNG.normal(size=(2, *value.shape)) for name, value in START.items()}
  for _ in range(4)
]


def published(rate, momentum, delta, decay):
  """The loop of the published code, in NumPy; 'task' has one gradient only."""
  params = {k: v.copy() for k, v in START.items()}
  v_task = {k: np.zeros_like(v) for k, v in START.items()}
  v_other = {k: np.zeros_like(v) for k, v in START.items()}
  for gradients in GRADIENTS:
    for k, p in params.items():
      task, other = gradients[k]
      d = delta if k == "both" else 0.0
      v_task[k] = (momentum - d) * v_task[k] + task + decay * p
      if k == "both":
        v_other[k] = (momentum + d) * v_other[k] + other
      params[k] = p - rate * (v_task[k] + v_other[k])
  return params


def trained(transformation, *, apart):
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), START)
  state = transformation.init(params)
  for gradients in GRADIENTS:
    task, other = (
      {k: jnp.asarray(v[i], jnp.float32) for k, v in gradients.items()}
      for i in (0, 1)
    )
    other["task"] = jnp.zeros_like(other["task"])
    if apart:
      updates, state = transformation.update(
        task, state, params, distillation=other
      )
    else:
      total = jax.tree.map(jnp.add, task, other)
      updates, state = transformation.update(total, state, params)
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("delta", [0.0, 0.075])
def test_dot_does_what_its_formula_says(delta, decay):
  got = trained(dot(0.1, 0.8, delta, decay), apart=True)
  want = published(0.1, 0.8, delta, decay)
  for name in START:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5)


def test_without_delta_dot_is_momentum_on_the_sum():
  one = trained(dot(0.1, 0.9, 0.0), apart=True)
  two = trained(optax.sgd(0.1, 0.9), apart=False)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, two
  )
  other = trained(dot(0.1, 0.9, 0.05), apart=True)
  assert np.max(np.abs(other["both"] - two["both"])) > 1e-3


def test_a_schedule_is_followed():
  rates = optax.piecewise_constant_schedule(1.0, {1: 0.0})
  transformation = dot(rates)
  state = transformation.init(jnp.ones(()))
  first, state = transformation.update(
    jnp.ones(()), state, distillation=jnp.ones(())
  )
  second, _ = transformation.update(
    jnp.ones(()), state, distillation=jnp.ones(())
  )
  assert first == -2.0 and second == 0.0


@pytest.mark.parametrize(
  ("momentum", "delta"), [(1.0, 0.0), (0.9, 0.1), (0.9, -0.1), (-0.1, 0.0)]
)
def test_numbers_out_of_range_are_refused(momentum, delta):
  with pytest.raises(ValueError, match=r"momentum is .* and delta"):
    dot(0.1, momentum, delta)


def test_the_second_gradient_is_asked_for():
  transformation = dot(0.1)
  with pytest.raises(ValueError, match="no `distillation`"):
    transformation.update(jnp.ones(()), transformation.init(jnp.ones(())))


def section(**fields):
  stage = kdcl.stage(steps=1, optimizer=fields)
  return kdcl.resolve(kdcl.run(stages=("student",), student=stage))["student"][
    "optimizer"
  ]


TREE = {"model": jnp.ones((2, 2)), "projectors": jnp.ones((2, 2))}


def test_projectors_have_an_optimizer_of_their_own():
  made = optimizer.build(
    section(
      name="sgd",
      learning_rate=0.1,
      schedule=dict(name="constant"),
      projectors=dict(learning_rate=1.0),
    ),
    10,
  )
  updates, _ = made.update(TREE, made.init(TREE), TREE)
  np.testing.assert_allclose(updates["model"], -0.1)
  np.testing.assert_allclose(updates["projectors"], -1.0)


def test_under_dot_projectors_have_the_momentum_of_dot():
  made = optimizer.build(
    section(
      name="dot", learning_rate=1.0, momentum=0.5, schedule={"name": "constant"}
    ),
    10,
  )
  zeros = jax.tree.map(jnp.zeros_like, TREE)
  state = made.init(TREE)
  _, state = made.update(zeros, state, TREE, distillation=TREE)
  updates, _ = made.update(zeros, state, TREE, distillation=TREE)
  np.testing.assert_allclose(updates["projectors"], -1.5)
  np.testing.assert_allclose(updates["model"], -1.5)  # one gradient: no delta


def test_another_optimizer_for_projectors_does_not_inherit_arguments():
  made = optimizer.build(
    section(
      name="sgd",
      momentum=0.9,
      learning_rate=0.1,
      projectors=dict(name="adam", learning_rate=0.2),
    ),
    10,
  )
  updates, _ = made.update(TREE, made.init(TREE), TREE)
  np.testing.assert_allclose(updates["projectors"], -0.2, rtol=1e-3)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(name="dot", clip=1.0), "clip is 1.0, but dot"),
    (dict(projectors=dict(ema=0.9)), "projectors.ema"),
    (dict(projectors=dict(name="adm")), "'adam'"),
    (dict(projectors=dict(momentun=0.9)), "projectors.momentun"),
    (dict(name="dot", delta=0.5), "delta 0.5"),
  ],
)
def test_mistakes_are_named(fields, words):
  with pytest.raises(UserError, match=words):
    optimizer.build(section(**fields), 10)
