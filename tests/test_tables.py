"""Tables of difficulties know of what data they are."""

import json
import logging

import numpy as np
import pytest
from surveys import COURSE, SMALL, configured

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, tables, validation
from kdcl_jax.errors import UserError

FIELD = "config.student.curriculum.difficulty.path"


def saved(path, labels, inputs):
  """A data set of eight classes in a file."""
  np.savez(
    path,
    train_image=inputs,
    train_label=labels,
    test_image=inputs[:16],
    test_label=labels[:16],
  )
  return str(path)


@pytest.fixture
def files(tmp_path):
  rng = np.random.default_rng(0)
  labels, inputs = np.arange(120) % 8, rng.normal(size=(120, 5)).astype("f4")
  return {
    "same": saved(tmp_path / "same.npz", labels, inputs),
    "labels": saved(tmp_path / "labels.npz", labels[::-1].copy(), inputs),
    "inputs": saved(tmp_path / "inputs.npz", labels, inputs + 1),
  }


def config_of(file, rate=0.3, **fields):
  noise = dict(kind="symmetric" if rate else "none", rate=rate)
  data = dict(source="npz", path=file, validation=20, label_noise=noise)
  return configured(data=data | fields)


def table_of(config, path, seed=0):
  """A table of every record, so that any split is served."""
  data = dataset.load(config["data"], seed=seed)
  everything = np.arange(120)
  split = data.train.__class__(**(vars(data.train) | {"ids": everything}))
  tables.of_split(split, np.arange(120.0), {"score": "loss"}).save(path)


def check(file, path, seed=0, **fields):
  """Checks a config whose student is ordered by the table."""
  course = COURSE | dict(difficulty=dict(source="file", path=str(path)))
  student = kdcl.stage(
    **(SMALL | dict(steps=10, batch_size=8)), curriculum=course
  )
  config = config_of(file, **fields)
  config = kdcl.resolve(
    kdcl.run(
      stages=("student",), export="", data=config["data"], student=student
    )
  )
  validation.check(config)
  validation.check_data(config, dataset.load(config["data"], seed=seed))


def test_a_table_of_other_data_with_the_same_ids_is_refused(files, tmp_path):
  table_of(config_of(files["labels"]), tmp_path / "t.npz")
  with pytest.raises(UserError) as error:
    check(files["same"], tmp_path / "t.npz")
  assert "\n" not in str(error.value)
  for word in (FIELD, "other data", "120 records", "score this data set"):
    assert word in str(error.value)


@pytest.mark.parametrize(
  "fields",
  [dict(seed=1), dict(rate=0.0), dict(validation=30), dict(train_size=100)],
)
def test_another_seed_split_or_noise_of_the_same_data_is_fine(
  files, tmp_path, caplog, fields
):
  table_of(config_of(files["same"]), tmp_path / "t.npz")
  with caplog.at_level(logging.WARNING):
    check(files["same"], tmp_path / "t.npz", **fields)
  assert not caplog.records


def test_other_inputs_with_the_same_labels_are_warned_of(
  files, tmp_path, caplog
):
  table_of(config_of(files["inputs"]), tmp_path / "t.npz")
  check(files["same"], tmp_path / "t.npz")
  (record,) = caplog.records
  assert FIELD in record.getMessage() and "other inputs" in record.getMessage()


def test_a_table_that_does_not_say_is_warned_of_by_its_labels(
  files, tmp_path, caplog
):
  for name, warned in (("same", 0), ("labels", 1)):
    path = tmp_path / f"{name}_table.npz"
    table_of(config_of(files[name], rate=0.0), path)
    facts = json.loads(path.with_suffix(".json").read_text())
    del facts["sha256"]
    del facts["source"]
    path.with_suffix(".json").write_text(json.dumps(facts))
    check(files["same"], path, rate=0.0)
    assert len(caplog.records) == warned
  assert "of 100 records" in caplog.records[0].getMessage()
