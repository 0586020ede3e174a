"""Sources: stable ids, faults counted, mistakes told."""

import gzip
import sys

import numpy as np
import pytest
from PIL import Image

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, prepare, sources
from kdcl_jax.errors import UserError


def section(**data):
  config = kdcl.run(stages=("student",), student=kdcl.stage(steps=1), data=data)
  return kdcl.resolve(config)["data"]


def test_digits_are_split_the_same_for_every_seed():
  one = sources.load(section(), 0)
  two = sources.load(section(), 1)
  assert (len(one.train), len(one.test)) == (1200, 597)
  np.testing.assert_array_equal(one.train.image, two.train.image)
  everything = np.concatenate([one.train.label, one.test.label])
  assert np.bincount(everything).tolist() == [
    178,
    182,
    177,
    183,
    181,
    182,
    181,
    179,
    174,
    180,
  ]
  assert one.train.image.max() == 255 and one.train.image.min() == 0
  assert set(np.unique(one.train.image)) == {
    round(v * 255 / 16) for v in range(17)
  }


def arrays(**changes):
  return {
    "train_image": np.arange(40, dtype=np.float32).reshape(10, 4),
    "train_label": np.arange(10) % 2,
    "test_image": np.zeros((4, 4), np.float32),
    "test_label": np.array([0, 1, 0, 1]),
  } | changes


@pytest.mark.parametrize("names", ["own", "keras", "one"])
def test_npz_files_of_three_spellings(tmp_path, names):
  path = tmp_path / "data.npz"
  given = arrays()
  if names == "keras":
    given = {
      f"{axis}_{split}": given[f"{split}_{long}"]
      for split in ("train", "test")
      for axis, long in (("x", "image"), ("y", "label"))
    }
  elif names == "one":
    given = {"image": given["train_image"], "label": given["train_label"]}
  np.savez(path, **given)
  loaded = sources.load(section(source="npz", path=str(path)), 0)
  total = 10 if names == "one" else 14
  assert len(loaded.train) + len(loaded.test) == total
  assert loaded.shape == (4,) and loaded.label_names == ("0", "1")
  record = loaded.train[3]
  assert record["image"].dtype == np.float32


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(train_label=np.arange(9)), "one label for each"),
    (dict(train_label=np.arange(10) - 1), "whole numbers from 0"),
    (dict(train_label=np.arange(10) / 2), "whole numbers from 0"),
    (dict(test_image=np.zeros((4, 5), np.float32)), r"shape \(4,\)"),
    (dict(train_image=np.full((10, 4), np.nan, np.float32)), "NaN"),
    (dict(train_image=np.full((10, 4), "a")), "expected numbers"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, words):
  path = tmp_path / "data.npz"
  np.savez(path, **arrays(**changes))
  with pytest.raises(UserError, match=words):
    sources.load(section(source="npz", path=str(path)), 0)


def test_pickles_and_damaged_files_are_refused_and_never_opened(tmp_path):
  path = tmp_path / "data.npz"
  np.savez(path, **arrays(train_label=np.array([print] * 10, object)))
  with pytest.raises(UserError, match="no readable .npz file"):
    sources.load(section(source="npz", path=str(path)), 0)
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(UserError, match="no readable .npz file"):
    sources.load(section(source="npz", path=str(path)), 0)
  np.savez(path, train_image=np.zeros((2, 2)))
  with pytest.raises(UserError, match="has no array 'train_label'"):
    sources.load(section(source="npz", path=str(path)), 0)


def pictures(root, *, sizes=((6, 5),), modes=("RGB",)):
  for split in ("train", "test"):
    for name in ("cat", "dog"):
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(6):
        height, width = sizes[i % len(sizes)]
        picture = Image.new("RGB", (width, height), (10 * i, 200, 30))
        picture = picture.convert(modes[i % len(modes)])
        picture.save(folder / f"{i}.{'png' if i % 2 else 'jpg'}")


def test_a_folder_has_stable_ids_and_a_broken_picture_is_only_counted(tmp_path):
  pictures(tmp_path)
  (tmp_path / "train" / "cat" / "0.jpg").write_bytes(b"\xff\xd8 broken")
  given = section(source="folder", path=str(tmp_path), validation=2)
  data = dataset.load(given, seed=0)
  assert data.label_names == ("cat", "dog") and data.shape == (6, 5, 3)
  assert data.train.true_labels.tolist() == [0] * 6 + [1] * 6
  for _ in range(2):  # decoded, and from memory
    rows, readable = data.train.fetch(np.arange(12))
    assert readable.tolist() == [False] + [True] * 11
    assert (rows["image"][0] == 0).all()
    assert rows["image"][5, 0, 0].tolist() == [50, 200, 30]
    assert rows["image"].shape == (12, 6, 5, 3)
  with pytest.raises(sources.UnreadableRecord):
    data.train.source[0]


def test_grey_and_colour_become_colour_unless_asked_otherwise(tmp_path):
  pictures(tmp_path, modes=("RGB", "L"))
  assert sources.load(
    section(source="folder", path=str(tmp_path)), 0
  ).shape == (
    6,
    5,
    3,
  )
  grey = section(source="folder", path=str(tmp_path), channels=1, image_size=4)
  loaded = sources.load(grey, 0)
  assert loaded.shape == (4, 4, 1)
  assert loaded.train[1]["image"].shape == (4, 4, 1)


