"""The exported files in the report: the table that an engineer asks for."""

import pathlib
from collections.abc import Mapping
from typing import Any

from kdcl_jax.export import delivery
from kdcl_jax.page import table
from kdcl_jax.writers import read_json

BOUND = 0.005  # of accuracy, that quantisation may cost


def exported(workdir: pathlib.Path) -> list[str]:
  """The chapter; nothing where no file has been made of these weights.

  Args:
    workdir: the run's directory.

  Returns:
    Paragraphs of markdown.
  """
  path = workdir / "export" / "export.json"
  if not path.exists():
    return []
  made = read_json(path)
  if made["weights"] != delivery.digest(path.parent):
    return []
  return ["## Exported files", *tables(made)]


def tables(made: Mapping[str, Any]) -> list[str]:
  """What `export.json` holds, in words and a table."""
  student, teacher = made["student"], made["teacher"]
  head = ["model", "size (kB)", "parameters", "FLOPs", "accuracy (%)"]
  head += ["same prediction (%)", "largest logit difference"]
  head += ["latency (ms)", "times faster than the teacher"]
  facts = lambda one: [f"{one['parameters']:,}", _flops(one)]
  rows = [head]
  for name, file in (teacher or {}).get("files", {}).items():
    rows.append(
      [
        f"{teacher['stage']} ({teacher['model']}), {name} float32",
        _kilobytes(file),
        *facts(teacher),
        f"{100 * teacher['accuracy']:.2f}",
        "–",
        "–",
        f"{file['latency_ms']:.3f}",
        "1.0",
      ]
    )
  for row in made["files"]:
    label = row["file"] or "in JAX, not a file"
    rows.append(
      [
        f"{label} ({row['precision']})",
        _kilobytes(row),
        *facts(student),
        f"{100 * row['accuracy']:.2f}",
        f"{100 * row['agreement']:.2f}",
        f"{row['max_logit_difference']:.2g}",
        "–" if row["latency_ms"] is None else f"{row['latency_ms']:.3f}",
        "–" if row["times_faster"] is None else f"{row['times_faster']:.1f}",
      ]
    )
  return [
    f"Of {student['stage']} ({student['model']}, seed {student['seed']}), which"
    f" makes {100 * student['accuracy']:.2f} % in float32 in JAX. Each file was"
    f" evaluated by its own runtime on {made['test_records']} test records;"
    " predictions and logits are compared with JAX's. Latency is the median of"
    f" {made['runs']} single pictures with {made['threads']} thread. Int8 was"
    f" calibrated with {made['calibration_records']} training records.",
    table(rows),
    *_verdicts(made),
  ]


def _verdicts(made: Mapping[str, Any]) -> list[str]:
  """What quantisation costs, said where it is much and where it is little."""
  lines = []
  for row in made["files"]:
    if row["precision"] != "int8":
      continue
    lost = made["student"]["accuracy"] - row["accuracy"]
    points = f"{100 * abs(lost):.2f} points"
    if lost > BOUND:
      text = (
        f"**{row['file']} loses {points}**, more than {100 * BOUND:g}; its"
        f" logits are up to {row['max_logit_difference']:.2g} from those in"
        " float32. Take float32, or calibrate with other or more records."
      )
    else:
      text = f"{row['file']} {'loses' if lost > 0 else 'gains'} {points}."
    lines.append(f"- {text}")
  return ["\n".join(lines)] if lines else []


def _kilobytes(row: Mapping[str, Any]) -> str:
  return f"{row['bytes'] / 1000:,.1f}"


def _flops(one: Mapping[str, Any]) -> str:
  return f"{one['flops_per_example']:,.0f}"
