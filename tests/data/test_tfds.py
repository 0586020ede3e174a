"""tfds directories: prepared here, read by tfds itself, mistakes told."""

import gzip
import shutil
import sys

import numpy as np
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, prepare, sources
from kdcl_jax.errors import UserError


def section(**data):
  config = kdcl.run(stages=("student",), student=kdcl.stage(steps=1), data=data)
  return kdcl.resolve(config)["data"]


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
  given = dict(source="tfds:fashion_mnist", data_dir=str(target))
  for options, words in (
    (dict(train_split="train[:1x]"), "train_split is 'train"),
    (dict(label="image"), "expected a ClassLabel"),
    (dict(tran_split="train"), "did you mean 'train_split'"),
  ):
    with pytest.raises(UserError, match=words):
      load(**given, options=options)


def test_a_tfds_directory_without_random_access_is_told(prepared, tmp_path):
  _, target, _ = prepared
  shutil.copytree(target / "fashion_mnist", tmp_path / "fashion_mnist")
  (info,) = tmp_path.glob("fashion_mnist/*/dataset_info.json")
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  given = section(source="tfds:fashion_mnist", data_dir=str(tmp_path))
  with pytest.raises(UserError, match="as tfrecord, expected array_record"):
    sources.load(given, 0)


def test_a_damaged_tfds_file_is_told(prepared, tmp_path):
  _, target, _ = prepared
  shutil.copytree(target / "fashion_mnist", tmp_path / "fashion_mnist")
  (shard,) = tmp_path.glob("fashion_mnist/*/*train.array_record*")
  content = bytearray(shard.read_bytes())
  content[200:400] = bytes(200)
  shard.write_bytes(content)
  given = section(source="tfds:fashion_mnist", data_dir=str(tmp_path))
  with pytest.raises(UserError, match="damaged files"):
    sources.load(given, 0)


def test_a_tilde_is_the_home_directory(prepared, tmp_path, monkeypatch):
  folder, target, _ = prepared
  monkeypatch.setenv("HOME", str(folder))
  given = section(source="tfds:fashion_mnist", data_dir=f"~/{target.name}")
  assert len(sources.load(given, 0).train) == 30
  monkeypatch.chdir(tmp_path)
  arguments = ["fashion_mnist", "--from=~", f"--data_dir=~/{target.name}"]
  assert prepare.main(arguments) == 0  # again: nothing is done
  assert not any(tmp_path.iterdir())


def test_preparing_says_what_is_missing_or_damaged(prepared, tmp_path, capsys):
  folder, _, _ = prepared
  arguments = ["fashion_mnist", "--from", str(tmp_path)]
  assert prepare.main(arguments) == 2
  assert "lacks the file" in capsys.readouterr().err
  for path in folder.glob("*.gz"):
    (tmp_path / path.name).write_bytes(path.read_bytes()[:60])
  assert prepare.main(arguments) == 2
  assert "is no idx file" in capsys.readouterr().err


def test_preparing_refuses_labels_out_of_range_and_other_formats(
  prepared, tmp_path, capsys
):
  folder, target, _ = prepared
  shutil.copytree(target / "fashion_mnist", tmp_path / "fashion_mnist")
  (info,) = tmp_path.glob("fashion_mnist/*/dataset_info.json")
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  into = ["--data_dir", str(tmp_path)]
  assert prepare.main(["fashion_mnist", "--from", str(folder), *into]) == 2
  assert "another format than array_record" in capsys.readouterr().err
  for path in folder.glob("*.gz"):
    shutil.copy(path, tmp_path)
  idx(tmp_path / "train-labels-idx1-ubyte.gz", np.full(30, 77))
  assert prepare.main(["fashion_mnist", "--from", str(tmp_path), *into]) == 2
  assert "the label 77" in capsys.readouterr().err
