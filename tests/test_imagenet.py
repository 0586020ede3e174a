"""All of configs/imagenet.py on a small data set of ImageNet's form."""

import io
import json
import os
import pathlib
import runpy
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, validation

ROOT = pathlib.Path(__file__).parents[1]
SIZES = ((75, 100), (100, 75), (66, 100), (150, 210), (40, 300))
TRAIN, TEST, CLASSES, VALIDATION = 24, 8, 4, 8
STAGES = ("teacher", "baseline", "student")
SMALL = "resnet8"  # compiles in seconds


def content(place):
  """A JPEG file, of which some are grey, CMYK, large, or broken."""
  rng = np.random.default_rng(place)
  height, width = SIZES[place % len(SIZES)]
  small = rng.integers(0, 256, (height // 6, width // 6, 3)).astype(np.uint8)
  picture = Image.fromarray(small).resize((width, height))
  mode = {3: "L", 6: "CMYK"}.get(place % 8, "RGB")
  file = io.BytesIO()
  picture.convert(mode).save(file, "JPEG", quality=80)
  if place % 6 == 5:  # the end is missing, or all but the beginning is
    return file.getvalue()[: 700 if place % 12 == 5 else 20]
  return file.getvalue()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  """A directory of tfds with `imagenet2012`, as tfds itself prepares it."""
  import tensorflow_datasets as tfds

  folder = tmp_path_factory.mktemp("tfds")
  builder = tfds.builder(
    "imagenet2012", data_dir=str(folder), file_format="array_record"
  )

  def records(first, count):
    for i in range(count):
      yield (
        i,
        {
          "image": io.BytesIO(content(first + i)),
          "label": i % CLASSES,
          "file_name": f"{i}.JPEG",
        },
      )

  builder._split_generators = lambda manager: {
    "train": records(0, TRAIN),
    "validation": records(TRAIN, TEST),
  }
  builder.download_and_prepare()
  assert "tensorflow" not in sys.modules
  return [f"--config.data.data_dir={folder}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The same files in folders, as ImageNet is unpacked."""
  root = tmp_path_factory.mktemp("folder")
  for part, first, count in (("train", 0, TRAIN), ("val", TRAIN, TEST)):
    for i in range(count):
      path = root / part / f"n{i % CLASSES:04}" / f"{i}.JPEG"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content(first + i))
  return [f"--config.data.path={root}"]


def overrides(model=None):
  """A few steps at 64 x 64 pixels; everything else is that of the config."""
  flags = ["--config.data.image_size=64", "--config.tensorboard=False"]
  flags += [f"--config.data.validation={VALIDATION}"]
  for stage in ("scorer", *STAGES):
    flags += [
      f"--config.{stage}.epochs=0.0",
      f"--config.{stage}.steps=2",
      f"--config.{stage}.batch_size=8",
      f"--config.{stage}.curriculum.lessons=1",
    ]
    flags += [f"--config.{stage}.model.name={model}"] if model else []
  return flags


def start(workdir, flags, *, variant="", optimize=True):
  # Without most of its optimizations XLA compiles a ResNet-50 several times as
  # fast.
  environ = os.environ | {"JAX_PLATFORMS": "cpu"}
  if not optimize:
    environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "kdcl_jax.main", f"--workdir={workdir}"),
      f"--config=configs/imagenet.py{variant}",
      *flags,
    ],
    cwd=ROOT,
    env=environ,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  output, errors = process.communicate(timeout=600)
  assert process.returncode == 0, errors
  assert "Traceback" not in errors
  return output + errors


def resolved(flags, variant=""):
  """The config of a run, but for the models and the steps."""
  get = runpy.run_path(str(ROOT / "configs" / "imagenet.py"))["get_config"]
  config = get(*[variant.removeprefix(":")] * bool(variant))
  name, value = flags[0].removeprefix("--config.data.").split("=")
  config.data[name] = value
  config.data.image_size = 64
  config.data.validation = VALIDATION
  for stage in ("scorer", *STAGES):
    config[stage].update(batch_size=8, epochs=0.0, steps=2)
  return kdcl.resolve(config)


def data(flags, variant=""):
  """The data of a run, with its splits."""
  return dataset.load(resolved(flags, variant)["data"], seed=0)


def check(workdir, loaded):
  """What a run must leave, and that it counted what it could not read."""
  results = json.loads((workdir / "results.json").read_text())
  assert tuple(results["stages"]) == STAGES
  broken = {}
  for name in ("train", "validation", "test"):
    split = getattr(loaded, name)
    broken[name] = int((~split.fetch(split.ids)[1]).sum())
  assert broken["train"] + broken["validation"] == TRAIN // 6
  assert broken["train"] and broken["test"]
  for stage in STAGES:
    directory = workdir / stage / "seed_0"
    found = json.loads((directory / "result.json").read_text())
    assert found["steps"] == 2 and found["traces"] <= 1
    if found["final_fraction"] == 1 and stage == "baseline":
      assert found["unreadable"] == broken["train"]  # every record was visited
    assert 0 <= found["test"]["accuracy"] <= 1
    with np.load(directory / "test_predictions.npz") as rows:
      assert len(rows["record_id"]) == TEST - broken["test"]
  for table in ("scorer_loss", "student"):  # of the teacher's course, and its
    with np.load(workdir / "difficulty" / "seed_0" / f"{table}.npz") as rows:
      assert len(rows["record_id"]) == TRAIN - VALIDATION
  exported = json.loads((workdir / "export" / "student.json").read_text())
  assert exported["preprocessing"]["shape"] == [64, 64, 3]
  assert (workdir / "report.html").exists()
  return exported


@pytest.mark.parametrize(
  "variant",
  ["", ":vit", ":patient", ":resnet34-resnet18", ":resnet50-mobilenet_v1"],
)
def test_the_models_and_objectives_of_a_variant_fit_the_pictures(
  store, variant
):
  config = resolved(store, variant)
  validation.check(config)
  loaded = dataset.load(config["data"], seed=0)
  validation.check_data(config, loaded)


def test_all_stages_run_and_what_cannot_be_read_is_counted(store, tmp_path):
  workdir = tmp_path / "run"
  finish(start(workdir, [*store, *overrides(SMALL)]))
  exported = check(workdir, data(store))
  assert len(exported["labels"]) == 1000


@pytest.mark.slow
def test_the_whole_config_runs_with_its_own_models(store, tmp_path):
  process = start(tmp_path / "run", [*store, *overrides()], optimize=False)
  finish(process)
  exported = check(tmp_path / "run", data(store))
  assert exported["model"]["name"] == "mobilenet_v2_224"
  assert exported["parameters"] == 3_504_872  # that of Sandler et al.
  assert len(exported["labels"]) == 1000


@pytest.mark.slow
def test_a_folder_of_the_same_files_does_as_well(folder, tmp_path):
  workdir = tmp_path / "run"
  variant = ":resnet34-resnet18,folder,progressive"
  finish(start(workdir, [*folder, *overrides(SMALL)], variant=variant))
  exported = check(workdir, data(folder, variant))
  assert exported["labels"] == [f"n{i:04}" for i in range(CLASSES)]


@pytest.mark.slow
def test_two_processes_share_the_work(store, tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  workdir = tmp_path / "run"
  processes = [
    start(
      workdir,
      [
        *(*store, *overrides(SMALL)),
        f"--coordinator=127.0.0.1:{port}",
        "--num_processes=2",
        f"--process_id={process}",
      ],
    )
    for process in range(2)
  ]
  try:
    for process in processes:
      finish(process)
  finally:
    for process in processes:
      process.kill()
  check(workdir, data(store))
