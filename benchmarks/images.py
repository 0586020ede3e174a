"""Pictures per second and core: this reader, plain Pillow and tf.data.

  python benchmarks/images.py [--tensorflow=PYTHON] [--out=FILE]

Makes JPEGs of ImageNet's sizes from noise with the spectrum of photographs, and
reads random crops of them, resized. PYTHON is an interpreter that has
tensorflow, which need not be this one. See docs/images.md.
"""

import argparse
import io
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import PIL
from PIL import Image

QUALITY = 85


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Noise whose amplitude falls as 1 / frequency, as that of photographs does.

  Args:
    rng: draws it.
    height: pixels.
    width: pixels.

  Returns:
    [height, width, 3] uint8, mostly grey as photographs are.
  """
  frequency = np.hypot(
    np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
  )
  amplitude = 1 / np.maximum(frequency, 1 / max(height, width))

  def layer() -> np.ndarray:
    waves = rng.normal(size=(2, *amplitude.shape))
    noise = np.fft.irfft2(amplitude * (waves[0] + 1j * waves[1]))
    noise = np.resize(noise, (height, width))
    return (noise - noise.mean()) / noise.std()

  grey = layer()
  layers = [grey, 0.9 * grey + 0.4 * layer(), 0.9 * grey + 0.4 * layer()]
  return np.clip(50 * np.stack(layers, -1) + 120, 0, 255).astype(np.uint8)


def files(count: int, scale: float, seed: int = 0) -> list[bytes]:
  """JPEGs with sides around 500 x 375 pixels times a scale."""
  rng = np.random.default_rng(seed)
  sides = [(375, 500), (500, 375), (333, 500), (400, 400)]
  made = []
  for i in range(count):
    height, width = (round(scale * side) for side in sides[i % len(sides)])
    file = io.BytesIO()
    picture = Image.fromarray(photograph(rng, height, width))
    picture.save(file, "JPEG", quality=QUALITY)
    made.append(file.getvalue())
  return made


class Files:
  """The files as a source, as often as is needed."""

  def __init__(self, contents: Sequence[bytes]):
    self.contents = contents

  def __len__(self) -> int:
    return len(self.contents)

  def view(self, record_id: int, window: Any, size: tuple[int, int]) -> Any:
    """What our sources of files do."""
    from kdcl_jax.sources import images

    content = self.contents[record_id % len(self.contents)]
    return images.view(content, window, size, channels=3)


def ours(contents: Sequence[bytes], rows: int, size: int, threads: int) -> None:
  """A batch as the pipeline reads it."""
  from kdcl_jax.sources import reading, windows

  ids = np.arange(rows)
  some = windows.random_resized_crop()(ids, 0 * ids, 0)
  shape = (size, size, 3)
  found = reading.rows(Files(contents), ids, some, shape, threads)
  np.stack(found)


def pillow(contents: Sequence[bytes], rows: int, size: int) -> None:
  """All of each picture decoded by Pillow, cropped and resized, in a loop."""
  from kdcl_jax.sources import windows

  ids = np.arange(rows)
  some = windows.random_resized_crop()(ids, 0 * ids, 0)
  found = []
  for row, window in zip(ids, some, strict=True):
    content = contents[row % len(contents)]
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    top, left, height, width = window(picture.height, picture.width)
    part = picture.crop((left, top, left + width, top + height))
    part = part.resize((size, size), Image.Resampling.BILINEAR)
    found.append(np.asarray(part))
  np.stack(found)


def _process(arguments: tuple) -> tuple[float, float]:
  """Seconds of this process, and of its cores, for a batch read by itself."""
  contents, rows, size = arguments
  before = time.perf_counter(), time.process_time()
  ours(contents, rows, size, 1)
  return time.perf_counter() - before[0], time.process_time() - before[1]


def measured(function: Callable[[], None]) -> tuple[float, float]:
  """Seconds by the clock, and of all cores, of a call."""
  before = time.perf_counter(), time.process_time()
  function()
  return time.perf_counter() - before[0], time.process_time() - before[1]


TENSORFLOW = """
import sys, time, json, glob, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
folder, rows, size, threads = sys.argv[1], *map(int, sys.argv[2:5])
contents = [open(f, "rb").read() for f in sorted(glob.glob(folder + "/*.jpg"))]
options = tf.data.Options()
options.threading.private_threadpool_size = threads
options.threading.max_intra_op_parallelism = 1
options.experimental_optimization.inject_prefetch = False  # outside the clock

def crop(content):
  shape = tf.io.extract_jpeg_shape(content)
  whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
  begin, extent, _ = tf.image.sample_distorted_bounding_box(
    shape, whole, min_object_covered=0.0, aspect_ratio_range=(3 / 4, 4 / 3),
    area_range=(0.08, 1.0), max_attempts=10,
    use_image_if_no_bounding_boxes=True)
  top, left, _ = tf.unstack(begin)
  height, width, _ = tf.unstack(extent)
  part = tf.image.decode_and_crop_jpeg(
    content, tf.stack([top, left, height, width]), channels=3)
  part = tf.image.resize(part, (size, size), antialias=ANTIALIAS)
  return tf.cast(part, tf.uint8)

