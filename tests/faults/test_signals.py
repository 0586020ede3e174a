"""Killed while it writes, asked to end while it writes; again and again."""

import importlib
import pathlib
import signal
import sys
import time

import pytest
from processes import assert_same, finish, start

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
soak = importlib.import_module("soak")

# A config file is Python: this one makes the writing of digests, which come
# last before a checkpoint gets its name, take long and say so.
SLOWLY = """
import pathlib, time
from kdcl_jax import digests

own = digests.write

def write(folder, parts):
  sign = pathlib.Path(r"{sign}")
  if folder.name.startswith("50") and "teacher" in folder.parts:
    sign.touch()
    time.sleep({seconds})
  own(folder, parts)

digests.write = write
"""


def config_in(folder, name="config.py", before=""):
  path = folder / name
  path.write_text(before + soak.CONFIG.replace("STEPS", "80"))
  return path


def started(folder, workdir, seconds):
  """A run, once it writes its second checkpoint."""
  sign = folder / "sign"
  sign.unlink(missing_ok=True)
  before = SLOWLY.format(sign=sign, seconds=seconds)
  process = start(config_in(folder, "slow.py", before), workdir)
  deadline = time.monotonic() + 200
  while not sign.exists():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.005)
  return process


def test_a_kill_or_a_wish_to_end_during_a_write_loses_nothing(tmp_path):
  config = config_in(tmp_path)
  finish(config, tmp_path / "whole")
  workdir = tmp_path / "killed"
  process = started(tmp_path, workdir, seconds=30)
  process.kill()
  process.communicate()
  checkpoints = workdir / "teacher/seed_0/checkpoints"
  names = sorted(path.name for path in checkpoints.iterdir())
  assert names == ["25", "50.orbax-checkpoint-tmp"]
  said = finish(config, workdir)
  assert "teacher: resumed at step 25" in said and "damaged" not in said
  assert_same(workdir, tmp_path / "whole")
  assert not list(workdir.rglob("*tmp*"))
  # SIGTERM waits for the write, and for that of the step that is done.
  workdir = tmp_path / "asked"
  process = started(tmp_path, workdir, seconds=1)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 0 and "goes on from here" in errors
  assert "Traceback" not in errors
  checkpoints = workdir / "teacher/seed_0/checkpoints"
  names = {path.name for path in checkpoints.iterdir()}
  assert "50" in names and not any("tmp" in name for name in names)
  finish(config, workdir)
  assert_same(workdir, tmp_path / "whole")


@pytest.mark.slow
def test_a_short_soak_ends_as_the_undisturbed_run(tmp_path):
  found = soak.soak(tmp_path / "soak", cycles=4, seed=3, steps=100)
  assert found["cycles"] == 4
  assert found["faults"] == [] and found["differing"] == []


def test_the_soak_sees_a_file_that_differs(tmp_path):
  for name, content in (("one", b"a"), ("two", b"b")):
    (tmp_path / name).mkdir()
    (tmp_path / name / "x.safetensors").write_bytes(content)
    (tmp_path / name / "y.npz").write_bytes(b"same")
  (tmp_path / "two" / "z.npz").write_bytes(b"only here")
  assert soak.differences(tmp_path / "one", tmp_path / "two") == [
    "x.safetensors",
    "z.npz",
  ]