def test_pictures_of_different_sizes_need_a_size(tmp_path):
  pictures(tmp_path, sizes=((6, 5), (7, 7)))
  given = dict(source="folder", path=str(tmp_path))
  with pytest.raises(UserError, match="config.data.image_size is 0"):
    sources.load(section(**given), 0)
  assert sources.load(section(**given, image_size=8), 0).shape == (8, 8, 3)


def test_a_folder_without_a_test_part_is_divided_by_the_seed(tmp_path):
  pictures(tmp_path)
  given = section(
    source="folder", path=str(tmp_path / "train"), options=dict(test=0.25)
  )
  one, two = sources.load(given, 0), sources.load(given, 1)
  assert (len(one.train), len(one.test)) == (9, 3)
  assert set(one.train.paths).isdisjoint(one.test.paths)
  assert one.test.paths != two.test.paths


def test_a_bomb_of_pixels_is_not_decoded(tmp_path):
  from kdcl_jax.sources import images

  path = tmp_path / "large.png"
  Image.new("1", (20_000, 20_000)).save(path)
  with pytest.raises(sources.UnreadableRecord, match="bomb"):
    images.decode(path.read_bytes())


OWN = """
import numpy as np
from kdcl_jax.sources import ArraySource

def arrays(count=4):
  label = np.arange(count) % 2
  image = np.ones((count, 3), np.float32)
  return dict(train_image=image, train_label=label,
              test_image=image, test_label=label)

def pair():
  source = ArraySource(np.ones((4, 3), np.float32), np.arange(4) % 2)
  return source, source

def nothing():
  return 3
"""


def test_a_users_callable_returns_arrays_or_sources(tmp_path, monkeypatch):
  (tmp_path / "own_source.py").write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  load = lambda name, **options: sources.load(
    section(source=f"own_source.{name}", options=options), 0
  )
  assert len(load("arrays", count=6).train) == 6
  assert load("pair").shape == (3,)
  with pytest.raises(UserError, match="returned int"):
    load("nothing")
  with pytest.raises(UserError, match="did you mean 'count'"):
    load("arrays", cuont=6)
  with pytest.raises(UserError, match="cannot be imported"):
    load("missing")
  del sys.modules["own_source"]


def idx(path, array):
  head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
  path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A real tfds directory of Fashion-MNIST, made from tiny idx files."""
  folder = tmp_path_factory.mktemp("idx")
  rng = np.random.default_rng(0)
  made = {}
  for prefix, count in (("train", 30), ("t10k", 10)):
    made[prefix] = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
    idx(folder / f"{prefix}-images-idx3-ubyte.gz", made[prefix][0])
    idx(folder / f"{prefix}-labels-idx1-ubyte.gz", made[prefix][1])
  target = folder / "tfds"
  arguments = [
    "fashion_mnist",
    "--from",
    str(folder),
    "--data_dir",
    str(target),
  ]
  assert prepare.main(arguments) == 0
  return folder, target, made


def test_prepared_fashion_mnist_is_read_by_tfds_itself(prepared):
  import tensorflow_datasets as tfds

  _, target, made = prepared
  records = tfds.data_source("fashion_mnist", split="train", data_dir=target)
  assert len(records) == 30
  images, labels = made["train"]
  want = {
    pixels.astype(np.uint8).tobytes(): y for pixels, y in zip(images, labels)
  }
  for record in records:
    assert want[record["image"].tobytes()] == record["label"]
  assert "tensorflow" not in sys.modules


def test_a_tfds_source_reads_the_same_records(prepared):
  _, target, made = prepared
  given = section(
    source="tfds:fashion_mnist", data_dir=str(target), validation=5
  )
  data = dataset.load(given, seed=0)
  assert (len(data.train), len(data.validation), len(data.test)) == (25, 5, 10)
  assert data.label_names[9] == "Ankle boot" and data.shape == (28, 28, 1)
  rows, readable = data.train.fetch(np.arange(30))
  assert readable.all()
  want = {
    pixels.astype(np.uint8).tobytes(): y for pixels, y in zip(*made["train"])
  }
  for image, label in zip(rows["image"], rows["label"], strict=True):
    assert want[image.tobytes()] == label


def test_tfds_mistakes_are_told(prepared, tmp_path):
  _, target, _ = prepared
  load = lambda **data: sources.load(section(**data), 0)
  with pytest.raises(UserError, match="kdcl_jax.prepare fashion_mnist"):
    load(source="tfds:fashion_mnist", data_dir=str(tmp_path))
  with pytest.raises(UserError, match="tfds cannot find"):
    load(source="tfds:no_such_data", data_dir=str(tmp_path))
  with pytest.raises(UserError, match="test_split is 'tset'"):
    load(
      source="tfds:fashion_mnist",
      data_dir=str(target),
      options=dict(test_split="tset"),
    )


def test_preparing_says_what_is_missing_or_damaged(prepared, tmp_path, capsys):
  folder, _, _ = prepared
  arguments = ["fashion_mnist", "--from", str(tmp_path)]
  assert prepare.main(arguments) == 2
  assert "lacks the file" in capsys.readouterr().err
  for path in folder.glob("*.gz"):
    (tmp_path / path.name).write_bytes(path.read_bytes()[:60])
  assert prepare.main(arguments) == 2
  assert "is no idx file" in capsys.readouterr().err
