"""The final comparison: every stage over the seeds, as data.

`results.json` is described in docs/results.md.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcl_jax import npz, statistics
from kdcl_jax.errors import UserError
from kdcl_jax.writers import damaged, read_json, read_sealed, write_json

SCHEMA_VERSION = 1
_MEASURED = ("accuracy", "loss", "calibration_error")


def write(
  workdir: pathlib.Path, stages: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
  """Collects the results of all stages and writes `results.json`.

  Args:
    workdir: the run's directory.
    stages: names of the stages.
    seeds: the seeds.

  Returns:
    What was written.
  """
  collected = collect(workdir, stages, seeds)
  write_json(workdir / "results.json", collected)
  return collected


def collect(
  workdir: pathlib.Path, stages: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
  """The results of the stages that are done for every seed.

  Args:
    workdir: the run's directory.
    stages: names of the stages.
    seeds: the seeds.

  Returns:
    The content of `results.json`; `missing` names what is not done.
  """
  found, missing = {}, []
  for stage in stages:
    paths = [workdir / stage / f"seed_{seed}" / "result.json" for seed in seeds]
    if all(path.exists() for path in paths):
      found[stage] = [read_sealed(path) for path in paths]
    else:
      missing += [
        f"{stage}/seed_{seed}"
        for seed, path in zip(seeds, paths, strict=True)
        if not path.exists()
      ]
  return {
    "schema_version": SCHEMA_VERSION,
    "name": read_json(workdir / "config.json").get("name", ""),
    "seeds": list(seeds),
    "missing": missing,
    "stages": {
      stage: _told(workdir / stage, rows) for stage, rows in found.items()
    },
    "comparisons": [
      _comparison(workdir, a, b, found, seeds) for a, b in _pairs(found)
    ],
  }


def _told(directory: pathlib.Path, rows: list[dict]) -> dict[str, Any]:
  try:
    return _stage(rows)
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(damaged(directory / "*/result.json", error)) from error


def _stage(rows: list[dict]) -> dict[str, Any]:
  rows = [{"skipped_steps": 0} | row for row in rows]  # of earlier versions
  first = rows[0]
  over = lambda *path: statistics.summary([_at(row, *path) for row in rows])
  test = {name: over("test", name) for name in _MEASURED}
  test["count"] = first["test"]["count"]
  test["agreement"] = {
    teacher: over("test", "agreement", teacher) for teacher in first["teachers"]
  }
  tenths = [row["test"]["accuracy_by_difficulty"] for row in rows]
  numbers = np.array(tenths, float)  # None, an empty tenth, becomes NaN
  test["accuracy_by_difficulty"] = {
    "mean": _numbers(numbers.mean(axis=0)),
    "std": _numbers(
      numbers.std(axis=0, ddof=1) if len(rows) > 1 else 0 * numbers[0]
    ),
    "values": tenths,
  }
  return {
    "model": first["model"],
    "teachers": first["teachers"],
    "trained": first["trained"],
    "parameters": first["parameters"],
    "flops_per_example": first["flops_per_example"],
    "kept": first["kept"],
    "test": test,
    "validation": {name: over("validation", name) for name in _MEASURED}
    | {"count": first["validation"]["count"]},
    "steps": over("steps"),
    "final_fraction": over("final_fraction"),
    "train_seconds": over("train_seconds"),
    "total_seconds": over("total_seconds"),
    "unreadable": over("unreadable"),
    "skipped_steps": over("skipped_steps"),
    "ledger": {name: over("ledger", name) for name in first["ledger"]},
  }


def _at(row: dict, *path: str) -> float:
  for key in path:
    row = row[key]
  return row


def _numbers(values: np.ndarray) -> list[float | None]:
  return [float(v) if np.isfinite(v) else None for v in values]


def _pairs(found: dict[str, list[dict]]) -> list[tuple[str, str]]:
  """Each stage against baseline, its teachers, earlier ones of its model."""
  names = list(found)
  return [
    (a, b)
    for a in names
    for b in names
    if a not in (b, "baseline")
    and (
      b == "baseline"
      or b in found[a][0]["teachers"]
      or (
        found[a][0]["model"] == found[b][0]["model"]
        and names.index(b) < names.index(a)
      )
    )
  ]


def _comparison(
  workdir: pathlib.Path,
  a: str,
  b: str,
  found: dict[str, list[dict]],
  seeds: Sequence[int],
) -> dict[str, Any]:
  differences = [
    x["test"]["accuracy"] - y["test"]["accuracy"]
    for x, y in zip(found[a], found[b], strict=True)
  ]
  if len(seeds) > 1:
    method = "paired t over seeds"
    interval = statistics.paired_t_interval(differences)
  else:
    method = "paired over test records"
    interval = statistics.paired_records_interval(
      *(_correct(workdir, stage, seeds[0]) for stage in (a, b))
    )
  return {
    "a": a,
    "b": b,
    "metric": "test.accuracy",
    "difference": statistics.summary(differences),
    "interval_95": list(interval),
    "method": method,
    "verdict": statistics.verdict(interval),
  }


def _correct(workdir: pathlib.Path, stage: str, seed: int) -> np.ndarray:
  path = workdir / stage / f"seed_{seed}" / "test_predictions.npz"
  rows = npz.read_own(path, "record_id", "prediction", "label")
  order = np.argsort(rows["record_id"])
  return (rows["prediction"] == rows["label"])[order]
