"""Trainings side by side end as they would have by themselves."""

import dataclasses
import itertools
import json

import courses
import jax
import numpy as np
import pytest
from courses import NET, model, training

from kdcl_jax import config as kdcl
from kdcl_jax import lanes, parallel, run, train
from kdcl_jax.errors import UserError
from kdcl_jax.training import Outlet

SGD = dict(name="sgd", learning_rate=0.1)  # Adam would amplify rounding
KD = dict(
  cross_entropy=dict(coefficient=0.5),
  kd=dict(coefficient=0.5, temperature=2.0),
)
FREEZE = dict(
  order="curriculum",
  lessons=6,
  pacing=dict(name="linear", start=0.2, reach=0.5),
  freeze=dict(on=True, patience=1, tolerance=0.01),
)
KINDS = {
  "plain": dict(),
  "batch_norm": dict(model=NET, optimizer=SGD | dict(ema=0.9)),
  "freeze": dict(curriculum=FREEZE, keep="best", model=NET),
  "hold": dict(
    curriculum=FREEZE | dict(hold=dict(on=True, train_accuracy=0.5, most=1))
  ),
  "bandit": dict(curriculum=dict(lessons=6, bandit=dict(on=True, buckets=3))),
  "rerank": dict(
    curriculum=FREEZE | dict(rerank=dict(on=True, stream="dih", records="all"))
  ),
  "stop": dict(
    curriculum=dict(lessons=8, stop=dict(on=True, patience=1)),
    optimizer=dict(name="sgd", learning_rate=2.0),
  ),
  "weighting": dict(weighting=dict(name="spl_hard", quantile=0.5)),
  "selection": dict(selection=dict(name="selective_backprop", candidates=2)),
}
SEEDS = range(3)


def trainings(teachers=(), place=courses.ONE, **fields):
  """One for each seed; each has a teacher of its own where there is one."""
  return [
    training(place, seed=seed, teachers=[t(seed) for t in teachers], **fields)
    for seed in SEEDS
  ]


def together(made, outlets=None, place=courses.ONE, width=0):
  outlets = outlets or [None] * len(made)
  return train.fit_together(made, place, outlets, width=width)


def assert_near(one, two):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    jax.device_get(one),
    jax.device_get(two),
  )


@pytest.mark.parametrize("kind", KINDS)
def test_each_ends_as_it_would_have_by_itself(kind):
  made = trainings(**KINDS[kind])
  side_by_side = together(made)
  for one, outcome in zip(made, side_by_side, strict=True):
    alone = train.fit(one, courses.ONE)
    assert_near(outcome.variables, alone.variables)
    assert_near(outcome.dynamics, alone.dynamics)
    assert outcome.steps == alone.steps
    assert outcome.course.fraction == alone.course.fraction
    assert outcome.course.actions == alone.course.actions
    assert outcome.totals.rows == alone.totals.rows


def test_the_kinds_do_what_they_are_there_for():
  frozen = [o.course.frozen for o in together(trainings(**KINDS["freeze"]))]
  assert any(frozen)
  ends = [o.steps for o in together(trainings(**KINDS["stop"]))]
  assert len(set(ends)) > 1  # lanes that end before others


def test_each_learns_from_its_own_teacher():
  teachers = {seed: model(seed=10 + seed) for seed in SEEDS}
  made = trainings([teachers.get], objective=KD)
  for one, outcome in zip(made, together(made), strict=True):
    assert_near(outcome.variables, train.fit(one, courses.ONE).variables)


def test_each_learns_from_the_snapshots_of_its_own_teacher():
  teachers = {
    seed: model(seed=20 + 5 * seed, snapshots=(0.3, 0.6)) for seed in SEEDS
  }
  pacing = dict(name="baby_steps", buckets=3)
  made = trainings(
    [teachers.get],
    objective=KD,
    teacher_pacing=pacing,
    curriculum=dict(lessons=3),
  )
  for one, outcome in zip(made, together(made), strict=True):
    assert_near(outcome.variables, train.fit(one, courses.ONE).variables)


def test_each_goes_on_to_the_next_snapshot_when_it_gets_no_better():
  teachers = {
    seed: model(seed=20 + 5 * seed, snapshots=(0.3, 0.6)) for seed in SEEDS
  }
  made = trainings(
    [teachers.get],
    objective=KD,
    optimizer=dict(name="sgd", learning_rate=2.0),
    curriculum=dict(lessons=8, advance_teacher=dict(on=True, patience=1)),
  )
  outcomes = together(made)
  for one, outcome in zip(made, outcomes, strict=True):
    alone = train.fit(one, courses.ONE)
    assert_near(outcome.variables, alone.variables)
    assert outcome.course.teacher == alone.course.teacher
  assert len({o.course.best_step for o in outcomes}) > 1  # at other lessons
  assert all(o.course.teacher for o in outcomes)


