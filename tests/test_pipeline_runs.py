"""Whole runs, small: the variants of the configs, modes, data with faults."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from kdcl_jax import config as kdcl
from kdcl_jax import run
from kdcl_jax.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SMALL = dict(
  model=dict(name="mlp", widths=(16,)),
  steps=60,
  batch_size=32,
  optimizer=dict(name="adam", learning_rate=0.01),
)


def execute(config, workdir):
  config.tensorboard = False
  config.parallel.devices = config.parallel.devices or 1
  return run.execute(kdcl.resolve(config), pathlib.Path(workdir))


def shortened(config, steps):
  for name in (*config.stages, "scorer"):
    config[name].steps = steps
    config[name].epochs = 0.0
  return config


def test_a_teacher_assistant_chain_is_a_config(tmp_path):
  get = runpy.run_path(str(CONFIGS / "digits.py"))["get_config"]
  config = shortened(get("chain"), 40)
  results = execute(config, tmp_path)
  assert list(results["stages"]) == [
    "teacher",
    "assistant",
    "baseline",
    "student",
  ]
  agreement = results["stages"]["student"]["test"]["agreement"]
  assert set(agreement) == {"assistant"}


def test_two_teachers_are_a_config_and_both_are_learned_from(tmp_path):
  get = runpy.run_path(str(CONFIGS / "digits.py"))["get_config"]
  results = execute(shortened(get("two_teachers"), 40), tmp_path)
  agreement = results["stages"]["student"]["test"]["agreement"]
  assert set(agreement) == {"teacher", "assistant"}


def test_several_seeds_give_means_and_values_of_each(tmp_path):
  config = kdcl.run(
    stages=("baseline", "other"),
    seeds=3,
    export="baseline",
    baseline=kdcl.stage(**SMALL),
    other=kdcl.stage(**(SMALL | dict(steps=20))),
  )
  results = execute(config, tmp_path)
  accuracy = results["stages"]["baseline"]["test"]["accuracy"]
  assert len(set(accuracy["values"])) == 3
  assert accuracy["mean"] == pytest.approx(np.mean(accuracy["values"]))
  assert accuracy["std"] == pytest.approx(np.std(accuracy["values"], ddof=1))
  (comparison,) = results["comparisons"]
  assert comparison["method"] == "paired t over seeds"
  assert "seed 2" in (tmp_path / "report.md").read_text()


def test_more_seeds_are_added_to_a_finished_run(tmp_path):
  sections = dict(stages=("baseline",), export="baseline")
  once = kdcl.run(**sections, baseline=kdcl.stage(**SMALL))
  first = execute(once, tmp_path)
  before = (tmp_path / "baseline/seed_0/weights.safetensors").read_bytes()
  twice = kdcl.run(**sections, seeds=2, baseline=kdcl.stage(**SMALL))
  both = execute(twice, tmp_path)
  value = lambda r: r["stages"]["baseline"]["test"]["accuracy"]["values"]
  assert value(both)[:1] == value(first)
  assert (tmp_path / "baseline/seed_0/weights.safetensors").read_bytes() == (
    before
  )


@pytest.mark.parametrize("devices", [4])
def test_shard_map_and_jit_runs_agree(tmp_path, devices):
  def config(mode):
    stage = dict(
      model=dict(name="resnet", depth=8, widths=(4, 4, 8, 8)),
      steps=40,
      batch_size=96,
      optimizer=dict(name="sgd", learning_rate=0.05, momentum=0.9),
    )
    return kdcl.run(
      stages=("teacher", "student"),
      parallel=dict(mode=mode, devices=devices),
      data=dict(train_size=250, test_size=100, validation=50),
      teacher=kdcl.stage(**stage),
      student=kdcl.stage(**stage, teachers=("teacher",)),
    )

  for mode in ("jit", "shard_map"):
    execute(config(mode), tmp_path / mode)
  one, two = (
    load_file(tmp_path / mode / "export" / "student.safetensors")
    for mode in ("jit", "shard_map")
  )
  assert one.keys() == two.keys()
  for name in one:
    np.testing.assert_allclose(one[name], two[name], rtol=2e-2, atol=2e-3)
  result = json.loads((tmp_path / "jit/student/seed_0/result.json").read_text())
  assert result["traces"] == 1  # 200 records: every third batch is ragged


def test_the_step_is_traced_once_however_the_subset_grows(tmp_path):
  course = dict(
    order="random",
    pacing=dict(name="linear", start=0.1, reach=0.9),
    freeze=dict(on=True, patience=1, tolerance=0.01),
    reduce_learning_rate=dict(on=True, patience=1),
  )
  config = kdcl.run(
    stages=("student",), student=kdcl.stage(**SMALL, curriculum=course)
  )
  execute(config, tmp_path)
  result = json.loads((tmp_path / "student/seed_0/result.json").read_text())
  assert result["traces"] == 1


def test_a_trained_stage_serves_another_run_as_its_pretrained_teacher(
  tmp_path,
):
  first = kdcl.run(stages=("teacher",), export="", teacher=kdcl.stage(**SMALL))
  trained = execute(first, tmp_path / "first")
  for given in ("teacher/seed_0", "teacher/seed_0/weights.safetensors"):
    workdir = tmp_path / given.replace("/", "_")
    second = kdcl.run(
      stages=("teacher", "student"),
      teacher=kdcl.stage(
        model=SMALL["model"],
        steps=0,
        weights=str(tmp_path / "first" / given),
      ),
      student=kdcl.stage(**SMALL, teachers=("teacher",)),
    )
    results = execute(second, workdir)
    teacher = results["stages"]["teacher"]
    assert not teacher["trained"]
    assert (
      teacher["test"]["accuracy"]["values"]
      == (trained["stages"]["teacher"]["test"]["accuracy"]["values"])
    )


def test_orbax_checkpoints_serve_as_a_pretrained_teacher_too(tmp_path):
  from kdcl_jax import weights

  config = kdcl.run(
    stages=("teacher",),
    export="",
    checkpoint_steps=20,
    teacher=kdcl.stage(**SMALL),
  )
  execute(config, tmp_path)
  stage = tmp_path / "teacher" / "seed_0"
  loaded = weights.load(stage / "checkpoints", "config.teacher.weights")
  saved = weights.load(stage, "config.teacher.weights")
  jax.tree.map(np.testing.assert_array_equal, loaded["params"], saved["params"])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
  tmp_path,
):
  config = kdcl.run(
    stages=("student",),
    checkpoint_steps=5,
    student=kdcl.stage(
      **(SMALL | dict(optimizer=dict(name="sgd", learning_rate=1e30)))
    ),
  )
  with pytest.raises(UserError, match="stage 'student' at step [0-9]+") as e:
    execute(config, tmp_path)
  assert "learning_rate" in str(e.value)
  assert not (tmp_path / "student/seed_0/result.json").exists()


def test_a_corrupt_picture_is_counted_reported_and_has_no_weight(tmp_path):
  rng = np.random.default_rng(0)
  for split, count in (("train", 40), ("test", 10)):
    for label, name in enumerate(("dark", "light")):
      folder = tmp_path / "data" / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        pixels = rng.integers(0, 60, (8, 8, 3)) + 190 * label
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
  (tmp_path / "data/train/dark/zz.jpg").write_bytes(b"\xff\xd8\xff broken")
  (tmp_path / "data/test/dark/zz.png").write_bytes(b"\x89PNG nothing")
  config = kdcl.run(
    stages=("student",),
    data=dict(
      source="folder",
      path=str(tmp_path / "data"),
      validation=4,
      mean=(0.5,),
      std=(0.25,),
      augment=(dict(name="flip"), dict(name="mixup", alpha=0.2)),
    ),
    student=kdcl.stage(**(SMALL | dict(batch_size=16))),
  )
  results = execute(config, tmp_path / "run")
  student = results["stages"]["student"]
  assert student["unreadable"]["mean"] == 1
  assert student["test"]["accuracy"]["mean"] == 1.0
  assert "could not be read" in (tmp_path / "run" / "report.md").read_text()


def test_bfloat16_schedules_and_moving_averages_train(tmp_path):
  config = kdcl.run(
    stages=("teacher", "student"),
    data=dict(train_size=200, validation=40, test_size=100),
    teacher=kdcl.stage(**SMALL),
    student=kdcl.stage(
      **(
        SMALL
        | dict(
          steps=200,
          precision="bfloat16",
          teachers=("teacher",),
          model=dict(name="cnn", widths=(8, 8), hidden=16),
          optimizer=dict(
            name="sgd",
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            clip=1.0,
            ema=0.9,
            schedule=dict(name="linear", warmup=0.2),
          ),
          objective=dict(
            cross_entropy=dict(coefficient=dict(start=0.0, end=1.0)),
            kd=dict(
              coefficient=dict(start=1.0, end=0.0, curve="cosine"),
              temperature=dict(start=4.0, end=1.0),
            ),
          ),
        )
      )
    ),
  )
  results = execute(config, tmp_path)
  assert results["stages"]["student"]["test"]["accuracy"]["mean"] > 0.6
  lines = (tmp_path / "student/seed_0/metrics.jsonl").read_text().splitlines()
  kinds = [json.loads(line)["kind"] for line in lines]
  assert kinds.count("lesson") == 20 and kinds.count("train") == 4
