"""Every mistake in a config ends in one sentence, before any device work."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from flax import linen as nn

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, validation, weights
from kdcl_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


class Plain(nn.Module):
  """A user's model with the layers Dense_0 and Dense_1."""

  num_classes: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1)))
    return nn.Dense(self.num_classes)(x)


class FiveClasses(nn.Module):
  """A user's model that ignores the number of classes."""

  num_classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(5)(x.reshape(x.shape[0], -1))


class Picky(nn.Module):
  """A user's model for 28 x 28 inputs."""

  num_classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(x.reshape(x.shape[0], 784))


def base(**fields):
  small = dict(model=dict(name="mlp", widths=(8,)), steps=10, batch_size=32)
  sections = dict(
    teacher=kdcl.stage(**small),
    baseline=kdcl.stage(**small),
    student=kdcl.stage(**small, teachers=("teacher",)),
    scorer=kdcl.scorer(**small),
  )
  return kdcl.run(**(sections | fields)).to_dict()


def checked(config, devices=1):
  resolved = kdcl.resolve(config)
  validation.check(resolved)
  data = dataset.load(resolved["data"], seed=0)
  validation.check_data(resolved, data)
  validation.check_devices(resolved, devices)
  return resolved


def put(*changes):
  """A change to a config: (path, value) pairs; fields need not exist."""

  def change(config):
    for path, value in changes:
      *parents, last = path.split(".")
      section = config
      for key in parents:
        section = section.setdefault(key, {})
      section[last] = value

  return change


