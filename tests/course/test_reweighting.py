"""Weights in the objective: sum(w v l) / sum(w), v being a constant."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from courses import ONE, fit, model, training

from kdcl_jax import objective, parallel, reweighting, terms
from kdcl_jax.losses.reductions import all_sum
from kdcl_jax.train import Outlet

ROWS, CLASSES, TEMPERATURE = 16, 5, 2.0
RNG = np.random.default_rng(0)
PRESENT = np.arange(ROWS) < 11  # some of 8 devices have no valid row
BATCH = {
  "z": RNG.normal(0, 2, (ROWS, CLASSES)).astype(np.float32),
  "t0": RNG.normal(0, 2, (ROWS, CLASSES)).astype(np.float32),
  "t1": RNG.normal(0, 2, (ROWS, CLASSES)).astype(np.float32),
  "label": RNG.integers(0, CLASSES, ROWS).astype(np.int32),
  "weight": np.where(PRESENT, RNG.uniform(0.5, 1.5, ROWS), 0).astype("f4"),
  "id": np.arange(ROWS, dtype=np.int32),
}
OBJECTIVE = {
  "cross_entropy": {"coefficient": 0.5},
  "kd": {"coefficient": 0.8, "temperature": TEMPERATURE},
}
TEACHERS = ("one", "two")


def log_softmax(z):
  z = z.astype(np.float64) - z.max(1, keepdims=True)
  return z - np.log(np.exp(z).sum(1, keepdims=True))


def cross_entropies():
  return -log_softmax(BATCH["z"])[np.arange(ROWS), BATCH["label"]]


def divergences(teacher):
  """T^2 KL(teacher || student) of each row."""
  t = log_softmax(BATCH[teacher] / TEMPERATURE)
  s = log_softmax(BATCH["z"] / TEMPERATURE)
  return TEMPERATURE**2 * (np.exp(t) * (t - s)).sum(1)


def hand_weights(name, losses, quantile):
  """The weights, with the k-th smallest of the present losses as threshold."""
  k = max(int(np.ceil(quantile * PRESENT.sum() - 1e-9)), 1)
  threshold = np.sort(losses[PRESENT])[k - 1]
  if name == "spl_hard":
    return (losses <= threshold).astype(float) * PRESENT
  return np.maximum(1 - losses / threshold, 0) * PRESENT


def mean(losses, weights=1.0):
  w = BATCH["weight"].astype(np.float64)
  return (w * weights * losses).sum() / w.sum()


def section(**fields):
  return {"name": "", "loss": "", "terms": ()} | fields


HARD = dict(name="spl_hard", quantile=0.4)
SECTIONS = {
  "hard": HARD,
  "linear": dict(name="spl_linear", quantile=0.4),
  "focal": dict(name="focal", gamma=3.0),
  "by_kd": dict(name="spl_linear", loss="kd", quantile=0.6),
  "own_global": dict(name=f"{__name__}.sharing"),
  "none": {},
  "ones": dict(name="spl_hard", threshold=1e9),
  "own": dict(name=f"{__name__}.leaky", factor=0.5),
  "growing": dict(name="spl_hard", quantile=dict(start=0.1, end=0.9)),
  "rising": dict(name="spl_linear", threshold=dict(start=0.5, end=4.5)),
  "task_only": HARD | dict(terms=("cross_entropy",)),
  "task_by_kd": HARD | dict(loss="kd", terms=("cross_entropy",)),
}
SHARED = tuple(SECTIONS)[:5]  # those that are tried on several devices


def leaky(losses, *, factor=1.0):
  """A user's own weights, which have a gradient."""
  return factor * jnp.exp(-losses)


def sharing(losses, *, where, axis_name):
  """A user's own weights by the losses of the global batch."""
  total = jnp.sum(jnp.where(where, losses, 0))
  return losses / all_sum(total, axis_name)


@functools.cache
def compiled(mode, devices, teachers=2):
  """(scale, progress, batch) -> each section's evaluation and gradient."""
  place = parallel.create(mode, devices)
  built = terms.build(OBJECTIVE, TEACHERS[:teachers])
  names = [term.name for term in built if term.per_example]
  kept = SECTIONS if (mode, devices, teachers) == ("jit", 1, 1) else SHARED
  weightings = {
    key: reweighting.build(section(**SECTIONS[key]), names) for key in kept
  }

  def body(scale, progress, batch):
    taught = [{"logits": batch[f"t{i}"]} for i in range(teachers)]

    def total(scale, weighting):
      found = objective.evaluate(
        built,
        {"logits": batch["z"] * scale[None]},
        taught,
        batch,
        progress,
        place.axis_name,
        reweighting=weighting,
      )
      return found.task + found.distillation, found

    return {
      key: jax.value_and_grad(total, has_aux=True)(scale, weighting)
      for key, weighting in weightings.items()
    }

  return place, place.partition(body, constants=2)


