"""What devices send each other in a training step, from the compiled program.

  python benchmarks/collectives.py [--model resnet20] [--batch-size 64]
    [--fsdp 1000]

Counts the collectives of one step, and their bytes, on 1, 2, 4 and 8 devices,
in both modes and with split states. Eight devices are made of the CPU; nothing
is measured in time, which would mean nothing there.
"""

import argparse
import collections
import math
import re
from collections.abc import Sequence

import jax
import numpy as np

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, parallel, sources, stages, state, step
from kdcl_jax.lanes import Lanes

DEVICES = (1, 2, 4, 8)
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_OPERATION = re.compile(rf"= (.*?) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def collectives(program: str) -> dict[str, list[int]]:
  """The bytes of each collective's result, by kind.

  Args:
    program: the text of a compiled HLO module.

  Returns:
    Kind -> bytes of each, the largest first.

  Example:
    >>> collectives("x = (f32[2,3]{1,0}, f32[]) all-reduce(a, b)")
    {'all-reduce': [28]}
  """
  found = collections.defaultdict(list)
  for result, kind in _OPERATION.findall(program):
    found[kind].append(sum(_bytes(*array) for array in _ARRAY.findall(result)))
  return {kind: sorted(sizes, reverse=True) for kind, sizes in found.items()}


def _bytes(kind: str, bits: str, shape: str) -> int:
  del kind
  elements = math.prod(int(n) for n in shape.split(",") if n)
  return elements * max(int(bits) // 8, 1)


def measure(
  place: parallel.Parallel,
  *,
  model: dict,
  shape: Sequence[int] = (32, 32, 3),
  batch_size: int = 64,
) -> tuple[dict[str, list[int]], int]:
  """The collectives of a training step, and the bytes of the parameters.

  Args:
    place: the devices.
    model: a model's section of a config.
    shape: of one input.
    batch_size: rows of the global batch.

  Returns:
    See `collectives`; and the bytes of all parameters.
  """
  rows = np.zeros((2 * batch_size, *shape), np.uint8)
  labels = np.arange(2 * batch_size) % 10
  config = kdcl.resolve(
    kdcl.run(
      stages=("baseline",),
      baseline=kdcl.stage(
        model=model,
        steps=1,
        batch_size=batch_size,
        optimizer=dict(name="sgd", momentum=0.9),
      ),
    )
  )
  source = sources.ArraySource(rows, labels)
  split = lambda name: dataset.Split(
    name, source, np.arange(len(labels)), labels, labels, tuple(shape)
  )
  data = dataset.Dataset(
    "zeros",
    split("train"),
    split("validation"),
    split("test"),
    10,
    tuple("0123456789"),
    tuple(shape),
    "",
  )
  training = stages.training_of(
    "baseline", config["baseline"], config, data, place, seed=0
  )
  names = step.metric_names(training.terms)
  start = state.create(
    training.model.variables, training.optimizer, names, seed=0, ema=False
  )
  ids = np.arange(batch_size)
  batch = data.train.fetch(ids)[0]
  batch |= {"id": ids, "weight": np.ones(batch_size, np.float32)}
  program = Lanes([training], place).lowered(place.put(start), batch).compile()
  parameters = jax.tree.leaves(training.model.variables["params"])
  return collectives(program.as_text()), sum(p.nbytes for p in parameters)


def main() -> None:
  """Prints a Markdown table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="resnet20")
  parser.add_argument("--batch-size", type=int, default=64)
  parser.add_argument("--fsdp", type=int, default=1000)
  given = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", max(DEVICES))
  print("| mode | devices | collective | how many | bytes | largest |")
  print("| --- | --- | --- | --- | --- | --- |")
  size = 0
  for mode, fsdp in (("jit", 0), ("shard_map", 0), ("jit", given.fsdp)):
    for devices in DEVICES:
      place = parallel.create(mode, devices, fsdp)
      found, size = measure(
        place, model=dict(name=given.model), batch_size=given.batch_size
      )
      name = f"{mode}, fsdp {fsdp}" if fsdp else mode
      for kind, sizes in sorted(found.items()) or [("none", [0])]:
        many = 0 if kind == "none" else len(sizes)
        print(
          f"| {name} | {devices} | {kind} | {many} | {sum(sizes):,} |"
          f" {sizes[0]:,} |"
        )
  print(f"\n{given.model}: {size:,} bytes of parameters.")


if __name__ == "__main__":
  main()
