"""Processes find each other, stop at the same step and end together."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from kdcl_jax import clusters, hosts
from kdcl_jax.errors import UserError

STEP = {
  "SLURM_JOB_ID": "77",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
}
MEMBER = pathlib.Path(__file__).with_name("member.py")
LOST = "ended abruptly: another process of the run was lost"


@pytest.fixture
def started(monkeypatch):
  """What `jax.distributed.initialize` is called with; it raises."""
  calls = []

  def initialize(**arguments):
    calls.append(arguments)
    raise RuntimeError("not in a test\nsecond line")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  return calls


# By hand


@pytest.mark.parametrize(
  ("flags", "complaint"),
  [
    (("a:1", None, None), "--coordinator without --num_processes and --proc"),
    ((None, 2, None), "--num_processes without --coordinator and --process_id"),
    ((None, None, 0), "--process_id without --coordinator and --num_proc"),
    ((None, 2, 0), "--num_processes and --process_id without --coordinator"),
    (("", 2, 0), "--coordinator is ''; expected HOST:PORT"),
    (("host", 2, 0), "--coordinator is 'host'; expected HOST:PORT"),
    ((":8476", 2, 0), "--coordinator is ':8476'; expected HOST:PORT"),
    (("host:0", 2, 0), "--coordinator is 'host:0'; expected HOST:PORT"),
    (("host:65536", 2, 0), "expected HOST:PORT"),
    (("host:port", 2, 0), "expected HOST:PORT"),
    (("host:1", 0, 0), "--num_processes is 0; expected a whole number >= 1"),
    (
      ("host:1", 2, 2),
      "--process_id is 2; expected a whole number from 0 to 1",
    ),
    (("host:1", 2, -1), "--process_id is -1; expected a whole number from 0"),
  ],
)
def test_flags_that_make_no_sense_are_refused_in_a_sentence(
  started, flags, complaint
):
  with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
    hosts.initialize(*flags)
  assert not started


def test_the_flags_are_what_jax_is_told_and_nothing_else_is_looked_for(
  started, environ
):
  environ(STEP)
  with pytest.raises(UserError, match=r"cannot meet \(at \[::1\]:8476: not in"):
    hosts.initialize("[::1]:8476", 2, 1, patience=7)
  (call,) = started
  assert call["coordinator_address"] == "[::1]:8476"
  assert (call["num_processes"], call["process_id"]) == (2, 1)
  assert call["cluster_detection_method"] == "deactivate"
  assert call["heartbeat_timeout_seconds"] <= 40  # lost ones within a minute
  assert call["shutdown_timeout_seconds"] > 600  # the lead writes its report


def test_one_process_by_hand_is_alone_in_any_environment(started, environ):
  environ(STEP)
  hosts.initialize("localhost:8476", 1, 0)
  assert not started


def test_the_command_line_refuses_a_part_of_the_flags(tmp_path):
  command = [
    sys.executable,
    "-m",
    "kdcl_jax.main",
    "--config=configs/digits.py",
  ]
  done = subprocess.run(
    [*command, f"--workdir={tmp_path}/run", "--num_processes=2"],
    cwd=MEMBER.parents[2],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 2
  assert done.stderr.startswith("kdcl_jax: --num_processes without")
  assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


# Found out


def test_a_plain_machine_does_not_try(started, environ):
  hosts.initialize()
  assert hosts.told_by_lead((1, 2)) == (1, 2)
  assert hosts.all_agree(True) and not hosts.all_agree(False)
  assert clusters.detected() is None and not started
  assert hosts.is_lead() and not jax.distributed.is_initialized()


def test_a_step_of_slurm_is_found_with_its_own_number_of_tasks(
  started, environ
):
  environ(STEP | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "3"})
  with pytest.raises(UserError, match=r"a job step of Slurm: not in a test\)"):
    hosts.initialize()
  assert started[0]["num_processes"] == 3


def test_sigterm_is_a_wish_to_a_process_alone():
  before = signal.getsignal(signal.SIGTERM)
  try:
    asked = hosts.interruption()
    assert not asked()
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked() and asked()
  finally:
    signal.signal(signal.SIGTERM, before)
  hosts.leave(1)  # no part in anything: nothing happens


# Two processes


def free_port():
  with socket.create_server(("127.0.0.1", 0)) as one:
    return one.getsockname()[1]


@pytest.fixture
def start():
  """Starts members, which do not outlive the test."""
  running = []

  def begin(what, members=(0, 1)):
    port = free_port()
    begun = [
      subprocess.Popen(
        [sys.executable, str(MEMBER), str(port), str(process), what],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for process in members
    ]
    running.extend(begun)
    return begun

  yield begin
  for process in running:
    process.kill()
    process.communicate()


def next_line(process):
  """The next that a member says; gloo talks in between."""
  while True:
    line = process.stdout.readline()
    if not line.startswith("[Gloo]") and line != "\n":
      return line


def wait_for_sums(processes):
  """Until all have met and summed: 2 devices with 1, 2 with 2."""
  for number, process in enumerate(processes):
    said = [next_line(process), next_line(process)]
    assert said == [
      f"sum 6.0 lead {number == 0}\n",
      "told [1.5, 'ü', None] True False False\n",
    ]


def ends(processes, timeout=50):
  said = [process.communicate(timeout=timeout) for process in processes]
  return [
    (process.returncode, output.strip(), errors)
    for process, (output, errors) in zip(processes, said, strict=True)
  ]


def test_two_processes_sum_over_all_devices_and_stop_at_the_same_step(start):
  processes = start("steps")
  wait_for_sums(processes)
  time.sleep(0.5)
  processes[1].terminate()
  (code_0, output_0, _), (code_1, output_1, _) = ends(processes)
  assert code_0 == code_1 == 0
  assert output_0 == output_1 and output_0.startswith("stopped at ")


def test_the_others_wait_for_the_report_of_the_lead_host(start):
  processes = start("report")
  wait_for_sums(processes)
  assert processes[1].stdout.readline() == "done\n"
  (code_0, output, errors_0), (code_1, _, errors_1) = ends(processes)
  assert code_0 == code_1 == 0 and output == "reported"
  assert LOST not in errors_0 + errors_1


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_of_two_is_killed_the_other_ends_and_says_so(start, killed):
  processes = start("steps!")
  wait_for_sums(processes)
  before = time.monotonic()
  processes[killed].kill()
  code, _, errors = ends(processes)[1 - killed]
  # 5 seconds of silence here, of which a run allows HEARTBEAT.
  assert time.monotonic() - before < 5 + 60 - 30
  assert code in (hosts.LOST, -signal.SIGABRT)
  assert LOST in errors.splitlines()[-1]
  assert "start all of them again with the same command" in errors
  assert "Traceback" not in errors


def test_when_one_of_two_fails_it_says_why_and_the_other_ends(start):
  processes = start("one mistake!")
  wait_for_sums(processes)
  (code_0, _, errors_0), (code_1, _, errors_1) = ends(processes)
  assert code_1 == 2 and errors_1.endswith("kdcl_jax: the disk is full.\n")
  assert code_0 in (hosts.LOST, -signal.SIGABRT) and LOST in errors_0


def test_a_fault_of_the_program_shows_its_traceback(start):
  processes = start("fault!")
  wait_for_sums(processes)
  _, (code, _, errors) = ends(processes)
  assert code == 1 and errors.endswith("KeyError: 'a fault of the program'\n")


def test_two_that_fail_alike_end_as_one_alone_would(start):
  processes = start("mistake")
  wait_for_sums(processes)
  for code, _, errors in ends(processes):
    assert code == 2 and errors.endswith("kdcl_jax: the disk is full.\n")


@pytest.mark.parametrize("member", [0, 1])
def test_a_process_whose_others_do_not_come_gives_up_with_a_sentence(
  start, member
):
  ((code, _, errors),) = ends(start("alone", [member]))
  assert code == hosts.LOST
  assert "have not met within 2 s (at 127.0.0.1:" in errors.splitlines()[-1]
