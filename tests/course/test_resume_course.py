"""A killed run with everything that a course can do ends as if undisturbed."""

import dataclasses
import json
import random

import numpy as np
import pytest
from courses import fit
from processes import assert_same, finish, kill, outcome

from kdcl_jax import train
from kdcl_jax.train import Outlet

# A bandit that is rewarded for the loss, and a teacher's snapshots; windows,
# re-ranked by evaluation; a stream, a quantile, and the teacher's snapshots.
CONFIG = """
from kdcl_jax import config as kdcl

def get_config():
  def stage(steps, curriculum, **fields):
    return kdcl.stage(
      model=dict(name="mlp", widths=(12,)), steps=steps, batch_size=32,
      curriculum=dict(order="curriculum", lessons=8) | curriculum,
      optimizer=dict(name="sgd", learning_rate=0.2, momentum=0.9), **fields
    )

  return kdcl.run(
    checkpoint_steps=10,
    log_steps=5,
    tensorboard=False,
    data=dict(train_size=600),
    stages=("teacher", "passed", "student"),
    teacher=stage(
      80,
      dict(bandit=dict(
        on=True, buckets=3, policy="thompson", reward="hardness", epsilon=0.5)),
      snapshots=(0.23, 0.6),
    ),
    passed=stage(
      60,
      dict(
        pacing=dict(name="one_pass", buckets=4),
        rerank=dict(on=True, score="confidence"),
      ),
    ),
    student=stage(
      80,
      dict(
        order="anti",
        pacing=dict(name="linear", start=0.3, reach=0.8),
        rerank=dict(on=True, records="all", stream="aum"),
        freeze=dict(on=True, patience=3, tolerance=0.5),
      ),
      teachers=("teacher",),
      weighting=dict(name="spl_linear", quantile=dict(start=0.5, end=1.0)),
      teacher_pacing=dict(name="linear", start=0.1, reach=1.0),
    ),
    scorer=kdcl.scorer(
      model=dict(name="mlp", widths=(12,)), steps=20, batch_size=32),
  )
"""
STAGES = ("teacher", "passed", "student")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("resume_course")
  config = folder / "config.py"
  config.write_text(CONFIG)
  finish(config, folder / "whole")
  return config, folder / "whole"


def lines_of(whole, stage):
  return outcome(whole)[f"{stage}/seed_0/metrics.jsonl"]


def result_of(whole, stage):
  return json.loads((whole / stage / "seed_0" / "result.json").read_text())


def test_a_kill_in_each_stage_changes_no_byte(undisturbed):
  config, whole = undisturbed
  chance = random.Random(3)
  counts = [len(lines_of(whole, stage)) for stage in STAGES]
  starts = np.cumsum([0, *counts])
  moments = [
    int(start) + chance.randrange(1, count)
    for start, count in zip(starts, counts, strict=False)
  ]
  workdir = whole.parent / "killed"
  assert kill(config, workdir, moments, chance) == 3
  finish(config, workdir)
  assert_same(workdir, whole)


def test_this_run_has_something_to_resume(undisturbed):
  _, whole = undisturbed
  lessons = {
    stage: [x for x in lines_of(whole, stage) if x["kind"] == "lesson"]
    for stage in STAGES
  }
  lows = [lesson["low"] for lesson in lessons["teacher"]]
  assert set(lows) == {0.0, 1 / 3, 2 / 3} and lows[3:] != sorted(lows[3:])
  assert all("choose_bucket" in x["actions"] for x in lessons["teacher"])
  snapshots = {name for name in outcome(whole) if "snapshots/" in name}
  assert snapshots == {
    f"teacher/seed_0/snapshots/{share}.safetensors" for share in (0.23, 0.6)
  }
  lows = [lesson["low"] for lesson in lessons["passed"]]
  assert lows == [0.0, 0.25, 0.5, 0.75]
  ranked = ["rank_correlation" in lesson for lesson in lessons["passed"]]
  # In the last bucket there is no rest.
  assert ranked == [True, True, False, False]
  ranked = [lesson.get("rank_correlation") for lesson in lessons["student"]]
  assert len(set(ranked[:-1])) == 7 and ranked[-1] is None
  means = [
    line["terms"]["weighting"]
    for line in lines_of(whole, "student")
    if line["kind"] == "train"
  ]
  assert means[0] != means[-1] and all(0 < m < 1 for m in means)
  rescored = {
    stage: result_of(whole, stage)["ledger"]["rescoring_forwards"]
    for stage in STAGES
  }
  assert rescored == {"teacher": 0, "passed": 2 * 480, "student": 0}


def test_a_student_of_snapshots_from_files_is_traced_once(undisturbed):
  _, whole = undisturbed
  assert {result_of(whole, stage)["traces"] for stage in STAGES} == {1}


BANDIT = dict(
  curriculum=dict(lessons=3, bandit=dict(on=True, buckets=3, reward="hardness"))
)


def fitted(folder, log_steps, stops=()):
  """A training that logs so often, and is asked to stop after some steps."""
  outlet = Outlet(folder, log_steps=log_steps, quiet=True)
  for stop in stops:
    asked = iter([False] * (stop - 1) + [True])
    stopping = dataclasses.replace(outlet, interrupted=lambda: next(asked))  # noqa: B023
    with pytest.raises(train.Interrupted):
      fit(outlet=stopping, **BANDIT)
  return fit(outlet=outlet, **BANDIT)


def test_how_often_a_run_logs_changes_no_reward(tmp_path):
  often = fitted(tmp_path / "often", 1)
  seldom = fitted(tmp_path / "seldom", 7)
  assert often.course.bandit == seldom.course.bandit


def test_a_run_that_was_asked_to_stop_has_the_same_rewards(tmp_path):
  whole = fitted(tmp_path / "whole", 100)
  stopped = fitted(tmp_path / "stopped", 100, stops=(3, 2, 6))
  assert stopped.course.bandit == whole.course.bandit


def test_a_run_that_was_asked_to_stop_logs_the_same(tmp_path):
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  fitted(whole, 6)
  fitted(stopped, 6, stops=(10,))
  lines = [
    [
      {k: v for k, v in json.loads(line).items() if "per_second" not in k}
      for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    for folder in (whole, stopped)
  ]
  assert lines[0] == lines[1]
