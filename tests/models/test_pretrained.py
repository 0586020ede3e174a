"""Weights from elsewhere: each kind gives the same model and its own input."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from kdcl_jax import config as kdcl
from kdcl_jax import (
  dataset,
  models,
  parallel,
  pretrained,
  run,
  screening,
  stages,
  validation,
  weights,
)
from kdcl_jax.errors import UserError
from kdcl_jax.inputs import Input
from kdcl_jax.models import porting

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = (8, 8, 1)
BLOCKS = [
  f"layer{stage}.0.{name}"
  for stage in (1, 2, 3)
  for name in ("conv1", "bn1", "conv2", "bn2")
]
SHORTCUTS = [f"layer{s}.0.downsample.{i}" for s in (2, 3) for i in (0, 1)]
NAMES = [
  f"{module}.weight" for module in ("conv1", "bn1", *BLOCKS, *SHORTCUTS, "fc")
]


def variables_of(classes=10, seed=0):
  module = models.build("resnet8", num_classes=classes)
  shapes = jax.eval_shape(
    lambda: models.init(module, jax.random.key(0), np.zeros((1, *SHAPE)))
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda a: np.asarray(0.1 + rng.random(a.shape), np.float32), shapes
  )


def torch_of(variables):
  """The state dict that torch's ResNet-8 would have."""
  flat = traverse_util.flatten_dict(variables, sep="/")
  found = {}
  for theirs, ours, layout in porting.PORTS["resnet8"](NAMES):
    take = lambda kind, name, ours=ours: flat.get(f"{kind}/{ours}/{name}")
    if layout == "norm" and take("params", "scale") is not None:
      found[f"{theirs}.weight"] = take("params", "scale")
      found[f"{theirs}.bias"] = take("params", "bias")
      found[f"{theirs}.running_mean"] = take("batch_stats", "mean")
      found[f"{theirs}.running_var"] = take("batch_stats", "var")
      found[f"{theirs}.num_batches_tracked"] = np.array(7)
    kernel = take("params", "kernel")
    if layout == "conv" and kernel is not None:
      found[f"{theirs}.weight"] = kernel.transpose(3, 2, 0, 1).copy()
    if layout == "linear" and theirs == "fc":
      found["fc.weight"] = kernel.T.copy()
      found["fc.bias"] = take("params", "bias")
  return found


VARIABLES = variables_of()
TORCH = torch_of(VARIABLES)


def section_of(source, **fields):
  section = dict(model=dict(name="resnet8"), weights=str(source)) | fields
  config = kdcl.run(
    stages=("teacher",), export="", teacher=kdcl.stage(**section)
  )
  return kdcl.resolve(config)["teacher"]


def loaded(source, like=VARIABLES, **fields):
  return pretrained.variables(
    section_of(source, **fields), like, "config.teacher", classes=10
  )


def assert_same(found):
  assert jax.tree.structure(found) == jax.tree.structure(VARIABLES)
  jax.tree.map(np.testing.assert_array_equal, found, VARIABLES)


def wrong(source, **fields):
  with pytest.raises(UserError) as error:
    loaded(source, **fields)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_our_own_file_gives_its_variables(tmp_path):
  weights.save(tmp_path / "own.safetensors", VARIABLES, {"stage": "x"})
  assert_same(loaded(tmp_path / "own.safetensors"))


def test_a_stages_directory_gives_its_variables(tmp_path):
  weights.save(tmp_path / "weights.safetensors", VARIABLES, {"stage": "x"})
  assert_same(loaded(tmp_path))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_safetensors_with_the_names_of_torch_give_the_variables(
  prefix, tmp_path
):
  path = tmp_path / "theirs.safetensors"
  named = {f"{prefix}{name}": array for name, array in TORCH.items()}
  safetensors.numpy.save_file(named, path)
  assert_same(loaded(path))


