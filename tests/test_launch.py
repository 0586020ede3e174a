"""Launch scripts say what they would do, and mean it."""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"


def dry_run(script, **variables):
  return subprocess.run(
    ["bash", str(LAUNCH / script)],
    env={"PATH": os.environ["PATH"], "DRY_RUN": "1"} | variables,
    capture_output=True,
    text=True,
    timeout=30,
  )


def commands(done):
  assert done.returncode == 0, done.stderr
  return [shlex.split(line)[1:] for line in done.stdout.splitlines()]


def test_a_gpu_host_is_sent_the_source_and_asked_for_the_report():
  config = "configs/digits.py:clean"
  done = dry_run(
    "gpu.sh", HOST="me@box", CONFIG=config, ARGS="--config.seeds=5"
  )
  steps = commands(done)
  programs = [step[0] for step in steps]
  assert programs == ["git", "ssh", "scp", "ssh", "mkdir", "scp"]
  remote = steps[3][2]
  assert f"--config={config} --workdir=runs/digits_clean" in remote
  assert remote.endswith("--config.seeds=5") and "'.[cuda]'" in remote


def test_a_tpu_vm_is_created_used_and_deleted():
  done = dry_run(
    "tpu_vm.sh", NAME="k", ZONE="z", CONFIG="configs/digits.py", SPOT="1"
  )
  verbs = [step[4] for step in commands(done) if step[0] == "gcloud"]
  assert verbs == ["create", "scp", "ssh", "scp", "scp", "scp", "delete"]
  assert "--spot" in done.stdout
  kept = dry_run(
    "tpu_vm.sh", NAME="k", ZONE="z", CONFIG="configs/digits.py", KEEP="1"
  )
  assert "delete" not in kept.stdout and "--spot" not in kept.stdout


@pytest.mark.parametrize(
  ("script", "variable"), [("gpu.sh", "HOST"), ("tpu_vm.sh", "NAME")]
)
def test_a_missing_variable_is_named(script, variable):
  done = dry_run(script)
  assert done.returncode != 0 and f"set {variable}" in done.stderr


def test_shellcheck_finds_nothing():
  if shutil.which("shellcheck") is None:
    pytest.skip("shellcheck is not installed")
  scripts = [str(path) for path in LAUNCH.glob("*.sh")]
  done = subprocess.run(
    ["shellcheck", *scripts], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout
