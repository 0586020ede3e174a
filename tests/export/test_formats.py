"""Exported files give what the model gives, and are measured as they are."""

import json
import shutil

import numpy as np
import pytest
import students

from kdcl_jax import dataset, runtimes
from kdcl_jax.errors import UserError
from kdcl_jax.export import __main__ as command
from kdcl_jax.export import delivery, formats, measurement, subject


def absent(name):
  try:
    formats.named(name)
  except UserError as error:
    return str(error)
  return ""


def needs(name):
  return pytest.mark.skipif(bool(absent(name)), reason=absent(name) or "-")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("formats")
  config, _ = students.finished(workdir)
  return workdir, config, dataset.load(config["data"], seed=0)


@pytest.fixture(scope="module")
def source(finished):
  workdir, config, data = finished
  model = subject.load(workdir, config, data, "student", 0)
  return model, measurement.answers(model.compiled(256), data.test)


@pytest.fixture(scope="module")
def content(source):
  made = {}

  def of(name):
    if name not in made:
      made[name] = formats.FORMATS[name].convert(source[0])
    return made[name]

  return of


def test_the_source_is_the_run_own_model(finished, source):
  workdir, _, data = finished
  with np.load(workdir / "student/seed_0/test_predictions.npz") as rows:
    np.testing.assert_array_equal(rows["record_id"], data.test.ids)
    predictions, labels = rows["prediction"], rows["label"]
  np.testing.assert_array_equal(source[1][:, :-1].argmax(-1), predictions)
  np.testing.assert_array_equal(source[1][:, -1], labels)
  assert np.mean(predictions == labels) > 0.6


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=needs(name))
    for name in ("stablehlo", "onnx", "tflite")
  ],
)
def test_a_file_agrees_with_the_source_on_every_test_record(
  finished, source, content, tmp_path, name
):
  path = tmp_path / f"student{formats.FORMATS[name].ending}"
  path.write_bytes(content(name))
  found = measurement.answers(runtimes.load(path), finished[2].test)
  measured = measurement.measure(found, source[1])
  assert measured["max_logit_difference"] < 1e-4
  assert measured["agreement"] == 1.0


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=needs(n)) for n in ("stablehlo", "onnx")]
)
def test_any_number_of_pictures_goes_in_at_a_time(
  finished, content, tmp_path, name
):
  path = tmp_path / f"student{formats.FORMATS[name].ending}"
  path.write_bytes(content(name))
  model = runtimes.load(path, threads=1)
  test = finished[2].test
  pictures = test.fetch(test.ids[:7])[0]["image"]
  assert pictures.dtype == np.uint8
  whole = model(pictures)
  assert whole.shape == (7, 10)
  for row in range(7):
    alone = model(pictures[row : row + 1])
    np.testing.assert_allclose(alone[0], whole[row], atol=1e-4)


@needs("onnx")
def test_batch_norm_is_folded_into_the_convolutions(source, content):
  import onnx

  from kdcl_jax.export import onnx_graph

  kinds = lambda text: [
    node.op_type for node in onnx.load_from_string(text).graph.node
  ]
  folded = kinds(content("onnx"))
  assert folded.count("Conv") == 9
  # nothing but the residual sums is left beside the convolutions
  assert folded.count("Add") == 3
  assert not {"Mul", "Sqrt", "BatchNormalization"} & set(folded)
  plain = kinds(onnx_graph.convert(source[0], folded=False))
  assert plain.count("Add") > 3 and "Mul" in plain


@needs("onnx")
def test_int8_is_calibrated_and_stays_near_the_source(
  finished, source, content, tmp_path
):
  _, _, data = finished
  pictures = delivery.calibrating(data.train, 128, 0)
  path = tmp_path / "student_int8.onnx"
  path.write_bytes(formats.FORMATS["onnx"].quantize(content("onnx"), pictures))
  found = measurement.answers(runtimes.load(path), data.test)
  measured = measurement.measure(found, source[1])
  own = measurement.measure(source[1], source[1])
  assert measured["agreement"] > 0.9
  assert measured["accuracy"] > own["accuracy"] - 0.03
  assert measured["max_logit_difference"] > 1e-3  # it really is another graph
  import onnx

  kinds = {n.op_type for n in onnx.load(path).graph.node}
  assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_calibration_takes_other_records_than_the_test(finished):
  train = finished[2].train
  rows = delivery.calibrating(train, 50, 0)
  again = delivery.calibrating(train, 50, 0)
  np.testing.assert_array_equal(rows, again)
  assert rows.shape == (50, 8, 8, 1)
  assert (rows != delivery.calibrating(train, 50, 1)).any()
  everything = train.fetch(train.ids)[0]["image"].reshape(len(train), -1)
  known = {row.tobytes() for row in everything}
  assert all(row.tobytes() in known for row in rows.reshape(50, -1))
  assert len(delivery.calibrating(train, 10**6, 0)) == len(train)


