"""Losses over pairs see the global batch, on however many devices it lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from loss_inputs import RELATIONAL

from kdcl_jax.losses import LOSSES, flsw_temperature

# Losses over pairs on logits; the features' own tests hold the others.
NAMES = [
  n for n in RELATIONAL if n in ("dist", "mlkd", "mlkd_batch", "mlkd_class")
]
GENERATOR = np.random.default_rng(3)
INPUTS = GENERATOR.standard_normal((16, 5)).astype(np.float32)
TEACHER = (2 * GENERATOR.standard_normal((16, 7))).astype(np.float32)
WEIGHTS = GENERATOR.standard_normal((5, 7)).astype(np.float32)
WHERE = np.arange(16) % 5 != 4  # devices hold different numbers of examples


def mesh(devices):
  return jax.make_mesh(
    (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )


def loss_of(name, axis_name=None):
  def loss(weights, inputs, teacher, where):
    return LOSSES[name](
      inputs @ weights, teacher, where=where, axis_name=axis_name
    )

  return loss


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_shard_map_gives_the_loss_and_sgd_step_of_one_device(name, devices):
  batch = (INPUTS, TEACHER, WHERE)
  expected, wanted = jax.value_and_grad(loss_of(name))(WEIGHTS, *batch)
  sharded = jax.shard_map(
    jax.value_and_grad(loss_of(name, "data")),
    mesh=mesh(devices),
    in_specs=(P(), P("data"), P("data"), P("data")),
    out_specs=(P(), P()),
  )
  value, gradient = jax.jit(sharded)(WEIGHTS, *batch)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(
    WEIGHTS - 0.1 * gradient, WEIGHTS - 0.1 * wanted, rtol=1e-5, atol=1e-6
  )
  assert np.max(np.abs(wanted)) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_named_vmap_axis_is_a_batch_axis_too(name):
  split = [a.reshape(4, 4, *a.shape[1:]) for a in (INPUTS, TEACHER, WHERE)]
  values = jax.vmap(loss_of(name, "data"), (None, 0, 0, 0), axis_name="data")(
    WEIGHTS, *split
  )
  expected = loss_of(name)(WEIGHTS, INPUTS, TEACHER, WHERE)
  np.testing.assert_allclose(values, np.full(4, expected), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_axis_name_the_loss_would_depend_on_the_devices(name):
  one = loss_of(name)(WEIGHTS, INPUTS, TEACHER, WHERE)
  parts = [
    loss_of(name)(
      WEIGHTS, INPUTS[i : i + 4], TEACHER[i : i + 4], WHERE[i : i + 4]
    )
    for i in range(0, 16, 4)
  ]
  assert abs(np.mean(parts) / one - 1) > 1e-3


def test_per_example_temperatures_centre_on_the_global_batch():
  student = INPUTS @ WEIGHTS
  sharded = jax.shard_map(
    lambda s, t: flsw_temperature(s, t, axis_name="data"),
    mesh=mesh(4),
    in_specs=P("data"),
    out_specs=P("data"),
  )
  expected = flsw_temperature(student, TEACHER)
  np.testing.assert_allclose(sharded(student, TEACHER), expected, rtol=1e-5)
  np.testing.assert_allclose(jnp.mean(expected), 4.0, rtol=1e-5)
