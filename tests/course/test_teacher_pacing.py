"""Teachers that were younger: their snapshots, and which one teaches when."""

import shutil

import jax
import numpy as np
import pytest
from courses import NET, assert_same, fit, model

from kdcl_jax import checkpoint, pacing, parallel, report, run, train, weights
from kdcl_jax import config as kdcl
from kdcl_jax.train import Model, Outlet

KD = dict(cross_entropy={}, kd={})


def test_the_first_snapshot_at_or_after_a_share_teaches():
  teacher = Model("t", None, "final", {0.5: "half", 0.25: "quarter"})
  shares = (0.0, 0.1, 0.25, 0.26, 0.5, 0.51, 1.0)
  assert [teacher.at(share) for share in shares] == [
    *("quarter", "quarter", "quarter", "half", "half", "final", "final")
  ]
  assert Model("t", None, "final").at(0.0) == "final"


def test_rounding_does_not_skip_a_snapshot():
  share = pacing.linear(start=0.2, reach=1.0)(0.5)  # 0.6000000000000001
  teacher = Model("t", None, "final", {0.3: "early", 0.6: "late"})
  assert teacher.at(share) == "late"


@pytest.fixture
def taught(monkeypatch):
  """The teachers' variables that each training step receives."""
  received = []
  partition = parallel.Parallel.partition

  def spy(self, body, *, constants, **options):
    run = partition(self, body, constants=constants, **options)
    if constants != 2:  # not a training step
      return run

    def step(state, teachers, batch):
      received.append(jax.device_get(teachers))
      return run(state, teachers, batch)

    return step

  monkeypatch.setattr(parallel.Parallel, "partition", spy)
  return received


def named(teacher, variables):
  """Which of a teacher's variables these are."""
  known = {"final": teacher.variables} | teacher.snapshots
  for name, tree in known.items():
    if jax.tree.all(jax.tree.map(np.array_equal, tree, variables)):
      return name
  return None


