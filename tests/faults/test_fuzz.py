"""Damaged inputs end in a clear sentence or a counted skip, or change nothing.

Over 400 of them, drawn by seeds; none may end in another exception, in a hang
or in a result that differs and does not say so.
"""

import contextlib
import copy
import gzip
import io
import json
import pathlib
import random
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from kdcl_jax import config as kdcl
from kdcl_jax import (
  dataset,
  environment,
  label_noise,
  prepare,
  results,
  run,
  sources,
  tables,
  validation,
  weights,
)
from kdcl_jax.errors import UserError
from kdcl_jax.sources import UnreadableRecord, tfds
from kdcl_jax.writers import read_lines

CONFIG = dict(
  stages=("teacher", "student"),
  tensorboard=False,
  export="",
  checkpoint_steps=5,
  teacher=kdcl.stage(steps=10, batch_size=16, model=dict(name="cnn")),
  student=kdcl.stage(
    steps=10,
    batch_size=16,
    model=dict(name="mlp", widths=(8,)),
    teachers=("teacher",),
    curriculum=dict(order="curriculum", difficulty=dict(source="teacher")),
  ),
  data=dict(train_size=200, test_size=50, validation=40),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A finished run."""
  workdir = tmp_path_factory.mktemp("fuzz") / "run"
  run.execute(kdcl.resolve(kdcl.run(**CONFIG)), workdir, reported=False)
  return workdir


@contextlib.contextmanager
def within(seconds):
  """Fails where something takes longer."""

  def late(*_):
    raise AssertionError(f"no end within {seconds} s")

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def bits(chance, content):
  damaged = bytearray(content)
  for _ in range(chance.choice((1, 1, 3))):
    damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
  return bytes(damaged)


def zeros(chance, content):
  start = chance.randrange(len(content))
  length = min(chance.randrange(1, 64), len(content) - start)
  return content[:start] + bytes(length) + content[start + length :]


def swapped(chance, content):
  cuts = sorted(chance.randrange(len(content)) for _ in range(3))
  a, b, c = cuts
  return content[:a] + content[b:c] + content[a:b] + content[c:]


DAMAGES = (
  bits,
  bits,
  bits,
  zeros,
  swapped,
  lambda chance, content: content[: chance.randrange(len(content))],
  lambda chance, content: b"",
  lambda chance, content: chance.randbytes(len(content)),
  lambda chance, content: content + chance.randbytes(9),
  lambda chance, content: chance.choice((b"{}", b"[]", b"null", b"[" * 9999)),
  None,  # a directory in its place
)


def spoil(path, chance):
  """Damages a file; returns how, for messages."""
  number = chance.randrange(len(DAMAGES))
  content = path.read_bytes()
  if DAMAGES[number] is None:
    path.unlink()
    path.mkdir()
  else:
    path.write_bytes(DAMAGES[number](chance, content))
  return number


def clean(path):
  shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def same(one, other):
  """Whether two results are equal, arrays by type and every bit."""
  if isinstance(one, np.ndarray):
    return (
      isinstance(other, np.ndarray)
      and one.dtype == other.dtype
      and one.shape == other.shape
      and one.tobytes() == other.tobytes()
    )
  if isinstance(one, dict) and isinstance(other, dict):
    return one.keys() == other.keys() and all(
      same(one[key], other[key]) for key in one
    )
  if isinstance(one, list | tuple) and isinstance(other, list | tuple):
    return len(one) == len(other) and all(map(same, one, other))
  return type(one) is type(other) and one == other


def hunt(
  path, read, count, *, seed=0, agrees=same, refusals=(UserError,), least=1
):
  """Damages a file so often and reads it each time.

  Returns:
    How many were refused, at least `least`.
  """
  whole = path.read_bytes()
  want, refused, wrong = read(), 0, []
  for number in range(count):
    chance = random.Random(seed * 1000 + number)
    how = spoil(path, chance)
    try:
      with within(30):
        found = read()
      if not agrees(want, found):
        wrong.append((path.name, number, how, "a wrong result"))
    except refusals as error:
      refused += 1
      if not str(error) or "\n" in str(error).strip():
        wrong.append((path.name, number, how, f"said {error}"))
    except Exception as error:
      wrong.append((path.name, number, how, repr(error)[:300]))
    clean(path)
    path.write_bytes(whole)
  assert not wrong, wrong
  assert refused >= least
  return refused


def test_weights(made):
  path = made / "teacher/seed_0/weights.safetensors"
  assert hunt(path, lambda: weights.load(path, "config.x"), 40) > 30


def test_tables_of_difficulties(made):
  path = made / "difficulty/seed_0/student.npz"
  ids = np.load(path)["record_id"]

  def read():
    table = tables.load(path, "config.x")
    return table.of(ids, "config.x"), table.provenance

  assert hunt(path, read, 40) > 20
  assert hunt(path.with_suffix(".json"), read, 20, seed=1) > 10


@pytest.mark.parametrize("name", ["result.json", "test_predictions.npz"])
def test_results_of_stages(made, name):
  read = lambda: results.collect(made, ["teacher", "student"], [0])
  assert hunt(made / "student/seed_0" / name, read, 30) > 15


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_what_is_known_of_a_run(made, name):
  config = kdcl.resolve(kdcl.run(**CONFIG))
  data = dataset.load(config["data"], seed=0)
  assert hunt(made / name, lambda: environment.record(config, made, data), 30)


def test_metrics_leave_out_damaged_lines(made):
  path = made / "teacher/seed_0/metrics.jsonl"
  lines = path.read_text().splitlines()
  read = lambda: len(read_lines(path))
  assert read() == len(lines)
  hunt(path, read, 40, agrees=lambda want, found: found <= want)


def test_checkpoints(made, tmp_path, caplog):
  """Whatever happens to the last one, the run ends as it would have."""
  config = kdcl.resolve(kdcl.run(**CONFIG))
  want = (made / "student/seed_0/weights.safetensors").read_bytes()
  for number in range(8):
    workdir = tmp_path / str(number)
    shutil.copytree(made, workdir)
    (workdir / "student/seed_0/result.json").unlink()
    chance = random.Random(number)
    latest = workdir / "student/seed_0/checkpoints/10"
    files = sorted(path for path in latest.rglob("*") if path.is_file())
    spoil(chance.choice(files), chance)
    with within(60):
      run.execute(config, workdir, reported=False)
    found = (workdir / "student/seed_0/weights.safetensors").read_bytes()
    assert found == want, number
    shutil.rmtree(workdir)


def section(**data):
  config = kdcl.run(stages=("student",), student=kdcl.stage(steps=1), data=data)
  return kdcl.resolve(config)["data"]


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_data(tmp_path, compressed):
  path = tmp_path / "data.npz"
  chance = np.random.default_rng(0)
  image = chance.integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
  save = np.savez_compressed if compressed else np.savez
  save(path, image=image, label=np.arange(30) % 3)
  given = section(source="npz", path=str(path))

  def read():
    found = sources.load(given, 0)
    return [(split.image, split.label) for split in (found.train, found.test)]

  assert hunt(path, read, 40) > 20


def test_npz_bombs(tmp_path):
  path = tmp_path / "bomb.npz"
  given = section(source="npz", path=str(path))
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {"shape": (2**40,), "fortran_order": False, "descr": "<f8"}
  )
  import zipfile

  with zipfile.ZipFile(path, "w") as file:
    file.writestr("image.npy", header.getvalue())
  with within(10), pytest.raises(UserError, match="shorter than its header"):
    sources.load(given, 0)
  for content in (b"\x93NUMPY\x09\x00", b"plain text", b""):
    with zipfile.ZipFile(path, "w") as file:
      file.writestr("image.npy", content)
    with within(10), pytest.raises(UserError, match="no readable .npz"):
      sources.load(given, 0)
  np.savez(path, image=np.array([object()], dtype=object), label=np.arange(1))
  with pytest.raises(UserError, match="pickled objects"):
    sources.load(given, 0)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pictures(tmp_path, kind):
  """One that is damaged is left out, or is a picture of the same shape."""
  chance = np.random.default_rng(0)
  for split in ("train", "test"):
    for name in ("a", "b"):
      folder = tmp_path / split / name
      folder.mkdir(parents=True)
      for number in range(3):
        pixels = chance.integers(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{kind}")
  given = section(source="folder", path=str(tmp_path), validation=2)
  path = tmp_path / "train" / "a" / f"1.{kind}"

  def read():
    found = sources.load(given, 0).train
    record = next(i for i in range(6) if found.paths[i] == path)
    return found[record]["image"]

  # A JPEG has no checksum: other pixels are no fault that could be seen.
  agrees = lambda want, found: found.shape == want.shape or kind == "jpg"
  hunt(path, read, 50, agrees=agrees, refusals=(UserError, UnreadableRecord))


def test_idx_files(tmp_path):
  path = tmp_path / "x.gz"
  head = bytes([0, 0, 8, 3]) + np.array([5, 28, 28], ">i4").tobytes()
  pixels = np.random.default_rng(0).integers(0, 256, 5 * 784).astype(np.uint8)
  path.write_bytes(gzip.compress(head + pixels.tobytes()))
  assert hunt(path, lambda: prepare.read_idx(path, 3), 40) > 25
  path.write_bytes(gzip.compress(head[:4] + b"\xff" * 12))
  with pytest.raises(UserError, match="promises"):
    prepare.read_idx(path, 3)
  bomb = bytes([0, 0, 8, 3]) + np.array([1, 1, 1], ">i4").tobytes()
  path.write_bytes(gzip.compress(bomb + bytes(2**26)))
  with (
    within(5),
    pytest.raises(UserError, match="holds other than the 1 bytes"),
  ):
    prepare.read_idx(path, 3)


def test_tfds_shards(tmp_path):
  """Records of a damaged shard are left out, or the directory is refused."""
  chance = np.random.default_rng(0)
  for prefix, count in (("train", 30), ("t10k", 10)):
    for name, array in (
      ("images-idx3", chance.integers(0, 256, (count, 28, 28))),
      ("labels-idx1", np.arange(count) % 10),
    ):
      head = (
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
      )
      path = tmp_path / f"{prefix}-{name}-ubyte.gz"
      path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
  base = prepare.fashion_mnist(tmp_path, str(tmp_path / "tfds"))
  given = section(source="tfds:fashion_mnist", data_dir=str(tmp_path / "tfds"))
  given["validation"] = 5

  def read():
    tfds._LABELS.clear()
    found = dataset.load(given, seed=0)
    rows, readable = found.train.fetch(np.arange(30))
    return found.train.labels, rows["image"][readable], readable

  def agrees(want, found):
    """The same pictures and labels, where they could be read."""
    kept = found[2]
    return same(want[0], found[0]) and same(want[1][kept], found[1])

  (shard,) = base.glob("*train.array_record*")
  assert hunt(shard, read, 25, agrees=agrees) > 10
  hunt(base / "dataset_info.json", read, 15, agrees=agrees, least=0)


def test_tables_of_label_noise(tmp_path):
  path = tmp_path / "table.csv"
  table = np.full((3, 3), 0.125) + np.eye(3) * 0.625
  np.savetxt(path, table, delimiter=",")
  given = dict(kind="confusion", rate=0.0, table=str(path))
  labels = np.arange(300) % 3
  read = lambda: label_noise.apply(labels, np.arange(300), given, 3, 0)
  agrees = lambda want, found: np.mean(want != found) < 0.2
  assert hunt(path, read, 40, agrees=agrees) > 20


JUNK = (
  None,
  "",
  "x",
  "../x",
  "\0",
  -1,
  0,
  10**30,
  1e300,
  float("nan"),
  float("inf"),
  True,
  (),
  ("x",),
  (None,),
  {},
  {"name": "x"},
  {"name": 3},
  {1: 2},
  [1, 2],
  b"x",
  object,
  range(3),
  np.float64(2.0),
)


def leaves(tree, path=()):
  for key, value in tree.items():
    yield (*path, key)
    if isinstance(value, dict):
      yield from leaves(value, (*path, key))


def test_configs():
  """Any value in any field is valid, or refused in a sentence."""
  base = kdcl.plain(kdcl.run(**CONFIG))
  base.pop("scorer")
  fields = list(leaves(base))
  wrong, refused = [], 0
  for number in range(250):
    chance = random.Random(number)
    path, value = chance.choice(fields), chance.choice(JUNK)
    config = copy.deepcopy(base)
    place = config
    for key in path[:-1]:
      place = place[key]
    place[path[-1]] = value
    try:
      with within(30):
        resolved = kdcl.resolve(config)
        validation.check(resolved)
        json.dumps(environment.plain(resolved), allow_nan=False)
    except UserError as error:
      refused += 1
      if not str(error) or "\n" in str(error):
        wrong.append((path, value, f"said {error}"))
    except Exception as error:
      wrong.append((path, value, repr(error)[:200]))
  assert not wrong, wrong
  assert refused > 120


def test_the_whole_is_deterministic(made):
  """The same seeds damage alike, so that a failure can be looked at."""
  path = pathlib.Path(made / "copy")
  path.write_bytes(bytes(range(256)))
  spoil(path, random.Random(5))
  first = path.read_bytes()
  path.write_bytes(bytes(range(256)))
  spoil(path, random.Random(5))
  assert path.read_bytes() == first
