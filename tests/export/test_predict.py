"""An exported student is asked without what it was trained with."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import students
from PIL import Image

from kdcl_jax import dataset, predict, runtimes
from kdcl_jax.errors import UserError
from kdcl_jax.export import formats, subject
from kdcl_jax.sources import UnreadableRecord

ROOT = pathlib.Path(__file__).parents[2]
WITH_ONNX = all(map(runtimes.available, [runtimes.RUNTIMES[".onnx"]]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run whose student is there in each format that can be written here."""
  workdir = tmp_path_factory.mktemp("predict")
  config, _ = students.finished(workdir)
  data = dataset.load(config["data"], seed=0)
  student = subject.load(workdir, config, data, "student", 0)
  for name in ("stablehlo", "onnx"):
    try:
      formats.named(name)
    except UserError:
      continue
    form = formats.FORMATS[name]
    path = workdir / "export" / f"student{form.ending}"
    path.write_bytes(form.convert(student))
  return workdir, data


@pytest.fixture(scope="module")
def pictures(finished, tmp_path_factory):
  """Test records as PNG files, and what the run predicted of them."""
  workdir, data = finished
  folder = tmp_path_factory.mktemp("pictures")
  images = data.test.fetch(data.test.ids[:12])[0]["image"]
  paths = [folder / f"{place:02}.png" for place in range(12)]
  for path, image in zip(paths, images, strict=True):
    Image.fromarray(image[..., 0]).save(path)
  with np.load(workdir / "student/seed_0/test_predictions.npz") as rows:
    np.testing.assert_array_equal(rows["record_id"], data.test.ids)
    known = rows["prediction"][:12], rows["confidence"][:12]
  return paths, images, *known


def said(*argv):
  return subprocess.run(
    [sys.executable, "-m", "kdcl_jax.predict", *map(str, argv)],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )


def test_the_command_says_what_the_run_predicted(finished, pictures):
  paths, _, predictions, confidences = pictures
  done = said(f"--model={finished[0] / 'export'}", "--json", "--top=2", *paths)
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert [line["input"] for line in lines] == list(map(str, paths))
  assert [int(line["top"][0]["label"]) for line in lines] == list(predictions)
  found = [line["top"][0]["probability"] for line in lines]
  np.testing.assert_allclose(found, confidences, atol=1e-4)
  assert all(len(line["top"]) == 2 for line in lines)


@pytest.mark.parametrize("ending", [".onnx", ".stablehlo", ".safetensors"])
def test_every_runtime_gives_the_same(finished, pictures, ending):
  paths, images, predictions, confidences = pictures
  file = finished[0] / "export" / f"student{ending}"
  if not file.exists():
    pytest.skip(f"{ending} could not be written here")
  model = predict.load(file, threads=1)
  found = model([*paths[:3], images[3], images[4:]])
  assert [int(one.label) for one in found] == list(predictions)
  shares = [one.probability for one in found]
  np.testing.assert_allclose(shares, confidences, atol=1e-4)
  assert found[5].name == "array[1]"
  for one in found:
    assert sum(one.probabilities) == pytest.approx(1.0)
    assert set(one.labels) == set("0123456789")
    assert list(one.probabilities) == sorted(one.probabilities, reverse=True)


@pytest.mark.skipif(not WITH_ONNX, reason="onnxruntime is not installed")
def test_nothing_of_the_training_is_imported(finished, pictures):
  code = (
    "import sys\nfrom kdcl_jax import predict\n"
    f"model = predict.load({str(finished[0] / 'export')!r})\n"
    f"print(model([{str(pictures[0][0])!r}])[0].label)\n"
    "print(' '.join(m for m in ('jax', 'flax', 'grain', 'orbax', 'optax',"
    " 'tensorflow_datasets', 'tensorflow', 'absl', 'ml_collections', 'scipy',"
    " 'matplotlib', 'sklearn') if m in sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
  )
  assert done.returncode == 0, done.stderr
  label, loaded = done.stdout.split("\n")[:2]
  assert int(label) == pictures[2][0] and loaded == ""


def test_what_cannot_be_read_is_named_and_the_rest_predicted(
  finished, pictures, tmp_path, capsys
):
  broken = tmp_path / "broken.png"
  broken.write_bytes(b"\x89PNG nothing")
  wide = tmp_path / "wide.npy"
  np.save(wide, np.zeros((2, 8, 9, 1), np.uint8))
  real = tmp_path / "real.npy"
  np.save(real, np.zeros((8, 8, 1), np.float32))
  pickled = tmp_path / "pickled.npy"
  np.save(pickled, np.array([{}], object))
  absent = tmp_path / "absent.png"
  bad = [broken, wide, real, pickled, absent]
  good = pictures[0][0]
  argv = [f"--model={finished[0] / 'export'}", *map(str, [*bad, good])]
  assert predict.main(argv) == 1
  out, err = capsys.readouterr()
  assert out.startswith(f"{good}: {pictures[2][0]} ") and out.count("\n") == 1
  for path in bad:
    assert str(path) in err
  assert "(2, 8, 9, 1), expected (8, 8, 1)" in err
  assert "float32, expected uint8" in err
  assert "5 of 6 files could not be read" in err


