"""Options that go from the easiest to the hardest record of the order."""

import dataclasses

import courses
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from courses import DIFFICULTY, NET, assert_same, fit, model, training
from test_teacher_pacing import Killed, outlet

from kdcl_jax import curriculum as curricula
from kdcl_jax import (
  lanes,
  losses,
  objective,
  parallel,
  schedules,
  slopes,
  terms,
  train,
)
from kdcl_jax import step as steps
from kdcl_jax.errors import UserError

RANK = np.linspace(0, 1, 6, dtype=np.float32)
SLOPE = dict(easy=1.0, hard=4.0)
ORDER = dict(
  order="curriculum",
  lessons=6,
  pacing=dict(name="linear", start=0.2, reach=0.5),
)
RERANKED = ORDER | dict(rerank=dict(on=True, records="all", stream="dih"))
OBJECTIVE = dict(
  cross_entropy=dict(label_smoothing=dict(easy=0.0, hard=0.5)),
  kd=dict(temperature=SLOPE),
)


def near(one, two):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    jax.device_get(one),
    jax.device_get(two),
  )


@pytest.mark.parametrize("curve", schedules.CURVES)
def test_a_slope_is_the_curve_of_the_rank_between_its_ends(curve):
  half = {"start": 1.0, "end": 3.0}  # 2 in the middle of the stage
  made = slopes.build({"easy": half, "hard": 5.0, "curve": curve}, "x")
  shares = {
    "linear": RANK,
    "cosine": (1 - np.cos(np.pi * RANK)) / 2,
    "quadratic": RANK**2,
    "root": np.sqrt(RANK),
    "step": np.floor(RANK),
  }
  found = jax.jit(made)(jnp.float32(0.5), jnp.asarray(RANK))
  np.testing.assert_allclose(found, 2 + 3 * shares[curve], rtol=1e-5)
  assert found[0] == 2 and found[-1] == 5 and found.dtype == jnp.float32


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    (dict(easy=1.0), ["x.hard is None", "a number or a schedule"]),
    (dict(easy=1.0, hard="4"), ["x.hard is '4'", "a number or a schedule"]),
    (dict(easy=True, hard=4.0), ["x.easy is True"]),
    (dict(easy=1.0, hrad=4.0), ["x.hrad is no field", "'hard'"]),
    (SLOPE | dict(curve="line"), ["x.curve is 'line'", "'linear'"]),
    (SLOPE | dict(start=1.0), ["x.start is no field", "easy, hard, curve"]),
    (SLOPE | dict(easy=dict(start=1.0)), ["x.easy.end is None"]),
  ],
)
def test_wrong_slopes_end_in_a_sentence(spec, words):
  with pytest.raises(UserError) as error:
    slopes.build(spec, "x")
  assert all(word in str(error.value) for word in words), str(error.value)


def test_an_objective_gives_each_example_the_number_of_its_rank():
  built = terms.build(
    dict(kd=dict(temperature=SLOPE | dict(hard=dict(start=4.0, end=2.0)))),
    ("teacher",),
  )
  draw = lambda seed: np.random.default_rng(seed).normal(size=(6, 4))
  logits = [jnp.asarray(2 * draw(seed), jnp.float32) for seed in (0, 1)]
  weight = np.array([1, 1, 1, 1, 0, 1], np.float32)
  batch = {
    "label": jnp.zeros(6, int),
    "weight": jnp.asarray(weight),
    "id": jnp.arange(6),
    "rank": jnp.asarray(RANK),
  }
  outputs = [{"logits": z, "taps": {}, "inputs": None} for z in logits]
  found = objective.evaluate(
    built, outputs[0], outputs[1:], batch, jnp.float32(0.25)
  )
  temperatures = 1 + 2.5 * RANK  # the hard end has come down to 3.5
  alone = [
    losses.kd(logits[0][i], logits[1][i], temperature=float(temperatures[i]))
    for i in range(6)
  ]
  expected = np.sum(weight * np.array(alone)) / 5
  np.testing.assert_allclose(found.values["kd"], expected, rtol=1e-5)


def curriculum(order, anti=False):
  made = training(curriculum=ORDER).curriculum
  return dataclasses.replace(made, order=np.asarray(order), anti=anti)


def test_ranks_go_from_the_easiest_to_the_hardest_of_the_present_order():
  order = np.array([7, 2, 9, 4, 0])
  ids = np.array([0, 2, 9, 7, 7])
  expected = np.array([1, 0.25, 0.5, 0, 0], np.float32)
  found = curriculum(order).ranks()(ids)
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == np.float32
  # The same records of the same difficulty, the hardest first.
  anti = curriculum(order[::-1], anti=True).ranks()
  np.testing.assert_array_equal(anti(ids), expected)
  assert curriculum([3]).ranks()(np.array([3])).tolist() == [0.0]


