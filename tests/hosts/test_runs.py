"""Whole runs in several processes: one result, whatever their number."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from broken_digits import BROKEN
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).parent
STAGES = ("teacher", "baseline", "student")
# Sums are taken in another sequence: float32 rounding over 24 steps.
NEAR = dict(rtol=1e-4, atol=1e-5)


def free_port():
  with socket.create_server(("127.0.0.1", 0)) as one:
    return one.getsockname()[1]


@pytest.fixture
def start():
  """Starts the processes of a run, which do not outlive the test."""
  running = []

  def begin(workdir, processes, devices, *flags, module="main", own=()):
    port = free_port()
    begun = []
    for number in range(processes):
      command = [sys.executable, "-m", f"kdcl_jax.{module}"]
      command += [f"--config={HERE / 'broken_digits.py'}", *flags]
      command += [f"--workdir={workdir}"]
      if processes > 1:
        command += [f"--coordinator=127.0.0.1:{port}"]
        command += [f"--num_processes={processes}", f"--process_id={number}"]
      command += own[number] if own else []
      begun.append(
        subprocess.Popen(
          command,
          cwd=HERE.parents[1],
          env=os.environ
          | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": os.pathsep.join(
              [str(HERE), os.environ.get("PYTHONPATH", "")]
            ),
          },
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
        )
      )
    running.extend(begun)
    return begun

  yield begin
  for process in running:
    process.kill()
    process.communicate()


def ends(processes, timeout=240):
  said = [process.communicate(timeout=timeout) for process in processes]
  return [
    (process.returncode, output + errors)
    for process, (output, errors) in zip(processes, said, strict=True)
  ]


def finish(processes):
  """Waits for all; returns what the lead has said."""
  said = ends(processes)
  assert [code for code, _ in said] == [0] * len(said), said
  return said[0][1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
  return tmp_path_factory.mktemp("runs")


@pytest.fixture
def reference(shared, start):
  """One process with four devices."""
  workdir = shared / "one"
  if not (workdir / "report.html").exists():
    finish(start(workdir, 1, 4))
  return workdir


def weights_of(workdir, stage):
  return load_file(workdir / stage / "seed_0" / "weights.safetensors")


def result_of(workdir, stage):
  path = workdir / stage / "seed_0" / "result.json"
  found = json.loads(path.read_text())
  own = ("train_seconds", "total_seconds", "sha256")  # of each run's clock
  return {key: value for key, value in found.items() if key not in own}


def lines_of(workdir, stage):
  path = workdir / stage / "seed_0" / "metrics.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def assert_near(workdir, reference):
  """The same files, counts and predictions; the same weights to rounding."""
  ours, theirs = (
    {str(p.relative_to(w)) for p in w.rglob("*") if "checkpoints" not in str(p)}
    for w in (workdir, reference)
  )
  events = lambda names: {n for n in names if "tfevents" not in n}
  assert events(ours) == events(theirs)
  for stage in STAGES:
    want = weights_of(reference, stage)
    for name, array in weights_of(workdir, stage).items():
      np.testing.assert_allclose(array, want[name], **NEAR, err_msg=name)
    got, want = result_of(workdir, stage), result_of(reference, stage)
    for key in ("ledger", "unreadable", "steps", "traces", "final_fraction"):
      assert got[key] == want[key], (stage, key)
    assert got["test"]["count"] == want["test"]["count"] == 150 - len(BROKEN)
    assert got["test"]["accuracy"] == want["test"]["accuracy"]
    same = ("kind", "step", "active", "fraction", "actions")
    kept = [
      [{k: line.get(k) for k in same} for line in lines_of(w, stage)]
      for w in (workdir, reference)
    ]
    assert kept[0] == kept[1]
  for path in sorted((reference / "difficulty").rglob("*.npz")):
    with (
      np.load(path) as want,
      np.load(workdir / path.relative_to(reference)) as got,
    ):
      np.testing.assert_allclose(got["difficulty"], want["difficulty"], **NEAR)


def assert_same(workdir, reference):
  for stage in STAGES:
    want = weights_of(reference, stage)
    for name, array in weights_of(workdir, stage).items():
      np.testing.assert_array_equal(array, want[name], err_msg=name)
    assert result_of(workdir, stage) == result_of(reference, stage)


@pytest.fixture
def on_two(shared, start):
  """Two processes with two devices each."""
  workdir = shared / "two"
  if not (workdir / "report.html").exists():
    finish(start(workdir, 2, 2))
  return workdir


def test_two_hosts_make_what_one_makes_and_count_what_none_could_read(
  on_two, reference
):
  assert_near(on_two, reference)
  ledger = result_of(on_two, "teacher")["ledger"]
  assert 0 < result_of(on_two, "teacher")["unreadable"] <= len(BROKEN)
  # 24 steps of 16 rows, of which some were broken or padding.
  assert ledger["example_backwards"] < 24 * 16


@pytest.mark.slow
def test_four_hosts_make_what_one_makes(shared, start, reference):
  finish(start(shared / "four", 4, 1))
  assert_near(shared / "four", reference)


@pytest.mark.slow
def test_states_split_over_two_hosts_make_the_same(shared, start, reference):
  finish(start(shared / "fsdp", 2, 2, "--config.parallel.fsdp=16"))
  for stage in STAGES:
    want = weights_of(reference, stage)
    for name, array in weights_of(shared / "fsdp", stage).items():
      np.testing.assert_allclose(array, want[name], **NEAR, err_msg=name)


def wait_for(workdir, stage, processes, step):
  """Until a stage has logged a step; False where the run was faster."""
  path = workdir / stage / "seed_0" / "metrics.jsonl"
  until = time.monotonic() + 120
  while any(process.poll() is None for process in processes):
    if path.exists() and f'"step": {step}' in path.read_text():
      return True
    assert time.monotonic() < until
    time.sleep(0.01)
  return False


def test_what_two_saved_when_asked_to_end_one_goes_on_with(
  shared, start, reference
):
  workdir = shared / "handed_over"
  processes = start(workdir, 2, 2)
  assert wait_for(workdir, "teacher", processes, 8)
  processes[1].send_signal(signal.SIGTERM)  # to one of them
  assert "Saved; the same command goes on" in finish(processes)
  assert not (workdir / "report.html").exists()
  said = finish(start(workdir, 1, 4))
  assert "resumed at step" in said
  assert_near(workdir, reference)


def damage(checkpoint):
  """Turns a byte of the largest file of a checkpoint around."""
  files = [path for path in checkpoint.rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 0xFF
  largest.write_bytes(content)


@pytest.mark.slow
def test_what_one_saved_two_go_on_with_without_what_is_damaged(
  shared, start, reference
):
  workdir = shared / "taken_over"
  shutil.copytree(reference, workdir)
  # As if it had been killed at the end of the first stage.
  (workdir / "teacher" / "seed_0" / "result.json").unlink()
  shutil.rmtree(workdir / "baseline")
  shutil.rmtree(workdir / "student")
  damage(workdir / "teacher" / "seed_0" / "checkpoints" / "24")
  said = finish(start(workdir, 2, 2))
  assert "The checkpoint of step 24 in" in said and "falling back" in said
  assert "resumed at step 16" in said
  assert_near(workdir, reference)


def test_one_of_two_is_killed_and_a_restart_ends_with_the_same_bits(
  shared, start, on_two
):
  workdir = shared / "killed"
  processes = start(workdir, 2, 2)
  assert wait_for(workdir, "teacher", processes, 16)
  processes[1].kill()
  before = time.monotonic()
  code, said = ends(processes[:1], timeout=90)[0]
  assert code not in (0, 1, 2) and time.monotonic() - before < 60
  assert "start all of them again with the same command" in said
  finish(start(workdir, 2, 2))
  assert_same(workdir, on_two)


@pytest.mark.slow
def test_a_data_set_is_scored_by_two_as_by_one(shared, start):
  one, two = shared / "scored_one", shared / "scored_two"
  finish(start(one, 1, 4, module="score"))
  finish(start(two, 2, 2, module="score"))
  paths = sorted((one / "difficulty").rglob("*.npz"))
  assert len(paths) > 20 and (two / "score.html").exists()
  for path in paths:
    if path.stem == "fused" or path.parent.name == "mean":
      continue  # ranks, of which near ties may change places
    with np.load(path) as want, np.load(two / path.relative_to(one)) as got:
      for name in want.files:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-4)


def test_processes_with_other_configs_are_refused_alike(shared, start):
  flags = [[], ["--config.teacher.steps=30"]]
  for code, said in ends(start(shared / "unlike", 2, 1, own=flags)):
    assert code == 2 and "Traceback" not in said
    assert (
      "the hash of the config is" in said and "in process 1 of the run" in said
    )


def test_hosts_that_do_not_share_the_working_directory_are_refused(
  shared, start
):
  flags = [[f"--workdir={shared / 'mine'}"], [f"--workdir={shared / 'yours'}"]]
  for code, said in ends(start(shared / "none", 2, 1, own=flags)):
    assert code == 2 and "Traceback" not in said
    assert "of which process 1 of the run does not see" in said


def test_an_experiment_is_for_one_process(shared, start):
  config = "--config=configs/experiments/noisy_labels.py"
  for code, said in ends(
    start(shared / "grid", 2, 1, config, module="experiment")
  ):
    assert code == 2 and "an experiment is the work of one process" in said
