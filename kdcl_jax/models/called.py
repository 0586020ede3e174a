"""Models out of files that hold the network too: StableHLO and ONNX.

They are only called: they teach, and are not trained.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from kdcl_jax import hub
from kdcl_jax.errors import UserError
from kdcl_jax.models import onnx_graph

LAYOUTS = ("", "nhwc", "nchw")
_RANK = 4  # batch, height, width, channels
_COLOURS = {1: "grey", 3: "rgb"}


class Program(NamedTuple):
  """What a file holds.

  Attributes:
    shape: of the input, the batch first; None for what is open.
    dtype: of the input: float32, or uint8 for pictures as files have them.
    arrays: name -> weights, where they are apart from the network.
    function: (arrays, x) -> logits, (logits, taps) or a dictionary of both.
  """

  shape: tuple[int | None, ...]
  dtype: np.dtype
  arrays: Mapping[str, np.ndarray]
  function: Callable[[Mapping[str, Any], jax.Array], Any]


class Called(nn.Module):
  """A network out of a file.

  Attributes:
    kind: a name in `CALLED`.
    file: its path.
    version: of the file, so that another one is another module.
    layout: 'nhwc' or 'nchw', or '' for an input that is no picture.
  """

  kind: str
  file: str
  version: tuple[int, ...]
  layout: str = ""

  @nn.compact
  def __call__(self, x: jax.Array) -> Any:
    """Calls it.

    Args:
      x: [B, H, W, C] float32, or [B, ...]; in [0, 1] for a network that takes
        uint8.

    Returns:
      What the network gives.

    Raises:
      ValueError: where x does not fit.
    """
    program = _program(self.kind, self.file, self.version)
    arrays = {
      name: self.param(name, nn.initializers.zeros, array.shape, jnp.float32)
      for name, array in program.arrays.items()
    }
    x = x.transpose((0, 3, 1, 2)) if self.layout == "nchw" else x
    wanted = program.shape[1:]
    if len(wanted) != x.ndim - 1 or any(
      want not in (None, have)
      for want, have in zip(wanted, x.shape[1:], strict=True)
    ):
      raise UserError(
        f"the model in {self.file!r} takes inputs of shape {wanted}, and gets"
        f" {x.shape[1:]}; give its stage an `input` with size and channels."
      )
    if program.dtype == np.uint8:
      x = jnp.round(255.0 * jnp.clip(x, 0.0, 1.0)).astype(np.uint8)
    run = functools.partial(program.function, arrays)
    return _in_batches(run, x, program.shape[0])


def stablehlo(num_classes: int, path: str = "", layout: str = "") -> nn.Module:
  """A model that `jax.export` has serialised.

  Args:
    num_classes: is not looked at; the file decides.
    path: a `.stablehlo` file, here or as 'hf:OWNER/REPOSITORY/FILE'. It takes
      one array, a batch of pictures, float32 or uint8.
    layout: 'nhwc' or 'nchw', where the shape does not tell.

  Raises:
    ValueError: where there is no such model.
  """
  del num_classes
  return _module("stablehlo", path, layout)


def onnx(num_classes: int, path: str = "", layout: str = "") -> nn.Module:
  """A model in an ONNX file; see `stablehlo`.

  Its operators become those of XLA (`kdcl_jax.models.onnx_operators`), so that
  it runs where the student does.
  """
  del num_classes
  return _module("onnx", path, layout)


# name -> factory, as in kdcl_jax.models.MODELS.
CALLED: dict[str, Callable[..., nn.Module]] = {
  "stablehlo": stablehlo,
  "onnx": onnx,
}


def kind_of(source: str) -> str:
  """The name in `CALLED` of a file by its suffix; '' for none.

  Example:
    >>> kind_of("hf:me/birds/teacher.onnx"), kind_of("teacher.safetensors")
    ('onnx', '')
  """
  suffix = pathlib.PurePath(source).suffix.removeprefix(".")
  return suffix if suffix in CALLED else ""


def named(section: Mapping[str, Any], plain: Mapping[str, Any]) -> dict:
  """A stage's section whose model and weights are named where one is given.

  Args:
    section: of a resolved config, with `model` and `weights`.
    plain: the default of `model`, which names nothing.

  Returns:
    The section; one that names a file of `CALLED` in one of the two names it
    in both.

  Example:
    >>> stage = {"model": {"name": "mlp"}, "weights": "teacher.onnx"}
    >>> named(stage, {"name": "mlp"})["model"]
    {'name': 'onnx', 'path': 'teacher.onnx'}
  """
  model, weights = section["model"], section["weights"]
  kind = kind_of(weights)
  if kind and model == plain:
    model = {"name": kind, "path": weights}
  elif model["name"] in CALLED and weights and not model.get("path"):
    model = model | {"path": weights}
  elif model["name"] in CALLED and not weights:
    weights = str(model.get("path", ""))
  return dict(section) | {"model": model, "weights": weights}


def variables(path: pathlib.Path, field: str) -> dict[str, Any]:
  """The arrays of a file of `CALLED`, as its module has them.

  Raises:
    UserError: where it cannot be read.
  """
  try:
    arrays = _program(kind_of(path.name), str(path), _version(path)).arrays
  except ValueError as error:
    raise UserError(f"{field} is {str(path)!r}, {error}.") from error
  return {"params": dict(arrays)}


def input_facts(path: pathlib.Path, field: str) -> dict[str, Any]:
  """What a file of `CALLED` takes, so far as the shape of its input tells.

  A whole model is taken to standardise pictures itself.

  Returns:
    For `kdcl_jax.inputs.of`.

  Raises:
    UserError: where it cannot be read.
  """
  kind = kind_of(path.name)
  try:
    shape = _program(kind, str(path), _version(path)).shape
  except ValueError as error:
    raise UserError(f"{field} is {str(path)!r}, {error}.") from error
  try:
    layout = _layout(shape)
  except ValueError:  # which the config tells, or the module asks for
    layout = ""
  facts: dict[str, Any] = {"mean": [], "std": []}
  if not layout:
    return facts
  sides = shape[1:3] if layout == "nhwc" else shape[2:]
  channels = shape[3] if layout == "nhwc" else shape[1]
  facts |= {"size": list(sides)} if None not in sides else {}
  return facts | ({"channels": _COLOURS[channels]} if channels else {})


def _module(kind: str, path: str, layout: str) -> nn.Module:
  if layout not in LAYOUTS:
    raise ValueError(f"layout is {layout!r}, expected one of {LAYOUTS}")
  if not path:
    raise ValueError(f"path is '', expected the .{kind} file of a model")
  try:
    place = hub.parse(path, "path")
    file = pathlib.Path(path).expanduser()
    if place is not None:
      file = hub.fetch(place, place.file, "path") or file
  except UserError as error:
    raise ValueError(str(error).rstrip(".")) from error
  if not file.is_file():
    raise ValueError(f"path is {path!r}, which does not exist")
  version = _version(file)
  try:
    shape = _program(kind, str(file), version).shape
    layout = layout or _layout(shape)
  except ValueError as error:
    raise ValueError(f"path is {path!r}, {error}") from error
  return Called(kind, str(file), version, layout)


def _version(path: pathlib.Path) -> tuple[int, ...]:
  told = path.stat()
  return told.st_mtime_ns, told.st_size


def _layout(shape: tuple[int | None, ...]) -> str:
  """Where the channels are, by which axis has 1 or 3 of them."""
  if len(shape) != _RANK:
    return ""
  first, last = (shape[axis] in _COLOURS for axis in (1, 3))
  if first != last:
    return "nchw" if first else "nhwc"
  raise ValueError(
    f"whose input of shape {shape} does not tell which axis the channels are;"
    " give its model a layout, 'nhwc' or 'nchw', beside name and path"
  )


@functools.lru_cache(maxsize=8)
def _program(kind: str, path: str, version: tuple[int, ...]) -> Program:
  """Reads a file; ValueError with the end of a sentence where it cannot be."""
  del version  # so that a file that has changed is read again
  if kind == "onnx":
    graph = onnx_graph.load(pathlib.Path(path))
    return Program(graph.shape, graph.dtype, graph.arrays, graph.function)
  try:
    exported = jax.export.deserialize(
      bytearray(pathlib.Path(path).read_bytes())
    )
  except ImportError as error:
    raise ValueError(
      "for which the package flatbuffers is needed: pip install"
      " 'kdcl_jax[stablehlo]'"
    ) from error
  except Exception as error:  # whatever a file of another kind leads to
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ValueError(
      f"which is no model that jax.export has serialised ({reason})"
    ) from error
  taken = exported.in_avals
  if len(taken) != 1 or taken[0].dtype not in onnx_graph.TAKEN:
    told = ", ".join(map(str, taken)) or "nothing"
    raise ValueError(f"which takes {told}, expected one float32 or uint8")
  own = {"gpu": ("cuda", "rocm")}.get(
    jax.default_backend(), (jax.default_backend(),)
  )
  if not set(own) & set(exported.platforms):
    raise ValueError(
      f"which was exported for {', '.join(exported.platforms)}, and this is"
      f" {own[0]}; export it with platforms=('cpu', 'cuda', 'tpu')"
    )
  shape = tuple(
    side if isinstance(side, int) else None for side in taken[0].shape
  )
  call = jax.custom_batching.sequential_vmap(exported.call)
  return Program(shape, taken[0].dtype, {}, lambda arrays, x: call(x))


def _in_batches(
  run: Callable[[jax.Array], Any], x: jax.Array, size: int | None
) -> Any:
  """Calls what may take batches of one size only."""
  if size in (None, x.shape[0]):
    return run(x)
  count = math.ceil(x.shape[0] / size)
  rest = [(0, count * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
  parts = jnp.pad(x, rest).reshape((count, size, *x.shape[1:]))
  whole = lambda y: y.reshape((count * size, *y.shape[2:]))[: x.shape[0]]
  return jax.tree.map(whole, jax.lax.map(run, parts))
