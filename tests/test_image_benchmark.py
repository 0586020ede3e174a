"""The benchmark of reading pictures runs, on pictures like photographs."""

import importlib
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
bench = importlib.import_module("images")


def test_its_pictures_are_as_large_as_imagenets_and_the_same_every_time():
  made = bench.files(4, 1.0)
  assert made == bench.files(4, 1.0)
  assert 80_000 < np.mean([len(content) for content in made]) < 120_000
  sizes = [Image.open(io.BytesIO(content)).size for content in made]
  assert sizes[0] == (500, 375) and len(set(sizes)) == 4


def test_their_detail_falls_with_frequency_as_that_of_photographs_does():
  rng = np.random.default_rng(0)
  grey = bench.photograph(rng, 256, 256)[..., 0].astype(float)
  power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
  frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256)] * 2))
  band = lambda at: power[abs(np.log2(frequency + 1e-9) - np.log2(at)) < 0.5]
  # Amplitude 1 / f: four times the frequency has a sixteenth of the power.
  ratio = band(1 / 64).mean() / band(1 / 16).mean()
  assert 10 < ratio < 26


def test_the_command_measures_all_readers_and_says_what_is_left_out(tmp_path):
  out = tmp_path / "deep" / "images.json"
  done = subprocess.run(
    [
      *(sys.executable, str(BENCHMARKS / "images.py"), "--rows=4"),
      *("--rounds=1", "--shapes=16:0.2", f"--out={out}"),
      "--tensorflow=/nothing/here",
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  rows = {r["reader"]: r for r in json.loads(out.read_text())["rows"]}
  assert len(rows) == 6
  for name, row in rows.items():
    if name.startswith("tf.data"):
      assert "No such file" in row["left_out"]
    else:
      assert row["per_core"] > 0 and row["per_second"] > 0
  assert rows["Pillow, whole pictures"]["of_pillow"] == 1
  assert done.stdout.count("left out: FileNotFoundError") == 2
