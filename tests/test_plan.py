"""A plan says beforehand what the run will then have done."""

import json
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import (
  curriculum,
  dataset,
  parallel,
  plan,
  planning,
  report,
  run,
  stages,
  train,
  validation,
)
from kdcl_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SMALL = dict(
  model=dict(name="mlp", widths=(8,)),
  batch_size=16,
  optimizer=dict(name="sgd", learning_rate=0.1),
)


def config(**fields):
  """Everything that takes compute, with nothing that validation decides."""
  order = dict(order="curriculum", pacing=dict(name="linear", start=0.2))
  sections = dict(
    name="plan",
    stages=("teacher", "taught", "chosen"),
    export="",
    log_steps=1,
    tensorboard=False,
    parallel=dict(devices=1),
    data=dict(train_size=250, validation=50, test_size=40),
    scorer=kdcl.scorer(**SMALL, epochs=1.5, folds=2, scores=("loss",)),
    teacher=kdcl.stage(
      **SMALL,
      steps=30,
      snapshots=(0.3, 0.7),
      curriculum=dict(
        order="curriculum",
        pacing=dict(name="one_pass", buckets=3),
        restart_learning_rate=dict(on=True, factor=0.5),
      ),
    ),
    taught=kdcl.stage(
      **(SMALL | dict(model=dict(name="mlp", widths=(6,)))),
      steps=24,
      teachers=("teacher",),
      teacher_pacing=dict(name="linear", start=0.1, reach=0.9),
      curriculum=order
      | dict(
        lessons=6,
        difficulty=dict(source="teacher"),
        rerank=dict(on=True, every=2),
      ),
    ),
    chosen=kdcl.stage(
      **(SMALL | dict(optimizer=dict(schedule=dict(warmup=0.3)))),
      steps=16,
      teachers=("teacher", "taught"),
      selection=dict(name="reducible_loss", candidates=3),
      curriculum=order | dict(lessons=4),
    ),
  )
  return kdcl.resolve(kdcl.run(**(sections | fields)))


def planned(resolved, tables=None):
  data = dataset.load(resolved["data"], seed=0)
  validation.check(resolved)
  validation.check_data(resolved, data)
  return plan.make(resolved, data, seed=0, tables=tables)