def test_a_folder_as_the_hub_has_it_gives_the_variables_and_the_input(tmp_path):
  safetensors.numpy.save_file(TORCH, tmp_path / "model.safetensors")
  told = {
    "architecture": "resnet8",
    "pretrained_cfg": {
      "mean": [0.1, 0.2, 0.3],
      "std": [0.4, 0.5, 0.6],
      "input_size": [3, 20, 24],
      "interpolation": "bicubic",
      "crop_pct": 0.9,
      "num_classes": 10,
    },
  }
  (tmp_path / "config.json").write_text(json.dumps(told))
  assert_same(loaded(tmp_path))
  for source in (tmp_path, tmp_path / "model.safetensors"):
    view = pretrained.input_of(
      section_of(source), {"mean": (0.9,), "std": ()}, "config.teacher"
    )
    assert view == Input(
      (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (20, 24), "rgb", "bicubic"
    )
  own = dict(mean=(0.7,), channels="bgr", size=(6, 7))
  view = pretrained.input_of(
    section_of(tmp_path, input=own), {"mean": (), "std": ()}, "config.teacher"
  )
  assert view == Input((0.7,), (0.4, 0.5, 0.6), (6, 7), "bgr", "bicubic")


def test_a_config_that_says_nothing_leaves_the_input_as_the_data_is(tmp_path):
  safetensors.numpy.save_file(TORCH, tmp_path / "model.safetensors")
  data = {"mean": (0.9,), "std": (0.8,)}
  for text in ("{}", "[]", '{"pretrained_cfg": null}', "{"):
    (tmp_path / "config.json").write_text(text)
    view = pretrained.input_of(section_of(tmp_path), data, "config.teacher")
    assert view == Input((0.9,), (0.8,))


def test_our_file_brings_the_input_that_it_was_trained_with(tmp_path):
  view = Input((0.1,), (0.2,))
  path = tmp_path / "own.safetensors"
  weights.save(path, VARIABLES, pretrained.header(section_of(""), view, SHAPE))
  data = {"mean": (0.9,), "std": ()}
  found = pretrained.input_of(section_of(path), data, "config.teacher")
  assert found == Input((0.1,), (0.2,), (8, 8), "grey")


def test_every_missing_unused_and_misshapen_array_is_named(tmp_path):
  arrays = dict(TORCH)
  del arrays["bn1.bias"], arrays["layer3.0.conv2.weight"]
  arrays |= {"aux.weight": np.ones(3), "layer1.0.se.bias": np.ones(2)}
  arrays["layer1.0.bn1.weight"] = np.ones(17, np.float32)
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(arrays, path)
  sentence = wrong(path)
  for word in (
    "config.teacher.weights",
    "params/BatchNorm_0/bias is missing",
    "params/BasicBlock_2/Conv_1/Conv_0/kernel is missing",
    "aux.weight has no use",
    "layer1.0.se.bias has no use",
    "params/BasicBlock_0/BatchNorm_0/scale has shape (17,), the model's (16,)",
  ):
    assert word in sentence, sentence


def test_a_thousand_classes_for_ten_are_told_in_both_numbers(tmp_path):
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(torch_of(variables_of(1000)), path)
  assert "it has 1000 classes and the data has 10" in wrong(path)


def test_arrays_of_torch_for_a_model_without_a_port_say_which_have_one(
  tmp_path,
):
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(TORCH, path)
  sentence = wrong(path, model=dict(name="mlp"))
  assert "config.teacher.weights" in sentence and "resnet50" in sentence


def test_a_file_that_is_no_safetensors_is_told(tmp_path):
  (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
  assert "no readable safetensors file" in wrong(tmp_path / "x.safetensors")


# Torch's files.


@pytest.fixture
def torch():
  return pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize(
  "wrap",
  [
    lambda arrays: arrays,
    lambda arrays: {"epoch": 3, "state_dict": arrays},
    lambda arrays: {"model": {"state_dict": arrays}, "best_acc": 0.5},
    lambda arrays: {f"module.{name}": a for name, a in arrays.items()},
  ],
  ids=["bare", "state_dict", "twice", "parallel"],
)
def test_files_of_torch_give_the_variables(torch, wrap, suffix, tmp_path):
  tensors = {name: torch.from_numpy(a.copy()) for name, a in TORCH.items()}
  torch.save(wrap(tensors), tmp_path / f"x{suffix}")
  assert_same(loaded(tmp_path / f"x{suffix}"))


def test_half_precision_becomes_float32(torch, tmp_path):
  tensors = {
    name: torch.from_numpy(a.copy()).to(
      torch.bfloat16 if a.dtype == np.float32 else torch.int64
    )
    for name, a in TORCH.items()
  }
  torch.save(tensors, tmp_path / "x.pth")
  found = loaded(tmp_path / "x.pth")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), found, VARIABLES
  )
  assert all(a.dtype == np.float32 for a in jax.tree.leaves(found))