def test_every_lesson_is_taught_by_the_snapshot_that_it_is_due(taught):
  teachers = (
    model("teacher", 1, (0.25, 0.5, 0.75), model=NET),
    model("second", 9, (0.5,)),  # has no later ones
  )
  outcome = fit(
    teachers=teachers,
    objective=KD,
    curriculum=dict(lessons=6),
    teacher_pacing=dict(
      name="stairs",
      ends=(1 / 6, 2 / 6, 4 / 6),
      fractions=(0.25, 0.3, 0.75, 1.0),
    ),
  )
  assert len(taught) == 24 and outcome.traces == 1
  by_lesson = [0.25, 0.5, 0.75, 0.75, "final", "final"]
  second = [0.5, 0.5, "final", "final", "final", "final"]
  for step, given in enumerate(taught):
    assert named(teachers[0], given[0]) == by_lesson[step // 4]
    assert named(teachers[1], given[1]) == second[step // 4]


def test_a_teacher_does_not_change_within_a_lesson(taught):
  teacher = model(snapshots=(0.2, 0.4, 0.6, 0.8))
  fit(
    teachers=(teacher,),
    objective=KD,
    curriculum=dict(lessons=2),
    teacher_pacing=dict(name="linear", start=0.1, reach=1.0),
  )
  names = [named(teacher, given[0]) for given in taught]
  assert names == [0.2] * 12 + [0.6] * 12  # 0.1 and 0.55 are due


def test_without_a_pacing_the_final_teacher_teaches_throughout(taught):
  teacher = model(snapshots=(0.25, 0.5))
  fit(teachers=(teacher,), objective=KD, steps=3)
  assert {named(teacher, given[0]) for given in taught} == {"final"}


class Killed(Exception):
  """The process ends without a chance to save."""


def outlet(folder, stop=None, kill=None, every=5):
  """An outlet whose training is stopped, or killed, after so many steps."""
  asked = []

  def interrupted():
    asked.append(1)
    if len(asked) == kill:
      raise Killed
    return len(asked) == stop

  return Outlet(
    folder,
    log_steps=5,
    checkpoint_steps=every,
    quiet=True,
    interrupted=interrupted,
  )


STAGE = dict(
  model=NET,
  steps=20,
  snapshots=(0.35, 0.6),  # after steps 7 and 12
  curriculum=dict(lessons=2),
)


def files(folder):
  return {
    path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()
  }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The snapshots and the variables of a training that nothing disturbs."""
  folder = tmp_path_factory.mktemp("whole")
  outcome = fit(outlet=outlet(folder), **STAGE)
  return files(folder), jax.device_get(outcome.variables)


def test_a_snapshot_is_what_a_run_stopped_there_has(whole, tmp_path):
  snapshots, _ = whole
  assert set(snapshots) == {"0.35.safetensors", "0.6.safetensors"}
  for share, step in ((0.35, 7), (0.6, 12)):
    folder = tmp_path / str(step)
    # Asked after each step, and once more at the end of the lesson of 10.
    stop = step + (step > 10)
    with pytest.raises(train.Interrupted):
      fit(outlet=outlet(folder, stop=stop), **STAGE)
    stopped = checkpoint.latest_variables(folder / "checkpoints")
    path = tmp_path / f"{step}.safetensors"
    path.write_bytes(snapshots[weights.snapshot_path(folder, share).name])
    assert_same(weights.load(path, "snapshot"), stopped)


def test_a_snapshot_of_a_moving_average_is_the_average(tmp_path):
  optimizer = dict(name="sgd", ema=0.5, schedule=dict(name="constant"))
  fields = dict(model=NET, optimizer=optimizer)
  fit(outlet=outlet(tmp_path), steps=4, snapshots=(0.5,), **fields)
  path = weights.snapshot_path(tmp_path, 0.5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    weights.load(path, "snapshot"),
    jax.device_get(fit(steps=2, **fields).variables),
  )


@pytest.mark.parametrize("kill", [6, 8, 13, 16])
def test_a_kill_before_or_after_a_snapshot_changes_no_byte(
  whole, tmp_path, kill
):
  snapshots, variables = whole
  with pytest.raises(Killed):
    fit(outlet=outlet(tmp_path, kill=kill), **STAGE)
  resumed = fit(outlet=outlet(tmp_path), **STAGE)
  assert files(tmp_path) == snapshots
  assert_same(resumed.variables, variables)


def test_a_student_of_snapshots_resumes_with_the_same_teachers(
  taught, tmp_path
):
  fields = dict(
    teachers=(model(snapshots=(0.35, 0.65)),),
    objective=KD,
    curriculum=dict(lessons=4),
    teacher_pacing=dict(name="linear", start=0.2, reach=1.0),
  )
  undisturbed = fit(outlet=outlet(tmp_path / "whole"), **fields)
  expected, taught[:] = list(taught), []
  with pytest.raises(Killed):
    # In the middle of the third lesson, after the checkpoint of step 15.
    fit(outlet=outlet(tmp_path / "killed", kill=18), **fields)
  before = len(taught)
  resumed = fit(outlet=outlet(tmp_path / "killed"), **fields)
  assert_same(resumed.variables, undisturbed.variables)
  again = len(taught) - before  # from the checkpoint on
  assert again == 24 - 15
  assert_same(taught[before:], expected[24 - again :])


def test_a_run_teaches_with_the_snapshots_of_its_earlier_stage(
  taught, monkeypatch, tmp_path
):
  monkeypatch.setattr(report, "write", lambda *_: None)  # takes its time
  common = dict(model=dict(name="mlp", widths=(8,)), batch_size=16)
  config = kdcl.resolve(
    kdcl.run(
      stages=("teacher", "student"),
      data=dict(train_size=100),
      tensorboard=False,
      teacher=kdcl.stage(steps=6, snapshots=(0.5,), **common),
      student=kdcl.stage(
        steps=4,
        teachers=("teacher",),
        teacher_pacing=dict(name="step", start=0.4, reach=0.5),
        curriculum=dict(lessons=2),
        **common,
      ),
    )
  )
  run.execute(config, tmp_path)
  teacher = tmp_path / "teacher" / "seed_0"
  young = weights.load(weights.snapshot_path(teacher, 0.5), "snapshot")
  old = weights.load(teacher / "weights.safetensors", "weights")
  given = [one["params"] for teachers in taught for one in teachers]
  for got, tree in zip(given, [young, young, old, old], strict=True):
    assert_same(got, tree["params"])
  # Another process finds them in the files of the stage.
  taught.clear()
  shutil.rmtree(tmp_path / "student")
  run.execute(config, tmp_path)
  again = [one["params"] for teachers in taught for one in teachers]
  assert_same(again, given)


def test_a_training_that_leaves_no_traces_takes_no_snapshots(monkeypatch):
  monkeypatch.setattr(weights, "save", None)
  assert fit(steps=3, snapshots=(0.5,)).steps == 3
