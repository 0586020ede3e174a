"""What saving checkpoints in the background costs the steps.

  python benchmarks/checkpoints.py [--megabytes 60] [--every 50] [--rounds 8]

Trains a perceptron whose state (parameters and Adam's moments) has so many
megabytes. A round is as many steps without a checkpoint and then as many with
one at the first of them, which is written while they go on. Reported are the
ratio of their times, the time that the call of `save` takes itself, the longest
step after it, and how long the writing and its digests take.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, digests, parallel, pipeline, stages
from kdcl_jax.checkpoint import Checkpoints
from kdcl_jax.lanes import Lanes, Wish
from kdcl_jax.loop import Loop


def measured(megabytes: float, every: int, rounds: int) -> dict:
  """All rounds.

  Args:
    megabytes: size of the state.
    every: steps between two checkpoints.
    rounds: how often, after one that is not counted.

  Returns:
    Means and standard deviations over the rounds, by name.
  """
  # Two layers of 64 -> width -> width -> 10; three copies of float32.
  width = int((megabytes * 2**20 / 12) ** 0.5)
  config = kdcl.resolve(
    kdcl.run(
      stages=("student",),
      export="",
      student=kdcl.stage(
        steps=10**6,
        batch_size=64,
        model=dict(name="mlp", widths=(width, width)),
        optimizer=dict(name="adam", learning_rate=1e-4),
      ),
    )
  )
  place = parallel.create()
  data = dataset.load(config["data"], seed=0)
  training = stages.training_of(
    "student",
    config["student"],
    config,
    data,
    place,
    seed=0,
    teachers=(),
    difficulties=None,
  )
  lanes = Lanes([training], place)
  loop = Loop(training, place, None, lanes, 0)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(loop.state))
  plan = loop.curriculum.plan(loop.course, 0, 10**6, loop.rows)
  batch = next(pipeline.stream(data.train, plan, 0, 1))

  def steps() -> tuple[float, float]:
    """Seconds of all steps, and of the longest."""
    before, longest = time.perf_counter(), 0.0
    for _ in range(every):
      began = time.perf_counter()
      lanes.step({0: Wish((), batch)})
      jax.block_until_ready(lanes.read(0).step)
      longest = max(longest, time.perf_counter() - began)
    return time.perf_counter() - before, longest

  folder = pathlib.Path(tempfile.mkdtemp(prefix="kdcl_jax_checkpoints_"))
  checkpoints = Checkpoints(folder / "checkpoints")
  found: dict[str, list[float]] = {}
  steps()
  for number in range(rounds + 1):
    plain, plain_longest = steps()
    began = time.perf_counter()
    arrays = {"state": loop.state, "best": loop.best}
    checkpoints.save(number, arrays, {"step": number})
    call = time.perf_counter() - began
    with_one, longest = steps()
    checkpoints._manager.wait_until_finished()
    written = time.perf_counter() - began
    began = time.perf_counter()
    fault = digests.fault(folder / "checkpoints" / str(number))
    row = {
      "ratio": (with_one + call) / plain,
      "step_ms": 1e3 * plain / every,
      "save_ms": 1e3 * call,
      "longest_step_ms": 1e3 * plain_longest,
      "longest_step_while_writing_ms": 1e3 * longest,
      "written_s": written,
      "digests_s": time.perf_counter() - began,
    }
    if fault:
      raise RuntimeError(fault)
    if number:
      for name, value in row.items():
        found.setdefault(name, []).append(value)
  checkpoints.close()
  shutil.rmtree(folder)
  return {
    "device": jax.devices()[0].device_kind,
    "megabytes": size / 2**20,
    "every": every,
    "rounds": rounds,
    **{
      name: {"mean": float(np.mean(values)), "std": statistics.stdev(values)}
      for name, values in found.items()
    },
  }


def main(argv: Sequence[str]) -> int:
  """Measures what the command line says, and prints it as JSON."""
  parser = argparse.ArgumentParser(prog="python benchmarks/checkpoints.py")
  parser.add_argument("--megabytes", type=float, default=60.0)
  parser.add_argument("--every", type=int, default=50)
  parser.add_argument("--rounds", type=int, default=8)
  options = parser.parse_args(argv)
  found = measured(options.megabytes, options.every, options.rounds)
  print(json.dumps(found, indent=2))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
