"""Reads that fail for a moment, for good, all of them, or never end."""

import json
import os
import pathlib
import subprocess
import sys
import time

import faulty
import numpy as np
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, pipeline, run
from kdcl_jax.errors import Stuck, UserError
from kdcl_jax.sources import UnreadableRecord, patience

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  """The same tries, without the waiting."""
  monkeypatch.setattr(patience, "DELAYS", (0.001,) * len(patience.DELAYS))


def source(**faults):
  slow = faulty.Slow(60, {int(k[1:]): fault for k, fault in faults.items()})
  return slow, patience.patient(slow)


def test_an_error_that_passes_is_tried_again(caplog):
  slow, asked = source(r3=faulty.shaky(2))
  np.testing.assert_array_equal(asked[3]["image"], slow[3]["image"])
  assert slow.tries[3] == 4 and not caplog.records


def test_what_a_decoder_makes_of_a_passing_error_is_tried_again_too():
  def fault(tried):
    if tried == 1:
      raise UnreadableRecord("cut short") from TimeoutError("timed out")

  slow, asked = source(r3=fault)
  assert asked[3]["label"] == 0 and slow.tries[3] == 2


@pytest.mark.parametrize("fault", [faulty.gone, faulty.damaged])
def test_what_will_not_pass_is_not_tried_again(fault):
  slow, asked = source(r3=fault)
  with pytest.raises(UnreadableRecord):
    asked[3]
  assert slow.tries[3] == 1


def test_a_record_that_fails_at_every_try_is_left_out_and_named(caplog):
  slow, asked = source(r3=faulty.shaky(10**6))
  with pytest.raises(UnreadableRecord, match="Input/output error"):
    asked[3]
  assert slow.tries[3] == 1 + len(patience.DELAYS)
  assert "Record 3 cannot be read" in caplog.text


def test_where_nothing_can_be_read_any_more_the_run_ends():
  away = faulty.shaky(10**6)
  _, asked = source(**{f"r{i}": away for i in range(60)})
  for record in range(patience.OUTAGE - 1):
    with pytest.raises(UnreadableRecord):
      asked[record]
  with pytest.raises(UserError, match="the last 16 records could not be read"):
    asked[50]


def test_one_that_can_be_read_between_is_no_outage():
  away = faulty.shaky(10**6)
  _, asked = source(**{f"r{i}": away for i in range(50)})
  for record in range(50):
    with pytest.raises(UnreadableRecord):
      asked[record]
    assert asked[55]["label"] == 1


def test_other_faults_of_a_source_are_not_hidden():
  def fault(tried):
    raise ZeroDivisionError

  _, asked = source(r3=fault)
  with pytest.raises(ZeroDivisionError):
    asked[3]


def test_a_source_in_memory_is_left_as_it_is():
  image, label = faulty.arrays(10)
  plain = dataset.sources.ArraySource(image, label)
  assert patience.patient(plain) is plain


def config(kind, steps=30, share=0.1, **data):
  return kdcl.resolve(
    kdcl.run(
      stages=("teacher",),
      export="",
      log_steps=5,
      tensorboard=False,
      checkpoint_steps=1000,
      data=dict(
        source="faulty.load",
        options=dict(kind=kind, share=share),
        memory_gb=0.0,
        **data,
      ),
      teacher=kdcl.stage(
        steps=steps,
        batch_size=16,
        model=dict(name="mlp", widths=(8,)),
        curriculum=dict(lessons=1),
      ),
    )
  )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run") / "undisturbed"
  run.execute(config(""), workdir, reported=False)
  return weights_of(workdir)


def weights_of(workdir):
  return (workdir / "teacher/seed_0/weights.safetensors").read_bytes()


def test_a_shaky_reader_changes_no_byte(undisturbed, tmp_path):
  found = run.execute(config("shaky"), tmp_path, reported=False)
  assert found["stages"]["teacher"]["unreadable"]["mean"] == 0
  assert weights_of(tmp_path) == undisturbed


