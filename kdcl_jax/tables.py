"""Tables of difficulties, as files.

A table is `record_id`, `difficulty` and the observed `label` of records, with
its provenance beside it as JSON. Any run can take its order from one
(`curriculum.difficulty.source = 'file'`).
"""

import dataclasses
import hashlib
import logging
import pathlib
from typing import Any

import numpy as np

from kdcl_jax import npz
from kdcl_jax.dataset import Split
from kdcl_jax.errors import UserError
from kdcl_jax.sources import UnreadableRecord
from kdcl_jax.writers import read_sealed, write_bytes, write_sealed

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Table:
  """Difficulties of records.

  Attributes:
    record_id: [N] int64.
    difficulty: [N] float64, larger is harder.
    label: [N] int64 observed labels.
    provenance: what made it: score, model, steps, data fingerprint, and the
      `source` of the data, see `source_of`.
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

  def check_source(self, split: Split, where: str) -> None:
    """Refuses a table of other data whose records have the same ids.

    Another seed, split, subset or noise is the same data. The same labels with
    other inputs may be the same data at another size, and a table of unknown
    source may be of the same with other noise: there is only a warning.

    Args:
      split: the records that it is to be used for.
      where: the config field that the table stands for, for messages.

    Raises:
      UserError: where its source has other labels.
    """
    known, ours = self.provenance.get("source"), source_of(split)
    if known is None:
      common = np.isin(self.record_id, split.ids) & (self.label >= 0)
      ids, labels = self.record_id[common], self.label[common]
      others = int(np.sum(labels != split.labels[ids]))
      if others:
        log.warning(
          "%s does not say what data it is of, and has other labels for %d of"
          " %d records: is it of these data?",
          where,
          others,
          len(ids),
        )
    elif known["labels"] != ours["labels"]:
      raise UserError(
        f"{where} is a table of other data: the true labels of its source"
        f" (fingerprint {known['labels']}, {known['records']} records) are not"
        f" those of config.data ({ours['labels']}, {ours['records']} records);"
        " score this data set."
      )
    elif known["inputs"] != ours["inputs"]:
      log.warning(
        "%s is of records with the same labels and other inputs: are they the"
        " same data at another size?",
        where,
      )

  def save(self, path: pathlib.Path) -> None:
    """Writes `path` (npz) and, beside it, the provenance (json)."""
    content = npz.to_bytes(
      record_id=self.record_id, difficulty=self.difficulty, label=self.label
    )
    write_bytes(path, content)
    write_sealed(path.with_suffix(".json"), self.provenance)


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
  provenance = read_sealed(beside) if beside.exists() else {}
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
    provenance=provenance
    | {
      "split": split.name,
      "records": len(split.ids),
      "source": source_of(split),
    },
  )


def source_of(split: Split) -> dict[str, Any]:
  """What the data are, whatever the seed, the split and the noise.

  Args:
    split: some records of a source.

  Returns:
    `records` of the source, `labels`, a hash of all true labels, and `inputs`,
    one of eight inputs.
  """
  labels = np.ascontiguousarray(split.true_labels, np.int64)
  inputs = hashlib.sha256()
  for record in np.linspace(0, len(labels) - 1, 8).astype(int):
    try:
      image = np.ascontiguousarray(split.source[int(record)]["image"])
      inputs.update(f"{image.dtype} {image.shape}".encode() + image.tobytes())
    except UnreadableRecord:
      inputs.update(b"unreadable")
  return {
    "records": len(labels),
    "labels": hashlib.sha256(labels.tobytes()).hexdigest()[:16],
    "inputs": inputs.hexdigest()[:16],
  }