@functools.cache
def everything(mode, devices, progress, teachers):
  place, run = compiled(mode, devices, teachers)
  one = place.put((np.ones(CLASSES, np.float32), np.float32(progress)))
  return jax.device_get(run(*one, place.put_batch(BATCH)))


def evaluated(key, mode="jit", devices=1, progress=0.0, teachers=1):
  """The evaluation of the batch and the gradient of the sum of its terms."""
  (_, found), gradient = everything(mode, devices, progress, teachers)[key]
  return found, gradient


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["jit", "shard_map"])
@pytest.mark.parametrize("name", ["spl_hard", "spl_linear"])
def test_the_objective_is_the_formula_on_any_number_of_devices(
  name, mode, devices
):
  found, _ = evaluated(name.removeprefix("spl_"), mode, devices)
  v = hand_weights(name, cross_entropies(), 0.4)
  assert 0 < (v > 0).sum() <= 5 < PRESENT.sum()
  task = 0.5 * mean(cross_entropies(), v)
  distillation = 0.8 * mean(divergences("t0"), v)
  np.testing.assert_allclose(found.task, task, rtol=1e-5)
  np.testing.assert_allclose(found.distillation, distillation, rtol=1e-5)
  np.testing.assert_allclose(found.values["weighting"], mean(v), rtol=1e-5)
  # What is logged of a term is its plain mean.
  np.testing.assert_allclose(
    found.values["cross_entropy"], mean(cross_entropies()), rtol=1e-5
  )
  np.testing.assert_allclose(
    found.values["kd"], mean(divergences("t0")), rtol=1e-5
  )


def hand_gradient(v, weigh_kd=True):
  """By the scale of each class, the weights being constants."""
  rows = jnp.asarray(BATCH["z"]), jnp.asarray(BATCH["t0"])
  v = jnp.asarray(v, jnp.float32)

  def total(scale):
    z, t = rows[0] * scale[None], rows[1]
    ce = -jax.nn.log_softmax(z)[jnp.arange(ROWS), BATCH["label"]]
    log_t = jax.nn.log_softmax(t / TEMPERATURE)
    log_s = jax.nn.log_softmax(z / TEMPERATURE)
    kd = TEMPERATURE**2 * (jnp.exp(log_t) * (log_t - log_s)).sum(1)
    w = BATCH["weight"]
    task = 0.5 * jnp.sum(w * v * ce)
    kd = 0.8 * jnp.sum(w * (v if weigh_kd else 1.0) * kd)
    return (task + kd) / jnp.sum(w)

  return jax.grad(total)(jnp.ones(CLASSES))


@pytest.mark.parametrize(
  ("mode", "devices"), [("jit", 1), ("jit", 8), ("shard_map", 8)]
)
def test_the_gradient_takes_the_weights_for_constants(mode, devices):
  # Those of spl_linear and focal fall with the loss: a gradient through them
  # would be another.
  v = hand_weights("spl_linear", cross_entropies(), 0.4)
  _, gradient = evaluated("linear", mode, devices)
  np.testing.assert_allclose(gradient, hand_gradient(v), rtol=2e-4, atol=1e-6)
  focal = (1 - np.exp(-cross_entropies())) ** 3 * PRESENT
  _, gradient = evaluated("focal", mode, devices)
  np.testing.assert_allclose(
    gradient, hand_gradient(focal), rtol=2e-4, atol=1e-6
  )


def test_a_users_own_function_weighs_and_gets_no_gradient_either():
  found, gradient = evaluated("own")
  v = 0.5 * np.exp(-cross_entropies()) * PRESENT
  expected = 0.5 * mean(cross_entropies(), v)
  np.testing.assert_allclose(found.task, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, hand_gradient(v), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("mode", "devices"), [("jit", 1), ("shard_map", 4)])
def test_a_function_that_asks_for_it_sees_the_global_batch(mode, devices):
  found, _ = evaluated("own_global", mode, devices)
  losses = cross_entropies()
  v = losses / losses[PRESENT].sum()
  np.testing.assert_allclose(found.task, 0.5 * mean(losses, v), rtol=1e-5)


