"""Tables of difficulties, as files.

A table is `record_id`, `difficulty` and the observed `label` of records, with
its provenance beside it as JSON. Any run can take its order from one
(`curriculum.difficulty.source = 'file'`).
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from kdcl_jax import npz
from kdcl_jax.dataset import Split
from kdcl_jax.errors import UserError
from kdcl_jax.writers import write_bytes, write_json


@dataclasses.dataclass(frozen=True)
class Table:
  """Difficulties of records.

  Attributes:
    record_id: [N] int64.
    difficulty: [N] float64, larger is harder.
    label: [N] int64 observed labels.
    provenance: what made it: score, model, steps, data fingerprint.
  """

  record_id: np.ndarray
  difficulty: np.ndarray
  label: np.ndarray
  provenance: dict[str, Any]

  def of(self, ids: np.ndarray, where: str) -> np.ndarray:
    """The difficulties of some records, in their sequence.

    Args:
      ids: [M] record ids.
      where: the config field that the table stands for, for messages.

    Raises:
      UserError: where a record is missing.
    """
    place = {int(r): i for i, r in enumerate(self.record_id)}
    missing = [int(r) for r in ids if int(r) not in place]
    if missing:
      raise UserError(
        f"{where} has no difficulty for {len(missing)} of {len(ids)} records,"
        f" the first being record {missing[0]}; score this data set, with this"
        " validation split."
      )
    return self.difficulty[[place[int(r)] for r in ids]]

  def save(self, path: pathlib.Path) -> None:
    """Writes `path` (npz) and, beside it, the provenance (json)."""
    content = npz.to_bytes(
      record_id=self.record_id, difficulty=self.difficulty, label=self.label
    )
    write_bytes(path, content)
    write_json(path.with_suffix(".json"), self.provenance)


def load(path: str | pathlib.Path, field: str) -> Table:
  """Reads a table.

  Args:
    path: the npz file.
    field: the config field that names it, for messages.

  Raises:
    UserError: where the file is missing or is no such table.
  """
  path = pathlib.Path(path).expanduser()
  arrays = npz.read(path, field)
  if not {"record_id", "difficulty"} <= set(arrays):
    raise UserError(
      f"{field} is {str(path)!r}, which has the arrays"
      f" {', '.join(arrays) or 'none'}; expected record_id and difficulty."
    )
  record_id = arrays["record_id"].astype(np.int64)
  difficulty = arrays["difficulty"].astype(np.float64)
  label = arrays.get("label", np.full(len(record_id), -1))
  if record_id.shape != difficulty.shape or record_id.ndim != 1:
    raise UserError(
      f"{field} is {str(path)!r}, whose record_id has shape {record_id.shape}"
      f" and difficulty {difficulty.shape}; expected two vectors of one length."
    )
  beside = path.with_suffix(".json")
  provenance = json.loads(beside.read_text()) if beside.exists() else {}
  return Table(record_id, difficulty, label, provenance)


def of_split(
  split: Split, difficulty: np.ndarray, provenance: dict[str, Any]
) -> Table:
  """The table of a split's records.

  Args:
    split: the records.
    difficulty: [N] of `split.ids`; inf for what has none, which ranks last.
    provenance: what made it.

  Returns:
    The table, whose difficulties are finite.
  """
  finite = np.isfinite(difficulty)
  worst = difficulty[finite].max() if finite.any() else 0.0
  return Table(
    record_id=split.ids,
    difficulty=np.where(finite, difficulty, worst + 1.0),
    label=split.labels[split.ids],
    provenance=provenance | {"split": split.name, "records": len(split.ids)},
  )
