"""Weights from elsewhere, and what comes with them: the input they were for."""

import json
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
from flax import traverse_util

from kdcl_jax import hub, inputs, weights
from kdcl_jax.errors import UserError
from kdcl_jax.inputs import Input
from kdcl_jax.models import called, porting

Section = Mapping[str, Any]

OURS = "weights.safetensors"  # in a stage's directory
_THEIRS = ("model.safetensors", "pytorch_model.bin")  # in one of the Hub
_DESCRIBED = "config.json"
_TORCH = (".pth", ".pt", ".bin", ".tar", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.")


class Found(NamedTuple):
  """Weights on this machine.

  Attributes:
    path: a file, or the directory of a stage or of its checkpoints.
    described: what the `config.json` beside the file says; {} for none.
  """

  path: pathlib.Path
  described: Mapping[str, Any]


def find(source: str, field: str) -> Found:
  """The files that a config's `weights` names, downloaded where need be.

  Args:
    source: 'timm:NAME', 'hf:OWNER/REPOSITORY[@REVISION][/FILE]', or a local
      file or directory.
    field: the config field, for messages.

  Returns:
    Where they are.

  Raises:
    UserError: where there are none.
  """
  place = hub.parse(source, field)
  if place is None:
    path = pathlib.Path(source).expanduser()
    if not path.exists():
      raise UserError(f"{field} is {str(path)!r}, which does not exist.")
    if path.is_dir() and not (path / OURS).exists():
      there = [path / name for name in _THEIRS if (path / name).exists()]
      path = there[0] if there else path
    beside = path.parent / _DESCRIBED
    return Found(path, _description(beside if path.is_file() else None))
  described = hub.fetch(place, _DESCRIBED, field)
  for name in [place.file] if place.file else _THEIRS:
    path = hub.fetch(place, name, field)
    if path is not None:
      return Found(path, _description(described))
  wanted = repr(place.file) if place.file else " nor ".join(map(repr, _THEIRS))
  raise UserError(
    f"{field} is {source!r}, but {place.repository!r} holds"
    f" {'no' if place.file else 'neither'} {wanted}; name a file of it, as in"
    f" 'hf:{place.repository}/FILE'."
  )


def _description(path: pathlib.Path | None) -> dict[str, Any]:
  """A JSON object in a file; {} where there is none."""
  try:
    found = json.loads(path.read_text()) if path else {}
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def variables(
  section: Section, like: Section, path: str, *, classes: int = 0
) -> dict[str, Any]:
  """The weights that a stage begins with, as its model has them.

  Args:
    section: of a stage, with `weights` and `model`.
    like: the model's initial variables, or their shapes.
    path: the stage's name in messages.
    classes: number of classes of the data, to say so where it differs.

  Returns:
    Nested dictionaries of host arrays.

  Raises:
    UserError: naming every missing, unused and misshapen array; or where
      nothing can be read.
  """
  field = f"{path}.weights"
  file = find(section["weights"], field).path
  unused: list[str] = []
  if file.is_dir():
    found = weights.load(file, field)
  elif called.kind_of(file.name):
    found = called.variables(file, field)
  else:
    arrays = arrays_of(file, field)
    if all(name.startswith(("params/", "batch_stats/")) for name in arrays):
      found = traverse_util.unflatten_dict(arrays, sep="/")
    else:
      found, unused = porting.variables_from_torch(
        section["model"]["name"], arrays, field
      )
  return weights.fit(found, like, field, classes=classes, unused=unused)


def arrays_of(path: pathlib.Path, field: str) -> dict[str, np.ndarray]:
  """The arrays of a file by their names, free of wrappings.

  Args:
    path: of safetensors, or (by its suffix) of torch. No code in it is run.
    field: the config field that names it, for messages.

  Returns:
    The arrays, on the host.

  Raises:
    UserError: where it cannot be read.
  """
  if path.suffix in _TORCH:
    arrays = _torch_arrays(path, field)
  else:
    arrays = weights.read(path, field)
  for prefix in _PREFIXES:  # of a module around the module
    if arrays and all(name.startswith(prefix) for name in arrays):
      arrays = {name.removeprefix(prefix): a for name, a in arrays.items()}
  return arrays


def _torch_arrays(path: pathlib.Path, field: str) -> dict[str, np.ndarray]:
  try:
    import torch  # an extra
  except ImportError as error:
    raise UserError(
      f"{field} is {str(path)!r}, for which torch is needed: pip install"
      " 'kdcl_jax[torch]', or save the state dict as .safetensors where torch"
      " is (safetensors.torch.save_file)."
    ) from error
  try:
    found = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:
    named = re.search(r"GLOBAL (\S+)", str(error))
    what = f"{named[1]!r}" if named else "code"
    raise UserError(
      f"{field} is {str(path)!r}, which holds more than arrays ({what}) and is"
      " not loaded, since that could run code; save the state dict only, with"
      " torch.save(model.state_dict(), ...) or as .safetensors."
    ) from error
  except Exception as error:  # torch has many names for a damaged file
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f"{field} is {str(path)!r}, which is no readable torch file ({reason})."
    ) from error
  inner = found
  while isinstance(inner, Mapping) and any(
    isinstance(inner.get(key), Mapping) for key in _WRAPPERS
  ):
    key = next(k for k in _WRAPPERS if isinstance(inner.get(k), Mapping))
    inner = inner[key]
  if not isinstance(inner, Mapping) or not inner:
    kind = type(inner).__name__
    raise UserError(
      f"{field} is {str(path)!r}, which holds a {kind}, expected a state dict"
      f" of tensors, perhaps under one of {', '.join(_WRAPPERS)}."
    )
  strange = [k for k, v in inner.items() if not isinstance(v, torch.Tensor)]
  if strange:
    raise UserError(
      f"{field} is {str(path)!r}, of whose entries"
      f" {', '.join(map(str, strange))} are no tensors; save the state dict"
      " only."
    )
  return {str(name): _numpy(tensor) for name, tensor in inner.items()}


