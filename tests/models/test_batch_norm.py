"""BatchNorm: masked, with torch's running variance, global over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdcl_jax import parallel
from kdcl_jax.models.batch_norm import BatchNorm

MASKS = {
  "all": np.ones(8, bool),
  "ragged": np.array([1, 1, 1, 1, 1, 0, 0, 0], bool),
  "one shard only": np.array([1, 1, 0, 0, 0, 0, 0, 0], bool),
}


def data():
  rng = np.random.default_rng(0)
  return (10 + 3 * rng.normal(size=(8, 4, 4, 3))).astype(np.float32)


def applied(x, mask, axis_name=None, **kwargs):
  layer = BatchNorm(axis_name=axis_name)
  variables = {
    "params": {
      "scale": jnp.array([1.0, 2.0, 0.5]),
      "bias": jnp.array([0.0, 1.0, -1.0]),
    },
    "batch_stats": {"mean": jnp.ones(3), "var": jnp.full(3, 2.0)},
  } | kwargs
  return layer.apply(
    variables, x, train=True, mask=mask, mutable=["batch_stats"]
  )


@pytest.mark.parametrize("mask", MASKS)
def test_training_agrees_with_numpy_and_torchs_conventions(mask):
  x, present = data(), MASKS[mask]
  y, changed = applied(x, present)
  rows = x[present].reshape(-1, 3).astype(np.float64)
  mean, var = rows.mean(0), rows.var(0)
  want = (x - mean) / np.sqrt(var + 1e-5) * [1.0, 2.0, 0.5] + [0, 1, -1]
  np.testing.assert_allclose(y[present], want[present], rtol=2e-4, atol=2e-4)
  stats = changed["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.9 + 0.1 * mean, rtol=1e-5)
  # The running variance is the unbiased one, n / (n - 1).
  want_var = 0.9 * 2.0 + 0.1 * rows.var(0, ddof=1)
  np.testing.assert_allclose(stats["var"], want_var, rtol=1e-5)


def test_evaluation_uses_the_running_statistics():
  x = data()
  layer = BatchNorm()
  variables = layer.init(jax.random.key(0), x)
  np.testing.assert_allclose(
    layer.apply(variables, x), x / np.sqrt(1 + 1e-5), rtol=1e-6
  )


def test_one_row_and_one_position_stay_finite():
  y, changed = applied(np.full((2, 1, 1, 3), 5.0), np.array([True, False]))
  assert np.isfinite(y).all()
  assert np.isfinite(changed["batch_stats"]["var"]).all()


def test_statistics_are_float32_in_bfloat16_compute():
  layer = BatchNorm(dtype=jnp.bfloat16)
  x = jnp.asarray(data(), jnp.bfloat16)
  variables = layer.init(jax.random.key(0), x)
  y, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  assert y.dtype == jnp.bfloat16
  assert changed["batch_stats"]["mean"].dtype == jnp.float32


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("mask", MASKS)
def test_any_number_of_devices_gives_one_devices_values_and_gradients(
  mask, devices
):
  x, present = data(), MASKS[mask]
  target = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
  params = {"scale": jnp.array([1.0, 2.0, 0.5]), "bias": jnp.zeros(3)}
  place = parallel.create("shard_map", devices)

  def loss(params, x, mask, target, axis_name):
    y, changed = applied(x, mask, axis_name, params=params)
    wanted = jnp.where(mask[:, None, None, None], (y - target) ** 2, 0.0)
    total = jnp.sum(wanted)
    if axis_name:
      total = jax.lax.psum(total, axis_name)
    return total / 100.0, changed["batch_stats"]

  whole = jax.value_and_grad(
    lambda p, x: loss(p, x, present, target, None), argnums=(0, 1), has_aux=True
  )(params, x)

  def body(params, x, mask, target):
    return jax.value_and_grad(
      lambda p, x: loss(p, x, mask, target, "data"),
      argnums=(0, 1),
      has_aux=True,
    )(params, x)

  spread = jax.jit(
    jax.shard_map(
      body,
      mesh=place.mesh,
      in_specs=(P(), P("data"), P("data"), P("data")),
      out_specs=((P(), P()), (P(), P("data"))),
    )
  )(params, x, present, target)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    spread,
    whole,
  )
