"""Weights as files: safetensors, named by their path in the variables."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from kdcl_jax import checkpoint
from kdcl_jax.errors import UserError
from kdcl_jax.writers import write_bytes

_DIGEST = "sha256"


def save(
  path: pathlib.Path, variables: Mapping[str, Any], facts: Mapping[str, str]
) -> None:
  """Writes variables to a safetensors file, whole or not at all.

  Args:
    path: the file.
    variables: nested dictionaries of host arrays.
    facts: texts for the file's header. The same variables and facts give the
      same bytes.
  """
  flat = traverse_util.flatten_dict(dict(variables), sep="/")
  arrays = {name: np.ascontiguousarray(a) for name, a in sorted(flat.items())}
  # One entry: safetensors writes several in an arbitrary sequence.
  facts = dict(facts) | {_DIGEST: _digest(arrays)}
  header = {"kdcl_jax": json.dumps(facts, sort_keys=True)}
  write_bytes(path, safetensors.numpy.save(arrays, header))


def snapshot_path(directory: pathlib.Path, share: float) -> pathlib.Path:
  """Where a stage keeps what it was after a share of its training.

  Example:
    >>> snapshot_path(pathlib.Path("runs/x"), 0.25).name
    '0.25.safetensors'
  """
  return directory / "snapshots" / f"{share:g}.safetensors"


def load(path: str | pathlib.Path, field: str) -> dict[str, Any]:
  """Reads variables from a file or directory.

  Args:
    path: a `.safetensors` file as written by `save`, a stage's directory of an
      earlier run, or the directory of its Orbax checkpoints.
    field: the config field that names it, for messages.

  Returns:
    Nested dictionaries of host arrays: `params` and perhaps `batch_stats`.

  Raises:
    UserError: where there is nothing to read.
  """
  path = pathlib.Path(path).expanduser()
  if not path.exists():
    raise UserError(f"{field} is {str(path)!r}, which does not exist.")
  if path.is_dir():
    if (path / "weights.safetensors").exists():
      path = path / "weights.safetensors"
    else:
      folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
      variables = checkpoint.latest_variables(folder, field)
      if variables is None:
        raise UserError(
          f"{field} is {str(path)!r}, which holds neither weights.safetensors"
          " nor a checkpoint; give a .safetensors file, a stage's directory of"
          " an earlier run, or the directory of its checkpoints."
        )
      return variables
  return traverse_util.unflatten_dict(read(path, field), sep="/")


def read(path: pathlib.Path, field: str) -> dict[str, np.ndarray]:
  """The arrays of a safetensors file, by their names in it.

  Args:
    path: the file; of one that `save` wrote the digest is compared.
    field: the config field that names it, for messages.

  Raises:
    UserError: where it is missing, damaged or not as it was written.
  """
  try:
    with safetensors.safe_open(path, "numpy") as file:
      facts = json.loads((file.metadata() or {}).get("kdcl_jax", "{}"))
    flat = safetensors.numpy.load_file(path)
    digest = facts.get(_DIGEST)
    if digest is not None and digest != _digest(flat):
      raise ValueError("its arrays are not as they were written")
  except (
    safetensors.SafetensorError,
    OSError,
    ValueError,
    AttributeError,  # facts that are no object
    KeyError,  # a type that NumPy does not have
  ) as error:
    raise UserError(
      f"{field} is {str(path)!r}, which is no readable safetensors file"
      f" ({error})."
    ) from error
  return flat


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  """Changes with every name, type, shape and byte."""
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f"{name} {array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def fit(
  variables: Mapping[str, Any],
  like: Mapping[str, Any],
  field: str,
  *,
  classes: int = 0,
  unused: Sequence[str] = (),
) -> dict[str, Any]:
  """Checks loaded variables against a model's, name by name.

  Args:
    variables: from `load`.
    like: the model's initial variables.
    field: the config field that named the file.
    classes: number of classes of the data, to say so where it differs.
    unused: names of further arrays of the file, which the model cannot have.

  Returns:
    The variables, cast to the model's types.

  Raises:
    UserError: naming every missing, unused and misshapen array.
  """
  have = traverse_util.flatten_dict(dict(variables), sep="/")
  want = traverse_util.flatten_dict(dict(like), sep="/")
  complaints = [f"{name} is missing" for name in sorted(want.keys() - have)]
  unused = [*sorted(have.keys() - want), *unused]
  complaints += [f"{name} has no use" for name in unused]
  complaints += [
    f"{name} has shape {have[name].shape}, the model's {want[name].shape}"
    for name in sorted(have.keys() & want)
    if have[name].shape != want[name].shape
  ]
  other = {
    have[name].shape[-1]
    for name in have.keys() & want
    if have[name].shape != want[name].shape
    and have[name].shape[:-1] == want[name].shape[:-1]
    and want[name].shape[-1] == classes
  }
  if len(other) == 1:
    complaints.insert(
      0, f"it has {other.pop()} classes and the data has {classes}"
    )
  if complaints:
    raise UserError(f"{field} does not fit the model: {'; '.join(complaints)}.")
  # With the empty nodes of `like`, so that a step takes both for one structure.
  nodes = traverse_util.flatten_dict(dict(like), keep_empty_nodes=True, sep="/")
  fitting = {
    name: np.asarray(have[name], want[name].dtype) if name in want else node
    for name, node in nodes.items()
  }
  return traverse_util.unflatten_dict(fitting, sep="/")