# what is wrong -> (the change, what the sentence must contain)
WRONG = {
  "unknown field": (put(("sedes", 3)), ["config.sedes", "'seeds'"]),
  "unknown field of a stage": (
    put(("teacher.batchsize", 3)),
    ["config.teacher.batchsize", "'batch_size'"],
  ),
  "unknown field of a section": (
    put(("data.label_noise.rat", 0.4)),
    ["config.data.label_noise.rat", "'rate'"],
  ),
  "text for a number": (
    put(("teacher.batch_size", "64")),
    ["config.teacher.batch_size", "'64'", "whole number"],
  ),
  "fraction for a count": (put(("seeds", 2.5)), ["config.seeds", "2.5"]),
  "bool for a number": (put(("seeds", True)), ["config.seeds", "True"]),
  "number for a section": (
    put(("teacher.curriculum", 3)),
    ["config.teacher.curriculum", "section"],
  ),
  "no seeds": (put(("seeds", 0)), ["config.seeds", ">= 1"]),
  "negative seed": (put(("seed", -1)), ["config.seed", ">= 0"]),
  "no stages": (put(("stages", ())), ["config.stages"]),
  "a stage twice": (
    put(("stages", ("teacher", "teacher"))),
    ["config.stages", "different"],
  ),
  "a stage without a section": (
    put(("stages", ("teacher", "studnet"))),
    ["config.studnet", "'student'"],
  ),
  "a stage with a field's name": (put(("stages", ("data",))), ["'data'"]),
  "unknown teacher": (
    put(("student.teachers", ("techer",))),
    ["config.student.teachers", "'techer'", "'teacher'"],
  ),
  "a later stage as teacher": (
    put(("teacher.teachers", ("student",))),
    ["config.teacher.teachers", "does not come before"],
  ),
  "its own teacher": (
    put(("student.teachers", ("student",))),
    ["does not come before"],
  ),
  "a teacher twice": (
    put(("student.teachers", ("teacher", "teacher"))),
    ["config.student.teachers", "different"],
  ),
  "a teacher without a term": (
    put(("student.objective", {"cross_entropy": {}})),
    ["config.student.objective", "teacher", "kd"],
  ),
  "a term without a teacher": (
    put(("baseline.objective", {"kd": {}})),
    ["config.baseline.objective.kd", "teacher"],
  ),
  "unknown loss": (
    put(("student.objective.kdd", {})),
    ["config.student.objective.kdd", "'kd'"],
  ),
  "unknown field of a loss": (
    put(("student.objective.kd.temprature", 2.0)),
    ["config.student.objective.kd.temprature", "'temperature'"],
  ),
  "negative temperature": (
    put(("student.objective.kd.temperature", -4.0)),
    ["config.student.objective.kd.temperature", "-4.0", "> 0"],
  ),
  "zero temperature at a schedule's end": (
    put(("student.objective.kd.temperature", {"start": 4.0, "end": 0.0})),
    ["config.student.objective.kd.temperature", "> 0"],
  ),
  "a text as coefficient": (
    put(("student.objective.kd.coefficient", "high")),
    ["config.student.objective.kd.coefficient", "'high'"],
  ),
  "a text as a loss's number": (
    put(("student.objective.cross_entropy.label_smoothing", "some")),
    ["config.student.objective.cross_entropy", "some"],
  ),
  "a loss's number out of range": (
    put(("student.objective.cross_entropy.label_smoothing", 1.5)),
    ["config.student.objective.cross_entropy", "1.5"],
  ),
  "unknown field of a schedule": (
    put(("student.objective.kd.coefficient", {"start": 1, "stop": 0})),
    ["config.student.objective.kd.coefficient.stop"],
  ),
  "unknown teacher of a term": (
    put(("student.objective.kd.teacher", "baseline")),
    ["config.student.objective.kd.teacher", "'baseline'", "teacher"],
  ),
  "unknown model": (
    put(("teacher.model", {"name": "resnet21"})),
    ["config.teacher.model.name", "resnet21", "resnet20"],
  ),
  "unknown field of a model": (
    put(("teacher.model.width", 8)),
    ["config.teacher.model.width", "'widths'"],
  ),
  "a field that the pipeline sets": (
    put(("teacher.model.num_classes", 3)),
    ["config.teacher.model.num_classes", "pipeline"],
  ),
  "a model by a path that does not exist": (
    put(("teacher.model", {"name": "nowhere.Net"})),
    ["config.teacher.model.name", "nowhere"],
  ),
  "a model for other inputs": (
    put(("teacher.model", {"name": f"{__name__}.Picky"})),
    ["config.teacher.model", "(8, 8, 1)"],
  ),
  "a model for other classes": (
    put(("teacher.model", {"name": f"{__name__}.FiveClasses"})),
    ["config.teacher.model", "5", "10 classes"],
  ),
  "no length": (
    put(("teacher.steps", 0)),
    ["config.teacher.steps", "epochs"],
  ),
  "two lengths": (
    put(("teacher.epochs", 2.0)),
    ["config.teacher.steps", "config.teacher.epochs", "only one"],
  ),
  "weights that do not exist": (
    put(("teacher.weights", "nowhere.safetensors")),
    ["config.teacher.weights", "nowhere.safetensors", "does not exist"],
  ),
  "half a reference to the hub": (
    put(("teacher.weights", "hf:resnet50")),
    ["config.teacher.weights", "'hf:resnet50'", "'timm:NAME'"],
  ),
  "a whole model under another model's name": (
    put(("teacher.weights", "m.onnx"), ("teacher.steps", 0)),
    ["config.teacher.weights", "'m.onnx'", "config.teacher.model.name"],
  ),
  "a model that is only called and shall be trained": (
    put(("teacher.model", {"name": "onnx", "path": "m.onnx"})),
    ["config.teacher.model", "'onnx'", "cannot be trained"],
  ),
  "a scorer that is only called": (
    put(
      ("scorer.model", {"name": "stablehlo", "path": "m.stablehlo"}),
      ("teacher.curriculum.order", "curriculum"),
    ),
    ["config.scorer.model", "'stablehlo'", "cannot be trained"],
  ),
  "a called model that does not exist": (
    put(
      ("teacher.model", {"name": "onnx", "path": "nowhere.onnx"}),
      ("teacher.steps", 0),
    ),
    ["config.teacher.model", "'nowhere.onnx'", "does not exist"],
  ),
  "a called model without a path": (
    put(
      ("teacher.model", {"name": "onnx"}),
      ("teacher.steps", 0),
      ("teacher.weights", "model.safetensors"),
    ),
    ["config.teacher.model", "'model.safetensors'", "does not exist"],
  ),
  "an input of a size below zero": (
    put(("teacher.input.size", -1)),
    ["config.teacher.input.size", "-1", "(height, width)"],
  ),
  "an input of three sizes": (
    put(("teacher.input.size", (8, 8, 3))),
    ["config.teacher.input.size", "(height, width)"],
  ),
  "an input in unknown channels": (
    put(("teacher.input.channels", "rbg")),
    ["config.teacher.input.channels", "'rbg'", "'bgr'"],
  ),
  "an input with a mean for other channels": (
    put(("teacher.input.channels", "rgb"), ("teacher.input.mean", (0.1, 0.2))),
    ["config.teacher.input.mean", "2 numbers", "expected 3"],
  ),
  "an input with a spread of zero": (
    put(("teacher.input.std", (0.0,))),
    ["config.teacher.input.std", "> 0"],
  ),
  "a way to resize that does not exist": (
    put(("teacher.input.interpolation", "cubic")),
    ["config.teacher.input.interpolation", "'bicubic'"],
  ),
  "a fate of guessers that does not exist": (
    put(("teacher.near_chance", "go on")),
    ["config.teacher.near_chance", "'stop'", "'warn'"],
  ),
  "unknown optimizer": (
    put(("teacher.optimizer.name", "adamm")),
    ["config.teacher.optimizer.name", "'adam'"],
  ),
  "unknown field of an optimizer": (
    put(("teacher.optimizer.momentun", 0.9)),
    ["config.teacher.optimizer.momentun", "'momentum'"],
  ),
  "negative learning rate": (
    put(("teacher.optimizer.learning_rate", -0.1)),
    ["config.teacher.optimizer.learning_rate", "-0.1"],
  ),
  "infinite learning rate": (
    put(("teacher.optimizer.learning_rate", float("inf"))),
    ["config.teacher.optimizer.learning_rate", "inf"],
  ),
  "unsorted boundaries": (
    put(("teacher.optimizer.schedule.boundaries", (0.8, 0.2))),
    ["config.teacher.optimizer.schedule.boundaries", "increasing"],
  ),
  "boundaries that are no numbers": (
    put(("teacher.optimizer.schedule.boundaries", ("half",))),
    ["config.teacher.optimizer.schedule.boundaries", "half"],
  ),
  "unknown order": (
    put(("teacher.curriculum.order", "anticurriculum")),
    ["config.teacher.curriculum.order", "'anti'"],
  ),
  "unknown pacing": (
    put(("teacher.curriculum.pacing.name", "lineer")),
    ["config.teacher.curriculum.pacing.name", "'linear'"],
  ),
  "unknown field of a pacing": (
    put(("teacher.curriculum.pacing", {"name": "linear", "stat": 0.2})),
    ["config.teacher.curriculum.pacing.stat", "'start'"],
  ),
  "pacing from nothing": (
    put(("teacher.curriculum.pacing", {"name": "linear", "start": 0.0})),
    ["config.teacher.curriculum.pacing", "start"],
  ),
  "pacing that never reaches a batch": (
    put(
      (
        "teacher.curriculum.pacing",
        {"name": "linear", "start": 0.001, "reach": 1000.0},
      )
    ),
    ["config.teacher.curriculum.pacing", "never reaches a batch"],
  ),
  "unknown score": (
    put(("teacher.curriculum.difficulty.score", "los")),
    ["config.teacher.curriculum.difficulty.score", "'loss'"],
  ),
  "difficulty by a teacher that is not there": (
    put(
      ("teacher.curriculum.order", "curriculum"),
      ("teacher.curriculum.difficulty.source", "teacher"),
    ),
    ["config.teacher.curriculum.difficulty.source", "no teacher"],
  ),
  "difficulty from no file": (
    put(
      ("teacher.curriculum.order", "curriculum"),
      ("teacher.curriculum.difficulty.source", "file"),
    ),
    ["config.teacher.curriculum.difficulty.path"],
  ),
  "difficulty from a file that does not exist": (
    put(
      ("teacher.curriculum.order", "curriculum"),
      ("teacher.curriculum.difficulty.source", "file"),
      ("teacher.curriculum.difficulty.path", "nowhere.npz"),
    ),
    ["config.teacher.curriculum.difficulty.path", "nowhere.npz"],
  ),
  "one fold": (put(("scorer.folds", 1)), ["config.scorer.folds", ">= 2"]),
  "unknown source": (
    put(("data.source", "digitz")),
    ["config.data.source", "digitz", "digits"],
  ),
  "a file that does not exist": (
    put(("data.source", "npz"), ("data.path", "nowhere.npz")),
    ["config.data.path", "nowhere.npz"],
  ),
  "a folder that does not exist": (
    put(("data.source", "folder"), ("data.path", "nowhere")),
    ["config.data.path", "nowhere"],
  ),
  "noise above one": (
    put(("data.label_noise.rate", 1.4)),
    ["config.data.label_noise.rate", "1.4"],
  ),
  "noise by a table that is not there": (
    put(("data.label_noise.kind", "confusion")),
    ["config.data.label_noise.table"],
  ),
  "validation larger than the data": (
    put(("data.validation", 100_000)),
    ["config.data.validation", "100000"],
  ),
  "unknown augmentation": (
    put(("data.augment", ({"name": "filp"},))),
    ["config.data.augment", "filp", "'flip'"],
  ),
  "an augmentation out of range": (
    put(("data.augment", ({"name": "flip", "probability": 2},))),
    ["config.data.augment", "probability"],
  ),
  "a mean for other channels": (
    put(("data.mean", (0.5, 0.5, 0.5))),
    ["config.data.mean", "3"],
  ),
  "a mean that is no number": (
    put(("data.mean", ("grey",))),
    ["config.data.mean", "grey"],
  ),
  "a batch larger than the data": (
    put(("teacher.batch_size", 4096)),
    ["config.teacher.batch_size", "4096"],
  ),
  "an export of no stage": (
    put(("export", "studdent")),
    ["config.export", "'student'"],
  ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_config_ends_in_a_sentence_that_names_it(case):
  change, words = WRONG[case]
  config = base()
  change(config)
  with pytest.raises(UserError) as error:
    checked(config)
  sentence = str(error.value)
  for word in words:
    assert word in sentence, sentence
  assert "\n" not in sentence


def test_the_unchanged_config_has_no_mistake():
  assert checked(base())["stages"] == ("teacher", "baseline", "student")


def test_a_batch_must_divide_among_the_devices():
  config = base()
  config["student"]["batch_size"] = 30
  with pytest.raises(UserError, match="config.student.batch_size is 30"):
    checked(config, devices=4)


def test_weights_for_other_classes_say_how_many(tmp_path):
  arrays = {
    "Dense_0": {"kernel": np.zeros((64, 8)), "bias": np.zeros(8)},
    "Dense_1": {"kernel": np.zeros((8, 5)), "bias": np.zeros(5)},
  }
  path = tmp_path / "five.safetensors"
  weights.save(path, {"params": arrays}, {})
  config = base()
  config["teacher"]["model"] = {"name": f"{__name__}.Plain"}
  config["teacher"]["weights"] = str(path)
  with pytest.raises(UserError, match="5 classes and the data has 10"):
    checked(config)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--workdir=WORKDIR"], ["--config is missing"]),
    (["--config=configs/digits.py"], ["--workdir is missing"]),
    (
      ["--config=configs/nothing.py", "--workdir=WORKDIR"],
      ["configs/nothing.py"],
    ),
    (
      ["--config=configs/digits.py:dirty", "--workdir=WORKDIR"],
      ["'dirty'", "clean"],
    ),
    (
      ["--config=configs/digits.py", "--workdir=WORKDIR", "--config.sedes=3"],
      ["sedes", "seeds"],
    ),
    (
      [
        "--config=configs/digits.py",
        "--workdir=WORKDIR",
        "--config.student.objective.kd.temperature=-1.0",
      ],
      ["config.student.objective.kd.temperature is -1.0"],
    ),
    (
      ["--config=configs/digits.py", "--workdir=/proc/nowhere"],
      ["--workdir", "/proc/nowhere"],
    ),
  ],
)
def test_the_command_line_says_it_in_one_line_and_exits_with_2(
  arguments, words, tmp_path
):
  arguments = [a.replace("WORKDIR", str(tmp_path / "run")) for a in arguments]
  done = subprocess.run(
    [sys.executable, "-m", "kdcl_jax.main", *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    timeout=120,
  )
  assert done.returncode == 2, done.stderr
  assert "Traceback" not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  for word in words:
    assert word in done.stderr