def one(steps=40, data=None, **fields):
  """The plan of a stage called student."""
  teachers = {name: kdcl.stage(**SMALL, steps=10) for name in ("a", "b")}
  teachers["a"].snapshots = (0.25, 0.5)
  made = planned(
    kdcl.resolve(
      kdcl.run(
        stages=("a", "b", "student"),
        data=dict(train_size=250, validation=50) | (data or {}),
        student=kdcl.stage(**(SMALL | fields), steps=steps),
        **teachers,
      )
    )
  )
  return made.stages[-1]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A run, and its plans before and after."""
  workdir = tmp_path_factory.mktemp("plan")
  resolved = config()
  before = planning.execute(resolved, workdir)
  data = dataset.load(resolved["data"], seed=0)
  known = planning.difficulties(resolved, data, workdir, 0)
  assert known == {}
  plans = [plan.make(resolved, data, seed=0, tables=known)]
  with mock.patch.object(report, "write"):
    results = run.execute(resolved, workdir)
  known = planning.difficulties(resolved, data, workdir, 0)
  plans.append(plan.make(resolved, data, seed=0, tables=known))
  return workdir, results["stages"], plans, before


def test_the_ledger_of_the_run_is_the_one_that_was_planned(done):
  _, results, (before, after), _ = done
  for planned in (before, after):
    for stage in planned.stages:
      result = results[stage.name]
      ledger = {k: v["mean"] for k, v in result["ledger"].items()}
      assert dict(stage.compute.ledger) == ledger, stage.name
      assert stage.compute.flops_per_example == result["flops_per_example"]
      assert stage.compute.parameters == result["parameters"]
      assert stage.course.steps == result["steps"]["mean"]
  kinds = [kind for kind, count in before.totals()[0].items() if count]
  assert len(kinds) == 7  # this run has some of everything


def test_every_step_sees_the_window_and_the_rate_that_were_planned(done):
  workdir, _, (before, _), _ = done
  for stage in before.stages:
    path = workdir / stage.name / "seed_0" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    ends = [line["step"] for line in lines if line["kind"] == "lesson"]
    active = stage.course.last - stage.course.first
    assert [line["active"] for line in steps] == active.tolist()
    rates = [line["learning_rate"] for line in steps]
    np.testing.assert_allclose(
      stage.course.learning_rate, rates, rtol=1e-5, atol=1e-9
    )
    assert [0, *ends] == [*stage.course.lessons, stage.course.steps]


def test_the_flops_are_those_of_the_ledger_and_scoring_is_paid_once(done):
  _, _, (before, _), _ = done
  each = {s.name: s.compute.flops_per_example for s in before.stages}
  teacher, taught, chosen = before.stages
  ledger = taught.compute.ledger
  assert taught.compute.flops == {
    "training": each["taught"] * 3 * ledger["example_forwards"],
    "teachers": each["teacher"] * ledger["teacher_forwards"],
    "validation": each["taught"] * ledger["validation_forwards"],
    "rescoring": each["taught"] * ledger["rescoring_forwards"],
    "scoring": each["teacher"] * 200,
  }
  trained = teacher.compute.ledger["scoring_backwards"]
  own = before.scorer.compute.flops_per_example
  assert teacher.compute.flops["scoring"] == own * (200 + 3 * trained)
  assert not teacher.compute.shared and chosen.compute.shared
  assert chosen.compute.flops["scoring"] == 0
  counts, flops = before.totals()
  assert counts["scoring_backwards"] == trained
  assert counts["scoring_forwards"] == 200 + 200
  backwards = [s.compute.ledger["example_backwards"] for s in before.stages]
  assert counts["example_backwards"] == sum(backwards)
  assert flops == sum(sum(s.compute.flops.values()) for s in before.stages)
  # A selection looks at all its candidates and learns from some.
  ledger = chosen.compute.ledger
  passes = ledger["example_forwards"] + 2 * ledger["example_backwards"]
  assert ledger["example_forwards"] > 3 * ledger["example_backwards"]
  assert chosen.compute.flops["training"] == each["chosen"] * passes
  half = ledger["teacher_forwards"] / 2
  both = each["teacher"] + each["taught"]
  assert chosen.compute.flops["teachers"] == both * half


def test_classes_of_a_scored_order_are_known_after_scoring(done):
  workdir, _, (before, after), said = done
  known = lambda made: [stage.classes is not None for stage in made.stages]
  assert known(before) == [False] * 3 and known(after) == [True] * 3
  path = workdir / "difficulty" / "seed_0" / "scorer_loss.npz"
  with np.load(path) as table:
    order = np.lexsort((table["record_id"], table["difficulty"]))
    ranked = table["label"][order]
  for stage in (after.stages[0], after.stages[2]):
    for moment, shares in zip(stage.moments, stage.classes, strict=True):
      first, last = stage.course.first[moment], stage.course.last[moment]
      counts = np.bincount(ranked[first:last], minlength=10)
      np.testing.assert_allclose(shares, counts / (last - first))
  assert said.splitlines()[-1] == f"The plan is {workdir / 'plan.html'}."


def test_a_table_of_another_config_is_not_believed(done):
  workdir, _, _, _ = done
  other = config(seed=0, data=dict(train_size=240, validation=50, test_size=40))
  data = dataset.load(other["data"], seed=0)
  assert planning.difficulties(other, data, workdir, 0) == {}


def test_the_page_holds_a_picture_of_each_stage(done):
  workdir, _, _, _ = done
  page = (workdir / "plan.html").read_text()
  pictures = sorted(path.stem for path in (workdir / "plan").glob("*.png"))
  names = ("teacher", "taught", "chosen", "scorer")
  assert pictures == sorted(["compute", *(f"stage_{n}" for n in names)])
  assert page.count("data:image/png;base64,") == len(pictures)
  assert 'src="plan' not in page
  assert "only known after scoring" in page  # it was made before the run


def training(steps=40, **fields):
  resolved = kdcl.resolve(
    kdcl.run(
      stages=("student",),
      data=dict(train_size=250, validation=50),
      student=kdcl.stage(**(SMALL | fields), steps=steps),
    )
  )
  data = dataset.load(resolved["data"], seed=0)
  return stages.training_of(
    "student",
    resolved["student"],
    resolved,
    data,
    parallel.create("jit", 1),
    seed=0,
    shapes_only=True,
  )


@pytest.mark.parametrize("order", ["none", "random"])
@pytest.mark.parametrize(
  "pacing", [dict(name="one_pass", buckets=4), dict(name="baby_steps")]
)
def test_the_classes_of_a_known_order_are_those_of_the_batches(order, pacing):
  course = dict(order=order, pacing=pacing)
  made = one(steps=80, curriculum=course)
  built = training(steps=80, curriculum=course)
  state = built.curriculum.controller.init()
  seen = set()
  for step in range(made.course.lessons[1]):
    ids, _, present = built.curriculum.batch(state, step)
    seen.update(ids[present].tolist())
  counts = np.bincount(built.train.labels[sorted(seen)], minlength=10)
  np.testing.assert_allclose(made.classes[0], counts / len(seen))
  assert made.moments.tolist() == [*made.course.lessons, 79]
  np.testing.assert_allclose(made.classes.sum(axis=1), 1.0)


def test_rows_are_counted_as_the_batches_are_selected():
  chance = np.random.default_rng(0)
  for _ in range(50):
    step, active, size = (int(n) for n in chance.integers(1, 90, 3))
    rows = curriculum.select(0, step, active, size).present.sum()
    assert curriculum.present_rows(step, active, size) == rows


def test_the_curves_are_those_of_the_schedules():
  made = one(
    teachers=("a",),
    objective=dict(
      cross_entropy=dict(
        coefficient=dict(start=1.0, end=0.2),
        label_smoothing=dict(start=0.0, end=0.1, begin=0.5),
      ),
      kd=dict(coefficient=0.7, temperature=dict(start=8.0, end=2.0)),
      dkd=dict(beta=2.0),
    ),
    weighting=dict(name="spl_hard", quantile=dict(start=0.5, end=1.0)),
    data=dict(
      augment=(
        dict(name="flip"),
        dict(name="resolution", size=dict(start=0.5, end=1.0)),
        dict(name="pad_crop", pad=dict(start=0, end=2)),
      )
    ),
  ).over
  u = np.arange(40) / 40
  curves = {
    "cross_entropy": 1 - 0.8 * u,
    "kd": 0.7,
    "dkd": 1.0,
    "kd.temperature": 8 - 6 * u,
    "dkd.temperature": 4.0,  # the loss's own
    "cross_entropy.label_smoothing": 0.1 * np.clip(2 * u - 1, 0, 1),
    "weighting.quantile": 0.5 + 0.5 * u,
    "resolution.size": 0.5 + 0.5 * u,
    "pad_crop.pad": np.floor(2 * u + 0.5),
  }
  assert set(made.coefficients) == {"cross_entropy", "kd", "dkd"}
  assert set(made.temperatures) == {"kd.temperature", "dkd.temperature"}
  found = made.coefficients | made.temperatures | made.numbers
  assert set(found) == set(curves)  # and no constant beside the temperatures
  for name, values in found.items():
    assert values.shape == (40,)
    np.testing.assert_allclose(values, curves[name] + 0 * u, atol=1e-12)


def test_learned_temperatures_have_a_range_or_a_reason():
  made = one(
    teachers=("a",),
    objective=dict(
      cross_entropy=dict(),
      learned=dict(loss="kd", projector=dict(name="ctkd", start=2.0, end=6.0)),
      followed=dict(loss="kd", projector=dict(name="cwsm")),
    ),
  ).over
  assert made.ranges == {"learned.temperature": (2.0, 8.0)}
  assert not made.temperatures
  followed, learned = made.notes
  assert "learned.temperature is learned within 2 to 8" in learned
  assert "followed.temperature follows from the logits" in followed


def test_the_snapshot_that_teaches_is_the_one_that_the_run_takes():
  made = one(
    teachers=("a", "b"),
    teacher_pacing=dict(name="linear", start=0.1, reach=1.0),
    curriculum=dict(lessons=8),
  )
  teacher = train.Model("a", None, 1.0, {m: m for m in (0.25, 0.5)})
  for step in range(40):
    asked = made.over.teaching["pacing"][step]
    assert made.over.teaching["a"][step] == teacher.at(asked)
  assert asked == pytest.approx(0.1 + 0.9 * 35 / 40)  # of the last lesson
  assert set(made.over.teaching["b"]) == {1.0}  # it keeps no snapshot
  assert len(set(made.over.teaching["a"])) == 3


def test_a_temperature_by_rank_is_drawn_at_both_ends():
  slope = dict(easy=1.0, hard=dict(start=4.0, end=2.0))
  made = one(
    teachers=("a",),
    objective=dict(
      kd=dict(temperature=slope),
      cross_entropy=dict(label_smoothing=dict(easy=0.0, hard=0.1)),
    ),
    curriculum=dict(order="random"),
  ).over
  assert set(made.temperatures) == {
    "kd.temperature (easy)",
    "kd.temperature (hard)",
  }
  hard = 4 - 2 * np.arange(40) / 40
  np.testing.assert_allclose(made.temperatures["kd.temperature (hard)"], hard)
  assert set(made.temperatures["kd.temperature (easy)"]) == {1.0}


def test_where_validation_decides_who_teaches_the_plan_says_so():
  made = one(
    teachers=("a", "b"), curriculum=dict(advance_teacher=dict(on=True))
  )
  (said,) = made.actions
  assert "advance_teacher lets validation decide which snapshot" in said
  assert made.over.teaching == {}


def test_what_may_change_the_course_is_said_and_does_not_change_the_plan():
  names = ("freeze", "hold", "reduce_learning_rate", "stop")
  pacing = dict(name="linear", start=0.2)
  course = dict(order="random", pacing=pacing, lessons=10)
  on = {name: dict(on=True) for name in names}
  plain, adaptive = one(curriculum=course), one(curriculum=course | on)
  assert plain.actions == () and len(adaptive.actions) == 4
  for name, sentence in zip(names, adaptive.actions, strict=True):
    assert name in sentence
  assert adaptive.compute == plain.compute
  np.testing.assert_array_equal(plain.course.last, adaptive.course.last)


def test_a_bandit_and_a_new_ranking_are_said_too():
  course = dict(order="random", bandit=dict(on=True, buckets=4), lessons=10)
  made = one(curriculum=course)
  assert "bandit" in made.actions[0]
  assert (made.course.last - made.course.first == 50).all()  # of 200
  rerank = dict(order="anti", rerank=dict(on=True), lessons=4)
  teacher = dict(difficulty=dict(source="teacher"))
  made = one(teachers=("a",), curriculum=rerank | teacher)
  assert "rerank" in made.actions[0]
  # All are active from the start, so there is nothing left to rank.
  assert made.compute.ledger["rescoring_forwards"] == 0


def test_planning_puts_nothing_on_a_device_and_trains_nothing(monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("a plan needs no device")

  monkeypatch.setattr(parallel.Parallel, "put", refuse)
  monkeypatch.setattr(train, "fit_together", refuse)
  before = {id(array) for array in jax.live_arrays()}
  made = planned(config())
  new = [a for a in jax.live_arrays() if id(a) not in before]
  assert max((array.size for array in new), default=0) <= 30  # of a schedule
  assert len(made.stages) == 3 and made.folds == 2


def test_shapes_stand_for_what_a_training_holds_on_its_devices():
  peer = dict(name="peer", model="mlp", options=(("widths", (8,)),))
  built = training(objective=dict(cross_entropy={}, dml=dict(projector=peer)))
  held = jax.tree.leaves((built.model.variables, built.parts))
  assert len(held) == 2 * 4  # the student and its peer
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in held)


def test_a_pretrained_stage_takes_nothing_but_what_it_teaches(tmp_path):
  from kdcl_jax import weights

  variables = training().model.variables
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
  weights.save(tmp_path / "given.safetensors", zeros, {})
  path = str(tmp_path / "given.safetensors")
  resolved = kdcl.resolve(
    kdcl.run(
      stages=("given", "student"),
      seeds=3,
      data=dict(train_size=250, validation=50),
      given=kdcl.stage(**SMALL, weights=path),
      student=kdcl.stage(**SMALL, steps=13, teachers=("given",)),
    )
  )
  made = planned(resolved)
  given, student = made.stages
  assert given.course.steps == 0 and sum(given.compute.ledger.values()) == 0
  # 13 steps of 16, of which the last ends a pass over 200 with 8.
  assert student.compute.ledger["teacher_forwards"] == 12 * 16 + 8
  data = dataset.load(resolved["data"], seed=0)
  page = planning.write(tmp_path, resolved, data, made).read_text()
  assert "It is not trained." in page
  assert [p.name for p in (tmp_path / "plan").glob("stage*")] == [
    "stage_student.png"
  ]
  head, *lines = planning.rows(made)
  assert lines[-1][0] == "3 seeds" and lines[-2][0] == "total"
  column = head.index("teachers forward")
  assert lines[-1][column] == "600" and "rescoring forward" not in head


def test_the_table_brackets_what_is_paid_and_stars_what_may_change(done):
  said = done[3]
  line = lambda name: next(
    row for row in said.splitlines() if row.startswith(name)
  )
  assert "(200)" in line("chosen") and "(200)" not in line("teacher")
  assert line("taught*") and "* taught: rerank changes" in said
  assert "In brackets" in said and "trained 2 times" in said
  table = said.split("\n\n")[0].splitlines()
  assert max(map(len, table)) <= 120
  numbers = re.findall(r"[0-9,]+", line("total"))
  assert numbers[0] == "70"  # steps


def test_a_mistake_ends_in_its_sentence():
  resolved = config(data=dict(augment=(dict(name="flop"),)))
  with pytest.raises(UserError, match="did you mean 'flip'"):
    planning.execute(resolved, pathlib.Path("nowhere"))
  resolved = config(parallel=dict(devices=5))  # as many as there will be
  with pytest.raises(UserError, match="multiple of 5"):
    planning.execute(resolved, pathlib.Path("nowhere"))


def test_the_command_needs_no_workdir_and_says_where_the_page_is(tmp_path):
  (tmp_path / "mine.py").write_text(
    "from kdcl_jax import config as kdcl\n\n"
    "def get_config():\n"
    "  return kdcl.run(stages=('student',), data=dict(train_size=250),"
    " student=kdcl.stage(steps=20))\n"
  )
  command = [sys.executable, "-m", "kdcl_jax.main", "--config=mine.py"]
  done = subprocess.run(
    [*command, "--plan", "--config.student.batch_size=25"],
    cwd=tmp_path,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  *table, last = done.stdout.splitlines()
  page = pathlib.Path(re.fullmatch(r"The plan is (.*)\.", last)[1])
  assert page.parent.parent == tmp_path and page.exists()
  assert "500" in next(line for line in table if line.startswith("student"))
  # Nothing of a run is there.
  assert sorted(p.name for p in page.parent.iterdir()) == ["plan", "plan.html"]
