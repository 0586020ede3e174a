"""Whole models in files teach what they know, and only that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import (
  dataset,
  models,
  parallel,
  pretrained,
  run,
  step,
  validation,
)
from kdcl_jax.errors import UserError
from kdcl_jax.models import called

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(64, 10)).astype(np.float32)
PICTURES = RNG.random((16, 8, 8, 1), np.float32)


def logits(x):
  return x.reshape((x.shape[0], -1)) @ WEIGHTS


def stablehlo(path, function=logits, shape=(8, 8, 1), rows=None, **options):
  pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
  dtype = options.pop("dtype", np.float32)
  if rows is None:
    rows = jax.export.symbolic_shape("n")[0]
  x = jax.ShapeDtypeStruct((rows, *shape), dtype)
  exported = jax.export.export(jax.jit(function), **options)(x)
  path.write_bytes(exported.serialize())
  return path


def onnx_file(path, shape=("n", 8, 8, 1), weights=WEIGHTS):
  onnx = pytest.importorskip("onnx", reason="onnx is not installed")
  h, kind = onnx.helper, onnx.TensorProto.FLOAT
  nodes = [
    h.make_node("Flatten", ["x"], ["flat"], axis=1),
    h.make_node("MatMul", ["flat", "w"], ["y"]),
  ]
  graph = h.make_graph(
    nodes,
    "linear",
    [h.make_tensor_value_info("x", kind, shape)],
    [h.make_tensor_value_info("y", kind, [shape[0], weights.shape[1]])],
    [onnx.numpy_helper.from_array(weights, "w")],
  )
  opset = [h.make_opsetid("", 17)]
  onnx.save(h.make_model(graph, opset_imports=opset, ir_version=9), path)
  return path


KINDS = {"stablehlo": stablehlo, "onnx": onnx_file}


def module_of(path, **options):
  kind = called.kind_of(str(path))
  return models.build(kind, num_classes=10, path=str(path), **options)


def outputs(module, path, x=PICTURES):
  variables = called.variables(path, "weights")
  return models.forward(module, variables, jnp.asarray(x))[0]["logits"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["jit", "shard_map"])
@pytest.mark.parametrize("lanes", [False, True])
def test_a_called_model_gives_its_logits_over_devices_and_seeds(
  kind, mode, lanes, tmp_path
):
  path = KINDS[kind](tmp_path / f"m.{kind}")
  forward = step.forward_of(module_of(path), "image")
  there = parallel.create(mode, devices=8)
  run = there.partition(
    lambda v, b: forward(v, b)[0]["logits"],
    constants=1,
    row_outputs=True,
    lanes=lanes,
  )
  batch = {"image": PICTURES, "weight": np.ones(16, np.float32)}
  variables = called.variables(path, "weights")
  if lanes:
    twice = lambda a: np.stack([a, a])
    batch, variables = jax.tree.map(twice, (batch, variables))
  got = run(there.put(variables), there.put_batch(batch, lanes=lanes))
  want = PICTURES.reshape(16, -1) @ WEIGHTS
  want = np.stack([want, want]) if lanes else want
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 16, 32])
def test_a_batch_of_another_size_than_the_files_is_taken_in_parts(
  rows, tmp_path
):
  path = stablehlo(tmp_path / "m.stablehlo", rows=rows)
  got = outputs(module_of(path), path)
  np.testing.assert_allclose(got, logits(PICTURES), rtol=1e-4, atol=1e-5)


def test_channels_that_come_first_are_found_by_the_shape(tmp_path):
  first = lambda x: logits(x.transpose((0, 2, 3, 1)))
  path = stablehlo(tmp_path / "m.stablehlo", first, (1, 8, 8))
  module = module_of(path)
  assert module.layout == "nchw"
  np.testing.assert_allclose(
    outputs(module, path), logits(PICTURES), rtol=1e-4, atol=1e-5
  )
  facts = called.input_facts(path, "weights")
  assert facts == {
    "mean": [],
    "std": [],
    "size": [8, 8],
    "channels": "grey",
  }


def test_where_the_shape_does_not_tell_the_layout_is_asked_for(tmp_path):
  function = lambda x: x.reshape((x.shape[0], -1)) @ WEIGHTS[:27]
  path = stablehlo(tmp_path / "m.stablehlo", function, (3, 3, 3))
  with pytest.raises(UserError, match="config.model: path .* give.* a layout"):
    module_of(path)
  assert module_of(path, layout="nchw").layout == "nchw"
  with pytest.raises(UserError, match="layout is 'chwn', expected one of"):
    module_of(path, layout="chwn")


def test_pictures_in_bytes_are_given_as_bytes(tmp_path):
  def function(x):
    assert x.dtype == np.uint8
    return logits(x.astype(np.float32) / 255)

  path = stablehlo(tmp_path / "m.stablehlo", function, dtype=np.uint8)
  raw = RNG.integers(0, 256, (16, 8, 8, 1), np.uint8)
  forward = step.forward_of(module_of(path), "image")
  batch = {"image": raw, "weight": np.ones(16, np.float32)}
  got = forward({"params": {}}, batch)[0]["logits"]
  np.testing.assert_allclose(
    got, logits(raw.astype(np.float32) / 255), rtol=1e-5, atol=1e-5
  )


def test_taps_of_a_file_are_taps(tmp_path):
  function = lambda x: {"logits": logits(x), "taps": {"half": x[:, :4]}}
  path = stablehlo(tmp_path / "m.stablehlo", function)
  got, _ = models.forward(module_of(path), {"params": {}}, PICTURES)
  np.testing.assert_array_equal(got["taps"]["half"], PICTURES[:, :4])


def test_the_weights_of_onnx_are_variables(tmp_path):
  path = onnx_file(tmp_path / "m.onnx")
  module = module_of(path)
  shapes = jax.eval_shape(
    lambda: models.init(module, jax.random.key(0), PICTURES)
  )
  assert shapes["params"]["w"].shape == (64, 10)
  assert models.parameter_count(shapes) == 640


def test_a_file_that_has_changed_is_another_model(tmp_path):
  path = onnx_file(tmp_path / "m.onnx")
  first = module_of(path)
  onnx_file(path, weights=np.zeros((64, 12), np.float32))
  second = module_of(path)
  assert first != second and outputs(second, path).shape == (16, 12)


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda path: None, "does not exist"),
    (lambda path: path.write_bytes(b"nothing"), "no model that jax.export"),
    (
      lambda path: stablehlo(path, lambda x: x, dtype=np.int32),
      "expected one float32 or uint8",
    ),
    (
      lambda path: stablehlo(path, platforms=("tpu",)),
      "exported for tpu, and this is cpu",
    ),
  ],
)
def test_a_file_that_cannot_be_called_is_told(make, words, tmp_path):
  pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
  make(tmp_path / "m.stablehlo")
  with pytest.raises(UserError, match=f"config.model: path is .*{words}"):
    module_of(tmp_path / "m.stablehlo")


# In a config and a run.


def config_of(source, **fields):
  small = dict(model=dict(name="mlp", widths=(8,)), steps=5)
  return kdcl.run(
    stages=("teacher", "student"),
    tensorboard=False,
    teacher=kdcl.stage(**(dict(weights=str(source)) | fields)),
    student=kdcl.stage(**small, teachers=("teacher",)),
  )


@pytest.mark.parametrize(
  "fields",
  [
    dict(weights="m.onnx"),
    dict(model=dict(name="onnx", path="m.onnx")),
    dict(weights="m.onnx", model=dict(name="onnx")),
    dict(weights="m.onnx", model=dict(name="onnx", path="m.onnx")),
  ],
)
def test_a_whole_model_may_be_named_as_weights_or_as_model(fields):
  config = config_of("")
  config.teacher = kdcl.stage(**fields)
  section = kdcl.resolve(config)["teacher"]
  assert section["model"] == {"name": "onnx", "path": "m.onnx"}
  assert section["weights"] == "m.onnx"


def change(path, value):
  def apply(config):
    *parents, last = path.split(".")
    for key in parents:
      config = config[key]
    config[last] = value

  return apply


@pytest.mark.parametrize(
  ("source", "apply", "words"),
  [
    (
      "m.onnx",
      change("teacher.steps", 5),
      "config.teacher.model is 'onnx', which is only called and cannot be"
      " trained",
    ),
    (
      "m.onnx",
      change("teacher.model", dict(name="resnet8")),
      "config.teacher.weights is 'm.onnx', which is a whole model, but"
      " config.teacher.model.name is 'resnet8'",
    ),
    (
      "other.safetensors",
      change("teacher.model", dict(name="onnx", path="m.onnx")),
      "config.teacher.weights is 'other.safetensors', but"
      " config.teacher.model.path is 'm.onnx'",
    ),
    (
      "m.stablehlo",
      change("export", "teacher"),
      "config.export is 'teacher', whose model is only called",
    ),
    (
      "m.stablehlo",
      change(
        "student.curriculum",
        dict(
          order="curriculum",
          difficulty=dict(source="teacher", score="grand"),
        ),
      ),
      "config.student.curriculum.difficulty.score is 'grand', which takes"
      " gradients",
    ),
  ],
)
def test_what_a_called_model_cannot_do_is_told(source, apply, words):
  config = config_of(source).copy_and_resolve_references()
  with config.unlocked():
    apply(config)
  with pytest.raises(UserError) as error:
    validation.check(kdcl.resolve(config))
  assert words in str(error.value)


def checked(config):
  config = kdcl.resolve(config)
  validation.check(config)
  validation.check_data(config, dataset.load(config["data"], seed=0))


def test_features_that_a_called_model_does_not_have_are_told(tmp_path):
  config = config_of(stablehlo(tmp_path / "m.stablehlo"))
  config.student.objective = dict(
    cross_entropy=dict(coefficient=1.0),
    fitnet=dict(coefficient=1.0, taps=("penultimate", "penultimate")),
  )
  with pytest.raises(UserError, match="config.student.objective.fitnet"):
    checked(config)


def test_another_number_of_classes_is_told_in_both_numbers(tmp_path):
  function = lambda x: jnp.zeros((x.shape[0], 1000))
  config = config_of(stablehlo(tmp_path / "m.stablehlo", function))
  with pytest.raises(UserError, match=r"\(1000,\).* has 10 classes"):
    checked(config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_of_an_earlier_run_teaches_out_of_a_file(
  kind, tmp_path, caplog
):
  first = kdcl.run(
    stages=("teacher",),
    export="",
    tensorboard=False,
    teacher=kdcl.stage(
      model=dict(name="mlp", widths=()),
      steps=150,
      optimizer=dict(name="adam", learning_rate=0.01),
    ),
  )
  trained = run.execute(kdcl.resolve(first), tmp_path / "first", reported=False)
  directory = tmp_path / "first" / "teacher" / "seed_0"
  field = "config.teacher.weights"
  layer = pretrained.weights.load(directory, field)["params"]["Classifier_0"]
  kernel = layer["Dense_0"]["Dense_0"]["kernel"]
  bias = layer["Dense_0"]["Dense_0"]["bias"]
  function = lambda x: x.reshape((x.shape[0], -1)) @ kernel + bias[None]
  path = tmp_path / f"m.{kind}"
  if kind == "stablehlo":
    stablehlo(path, function)
  else:  # without its bias, which decides little
    onnx_file(path, weights=kernel)
  caplog.set_level("INFO", "kdcl_jax")
  config = config_of(path)
  workdir = tmp_path / "second"
  found = run.execute(kdcl.resolve(config), workdir, reported=False)
  accuracy = lambda one: one["stages"]["teacher"]["test"]["accuracy"]["mean"]
  assert accuracy(found) == pytest.approx(accuracy(trained), abs=0.02)
  assert "teacher: accuracy 0.9" in caplog.text
  (workdir / "student" / "seed_0" / "result.json").unlink()
  again = run.execute(kdcl.resolve(config), workdir, reported=False)
  assert (
    again["stages"]["student"]["test"] == found["stages"]["student"]["test"]
  )
