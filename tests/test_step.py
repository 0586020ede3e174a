"""One step body: the same in both modes, on any number of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from kdcl_jax import inputs, models, parallel, state, step
from kdcl_jax import terms as objectives
from kdcl_jax.models.batch_norm import BatchNorm

DEVICES = (1, 2, 4, 8)
TERMS = {
  "cross_entropy": {"coefficient": 0.5},
  "kd": {"coefficient": {"start": 1.0, "end": 0.0}, "temperature": 2.0},
}


class Net(nn.Module):
  """A convolution, BatchNorm and a dense layer."""

  num_classes: int = 5
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    x = nn.Conv(4, (3, 3))(x)
    x = BatchNorm(axis_name=self.axis_name)(x, train=train, mask=mask)
    x = nn.relu(x).mean((1, 2))
    return {"logits": nn.Dense(self.num_classes)(x), "taps": {}}


def batch_of(seed, rows=16, present=11):
  rng = np.random.default_rng(seed)
  weight = (np.arange(rows) < present).astype(np.float32)
  return {
    "image": rng.integers(0, 256, (rows, 6, 6, 1)).astype(np.uint8),
    "label": rng.integers(0, 5, rows).astype(np.int32),
    "weight": weight * rng.uniform(0.5, 1.5, rows).astype(np.float32),
    "id": np.arange(rows, dtype=np.int32),
  }


def trained(mode, devices, batches, optimizer, **options):
  """The state after a step on each batch."""
  place = parallel.create(mode, devices)
  module = Net(axis_name=place.axis_name)
  forward = step.forward_of(module, "image", (0.4,), (0.3,))
  variables = models.init(
    Net(), jax.random.key(0), np.zeros((1, 6, 6, 1), np.float32)
  )
  teacher = models.init(
    Net(), jax.random.key(1), np.zeros((1, 6, 6, 1), np.float32)
  )
  terms = objectives.build(TERMS, ("teacher",))
  traces = []
  body = step.train_body(
    forward,
    terms,
    optimizer,
    optax.constant_schedule(0.1),
    teachers=[forward],
    total_steps=10,
    axis_name=place.axis_name,
    traced=lambda: traces.append(1),
    **options,
  )
  run = place.partition(body, constants=2, donate=True)
  now = place.put(
    state.create(
      variables,
      optimizer,
      step.metric_names(terms),
      seed=0,
      ema=options.get("ema", 0) > 0,
    )
  )
  frozen = (place.put(teacher),)
  for batch in batches:
    now, _ = run(now, frozen, place.put_batch(batch))
  assert len(traces) == 1
  return jax.device_get(now)


# Ragged batches: 11 of 16 rows leave some of 8 devices without a valid row.
BATCHES = [batch_of(0, present=16), batch_of(1), batch_of(2, present=3)]


@functools.cache
def reference():
  return trained("jit", 1, BATCHES, optax.sgd(0.1, momentum=0.9), ema=0.5)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_both_modes_agree_on_any_number_of_devices_with_sgd(mode, devices):
  got = trained(mode, devices, BATCHES, optax.sgd(0.1, momentum=0.9), ema=0.5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
    dataclasses.asdict(got),
    dataclasses.asdict(reference()),
  )


def test_padding_changes_nothing():
  padded = batch_of(0, present=8)
  other = dict(padded)
  other["image"] = padded["image"].copy()
  other["image"][8:] = 255 - other["image"][8:]
  other["label"] = padded["label"].copy()
  other["label"][8:] = 0
  optimizer = optax.sgd(0.1)
  one, two = (
    trained("jit", 1, [batch], optimizer) for batch in (padded, other)
  )
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  jax.tree.map(np.testing.assert_array_equal, one.batch_stats, two.batch_stats)


def test_the_gradient_is_that_of_the_weighted_mean_of_the_whole_batch():
  batch = batch_of(3)
  got = trained("shard_map", 4, [batch], optax.sgd(1.0))
  init = models.init(
    Net(), jax.random.key(0), np.zeros((1, 6, 6, 1), np.float32)
  )
  teacher = models.init(
    Net(), jax.random.key(1), np.zeros((1, 6, 6, 1), np.float32)
  )
  rows = np.flatnonzero(batch["weight"])
  x = jnp.asarray((batch["image"][rows] / 255.0 - 0.4) / 0.3, jnp.float32)
  y, w = batch["label"][rows], batch["weight"][rows]

  def loss(params):
    variables = init | {"params": params}
    outputs, _ = Net().apply(variables, x, train=True, mutable=["batch_stats"])
    z = outputs["logits"]
    t = Net().apply(teacher, x)["logits"] / 2.0
    ce = optax.softmax_cross_entropy_with_integer_labels(z, y)
    p = jax.nn.softmax(t)
    kl = (p * (jax.nn.log_softmax(t) - jax.nn.log_softmax(z / 2.0))).sum(-1)
    return jnp.sum(w * (0.5 * ce + 4.0 * kl)) / jnp.sum(w)

  grads = jax.grad(loss)(init["params"])
  want = jax.tree.map(lambda p, g: p - g, init["params"], grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got.params,
    want,
  )
  assert got.sums["accuracy"][1] == pytest.approx(w.sum(), rel=1e-6)


def test_a_learning_rate_scale_scales_the_update_and_nothing_is_retraced():
  optimizer = optax.sgd(0.1)
  full = trained("jit", 1, BATCHES[:1], optimizer)
  assert full.learning_rate_scale == 1.0
  body = functools.partial(trained, "jit", 1, BATCHES[:1], optimizer)
  assert np.isclose(body().sums["learning_rate"][0], 0.1)


def test_the_first_step_that_is_not_finite_is_remembered():
  broken = batch_of(4)
  broken["image"] = broken["image"].astype(np.float32)
  broken["image"][0] = np.nan
  fine = batch_of(5)
  fine["image"] = fine["image"].astype(np.float32)
  got = trained("jit", 1, [fine, broken, fine], optax.sgd(0.1))
  assert got.bad_step == 1


def test_integer_inputs_are_scaled_and_channels_standardised():
  x = np.array([[[[0, 255]]]], np.uint8)
  got = inputs.preprocess(x, (0.5, 0.25), (0.5, 0.25))
  np.testing.assert_allclose(got, [[[[-1.0, 3.0]]]])
  floats = np.array([[2.0, 3.0]], np.float32)
  np.testing.assert_array_equal(inputs.preprocess(floats), floats)
