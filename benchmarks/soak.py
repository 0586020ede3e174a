"""Kills a short run again and again, and compares what it ends with.

  python benchmarks/soak.py --out=DIR [--cycles=100] [--seed=0]

Each cycle starts the run in a process of its own and ends it at a random
moment, by SIGKILL or SIGTERM: while it starts, trains, writes a checkpoint,
evaluates or reports. A run that gets to its end is compared with one that was
left alone, and the next cycle begins another. All files that do not tell the
time must be the same, byte for byte.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = """
from kdcl_jax import config as kdcl

def get_config():
  course = dict(
    order="curriculum",
    pacing=dict(name="linear", start=0.3, reach=0.5),
    lessons=20,
    freeze=dict(on=True, patience=2),
    reduce_learning_rate=dict(on=True, patience=2),
  )
  common = dict(model=dict(name="mlp", widths=(16,)), batch_size=32)
  sgd = dict(name="sgd", learning_rate=0.2, momentum=0.9, clip=1.0)
  return kdcl.run(
    checkpoint_steps=25,
    log_steps=25,
    tensorboard=False,
    data=dict(
      label_noise=dict(kind="symmetric", rate=0.2),
      augment=(dict(name="pad_crop", pad=1), dict(name="cutout", size=2)),
    ),
    teacher=kdcl.stage(
      steps=STEPS, curriculum=course, keep="best", optimizer=sgd, **common
    ),
    baseline=kdcl.stage(
      steps=STEPS, optimizer=dict(name="adam", learning_rate=0.01, ema=0.9),
      **common
    ),
    student=kdcl.stage(
      steps=STEPS, teachers=("teacher",), optimizer=sgd, **common
    ),
    scorer=kdcl.scorer(steps=50, **common),
  )