def test_a_model_that_shares_half_its_predictions_agrees_by_a_half():
  source = np.array([[1.0, 0.0, 0], [1.0, 0.0, 1]])
  other = np.array([[2.0, 0.0, 0], [0.0, 1.0, 1]])
  assert measurement.measure(other, source) == {
    "accuracy": 1.0,
    "agreement": 0.5,
    "max_logit_difference": 1.0,
  }


def test_latency_is_a_median_that_the_slower_function_has_more_of():
  import time

  asked = []

  def slow(picture):
    asked.append(picture.shape)
    time.sleep(0.003)

  taken = measurement.latencies(
    {"slow": slow, "fast": lambda picture: None}, np.zeros((8, 8, 1)), runs=5
  )
  assert taken["slow"] > 3.0 > taken["fast"]
  assert asked == [(1, 8, 8, 1)] * (measurement.WARM + 5)


@needs("onnx")
def test_the_command_writes_files_a_table_and_the_report(
  finished, tmp_path, capsys
):
  workdir = tmp_path / "run"
  shutil.copytree(finished[0], workdir)
  weights = (workdir / "export" / "student.safetensors").read_bytes()
  flags = ["--to=safetensors,onnx", "--runs=5", "--calibration=64"]
  assert command.main([f"--workdir={workdir}", *flags]) == 0
  assert "report.html" in capsys.readouterr().out
  folder = workdir / "export"
  assert (folder / "student.safetensors").read_bytes() == weights
  made = json.loads((folder / "export.json").read_text())
  rows = {row["file"]: row for row in made["files"]}
  assert set(rows) == {
    None,
    "student.safetensors",
    "student.onnx",
    "student_int8.onnx",
  }
  for name in ("student.safetensors", "student.onnx"):
    assert rows[name]["agreement"] == 1.0
    assert rows[name]["accuracy"] == made["student"]["accuracy"]
    assert rows[name]["max_logit_difference"] < 1e-4
    assert rows[name]["bytes"] == (folder / name).stat().st_size
  assert rows[None]["precision"] == "bfloat16"
  assert rows[None]["max_logit_difference"] > 0
  teacher = made["teacher"]["files"]["onnx"]
  for name in ("student.onnx", "student_int8.onnx"):
    ratio = teacher["latency_ms"] / rows[name]["latency_ms"]
    assert rows[name]["times_faster"] == pytest.approx(ratio)
  report = (workdir / "report.md").read_text()
  card = (folder / "README.md").read_text()
  for text in (report, card):
    assert "## Exported files" in text
    accuracy = 100 * rows["student_int8.onnx"]["accuracy"]
    assert f"{accuracy:.2f}" in text and "student_int8.onnx" in text
  # another student is not spoken of by an old table
  (folder / "student.safetensors").write_bytes(weights + b" ")
  from kdcl_jax.export import chapter

  assert chapter.exported(workdir) == []


@pytest.mark.parametrize("lost", [0.004, 0.02])
def test_what_int8_costs_is_said_whether_it_is_much_or_little(lost):
  from kdcl_jax.export import chapter

  row = dict(
    precision="int8",
    file="student_int8.onnx",
    accuracy=0.9 - lost,
    max_logit_difference=2.5,
  )
  made = {"student": {"accuracy": 0.9}, "files": [row]}
  (text,) = chapter._verdicts(made)
  assert f"loses {100 * lost:.2f} points" in text
  assert ("up to 2.5 from" in text) == (lost > 0.005)


def wrong(argv, capsys, *words):
  assert command.main(argv) == 2
  said = capsys.readouterr().err
  assert said.startswith("kdcl_jax: ") and said.count("\n") == 1
  for word in words:
    assert word in said, said


def test_mistakes_in_the_command_are_told_in_a_sentence(
  finished, tmp_path, capsys
):
  done = f"--workdir={finished[0]}"
  wrong([f"--workdir={tmp_path}", "--to=onnx"], capsys, "holds no run")
  wrong([done, "--to=onyx"], capsys, "'onyx'", "did you mean 'onnx'")
  wrong([done, "--to="], capsys, "no format")
  wrong([done], capsys, "--to")
  wrong([done, "--to=safetensors", "--runs=0"], capsys, "--runs is 0")
  (tmp_path / "config.json").write_text(
    (finished[0] / "config.json").read_text()
  )
  wrong([f"--workdir={tmp_path}", "--to=onnx"], capsys, "not finished")


@pytest.mark.parametrize(
  ("name", "module"),
  [
    ("onnx", "jax2onnx"),
    ("onnx", "onnxruntime"),
    ("stablehlo", "flatbuffers"),
    ("tflite", "litert_converter.mlir"),
  ],
)
def test_a_missing_package_is_named_with_what_brings_it(
  finished, monkeypatch, capsys, name, module
):
  import importlib

  real = importlib.import_module

  def importing(asked, *rest):
    if asked == module:
      raise ImportError(f"No module named {asked!r}")
    if asked in formats.FORMATS[name].modules:
      return None
    return real(asked, *rest)

  monkeypatch.setattr("kdcl_jax.runtimes.importlib.import_module", importing)
  flags = [f"--workdir={finished[0]}", f"--to={name}"]
  wrong(flags, capsys, module.partition(".")[0], "pip install", f"--to={name}")