class Evil:
  """What a pickle can do: run anything while it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_of_torch_is_refused_and_not_run(
  torch, zipped, tmp_path
):
  path, trace = tmp_path / "x.pth", tmp_path / "was_run"
  torch.save(
    {"state_dict": {"fc.weight": torch.ones(1)}, "more": Evil(trace)},
    path,
    _use_new_zipfile_serialization=zipped,
  )
  sentence = wrong(path)
  assert not trace.exists()
  assert "mkdir" in sentence and "could run code" in sentence
  assert "state_dict()" in sentence
  with pytest.raises(FileExistsError):  # it is armed
    trace.mkdir()
    torch.load(path, weights_only=False)


def test_a_bare_pickle_is_refused_and_not_run(torch, tmp_path):
  path, trace = tmp_path / "x.pth", tmp_path / "was_run"
  path.write_bytes(pickle.dumps(Evil(trace)))
  wrong(path)
  assert not trace.exists()


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (lambda torch: [torch.ones(2)], "holds a list, expected a state dict"),
    (
      lambda torch: {"fc.weight": torch.ones(2), "lr": 0.1},
      "entries lr are no tensors",
    ),
    (lambda torch: {}, "expected a state dict"),
  ],
)
def test_what_is_no_state_dict_is_told(torch, content, words, tmp_path):
  torch.save(content(torch), tmp_path / "x.pth")
  assert words in wrong(tmp_path / "x.pth")


def test_a_damaged_file_of_torch_is_told(torch, tmp_path):
  (tmp_path / "x.pth").write_bytes(b"PK\x03\x04 and no more")
  assert "no readable torch file" in wrong(tmp_path / "x.pth")


def test_without_torch_its_extra_is_named(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "torch", None)
  (tmp_path / "x.pth").write_bytes(b"")
  sentence = wrong(tmp_path / "x.pth")
  assert "pip install 'kdcl_jax[torch]'" in sentence
  assert ".safetensors" in sentence


# In a run.


def config_of(source, **teacher):
  section = dict(model=dict(name="resnet8"), weights=str(source)) | teacher
  return kdcl.run(
    stages=("teacher", "student"),
    tensorboard=False,
    data=dict(train_size=300, test_size=100, mean=(0.4,), std=(0.3,)),
    teacher=kdcl.stage(**section),
    student=kdcl.stage(
      model=dict(name="mlp", widths=(8,)), teachers=("teacher",), steps=8
    ),
  )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  """A run that trains a teacher, with a mean and a size of its own."""
  workdir = tmp_path_factory.mktemp("runs") / "first"
  teacher = kdcl.stage(
    model=dict(name="mlp", widths=(32,)),
    steps=120,
    input=dict(mean=(0.2,), std=(0.5,), size=6),
    optimizer=dict(name="adam", learning_rate=0.01),
  )
  config = kdcl.run(
    stages=("teacher",), export="teacher", tensorboard=False, teacher=teacher
  )
  found = run.execute(kdcl.resolve(config), workdir, reported=False)
  return workdir, found["stages"]["teacher"]["test"]["accuracy"]["mean"]


def test_a_trained_teacher_keeps_its_input_where_the_data_has_another(
  first, tmp_path, caplog
):
  """Its accuracy is told before any step, and is what it was."""
  workdir, accuracy = first
  config = config_of(
    workdir / "teacher" / "seed_0", model=dict(name="mlp", widths=(32,))
  )
  config.data.test_size = config.data.train_size = 0
  caplog.set_level("INFO", "kdcl_jax")
  found = run.execute(kdcl.resolve(config), tmp_path / "x", reported=False)
  stage = found["stages"]["teacher"]
  assert stage["test"]["accuracy"]["mean"] == accuracy > 0.8
  assert "teacher: accuracy 0.9" in caplog.text
  again = pretrained.input_facts(str(tmp_path / "x/teacher/seed_0"), "weights")
  assert again["mean"] == [0.2] and again["size"] == [6, 6]


def test_a_resumed_run_has_the_same_teacher(first, tmp_path):
  workdir, _ = first
  source = workdir / "teacher" / "seed_0"
  config = config_of(source, model=dict(name="mlp", widths=(32,)))
  resolved = kdcl.resolve(config)
  once = run.execute(resolved, tmp_path / "once", reported=False)
  stages_once = once["stages"]["student"]["test"]
  run.execute(resolved, tmp_path / "twice", reported=False)
  (tmp_path / "twice/student/seed_0/result.json").unlink()
  for path in (tmp_path / "twice/student/seed_0").glob("checkpoints/*"):
    for file in sorted(path.rglob("*"), reverse=True):
      file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()
  again = run.execute(resolved, tmp_path / "twice", reported=False)
  assert again["stages"]["student"]["test"] == stages_once


def untrained(path):
  """The weights of a model that guesses, of one layer."""
  rng = np.random.default_rng(0)
  flat = {
    "params/Classifier_0/Dense_0/Dense_0/kernel": rng.normal(size=(64, 10)),
    "params/Classifier_0/Dense_0/Dense_0/bias": np.zeros(10),
  }
  weights.save(path, traverse_util.unflatten_dict(flat, sep="/"), {})
  return path


GUESSER = dict(name="mlp", widths=())


def test_a_teacher_that_knows_nothing_stops_the_command(tmp_path):
  untrained(tmp_path / "random.safetensors")
  path = tmp_path / "config.py"
  path.write_text(
    "from kdcl_jax import config\n"
    "def get_config(variant=''):\n"
    "  return config.run(stages=('teacher', 'student'), tensorboard=False,\n"
    f"    teacher=config.stage(model={GUESSER!r},\n"
    f"      weights={str(tmp_path / 'random.safetensors')!r}),\n"
    "    student=config.stage(teachers=('teacher',), steps=5))\n"
  )
  command = ["--config", str(path), "--workdir", str(tmp_path / "run")]
  done = subprocess.run(
    [sys.executable, "-m", "kdcl_jax.main", *command],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    timeout=120,
  )
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.strip().splitlines()
  assert "config.teacher.weights is" in line and "by chance 0.1" in line
  assert not (tmp_path / "run" / "student").exists()


def test_one_that_may_know_nothing_teaches_after_a_warning(tmp_path, caplog):
  source = untrained(tmp_path / "random.safetensors")
  config = config_of(source, model=GUESSER, near_chance="warn")
  run.execute(kdcl.resolve(config), tmp_path / "run", reported=False)
  assert "knows nothing" in caplog.text


def test_weights_to_train_on_are_not_screened(tmp_path):
  source = untrained(tmp_path / "random.safetensors")
  config = config_of(source, model=GUESSER, steps=2)
  assert not screening.is_given(kdcl.resolve(config)["teacher"])
  run.execute(kdcl.resolve(config), tmp_path / "run", reported=False)


def test_a_pretrained_model_of_another_size_and_channels_fits_the_data(
  tmp_path,
):
  """ImageNet's form on small grey pictures: what model_of builds agrees."""
  module = models.build("resnet8", num_classes=10)
  like = models.init(module, jax.random.key(1), np.zeros((1, 16, 16, 3)))
  theirs = jax.tree.map(np.asarray, jax.device_get(like))
  safetensors.numpy.save_file(torch_of(theirs), tmp_path / "model.safetensors")
  told = {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3], "input_size": [3, 16, 16]}
  (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": told}))
  config = kdcl.resolve(config_of(tmp_path))
  validation.check(config)
  data = dataset.load(config["data"], seed=0)
  validation.check_data(config, data)
  model = stages.model_of(
    "teacher",
    config["teacher"],
    config["data"],
    data,
    parallel.create(devices=1),
    0,
  )
  batch, _ = data.test.fetch(data.test.ids[:4])
  x = np.repeat(batch["image"] / np.float32(255), 3, -1)
  x = jax.image.resize(x, (4, 16, 16, 3), "linear")
  x = (np.asarray(x) - np.float32([0.1, 0.2, 0.3])) / np.float32([1, 2, 3])
  want = models.forward(module, theirs, x)[0]["logits"]
  batch = batch | {"weight": np.ones(4, np.float32)}
  got = model.forward(model.variables, batch)[0]["logits"]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