rounds = int(sys.argv[5])
made = tf.data.Dataset.from_tensor_slices(contents).repeat()
made = made.map(crop, num_parallel_calls=threads, deterministic=True)
batches = iter(made.batch(rows).with_options(options))
next(batches), next(batches)
wall, core = time.perf_counter(), time.process_time()
for _ in range(rounds):
  next(batches)
wall, core = time.perf_counter() - wall, time.process_time() - core
print(json.dumps([[wall / rounds, core / rounds]]))
"""


def tensorflow(
  python: str, folder: str, rows: int, size: int, rounds: int, smooth: bool
) -> list[list[float]] | str:
  """The same of tf.data in its own process; a reason where it cannot run."""
  program = TENSORFLOW.replace("ANTIALIAS", str(smooth))
  arguments = [folder, str(rows), str(size), "1", str(rounds)]
  try:
    done = subprocess.run(
      [python, "-c", program, *arguments],
      capture_output=True,
      text=True,
      timeout=600,
    )
  except (OSError, subprocess.TimeoutExpired) as error:
    return f"{type(error).__name__}: {error}"
  if done.returncode:
    return done.stderr.strip().splitlines()[-1]
  return json.loads(done.stdout)


def compare(
  size: int, scale: float, rows: int, rounds: int, python: str
) -> list[dict[str, Any]]:
  """Every reader at one size, in turns, so that all have the same machine."""
  contents = files(48, scale)
  readers: dict[str, Callable[[], None]] = {
    "Pillow, whole pictures": lambda: pillow(contents, rows, size),
    "kdcl_jax, 1 thread": lambda: ours(contents, rows, size, 1),
    "kdcl_jax, 2 threads": lambda: ours(contents, rows, size, 2),
  }
  times: dict[str, list] = {name: [] for name in readers}
  pool = "kdcl_jax, 2 processes"
  times[pool] = []
  context = multiprocessing.get_context("spawn")
  with (
    tempfile.TemporaryDirectory() as folder,
    ProcessPoolExecutor(2, mp_context=context) as workers,
  ):
    for place, content in enumerate(contents):
      pathlib.Path(folder, f"{place:03}.jpg").write_bytes(content)
    half = [(contents, rows // 2, size)] * 2
    for reader in readers.values():
      reader()
    list(workers.map(_process, half))
    for _ in range(rounds):
      for name, reader in readers.items():
        times[name].append(measured(reader))
      start = time.perf_counter()
      cores = sum(core for _, core in workers.map(_process, half))
      times[pool].append((time.perf_counter() - start, cores))
    for smooth in (True, False):
      name = f"tf.data{'' if smooth else ', not antialiased'}"
      times[name] = tensorflow(python, folder, rows, size, rounds, smooth)
  base = min(core for _, core in times["Pillow, whole pictures"])
  found = []
  for name, seconds in times.items():
    row = {
      "size": size,
      "kilobytes": round(sum(map(len, contents)) / len(contents) / 1000),
      "pixels": f"about {round(500 * scale)} x {round(375 * scale)}",
      "reader": name,
    }
    if isinstance(seconds, str):
      found.append(row | {"left_out": seconds})
      continue
    cores = [core for _, core in seconds]
    found.append(
      row
      | {
        "per_core": rows / min(cores),
        "median_per_core": rows / statistics.median(cores),
        "per_second": rows / min(wall for wall, _ in seconds),
        "of_pillow": base / min(cores),
      }
    )
  return found


def overhead(rows: int = 2000) -> float:
  """Seconds of a record that are not decoding: a picture of 8 x 8 pixels."""
  file = io.BytesIO()
  Image.new("RGB", (8, 8)).save(file, "JPEG")
  return (
    min(
      measured(lambda: ours([file.getvalue()], rows, 8, 1))[1] for _ in range(3)
    )
    / rows
  )


def main() -> None:
  """Measures, prints a table and writes the numbers."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--tensorflow", default=sys.executable, metavar="PYTHON")
  parser.add_argument("--rows", type=int, default=256)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--shapes", default="224:1,112:1,224:3")
  parser.add_argument("--out", type=pathlib.Path)
  arguments = parser.parse_args()
  rows = []
  print(
    "| pixels | kB | crop to | reader | per core | of Pillow | per second |"
  )
  print("| --- | --- | --- | --- | --- | --- | --- |")
  for shape in arguments.shapes.split(","):
    size, scale = shape.split(":")
    for row in compare(
      int(size),
      float(scale),
      arguments.rows,
      arguments.rounds,
      arguments.tensorflow,
    ):
      rows.append(row)
      if "left_out" in row:
        numbers = f"left out: {row['left_out']} | |"
      else:
        numbers = (
          f"{row['per_core']:.0f} | {row['of_pillow']:.2f} |"
          f" {row['per_second']:.0f} |"
        )
      print(
        f"| {row['pixels']} | {row['kilobytes']} | {size} | {row['reader']} |"
        f" {numbers}",
        flush=True,
      )
  beside = overhead()
  machine = {
    "cores": os.cpu_count(),
    "load": os.getloadavg()[0],
    "platform": platform.platform(),
    "pillow": PIL.__version__,
    "overhead_seconds": beside,
  }
  print(f"\n{1e6 * beside:.0f} us of a record are not decoding; {machine}")
  if arguments.out:
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}))


if __name__ == "__main__":
  main()