def test_a_picture_of_another_size_is_brought_to_that_of_the_model(
  finished, tmp_path
):
  big = tmp_path / "big.jpg"
  Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(big)
  ((_, image),) = predict.load(finished[0] / "export").read(big)
  assert image.shape == (8, 8, 1) and abs(int(image[0, 0, 0]) - 200) < 3


def test_a_crop_is_taken_where_the_run_took_one(finished, tmp_path):
  folder = tmp_path / "export"
  folder.mkdir()
  for name in ("student.json", "student.safetensors"):
    shutil.copy(finished[0] / "export" / name, folder)
  facts = json.loads((folder / "student.json").read_text())
  facts["preprocessing"]["crop"] = 0.5
  (folder / "student.json").write_text(json.dumps(facts))
  framed = np.zeros((32, 32), np.uint8)
  framed[8:24, 8:24] = 250  # the middle of half the side
  Image.fromarray(framed).save(tmp_path / "framed.png")
  model = predict.load(folder)
  ((_, image),) = model.read(tmp_path / "framed.png")
  assert (image == 250).all()


def test_a_model_of_floats_takes_arrays_and_no_pictures(finished, pictures):
  model = predict.load(finished[0] / "export")
  known = dict(model.preprocessing) | {"dtype": "float32", "shape": [5]}
  floats = predict.Model(
    model.path, model.labels, known, lambda x: np.zeros((len(x), 10))
  )
  (one,) = floats([np.zeros(5, np.float64)])
  assert one.probability == pytest.approx(0.1)
  with pytest.raises(UnreadableRecord, match="give a .npy file"):
    floats([pictures[0][0]])


def test_the_lines_in_the_docs_do_as_they_say(
  finished, pictures, tmp_path, monkeypatch, capsys
):
  text = (ROOT / "docs" / "export.md").read_text()
  (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
  monkeypatch.chdir(tmp_path)
  shutil.copytree(finished[0] / "export", "runs/fashion/export")
  shutil.copy(pictures[0][0], "image.png")
  exec(block, {})
  assert int(capsys.readouterr().out) == pictures[2][0]


def wrong(argv, capsys, *words):
  assert predict.main(list(map(str, argv))) == 2
  err = capsys.readouterr().err
  assert err.startswith("kdcl_jax: ") and err.count("\n") == 1
  for word in words:
    assert word in err, err


def test_mistakes_in_the_command_are_told_in_a_sentence(
  finished, pictures, tmp_path, capsys
):
  folder, picture = finished[0] / "export", pictures[0][0]
  wrong([f"--model={folder}"], capsys, "inputs")
  wrong([picture], capsys, "--model")
  wrong([f"--model={folder}", "--top=0", picture], capsys, "--top is 0")
  wrong([f"--model={tmp_path / 'no'}", picture], capsys, "does not exist")
  wrong([f"--model={tmp_path}", picture], capsys, "no student.json")
  wrong([f"--model={folder}/student.json", picture], capsys, ".onnx")
  shutil.copy(folder / "student.json", tmp_path)
  wrong([f"--model={tmp_path}", picture], capsys, "no student.*")
  (tmp_path / "student.json").write_text("{")
  wrong([f"--model={tmp_path}", picture], capsys, "damaged")


@pytest.mark.parametrize("ending", list(runtimes.RUNTIMES))
def test_a_damaged_file_is_told_in_a_sentence(
  finished, pictures, tmp_path, capsys, ending
):
  if not runtimes.available(runtimes.RUNTIMES[ending]):
    pytest.skip(f"the runtime of {ending} is not installed")
  shutil.copy(finished[0] / "export" / "student.json", tmp_path)
  path = tmp_path / f"student{ending}"
  whole = finished[0] / "export" / path.name
  for content in (b"", b"nothing of the kind" * 9, whole_half(whole)):
    path.write_bytes(content)
    words = (path.name, "safetensors") if "safe" in ending else (path.name,)
    wrong([f"--model={path}", pictures[0][0]], capsys, *words)


def whole_half(path):
  if not path.exists():
    return b"half"
  content = path.read_bytes()
  return content[: len(content) // 2]


def test_the_first_runtime_that_is_there_is_taken(finished, monkeypatch):
  folder = finished[0] / "export"
  monkeypatch.setattr(
    runtimes, "available", lambda runtime: runtime.name == "JAX"
  )
  expected = [".onnx", ".tflite", ".stablehlo", ".safetensors"]
  assert list(runtimes.RUNTIMES) == expected
  path = predict._file(folder)
  there = folder / "student.stablehlo"
  assert path.name == (
    "student.stablehlo" if there.exists() else "student.safetensors"
  )


def test_a_missing_runtime_is_named(finished, monkeypatch, tmp_path, capsys):
  shutil.copy(finished[0] / "export" / "student.json", tmp_path)
  (tmp_path / "student.onnx").write_bytes(b"")
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  argv = [f"--model={tmp_path}", "image.png"]
  wrong(argv, capsys, "onnxruntime", "pip install")
