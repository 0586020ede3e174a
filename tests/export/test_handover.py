"""What a run hands over at its end: weights, facts and the model card."""

import hashlib
import json

import numpy as np
import pytest
import students
from safetensors.numpy import load_file

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, export


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("handover")
  noise = dict(kind="symmetric", rate=0.25)
  adam = dict(name="adam", learning_rate=0.01)
  stage = dict(
    model=dict(name="mlp", widths=(16,)),
    batch_size=40,
    steps=40,
    optimizer=adam,
  )
  course = dict(order="random", pacing=dict(name="linear", start=0.5))
  config, results = students.finished(
    workdir,
    seeds=2,
    data=dict(train_size=500, validation=100, label_noise=noise),
    teacher=kdcl.stage(**stage),
    student=kdcl.stage(**stage, teachers=("teacher",), curriculum=course),
  )
  return workdir, config, results


def digests(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.iterdir())
  }


def test_the_same_run_gives_the_same_bytes(finished):
  workdir, config, results = finished
  before = digests(workdir / "export")
  assert set(before) == {"student.safetensors", "student.json", "README.md"}
  data = dataset.load(config["data"], seed=1)
  (workdir / "export" / "student.json").unlink()
  export.student(workdir, config, data, results)
  assert digests(workdir / "export") == before


def test_the_weights_are_those_of_the_best_seed_on_validation(finished):
  workdir, _, results = finished
  values = results["stages"]["student"]["validation"]["accuracy"]["values"]
  seed = int(np.argmax(values))
  exported = load_file(workdir / "export" / "student.safetensors")
  trained = load_file(workdir / f"student/seed_{seed}/weights.safetensors")
  assert exported.keys() == trained.keys()
  for name in trained:
    np.testing.assert_array_equal(exported[name], trained[name])
  facts = json.loads((workdir / "export" / "student.json").read_text())
  assert facts["provenance"]["seed"] == seed


def test_the_facts_say_how_a_picture_becomes_an_input(finished):
  workdir, _, _ = finished
  facts = json.loads((workdir / "export" / "student.json").read_text())
  known = facts["preprocessing"]
  assert known["shape"] == [8, 8, 1] and known["dtype"] == "uint8"
  assert known["image_size"] == 0 and known["crop"] == 0
  assert known["mean"] == [] and known["std"] == []
  assert known["channels"] == "grey" and known["size"] == [8, 8]
  assert facts["labels"] == list("0123456789")


def test_the_card_has_the_numbers_of_the_results(finished):
  workdir, _, results = finished
  card = (workdir / "export" / "README.md").read_text()
  student = results["stages"]["student"]
  for name in ("accuracy", "calibration_error"):
    values = student["test"][name]
    for number in (*values["values"], values["mean"], values["std"]):
      assert f" {100 * number:.2f} |" in card
  loss = student["test"]["loss"]
  assert f"| {loss['mean']:.4f} | {loss['std']:.4f} |" in card
  agreement = student["test"]["agreement"]["teacher"]["mean"]
  assert f" {100 * agreement:.2f} |" in card
  assert f"{student['parameters']:,} parameters" in card
  forwards = student["ledger"]["example_forwards"]["mean"]
  assert f"| example forwards | {forwards:,.0f} |" in card
  assert f"{results['stages']['student']['test']['count']} test records" in card


def test_the_card_says_where_the_student_comes_from(finished):
  workdir, _, _ = finished
  card = (workdir / "export" / "README.md").read_text()
  facts = json.loads((workdir / "export" / "student.json").read_text())
  assert facts["provenance"]["fingerprint"] in card
  assert "400 train, 100 validation, 597 test records" in card
  assert "25 % of the training labels were made wrong" in card
  assert "order random" in card and "Loss `kd`" in card
  assert "Teacher `teacher`: mlp" in card
  assert "predict.load('.')" in card and "Exported files" not in card


def test_the_front_matter_of_the_card_is_read_by_line(finished):
  workdir, _, results = finished
  _, front, _ = (workdir / "export" / "README.md").read_text().split("---\n", 2)
  fields = dict(line.split(": ", 1) for line in front.splitlines())
  fields = {name: json.loads(value) for name, value in fields.items()}
  assert fields["pipeline_tag"] == "image-classification"
  assert "license" not in fields  # which nobody has told the package
  (result,) = fields["model-index"][0]["results"]
  values = results["stages"]["student"]["test"]["accuracy"]["values"]
  assert result["metrics"][0]["value"] in values
