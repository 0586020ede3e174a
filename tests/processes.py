"""Runs of the command line in processes of their own, which can be killed."""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]


def start(config, workdir):
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "kdcl_jax.main",
      f"--config={config}",
      f"--workdir={workdir}",
    ],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(config, workdir):
  process = start(config, workdir)
  output, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors
  return output + errors


def kill(config, workdir, moments, chance):
  """Starts a run and kills it once it has logged so many lines, for each.

  Returns how many kills came before the run was through.
  """
  kills = 0
  for moment in moments:
    process = start(config, workdir)
    while process.poll() is None and progress(workdir) < moment:
      time.sleep(0.002)
    time.sleep(chance.uniform(0.0, 0.05))
    kills += process.poll() is None
    process.kill()
    process.communicate()
  return kills


def outcome(workdir):
  """Everything that must not depend on interruptions."""
  files = {}
  for path in sorted(workdir.rglob("*")):
    name = str(path.relative_to(workdir))
    if name.endswith((".safetensors", ".npz", "student.json")):
      files[name] = path.read_bytes()
    if path.name == "metrics.jsonl":
      lines = [json.loads(line) for line in path.read_text().splitlines()]
      for line in lines:
        line.pop("examples_per_second", None)
      files[name] = lines
  return files


def assert_same(workdir, reference):
  got, want = outcome(workdir), outcome(reference)
  assert got.keys() == want.keys()
  for name in want:
    assert got[name] == want[name], name


def progress(workdir):
  """Lines of metrics so far, over all stages."""
  return sum(
    path.read_bytes().count(b"\n")
    for path in workdir.glob("*/seed_0/metrics.jsonl")
  )