def _numpy(tensor: Any) -> np.ndarray:
  half = tensor.is_floating_point() and tensor.element_size() < 4
  return (tensor.float() if half else tensor).detach().contiguous().numpy()


def input_of(section: Section, data: Section, path: str) -> Input:
  """How a stage's model takes a picture of the data.

  Args:
    section: of a stage, with `input`, `weights` and `model`.
    data: `config.data`, for what neither the stage nor its weights say.
    path: the stage's name in messages.

  Returns:
    The input.

  Raises:
    UserError: where the weights cannot be found.
  """
  facts: Mapping[str, Any] = {}
  if section["weights"]:
    facts = input_facts(section["weights"], f"{path}.weights")
  return inputs.of(section["input"], facts, data)


def input_facts(source: str, field: str) -> dict[str, Any]:
  """The input that weights were trained for, so far as they tell.

  Args:
    source: see `find`.
    field: the config field, for messages.

  Returns:
    What `kdcl_jax.inputs.of` takes: of `mean`, `std`, `size`, `channels` and
    `interpolation` those that are known.

  Raises:
    UserError: where the weights cannot be found.
  """
  path, described = find(source, field)
  file = path / OURS if path.is_dir() else path
  if called.kind_of(file.name):
    return called.input_facts(file, field)
  try:
    with safetensors.safe_open(file, "numpy") as opened:
      facts = json.loads((opened.metadata() or {})["kdcl_jax"])
      return json.loads(facts["input"])
  except (
    safetensors.SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
  ):
    pass  # not ours, or of before it was written down
  told = described.get("pretrained_cfg") or described  # as timm has it
  facts = {k: list(told[k]) for k in ("mean", "std") if _numbers(told.get(k))}
  shape = told.get("input_size")
  if _numbers(shape) and len(shape) == 3:  # channels, height, width
    facts["size"] = [int(side) for side in shape[1:]]
    named = {1: "grey", 3: "rgb"}.get(shape[0])
    facts |= {"channels": named} if named else {}
  if told.get("interpolation") in inputs.METHODS:
    facts["interpolation"] = told["interpolation"]
  return facts


def _numbers(value: Any) -> bool:
  return isinstance(value, list | tuple) and all(
    isinstance(one, int | float) for one in value
  )


def header(section: Section, view: Input, shape: tuple[int, ...]) -> dict:
  """What a file of a stage's weights says beside them, all of it texts.

  Args:
    section: of the stage.
    view: from `input_of`.
    shape: of one input of the data.

  Returns:
    Facts for `kdcl_jax.weights.save`, which `input_facts` reads.
  """
  return {
    "model": section["model"]["name"],
    "input": json.dumps(view.facts(shape), sort_keys=True),
  }