"""
GRACE = 60  # seconds after SIGTERM
_WHOLE = ("student.json", "config.json", "environment.json")
_TIMES = ("train_seconds", "total_seconds")


def start(config: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen:
  """Starts the run, or goes on with it."""
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
    stdout=subprocess.DEVNULL,
    stderr=(workdir.parent / f"{workdir.name}.log").open("w"),
  )


def said(workdir: pathlib.Path) -> str:
  """What the last process of a run has said."""
  return (workdir.parent / f"{workdir.name}.log").read_text()


def outcome(workdir: pathlib.Path) -> dict[str, bytes]:
  """Everything that must not depend on interruptions, by file name."""
  found = {}
  for path in sorted(workdir.rglob("*")):
    name = str(path.relative_to(workdir))
    if path.suffix in (".safetensors", ".npz") or path.name in (
      "student.json",
      "config.json",
      "environment.json",
    ):
      found[name] = path.read_bytes()
    elif path.name == "metrics.jsonl":
      lines = [json.loads(line) for line in path.read_text().splitlines()]
      for line in lines:
        line.pop("examples_per_second", None)
      found[name] = json.dumps(lines).encode()
    elif path.name == "results.json":
      content = json.loads(path.read_text())
      for stage in content["stages"].values():
        for name_of_time in _TIMES:
          del stage[name_of_time]
      found[name] = json.dumps(content).encode()
  return found


def differences(workdir: pathlib.Path, whole: pathlib.Path) -> list[str]:
  """The files that differ between two runs, or that only one of them has."""
  one, other = outcome(workdir), outcome(whole)
  return sorted(n for n in one | other if one.get(n) != other.get(n))


def progress(workdir: pathlib.Path) -> int:
  """Lines of metrics so far, over all stages."""
  return sum(
    path.read_bytes().count(b"\n") for path in workdir.glob("*/*/metrics.jsonl")
  )


def interrupt(
  config: pathlib.Path, workdir: pathlib.Path, chance: random.Random
) -> dict:
  """One cycle: starts the run and ends it at a random moment.

  Returns:
    What was done and came of it: `signal`, `code`, and whether the run was
    `done` before.
  """
  kind = chance.choice((signal.SIGKILL, signal.SIGTERM))
  before = progress(workdir)
  process = start(config, workdir)
  began = time.monotonic()
  if chance.random() < 0.85:  # else at any moment of its start
    while process.poll() is None and progress(workdir) == before:
      time.sleep(0.002)
    time.sleep(chance.uniform(0.0, 2.5))
  else:
    time.sleep(chance.uniform(0.0, 8.0))
  done = process.poll() is not None
  process.send_signal(kind)
  sent = time.monotonic()
  try:
    code = process.wait(GRACE)
  except subprocess.TimeoutExpired:
    process.kill()
    code = process.wait()
    kind = None  # too late
  return {
    "signal": kind and kind.name,
    "code": code,
    "done": done,
    "seconds": round(sent - began, 3),
    "grace": round(time.monotonic() - sent, 3),
    "lines": progress(workdir),
    "fault": _fault(kind, code, done, said(workdir)),
  }


def _fault(
  kind: signal.Signals | None, code: int, done: bool, text: str
) -> str:
  """What should not have happened in a cycle."""
  if "Traceback" in text or "damaged" in text:
    return text[-2000:]
  if kind is None:
    return f"not ended within {GRACE} s of SIGTERM"
  expected = (0, -kind.value)  # SIGTERM before Python hears of it
  return "" if code == 0 or (not done and code in expected) else f"code {code}"


def soak(
  out: pathlib.Path, *, cycles: int, seed: int, steps: int = 300
) -> dict:
  """All cycles.

  Args:
    out: an empty directory for the runs and `soak.jsonl`, a line for each.
    cycles: how often a run is interrupted.
    seed: of the moments and the signals.
    steps: of each stage.

  Returns:
    `cycles`, `SIGKILL`, `SIGTERM`, `runs`, `faults`, `differing` (names of
    files), `longest_grace` and `seconds`.
  """
  out.mkdir(parents=True, exist_ok=True)
  config = out / "config.py"
  config.write_text(CONFIG.replace("STEPS", str(steps)))
  began, chance = time.monotonic(), random.Random(seed)
  whole = out / "undisturbed"
  _finish(config, whole)
  counts, faults, differing, graces = collections.Counter(), [], [], [0.0]
  runs, done = 0, 0
  log = (out / "soak.jsonl").open("a")
  workdir = out / "run_0"
  while done < cycles:
    cycle = interrupt(config, workdir, chance)
    if cycle["done"] and not cycle["fault"]:
      differing += differences(workdir, whole)  # it was through
      runs += 1
      if not differing:
        shutil.rmtree(workdir)
      workdir = out / f"run_{runs}"
      continue
    done += 1
    counts[cycle["signal"]] += 1
    if cycle["signal"] == "SIGTERM":
      graces.append(cycle["grace"])
    if cycle["fault"]:
      faults.append(cycle["fault"])
    print(
      json.dumps(cycle | {"cycle": done, "run": runs}), file=log, flush=True
    )
  _finish(config, workdir)
  differing += differences(workdir, whole)
  return {
    "cycles": done,
    **counts,
    "runs": runs + 1,
    "faults": faults,
    "differing": sorted(set(differing)),
    "longest_grace": max(graces),
    "seconds": round(time.monotonic() - began),
  }


def _finish(config: pathlib.Path, workdir: pathlib.Path) -> None:
  code = start(config, workdir).wait(600)
  if code:
    raise RuntimeError(f"the run ended with {code}: {said(workdir)[-2000:]}")


def main(argv: Sequence[str]) -> int:
  """Runs what the command line says; 1 where something went wrong."""
  parser = argparse.ArgumentParser(prog="python benchmarks/soak.py")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--cycles", type=int, default=100)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--steps", type=int, default=300)
  options = parser.parse_args(argv)
  found = soak(
    options.out.absolute(),
    cycles=options.cycles,
    seed=options.seed,
    steps=options.steps,
  )
  print(json.dumps(found, indent=2))
  return 1 if found["faults"] or found["differing"] else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
