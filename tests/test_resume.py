"""A run killed at any moment ends as the undisturbed one, bit for bit."""

import random
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import assert_same, finish, kill, outcome, progress, start
from safetensors import safe_open

# Everything that a resumed run must get right: an adaptive course with
# rollback, the best parameters, momentum, a moving average, augmentation,
# learned parts with parameters, statistics and a memory, two momenta.
CONFIG = """
from kdcl_jax import config as kdcl

def get_config():
  course = dict(
    order="curriculum",
    pacing=dict(name="linear", start=0.3, reach=0.5),
    lessons=12,
    freeze=dict(on=True, patience=1, tolerance=0.01),
    reduce_learning_rate=dict(on=True, patience=1),
  )
  pair = dict(student_tap="f0", teacher_tap="f0")
  learned = dict(
    cross_entropy=dict(),
    kd=dict(projector=dict(name="ctkd", reach=0.5)),
    srd=pair | dict(projector=dict(name="linear", norm_output=True)),
    crd=pair | dict(projector=dict(name="memory", negatives=16, features=8)),
    dml=dict(projector=dict(
      name="peer", model="mlp", options=(("widths", (8,)),))),
  )
  common = dict(model=dict(name="mlp", widths=(16,)), batch_size=32)
  return kdcl.run(
    checkpoint_steps=20,
    log_steps=10,
    tensorboard=False,
    data=dict(
      label_noise=dict(kind="symmetric", rate=0.4, validation=True),
      augment=(dict(name="pad_crop", pad=1), dict(name="cutout", size=2)),
    ),
    teacher=kdcl.stage(
      steps=240, curriculum=course, keep="best",
      optimizer=dict(name="sgd", learning_rate=0.2, momentum=0.9), **common
    ),
    baseline=kdcl.stage(
      steps=100, optimizer=dict(name="adam", learning_rate=0.01, ema=0.9),
      **common
    ),
    student=kdcl.stage(
      steps=150, teachers=("teacher",), objective=learned,
      optimizer=dict(name="dot", learning_rate=0.02), **common
    ),
    scorer=kdcl.scorer(steps=50, **common),
  )
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("resume")
  config = folder / "config.py"
  config.write_text(CONFIG)
  finish(config, folder / "whole")
  return config, folder / "whole"


@pytest.mark.slow
def test_five_kills_at_random_moments_change_no_byte(undisturbed):
  config, whole = undisturbed
  chance = random.Random(7)
  workdir = whole.parent / "killed"
  moments = sorted(chance.sample(range(1, progress(whole)), 5))
  kills = kill(config, workdir, moments, chance)
  finish(config, workdir)
  assert kills >= 4
  assert_same(workdir, whole)


def test_sigterm_saves_and_the_same_command_goes_on(undisturbed):
  config, whole = undisturbed
  workdir = whole.parent / "terminated"
  metrics = workdir / "teacher" / "seed_0" / "metrics.jsonl"
  process = start(config, workdir)
  deadline = time.monotonic() + 120
  while not (metrics.exists() and metrics.read_text()):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 0
  assert "goes on from here" in errors
  assert not (workdir / "results.json").exists()
  finish(config, workdir)
  assert_same(workdir, whole)


def test_a_finished_run_is_only_reported_again(undisturbed):
  config, whole = undisturbed
  before = outcome(whole)
  finish(config, whole)
  assert outcome(whole) == before


def test_a_broken_checkpoint_falls_back_and_says_so(undisturbed):
  config, whole = undisturbed
  workdir = whole.parent / "broken"
  checkpoints = workdir / "teacher" / "seed_0" / "checkpoints"
  process = start(config, workdir)
  deadline = time.monotonic() + 120
  while len([p for p in checkpoints.glob("*") if p.name.isdigit()]) < 2:
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.005)
  process.kill()
  process.communicate()
  latest = max(
    (p for p in checkpoints.glob("*") if p.name.isdigit()),
    key=lambda p: int(p.name),
  )
  for path in latest.rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  said = finish(config, workdir)
  assert f"checkpoint of step {latest.name}" in said
  assert "falling back" in said
  assert_same(workdir, whole)


def test_a_changed_config_is_refused_and_named(undisturbed):
  config, whole = undisturbed
  changed = whole.parent / "changed.py"
  changed.write_text(CONFIG.replace("steps=150", "steps=151"))
  process = start(changed, whole)
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 2
  assert "config.student.steps is 151" in errors and "150" in errors
  assert "Traceback" not in errors


def test_a_second_process_is_refused_and_the_first_unharmed(undisturbed):
  config, whole = undisturbed
  workdir = whole.parent / "shared"
  first = start(config, workdir)
  deadline = time.monotonic() + 120
  while not (workdir / "config.json").exists():
    assert time.monotonic() < deadline and first.poll() is None
    time.sleep(0.01)
  second = start(config, workdir)
  _, errors = second.communicate(timeout=120)
  assert second.returncode == 2
  assert "another process is at work" in errors
  _, errors = first.communicate(timeout=300)
  assert first.returncode == 0, errors
  assert_same(workdir, whole)


def test_learned_parts_are_in_the_checkpoints_and_not_in_the_export(
  undisturbed,
):
  _, whole = undisturbed
  with safe_open(whole / "export" / "student.safetensors", "numpy") as file:
    names = set(file.keys())
  layers = {"Dense_0/Dense_0", "Classifier_0/Dense_0/Dense_0"}
  assert names == {
    f"params/{layer}/{array}"
    for layer in layers
    for array in ("kernel", "bias")
  }
  checkpoints = whole / "student" / "seed_0" / "checkpoints"
  latest = max(int(p.name) for p in checkpoints.glob("[0-9]*"))
  saved = ocp.StandardCheckpointer().metadata(
    checkpoints / str(latest) / "arrays"
  )
  parts = saved.item_metadata["state"]["parts"]
  assert set(parts["params"]) == {"kd.0", "srd.0", "crd.0", "dml"}
  assert set(parts["state"]["crd.0"]["memory"]["bank"]) >= {"student"}


def test_the_course_of_this_run_has_something_to_resume(undisturbed):
  _, whole = undisturbed
  lines = outcome(whole)["teacher/seed_0/metrics.jsonl"]
  actions = [a for line in lines for a in line.get("actions", ())]
  assert "roll_back" in actions and "reduce_learning_rate" in actions
  fractions = [x["fraction"] for x in lines if x["kind"] == "lesson"]
  assert np.ptp(fractions) > 0