def test_an_anti_order_leaves_easy_records_easy():
  by = {}
  for order in ("curriculum", "anti"):
    made = training(curriculum=ORDER | dict(order=order))
    by[order] = made.curriculum.ranks()(made.train.ids)
  np.testing.assert_allclose(by["anti"], by["curriculum"])
  easiest = np.argmin(DIFFICULTY)
  assert by["anti"][easiest] < 0.05


@pytest.fixture
def batches(monkeypatch):
  """The arrays of each training step's batch."""
  seen = []
  step = lanes.Lanes.step

  def spy(self, wishes):
    seen.append(steps.device_batch(wishes[0].batch))
    step(self, wishes)

  monkeypatch.setattr(lanes.Lanes, "step", spy)
  return seen


def test_a_batch_has_ranks_only_where_a_term_asks_for_them(batches):
  fit(steps=3, curriculum=ORDER)
  assert {frozenset(batch) for batch in batches} == {
    frozenset(("image", "label", "weight", "id"))
  }
  batches.clear()
  fit(steps=3, curriculum=ORDER, objective=OBJECTIVE, teachers=(model(),))
  assert {frozenset(batch) for batch in batches} == {
    frozenset(("image", "label", "weight", "id", "rank"))
  }


def test_ranks_follow_the_order_that_the_learner_makes(batches, monkeypatch):
  orders = []
  plan = curricula.Curriculum.plan

  def spy(self, state, start, stop, rows=slice(None)):
    orders.extend([self.order] * (stop - start))
    return plan(self, state, start, stop, rows)

  monkeypatch.setattr(curricula.Curriculum, "plan", spy)
  objective = dict(cross_entropy=dict(label_smoothing=dict(easy=0, hard=0.3)))
  fit(curriculum=RERANKED, objective=objective)
  assert len(batches) == len(orders) == 24
  assert len({order.tobytes() for order in orders}) > 2
  for batch, order in zip(batches, orders, strict=True):
    place = {record: i for i, record in enumerate(order.tolist())}
    expected = [place[i] / (len(order) - 1) for i in batch["id"].tolist()]
    np.testing.assert_allclose(batch["rank"], expected, rtol=1e-6)


def test_equal_ends_train_as_one_number_does():
  smoothed = lambda spec: fit(
    curriculum=ORDER, objective=dict(cross_entropy=dict(label_smoothing=spec))
  )
  one, two, other = map(
    smoothed, (0.2, dict(easy=0.2, hard=0.2), dict(easy=0.0, hard=0.9))
  )
  near(one.variables, two.variables)
  gap = jax.tree.map(
    lambda a, b: float(jnp.max(jnp.abs(a - b))), one.variables, other.variables
  )
  assert max(jax.tree.leaves(gap)) > 1e-2
  assert other.traces == 1


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_devices_share_ranks_and_chosen_rows_keep_theirs(mode):
  fields = dict(
    model=NET,
    steps=8,
    curriculum=RERANKED,
    objective=OBJECTIVE,
    selection=dict(name="loss", candidates=2),
  )
  place = parallel.create(mode, 4)
  spread = fit(place, teachers=(model(place=place),), **fields)
  near(spread.variables, fit(teachers=(model(),), **fields).variables)


@pytest.mark.parametrize("kill", [9, 18])
def test_a_kill_changes_no_byte(tmp_path, kill):
  fields = dict(teachers=(model(),), curriculum=RERANKED, objective=OBJECTIVE)
  whole = fit(outlet=outlet(tmp_path / "whole"), **fields)
  with pytest.raises(Killed):
    fit(outlet=outlet(tmp_path / "killed", kill=kill), **fields)
  resumed = fit(outlet=outlet(tmp_path / "killed"), **fields)
  assert_same(resumed.variables, whole.variables)


def test_seeds_together_have_the_ranks_of_their_own_orders():
  made = [
    training(seed=seed, curriculum=RERANKED, objective=OBJECTIVE, teachers=(t,))
    for seed in range(3)
    for t in [model(seed=10 + seed)]
  ]
  outcomes = train.fit_together(made, courses.ONE, [None] * 3)
  for one, outcome in zip(made, outcomes, strict=True):
    near(outcome.variables, train.fit(one, courses.ONE).variables)