def test_lost_records_are_counted_and_named(undisturbed, tmp_path):
  found = run.execute(config("gone"), tmp_path, reported=False)
  count = found["stages"]["teacher"]["unreadable"]["mean"]
  result = json.loads((tmp_path / "teacher/seed_0/result.json").read_text())
  assert 5 < count < 60 and len(result["unreadable_records"]) == count
  assert weights_of(tmp_path) != undisturbed


def test_an_outage_saves_and_the_same_command_goes_on(
  undisturbed, tmp_path, monkeypatch
):
  whole = faulty.Slow.__getitem__
  asked = []

  def failing(self, record_id):
    asked.append(record_id)
    if len(asked) > 250:
      raise TimeoutError("timed out")
    return whole(self, record_id)

  monkeypatch.setattr(faulty.Slow, "__getitem__", failing)
  with pytest.raises(UserError, match="could not be read"):
    run.execute(config(""), tmp_path, reported=False)
  saved = list((tmp_path / "teacher/seed_0/checkpoints").glob("[0-9]*"))
  assert saved and int(saved[0].name) > 0
  monkeypatch.undo()
  run.execute(config(""), tmp_path, reported=False)
  # What was read while it was away is not lost for good.
  assert (tmp_path / "results.json").exists()


def test_a_batch_that_does_not_come_is_told_and_ends_the_wait(
  monkeypatch, caplog
):
  monkeypatch.setattr(patience, "WARNING", 0.2)
  slow = patience.patient(faulty.Slow(60, {7: lambda tried: time.sleep(2)}))
  split = dataset.Split(
    "train",
    slow,
    np.arange(60),
    slow.labels(),
    slow.labels(),
    faulty.SHAPE,
    patience=0.5,
  )
  plan, batches = pipeline.ordered(np.arange(60), 4)
  found = pipeline.stream(split, plan, 0, batches)
  assert next(found)["id"].tolist() == [0, 1, 2, 3]
  with pytest.raises(Stuck, match=r"records being read: 7"):
    list(found)
  assert "No batch for 0 s; records being read: 7" in caplog.text


def test_a_slow_reader_is_waited_for(monkeypatch, caplog):
  monkeypatch.setattr(patience, "WARNING", 0.1)
  found = patience.watched(
    (time.sleep(0.25) or i for i in range(2)), 10.0, lambda: []
  )
  assert list(found) == [0, 1]
  assert "records being read: unknown" in caplog.text


def test_what_reading_raises_is_raised_where_it_is_waited_for():
  def batches():
    yield 1
    raise ZeroDivisionError

  found = patience.watched(batches(), 10.0, lambda: [])
  assert next(found) == 1
  with pytest.raises(ZeroDivisionError):
    next(found)


CONFIG = """
from kdcl_jax import config as kdcl

def get_config():
  return kdcl.run(
    stages=("teacher",), export="", tensorboard=False, log_steps=1,
    data=dict(source="faulty.load", options=dict(kind="hanging", share=0.02),
              patience=2.0, memory_gb=0.0),
    teacher=kdcl.stage(steps=300, batch_size=8,
                       model=dict(name="mlp", widths=(8,))),
  )
"""


def test_a_run_whose_reader_hangs_saves_and_ends_with_a_sentence(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG)
  here = str(pathlib.Path(__file__).parent)
  done = subprocess.run(
    [
      *(sys.executable, "-m", "kdcl_jax.main"),
      *(f"--config={path}", f"--workdir={tmp_path}/run"),
    ],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": here},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 2, done.stderr
  assert "Traceback" not in done.stderr
  last = done.stderr.splitlines()[-1]
  assert last.startswith("kdcl_jax: config.data.patience is 2, and no batch")
  steps = (tmp_path / "run/teacher/seed_0/checkpoints").glob("[0-9]*")
  assert [int(path.name) > 0 for path in steps] == [True]
