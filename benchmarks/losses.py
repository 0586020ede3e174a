"""Time and memory of every loss, forward and backward, compared with kd.

  python benchmarks/losses.py [--out FILE.json] [--only kd,rkd]
    [--shapes cifar,imagenet,tokens] [--repeats 9] [--seconds 1.0]
    [--devices-note]

Prints a Markdown table for each shape. What is measured, and how, is in
benchmarks/README.md.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import shapes
import timing

import kdcl_jax
from kdcl_jax.losses import LOSSES

MIB = 2**20


def machine() -> dict[str, Any]:
  """What the numbers were measured on."""
  device = jax.devices()[0]
  if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count()
  return {
    "device": device.device_kind,
    "platform": device.platform,
    "devices": jax.device_count(),
    "processor": processor(),
    "cores": cores,
    "jax": jax.__version__,
    "python": platform.python_version(),
    "kdcl_jax": kdcl_jax.__version__,
  }


def processor() -> str:
  """The model of the CPU, where the system says it."""
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.exists() else []
  models = [line.split(":", 1)[1] for line in lines if "model name" in line]
  return models[0].strip() if models else platform.machine()


def nbytes(tree: Any) -> int:
  """Bytes of arrays, or of the arrays that shapes stand for."""
  leaves = jax.tree.leaves(tree)
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def size(arrays: Iterable[Any]) -> str:
  """The shapes of arrays."""
  return ", ".join("×".join(map(str, array.shape)) for array in arrays)


def programs(
  case: shapes.Case, arrays: dict[Any, Any]
) -> dict[str, timing.Program]:
  """A case's compiled functions; `arrays` keeps arguments for other cases."""
  arguments = []
  for name in case.names:
    key = name, shapes.kind(case.loss), case.sizes
    if key not in arrays:
      arrays[key] = jax.block_until_ready(case.array(name))
    arguments.append(arrays[key])
  return {
    "forward": timing.Program(case.value, arguments),
    "forward_backward": timing.Program(case.value_and_gradients, arguments),
  }


def measure(
  shape: str, names: Iterable[str], *, rounds: int, budget: float
) -> list[dict[str, Any]]:
  """One row per case of the losses at a shape."""
  arrays, rows = {}, []
  reference = programs(shapes.cases("kd", shape)[0], arrays)
  for case in (case for name in names for case in shapes.cases(name, shape)):
    student = jax.tree.leaves(case.specs()[0])
    row = {
      "shape": shape,
      "loss": case.loss,
      "label": case.label,
      "student": size(student),
      "student_bytes": nbytes(student),
    }
    for part, program in programs(case, arrays).items():
      timed = timing.compare(
        program, reference[part], rounds=rounds, budget=budget
      )
      row[part] = timed._asdict() | {"temporary_bytes": program.temporary}
    rows.append(row)
    print(f"{shape}: {case.label}", file=sys.stderr)
  return rows


def measure_chunks(names: Iterable[str]) -> list[dict[str, Any]]:
  """Memory with and without chunks at a large vocabulary; runs nothing."""
  rows = []
  for name in names:
    row = {"loss": name, "chunk": shapes.CHUNK}
    for key, chunk in (("whole", None), ("chunked", shapes.CHUNK)):
      case = shapes.Case(name, shapes.VOCABULARY, chunk)
      specs = case.specs()
      compiled = jax.jit(case.value_and_gradients).lower(*specs).compile()
      row |= {
        "student": size(specs[:1]),
        "student_bytes": nbytes(specs[0]),
        f"{key}_bytes": timing.temporary_bytes(compiled),
      }
    rows.append(row)
    print(f"vocabulary: {name}", file=sys.stderr)
  return rows


def table(header: list[str], rows: Iterable[list[str]]) -> str:
  """A Markdown table: the first two columns are words, the others numbers."""
  rule = ["---"] * 2 + ["---:"] * (len(header) - 2)
  return "\n".join("| " + " | ".join(r) + " |" for r in (header, rule, *rows))


def digits(number: float) -> str:
  """The number with three digits."""
  return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def memory(row: dict[str, Any], count: int | None) -> list[str]:
  """MiB, and copies of the student's array."""
  if count is None:
    return ["-", "-"]
  return [f"{count / MIB:.1f}", f"{count / row['student_bytes']:.1f}"]


def times_table(rows: list[dict[str, Any]]) -> str:
  """Times and memory at one shape."""

  def cells(row: dict[str, Any]) -> list[str]:
    timed = []
    for part in (row["forward"], row["forward_backward"]):
      spread = ""
      if part["rounds"] > 1:
        spread = f" ({digits(part['low'])} to {digits(part['high'])})"
      timed.append(digits(1e3 * part["seconds"]))
      timed.append(digits(part["ratio"]) + spread)
    return [
      row["label"],
      row["student"],
      *timed,
      *memory(row, row["forward_backward"]["temporary_bytes"]),
    ]

  header = ["loss", "student", "forward, ms", "of kd"]
  header += ["with backward, ms", "of kd", "temporary, MiB", "copies"]
  return table(header, map(cells, rows))


def chunks_table(rows: list[dict[str, Any]]) -> str:
  """Memory with and without chunks."""
  header = ["loss", "student", "whole, MiB", "copies"]
  header += [f"{shapes.CHUNK} tokens at a time, MiB", "copies"]
  return table(
    header,
    [
      [
        f"`{row['loss']}`",
        row["student"],
        *memory(row, row["whole_bytes"]),
        *memory(row, row["chunked_bytes"]),
      ]
      for row in rows
    ],
  )


def chosen(text: str | None, known: Iterable[str], option: str) -> list[str]:
  """The names of a comma-separated option, all known ones by default."""
  if text is None:
    return list(known)
  names = text.split(",")
  for name in names:
    if name not in known:
      raise SystemExit(
        f"{option} names {name!r}, expected some of {','.join(known)}."
      )
  return names


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
  parser.add_argument("--only", help="names of losses, separated by commas")
  parser.add_argument("--shapes", help="some of " + ",".join(shapes.SIZES))
  parser.add_argument(
    "--repeats", type=int, default=9, help="samples of a program, at most"
  )
  parser.add_argument(
    "--seconds", type=float, default=1.0, help="time to sample a program"
  )
  parser.add_argument(
    "--devices-note", action="store_true", help="say what was measured on"
  )
  options = parser.parse_args()
  if options.repeats < 1:
    parser.error(f"--repeats is {options.repeats}, expected at least 1")
  names = chosen(options.only, LOSSES, "--only")
  which = chosen(options.shapes, shapes.SIZES, "--shapes")

  start = time.perf_counter()
  done = {"machine": machine(), "rows": [], "chunks": [], "left_out": {}}
  for shape in which:
    rows = measure(shape, names, rounds=options.repeats, budget=options.seconds)
    reasons = {name: shapes.left_out(name, shape) for name in names}
    done["rows"] += rows
    done["left_out"][shape] = {k: v for k, v in reasons.items() if v}
    print(f"\n### {shape}\n\n{times_table(rows)}", flush=True)
  if "tokens" in which:
    done["chunks"] = measure_chunks(n for n in shapes.CHUNKED if n in names)
  if done["chunks"]:
    print(f"\n### vocabulary\n\n{chunks_table(done['chunks'])}")
  done["seconds"] = time.perf_counter() - start
  if options.devices_note:
    print("\n" + ", ".join(f"{k} {v}" for k, v in done["machine"].items()))
  if options.out:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(done, indent=2) + "\n")


if __name__ == "__main__":
  main()