def test_without_a_name_nothing_is_weighted():
  assert reweighting.build(section(), ["cross_entropy"]) is None
  found, gradient = evaluated("none")
  assert "weighting" not in found.values
  np.testing.assert_allclose(
    found.task, 0.5 * mean(cross_entropies()), rtol=1e-6
  )
  np.testing.assert_allclose(
    found.distillation, 0.8 * mean(divergences("t0")), rtol=1e-5
  )
  np.testing.assert_allclose(
    gradient, hand_gradient(np.ones(ROWS)), rtol=2e-4, atol=1e-6
  )
  # Weights that are all 1 come to the same.
  ones, same = evaluated("ones")
  assert ones.values["weighting"] == pytest.approx(1)
  np.testing.assert_allclose(ones.task, found.task, rtol=1e-6)
  np.testing.assert_allclose(same, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_a_schedule_moves_the_share_that_counts(progress):
  found, _ = evaluated("growing", progress=progress)
  v = hand_weights("spl_hard", cross_entropies(), 0.1 + 0.8 * progress)
  np.testing.assert_allclose(found.values["weighting"], mean(v), rtol=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_a_schedule_moves_a_threshold(progress):
  found, _ = evaluated("rising", progress=progress)
  threshold = 0.5 + 4 * progress
  v = np.maximum(1 - cross_entropies() / threshold, 0) * PRESENT
  np.testing.assert_allclose(found.values["weighting"], mean(v), rtol=1e-5)
  np.testing.assert_allclose(
    found.task, 0.5 * mean(cross_entropies(), v), rtol=1e-5
  )


def test_only_the_named_terms_are_weighted_by_the_losses_of_another():
  by_kd = hand_weights("spl_hard", divergences("t0"), 0.4)
  by_ce = hand_weights("spl_hard", cross_entropies(), 0.4)
  assert (by_kd != by_ce).any()
  task, distillation = cross_entropies(), divergences("t0")
  one, gradient = evaluated("task_only")
  np.testing.assert_allclose(one.task, 0.5 * mean(task, by_ce), rtol=1e-5)
  np.testing.assert_allclose(
    one.distillation, 0.8 * mean(distillation), rtol=1e-5
  )
  np.testing.assert_allclose(
    gradient, hand_gradient(by_ce, weigh_kd=False), rtol=2e-4, atol=1e-6
  )
  two, _ = evaluated("task_by_kd")
  np.testing.assert_allclose(two.task, 0.5 * mean(task, by_kd), rtol=1e-5)
  np.testing.assert_allclose(
    two.distillation, 0.8 * mean(distillation), rtol=1e-5
  )
  three, _ = evaluated("by_kd")
  soft = hand_weights("spl_linear", distillation, 0.6)
  np.testing.assert_allclose(three.task, 0.5 * mean(task, soft), rtol=1e-5)
  np.testing.assert_allclose(
    three.distillation, 0.8 * mean(distillation, soft), rtol=1e-5
  )


@pytest.mark.parametrize(("mode", "devices"), [("jit", 1), ("shard_map", 4)])
def test_with_two_teachers_their_mean_loss_decides_for_both(mode, devices):
  losses = [divergences("t0"), divergences("t1")]
  v = hand_weights("spl_linear", (losses[0] + losses[1]) / 2, 0.6)
  found, _ = evaluated("by_kd", mode, devices, teachers=2)
  both = (mean(losses[0], v) + mean(losses[1], v)) / 2
  np.testing.assert_allclose(found.distillation, 0.8 * both, rtol=1e-5)
  np.testing.assert_allclose(
    found.task, 0.5 * mean(cross_entropies(), v), rtol=1e-5
  )


def test_relations_between_examples_are_left_as_they_are():
  made = dict(OBJECTIVE, dist={"coefficient": 2.0})
  built = terms.build(made, ("one",))
  names = [term.name for term in built if term.per_example]
  assert names == ["cross_entropy", "kd"]
  weightings = [
    reweighting.build(section(**fields), names) for fields in ({}, HARD)
  ]

  @jax.jit
  def evaluations(batch):
    return [
      objective.evaluate(
        built,
        {"logits": batch["z"]},
        [{"logits": batch["t0"]}],
        batch,
        0.0,
        reweighting=weighting,
      )
      for weighting in weightings
    ]

  found = evaluations(BATCH)
  v = hand_weights("spl_hard", cross_entropies(), 0.4)
  relation = found[0].distillation - 0.8 * mean(divergences("t0"))
  np.testing.assert_allclose(
    found[1].distillation,
    relation + 0.8 * mean(divergences("t0"), v),
    rtol=1e-5,
  )


WEIGHTED = dict(name="spl_linear", quantile=dict(start=0.4, end=0.9))


def test_a_weighted_training_does_not_depend_on_the_devices():
  def trained(mode, devices):
    place = parallel.create(mode, devices)
    outcome = fit(
      place,
      teachers=(model(place=place),),
      weighting=WEIGHTED,
      steps=5,
      validation=False,
    )
    assert outcome.traces == 1
    return jax.device_get(outcome.variables)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    trained("shard_map", 4),
    trained("jit", 1),
  )


def test_the_mean_weight_of_a_stage_is_in_its_log(tmp_path):
  outlet = Outlet(tmp_path, log_steps=1, quiet=True)
  fit(
    weighting=dict(name="spl_hard", quantile=dict(start=0.25, end=1.0)),
    steps=4,
    outlet=outlet,
    validation=False,
  )
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line)["terms"] for line in lines]
  # 16 rows, all present: 4, 7, 10 and 13 of them.
  assert [row["weighting"] for row in rows] == pytest.approx(
    [4 / 16, 7 / 16, 10 / 16, 13 / 16]
  )


def test_a_stage_without_the_section_has_no_weighting():
  assert training(ONE).reweighting is None


def test_the_sum_over_devices_is_the_one_of_the_losses():
  assert objective.all_sum is all_sum
