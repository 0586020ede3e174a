"""The losses inside trainers that are not ours: flax.nnx, equinox, plain JAX.

Each trainer differentiates and optimizes everything it has, the teacher too,
as somebody's careless trainer may. That the teacher stays as it was is what the
losses promise.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdcl_jax import losses

INPUTS, STUDENT, TEACHER, CLASSES = 6, 12, 16, 5
STEPS = 200
TRANSFORM = optax.adam(3e-3)


@functools.cache
def start():
  """The weights that all trainers start from, and the data."""
  generator = np.random.default_rng(0)
  normal = lambda *shape: generator.standard_normal(shape, np.float32)

  def layer(inputs, outputs, scale=1.0):
    return {
      "w": jnp.asarray(scale * inputs**-0.5 * normal(inputs, outputs)),
      "b": jnp.asarray(0.1 * normal(outputs)),
    }

  params = {
    "student": [layer(INPUTS, STUDENT), layer(STUDENT, CLASSES)],
    "projector": [layer(STUDENT, TEACHER)],
    "teacher": [layer(INPUTS, TEACHER, 2.0), layer(TEACHER, CLASSES, 2.0)],
  }
  return params, jnp.asarray(normal(32, INPUTS))


def terms(student, projected, teacher):
  """The three losses of (features, logits) of both networks."""
  return {
    "kd": losses.kd(student[1], teacher[1], temperature=2.0).mean(),
    "rkd": losses.rkd(student[0], teacher[0]),
    "fitnet": losses.fitnet(projected, teacher[0]).mean(),
  }


def total(student, projected, teacher):
  values = terms(student, projected, teacher)
  return values["kd"] + values["rkd"] + values["fitnet"], values


# Plain JAX: a dict of arrays.


def dense(layer, x):
  return x @ layer["w"] + layer["b"][None]


def plain_network(layers, x):
  features = jnp.tanh(dense(layers[0], x))
  return features, dense(layers[1], features)


def plain_loss(params, x):
  student = plain_network(params["student"], x)
  projected = dense(params["projector"][0], student[0])
  return total(student, projected, plain_network(params["teacher"], x))


def train_plain():
  params, x = start()
  state = TRANSFORM.init(params)

  @jax.jit
  def step(params, state):
    gradients, values = jax.grad(plain_loss, has_aux=True)(params, x)
    updates, state = TRANSFORM.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, values

  history = []
  for _ in range(STEPS):
    params, state, values = step(params, state)
    history.append(values)
  return history, params


# flax.nnx: a module that owns all three networks.


class NnxNetwork(nnx.Module):
  def __init__(self, layers):
    self.hidden, self.head = (nnx_linear(layer) for layer in layers)

  def __call__(self, x):
    features = jnp.tanh(self.hidden(x))
    return features, self.head(features)


def nnx_linear(layer):
  linear = nnx.Linear(*layer["w"].shape, rngs=nnx.Rngs(0))
  linear.kernel[...], linear.bias[...] = layer["w"], layer["b"]
  return linear


class NnxPair(nnx.Module):
  def __init__(self, params):
    self.student = NnxNetwork(params["student"])
    self.projector = nnx_linear(params["projector"][0])
    self.teacher = NnxNetwork(params["teacher"])


def nnx_loss(pair, x):
  student = pair.student(x)
  return total(student, pair.projector(student[0]), pair.teacher(x))


def plain_from_nnx(pair):
  """Arrays of an nnx pair, or of its gradients, in the plain form."""
  one = lambda linear: {"w": linear.kernel[...], "b": linear.bias[...]}
  return {
    "student": [one(pair.student.hidden), one(pair.student.head)],
    "projector": [one(pair.projector)],
    "teacher": [one(pair.teacher.hidden), one(pair.teacher.head)],
  }


def train_nnx():
  params, x = start()
  pair = NnxPair(params)
  optimizer = nnx.Optimizer(pair, TRANSFORM, wrt=nnx.Param)

  @nnx.jit
  def step(pair, optimizer):
    gradients, values = nnx.grad(nnx_loss, has_aux=True)(pair, x)
    optimizer.update(pair, gradients)
    return values

  history = [step(pair, optimizer) for _ in range(STEPS)]
  return history, plain_from_nnx(pair)


# equinox: a pytree of modules for one example, mapped over the batch.


class EqxNetwork(eqx.Module):
  hidden: eqx.nn.Linear
  head: eqx.nn.Linear

  def __call__(self, x):
    features = jnp.tanh(self.hidden(x))
    return features, self.head(features)


class EqxPair(eqx.Module):
  student: EqxNetwork
  projector: eqx.nn.Linear
  teacher: EqxNetwork


def eqx_linear(layer):
  linear = eqx.nn.Linear(*layer["w"].shape, key=jax.random.key(0))
  return eqx.tree_at(
    lambda x: (x.weight, x.bias), linear, (layer["w"].T, layer["b"])
  )


def eqx_pair(params):
  return EqxPair(
    EqxNetwork(*map(eqx_linear, params["student"])),
    eqx_linear(params["projector"][0]),
    EqxNetwork(*map(eqx_linear, params["teacher"])),
  )


def eqx_loss(pair, x):
  student = jax.vmap(pair.student)(x)
  projected = jax.vmap(pair.projector)(student[0])
  return total(student, projected, jax.vmap(pair.teacher)(x))


def plain_from_eqx(pair):
  """Arrays of an equinox pair, or of its gradients, in the plain form."""
  one = lambda linear: {"w": linear.weight.T, "b": linear.bias}
  return {
    "student": [one(pair.student.hidden), one(pair.student.head)],
    "projector": [one(pair.projector)],
    "teacher": [one(pair.teacher.hidden), one(pair.teacher.head)],
  }


def train_eqx():
  params, x = start()
  pair = eqx_pair(params)
  state = TRANSFORM.init(eqx.filter(pair, eqx.is_array))

  @eqx.filter_jit
  def step(pair, state):
    gradients, values = eqx.filter_grad(eqx_loss, has_aux=True)(pair, x)
    updates, state = TRANSFORM.update(gradients, state, pair)
    return eqx.apply_updates(pair, updates), state, values

  history = []
  for _ in range(STEPS):
    pair, state, values = step(pair, state)
    history.append(values)
  return history, plain_from_eqx(pair)


TRAINERS = {"plain": train_plain, "nnx": train_nnx, "equinox": train_eqx}


@functools.cache
def trained(name):
  return TRAINERS[name]()


@pytest.mark.parametrize("term", ["kd", "rkd", "fitnet"])
@pytest.mark.parametrize("name", TRAINERS)
def test_each_loss_falls_to_less_than_half_in_a_foreign_trainer(name, term):
  history, _ = trained(name)
  first, last = history[0][term], history[-1][term]
  assert last < first / 2, (first, last)
  assert first > 0.1 and np.isfinite(last)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_that_optimizes_the_teacher_too_leaves_it_alone(name):
  before, _ = start()
  _, after = trained(name)
  jax.tree.map(
    np.testing.assert_array_equal, after["teacher"], before["teacher"]
  )
  for part in ("student", "projector"):
    assert np.any(after[part][0]["w"] != before[part][0]["w"])


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_the_gradients_are_those_of_plain_jax(name):
  params, x = start()
  expected, _ = jax.jit(jax.grad(plain_loss, has_aux=True))(params, x)
  if name == "nnx":
    gradient = nnx.jit(nnx.grad(nnx_loss, has_aux=True))
    gradients = plain_from_nnx(gradient(NnxPair(params), x)[0])
  else:
    gradient = eqx.filter_jit(eqx.filter_grad(eqx_loss, has_aux=True))
    gradients = plain_from_eqx(gradient(eqx_pair(params), x)[0])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    gradients,
    expected,
  )
  assert not any(np.any(x) for x in jax.tree.leaves(gradients["teacher"]))
  assert np.max(np.abs(gradients["projector"][0]["w"])) > 1e-3
