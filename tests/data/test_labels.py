"""Labels of stored records: read once, kept, and read again when in doubt."""

import os

import numpy as np
import pytest

from kdcl_jax.sources import labels


class Records:
  """Records that count how often they are read."""

  def __init__(self, values):
    self.values, self.read = values, 0

  def __len__(self):
    return len(self.values)

  def __getitem__(self, record):
    self.read += 1
    return {"label": np.int64(self.values[record])}


@pytest.fixture
def store(tmp_path, monkeypatch):
  monkeypatch.setattr(labels, "LEAST", 100)
  (tmp_path / "x-train.array_record-00000-of-00001").write_bytes(b"1234")
  return Records(np.arange(1000) * 7 % 31), tmp_path


def kept(store, split="train", feature="label"):
  return labels.kept(store[0], feature, store[1], split, 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 1000])
def test_labels_come_in_the_sequence_of_the_records(count, threads):
  records = Records(np.arange(count) * 7 % 31)
  found = labels.read(records, "label", threads)
  assert found.dtype == np.int64 and records.read == count
  np.testing.assert_array_equal(found, records.values)


def test_labels_are_read_once_and_then_from_their_file(store):
  first = kept(store)
  second = kept(store)
  np.testing.assert_array_equal(first, store[0].values)
  np.testing.assert_array_equal(second, first)
  assert store[0].read == 1000
  (file,) = store[1].glob("*.npy")
  assert file.stat().st_mode & 0o777 == 0o644
  assert len(list(store[1].iterdir())) == 2  # nothing half written


def test_other_records_features_and_files_have_labels_of_their_own(store):
  kept(store)
  kept(store, split="train[:50%]")
  assert store[0].read == 2000
  (shard,) = store[1].glob("*.array_record*")
  os.utime(shard, ns=(1, 1))
  kept(store)
  assert store[0].read == 3000
  shard.write_bytes(b"12345")
  os.utime(shard, ns=(1, 1))
  kept(store)
  assert store[0].read == 4000


@pytest.mark.parametrize("damage", ["half", "empty", "short", "kind"])
def test_a_damaged_file_of_labels_is_read_anew(store, damage):
  kept(store)
  (file,) = store[1].glob("*.npy")
  content = file.read_bytes()
  if damage == "half":
    file.write_bytes(content[: len(content) // 2])
  elif damage == "empty":
    file.write_bytes(b"")
  elif damage == "short":
    np.save(file, store[0].values[:-1])
  else:
    np.save(file, store[0].values.astype(np.float32))
  np.testing.assert_array_equal(kept(store), store[0].values)
  assert store[0].read == 2000
  np.testing.assert_array_equal(kept(store), store[0].values)
  assert store[0].read == 2000


def test_few_records_and_a_folder_that_is_not_here_leave_no_file(store):
  few = Records(np.arange(99)), store[1]
  kept(few)
  kept(few)
  assert few[0].read == 198 and not list(store[1].glob("*.npy"))
  away = store[0], "gs://bucket/folder"
  np.testing.assert_array_equal(kept(away), store[0].values)


def test_a_folder_that_cannot_be_written_is_only_slower(store, monkeypatch):
  def refuse(*arguments, **options):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(labels.tempfile, "NamedTemporaryFile", refuse)
  for _ in range(2):
    np.testing.assert_array_equal(kept(store), store[0].values)
  assert store[0].read == 2000