def test_one_step_is_traced_for_all():
  made = trainings(**KINDS["freeze"])
  assert [o.traces for o in together(made)] == [1, 1, 1]


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_devices_share_the_rows_of_every_lane(mode):
  place = parallel.create(mode, 4)
  fields = KINDS["batch_norm"] | dict(curriculum=FREEZE)
  spread = together(trainings(place=place, **fields), place=place)
  for one, outcome in zip(trainings(**fields), spread, strict=True):
    assert_near(outcome.variables, train.fit(one, courses.ONE).variables)


def test_lanes_that_idle_change_no_byte():
  made = trainings(**KINDS["freeze"])
  courses.assert_same(
    [o.variables for o in together(made[:2], width=3)],
    [o.variables for o in together(made)[:2]],
  )


class Stop:
  """Asks to stop at the n-th question."""

  def __init__(self, at):
    self.questions = itertools.count(1)
    self.at = at

  def __call__(self):
    return next(self.questions) >= self.at


def outlets(folder, **fields):
  return [
    Outlet(folder / str(seed), log_steps=5, quiet=True, **fields)
    for seed in SEEDS
  ]


def lines(folder):
  found = {}
  for seed in SEEDS:
    text = (folder / str(seed) / "metrics.jsonl").read_text()
    found[seed] = [json.loads(line) for line in text.splitlines()]
    for line in found[seed]:
      line.pop("examples_per_second", None)
  return found


@pytest.mark.parametrize("kind", ["freeze", "hold", "rerank"])
def test_a_stop_at_any_moment_changes_no_byte(kind, tmp_path):
  fields = KINDS[kind]
  whole = together(trainings(**fields), outlets(tmp_path / "whole"))
  # One after the other is asked, so some lanes are a step behind the others.
  for at in (2, 17, 31):
    stop = Stop(at)
    with pytest.raises(train.Interrupted):
      together(trainings(**fields), outlets(tmp_path / "cut", interrupted=stop))
  cut = together(trainings(**fields), outlets(tmp_path / "cut"))
  courses.assert_same([o.variables for o in cut], [o.variables for o in whole])
  assert [o.course for o in cut] == [o.course for o in whole]
  assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_lanes_of_different_lengths_are_refused():
  made = trainings()
  longer = dataclasses.replace(made[1], total_steps=30)
  with pytest.raises(UserError, match=r"vmap_seeds .* \[24, 30\] steps"):
    lanes.Lanes([made[0], longer], courses.ONE)


def config(**fields):
  stage = lambda **more: kdcl.stage(
    model=dict(name="mlp", widths=(8,)), steps=12, batch_size=16, **more
  )
  order = dict(order="curriculum", lessons=3)
  return kdcl.resolve(
    kdcl.run(
      data=dict(train_size=250, validation=50),
      seeds=3,
      teacher=stage(curriculum=order),
      baseline=stage(),
      student=stage(teachers=("teacher",)),
      scorer=kdcl.scorer(
        model=dict(name="mlp", widths=(8,)), steps=6, batch_size=16
      ),
      tensorboard=False,
      **fields,
    )
  )


def accuracies(workdir, **fields):
  found = run.execute(config(**fields), workdir)["stages"]
  return {name: found[name]["test"]["loss"]["values"] for name in found}


def test_a_run_of_seeds_together_is_the_run_of_each(tmp_path):
  separate = accuracies(tmp_path / "separate")
  grouped = accuracies(tmp_path / "grouped", vmap_seeds=2)  # two and one
  for name in separate:
    np.testing.assert_allclose(grouped[name], separate[name], rtol=1e-4)
  for path in (tmp_path / "separate" / "difficulty").rglob("*.npz"):
    other = tmp_path / "grouped" / path.relative_to(tmp_path / "separate")
    with np.load(path) as a, np.load(other) as b:
      np.testing.assert_array_equal(a["record_id"], b["record_id"])
      np.testing.assert_allclose(a["difficulty"], b["difficulty"], rtol=1e-4)


def test_a_loss_that_knows_the_records_of_a_seed_is_refused(tmp_path):
  embedding = dict(name="memory", negatives=8)
  crd = dict(crd=dict(student_tap="f0", teacher_tap="f0", projector=embedding))
  made = config(vmap_seeds=3)
  made["student"]["objective"] = crd
  with pytest.raises(UserError, match=r"student\.objective\.crd .*vmap_seeds"):
    run.execute(made, tmp_path)
