"""The student in several formats, each file evaluated by its own runtime."""

import hashlib
import importlib.metadata
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kdcl_jax import runtimes
from kdcl_jax.dataset import Dataset, Split
from kdcl_jax.errors import UserError
from kdcl_jax.export import measurement, subject
from kdcl_jax.export.formats import FORMATS
from kdcl_jax.randomness import permute
from kdcl_jax.writers import read_json, read_sealed, write_bytes, write_json

SCHEMA_VERSION = 1
_CALIBRATION = 0xCA11B
_PACKAGES = (
  "jax jax2onnx onnx onnxruntime litert-converter ai-edge-litert"
  " ai-edge-quantizer"
)


def make(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  names: Sequence[str],
  *,
  calibration: int = 512,
  runs: int = 100,
) -> dict[str, Any]:
  """Writes the files and `export/export.json`.

  Args:
    workdir: the directory of a finished run.
    config: its resolved config.
    dataset: its data, with the seed of the exported model.
    names: of `FORMATS`.
    calibration: training records that int8 is calibrated with, at most.
    runs: of one picture, of which latency is the median.

  Returns:
    What `export.json` holds; see docs/export.md.

  Raises:
    UserError: where a model cannot be converted.
  """
  folder = workdir / "export"
  about = read_json(folder / "student.json")
  stage, seed = (about["provenance"][key] for key in ("stage", "seed"))
  open_ = lambda name, precision="float32": subject.load(
    workdir, config, dataset, name, seed, precision=precision
  )
  student = open_(stage)
  source = measurement.answers(student.compiled(256), dataset.test)
  rounded = measurement.answers(
    open_(stage, "bfloat16").compiled(256), dataset.test
  )
  rows = [{"file": None, "format": "JAX", "precision": "bfloat16"}]
  rows[0] |= {"runtime": "JAX", "bytes": _bytes_of(student, 2)}
  rows[0] |= measurement.measure(rounded, source)
  pictures = calibrating(dataset.train, calibration, seed)
  for name in names:
    for precision, path in _written(folder, name, student, pictures):
      answered = measurement.answers(runtimes.load(path), dataset.test)
      rows.append(
        {
          "file": path.name,
          "format": name,
          "precision": precision,
          "runtime": runtimes.RUNTIMES[path.suffix].name,
          "bytes": path.stat().st_size,
          **measurement.measure(answered, source),
        }
      )
  teacher = next(iter(about["provenance"]["teachers"]), None)
  taught = open_(teacher) if teacher else None
  picture = dataset.test.fetch(dataset.test.ids[:1])[0]["image"][0]
  teachers = _time(folder, rows, taught, picture, runs)
  result = lambda name: _result(workdir, name, seed)
  made = {
    "schema_version": SCHEMA_VERSION,
    "weights": digest(folder),
    "student": result(stage),
    "teacher": (result(teacher) | {"files": teachers}) if teacher else None,
    "test_records": len(source),
    "calibration_records": len(pictures),
    "runs": runs,
    "threads": 1,
    "files": rows,
    "packages": _versions(),
  }
  made["student"]["accuracy"] = measurement.measure(source, source)["accuracy"]
  write_json(folder / "export.json", made)
  return made


def calibrating(split: Split, count: int, seed: int) -> np.ndarray:
  """Pictures to calibrate with: seeded records, none of them twice.

  Args:
    split: of the training records.
    count: how many; all where there are fewer.
    seed: draws them.

  Returns:
    [N, ...] as they are stored; those that cannot be read are left out.

  Raises:
    UserError: where none can be read.
  """
  size = len(split.ids)
  places = permute(np.arange(min(count, size)), size, seed, _CALIBRATION)
  records, readable = split.fetch(split.ids[places])
  if not readable.any():
    raise UserError(
      f"--calibration is {count}, but none of these training records can be"
      " read; expected more of them."
    )
  return records["image"][readable]


def digest(folder: pathlib.Path) -> str:
  """Of the exported weights, to tell whether a table is of them."""
  content = (folder / "student.safetensors").read_bytes()
  return hashlib.sha256(content).hexdigest()


def _written(
  folder: pathlib.Path,
  name: str,
  model: subject.Subject,
  pictures: np.ndarray,
) -> list[tuple[str, pathlib.Path]]:
  """The files of a format, by precision."""
  form = FORMATS[name]
  path = folder / f"student{form.ending}"
  if form.convert is None:
    return [("float32", path)]
  content = form.convert(model)
  write_bytes(path, content)
  if form.quantize is None:
    return [("float32", path)]
  small = folder / f"student_int8{form.ending}"
  write_bytes(small, form.quantize(content, pictures))
  return [("float32", path), ("int8", small)]


def _time(
  folder: pathlib.Path,
  rows: list[dict[str, Any]],
  teacher: subject.Subject | None,
  picture: np.ndarray,
  runs: int,
) -> dict[str, Any]:
  """Sets the latency of each row, and its ratio to the teacher's there.

  Returns:
    Bytes and latency of the teacher's float32 file of each format.
  """
  # JAX's threads are set when its process starts.
  timed = [row for row in rows if row["runtime"] != "JAX"]
  functions = {
    row["file"]: runtimes.load(folder / row["file"], threads=1) for row in timed
  }
  teachers: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as elsewhere:
    for name in dict.fromkeys(row["format"] for row in timed if teacher):
      form = FORMATS[name]
      path = pathlib.Path(elsewhere) / f"teacher{form.ending}"
      path.write_bytes(form.convert(teacher))
      functions[f"teacher {name}"] = runtimes.load(path, threads=1)
      teachers[name] = {"bytes": path.stat().st_size}
    taken = measurement.latencies(functions, picture, runs=runs)
  for name, facts in teachers.items():
    facts["latency_ms"] = taken[f"teacher {name}"]
  for row in rows:
    mine = taken.get(row["file"])
    whole = teachers.get(row["format"], {}).get("latency_ms")
    row["latency_ms"] = mine
    row["times_faster"] = whole / mine if mine and whole else None
  return teachers


def _result(workdir: pathlib.Path, stage: str, seed: int) -> dict[str, Any]:
  facts = read_sealed(workdir / stage / f"seed_{seed}" / "result.json")
  return {
    "stage": stage,
    "seed": seed,
    "model": facts["model"]["name"],
    "parameters": facts["parameters"],
    "flops_per_example": facts["flops_per_example"],
    "accuracy": facts["test"]["accuracy"],
  }


def _bytes_of(model: subject.Subject, each: int) -> int:
  leaves = jax.tree.leaves(model.model.variables)
  return sum(each * leaf.size for leaf in leaves)


def _versions() -> dict[str, str]:
  found = {}
  for name in _PACKAGES.split():
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
