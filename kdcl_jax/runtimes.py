"""Exported models as functions of pictures, each by the runtime made for it.

Nothing of the training is needed but for a `.safetensors` file, which holds
weights and no graph.
"""

import importlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kdcl_jax.errors import UserError

# [B, ...] of the type that the model takes -> logits [B, K] float32.
Function = Callable[[np.ndarray], np.ndarray]


class Runtime(NamedTuple):
  """What runs the files with one ending.

  Attributes:
    name: its name in tables.
    modules: what must be importable.
    install: what `pip install` brings them.
    load: (path, threads) -> the model; 0 threads for as many as it likes.
  """

  name: str
  modules: tuple[str, ...]
  install: str
  load: Callable[[pathlib.Path, int], Function]


def load(path: pathlib.Path, *, threads: int = 0) -> Function:
  """Opens an exported model.

  Args:
    path: a file whose ending is one of `RUNTIMES`.
    threads: how many it computes with; 0 leaves it to the runtime. JAX takes
      what it gets.

  Returns:
    A function from pictures [B, ...] to logits [B, K], for any B.

  Raises:
    UserError: where the file is missing or damaged, or its runtime is.
  """
  runtime = RUNTIMES.get(path.suffix)
  if runtime is None:
    raise UserError(
      f"{str(path)!r} is no exported model; expected a file that ends in"
      f" {', '.join(RUNTIMES)}."
    )
  if not path.is_file():
    raise UserError(f"{str(path)!r} does not exist.")
  needs(runtime, path.name)
  try:
    return runtime.load(path, threads)
  except UserError:
    raise
  except (
    Exception
  ) as error:  # a runtime raises whatever a damaged file leads to
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise UserError(
      f"{str(path)!r} cannot be read by {runtime.name}: it is damaged or"
      f" of another version ({reason[:200]}); export the model again."
    ) from error


def needs(runtime: Runtime, what: str) -> None:
  """Raises `UserError` where a package is missing that a runtime needs."""
  require(runtime.modules, runtime.install, what)


def require(modules: tuple[str, ...], install: str, what: str) -> None:
  """Imports modules.

  Args:
    modules: their names.
    install: what `pip install` brings them.
    what: that needs them, for the message.

  Raises:
    UserError: naming the first that cannot be imported.
  """
  for name in modules:
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise UserError(
        f"{what} needs the package {name.partition('.')[0]!r}, which is not"
        f" installed ({error}); pip install {install}."
      ) from error


def available(runtime: Runtime) -> bool:
  """Whether what a runtime needs is installed."""
  try:
    needs(runtime, "")
  except UserError:
    return False
  return True


def _onnx(path: pathlib.Path, threads: int) -> Function:
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  options.log_severity_level = 3  # errors only
  session = onnxruntime.InferenceSession(
    str(path), options, providers=["CPUExecutionProvider"]
  )
  name = session.get_inputs()[0].name
  return lambda images: session.run(None, {name: images})[0]


def _litert(path: pathlib.Path, threads: int) -> Function:
  from ai_edge_litert.interpreter import Interpreter

  interpreter = Interpreter(model_path=str(path), num_threads=threads or None)
  interpreter.allocate_tensors()
  (given,), (made,) = (
    interpreter.get_input_details(),
    interpreter.get_output_details(),
  )
  scale, zero = made["quantization"]  # (0.0, 0) for a float

  def one(image: np.ndarray) -> np.ndarray:
    interpreter.set_tensor(given["index"], image[None])
    interpreter.invoke()
    logits = interpreter.get_tensor(made["index"])[0]
    return (logits.astype(np.float32) - zero) * scale if scale else logits

  return lambda images: np.stack([one(image) for image in images])


def _stablehlo(path: pathlib.Path, threads: int) -> Function:
  import jax
  from jax import export

  del threads  # JAX's are set when its process starts
  function = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
  return lambda images: np.asarray(function(images))


def _safetensors(path: pathlib.Path, threads: int) -> Function:
  import jax

  from kdcl_jax import inputs, models, weights

  del threads
  facts = facts_of(path)
  options = dict(facts["model"])
  module = models.build(options.pop("name"), field="model", **options)
  view = inputs.Input(
    *(
      tuple(facts["preprocessing"].get(n, ())) for n in ("mean", "std", "size")
    ),
    channels=facts["preprocessing"].get("channels", ""),
    interpolation=facts["preprocessing"].get("interpolation", "bilinear"),
  )
  variables = weights.load(path, "--model")

  def logits(images: jax.Array) -> jax.Array:
    return models.forward(module, variables, view(images))[0]["logits"]

  compiled = jax.jit(logits)
  return lambda images: np.asarray(compiled(images))


# By the ending of a file, the one that a device is most likely to have first.
RUNTIMES: dict[str, Runtime] = {
  ".onnx": Runtime("ONNX Runtime", ("onnxruntime",), "onnxruntime", _onnx),
  ".tflite": Runtime(
    "LiteRT", ("ai_edge_litert.interpreter",), "ai-edge-litert", _litert
  ),
  ".stablehlo": Runtime(
    "JAX", ("jax", "flatbuffers"), "jax flatbuffers", _stablehlo
  ),
  ".safetensors": Runtime("JAX", ("jax", "flax"), "kdcl_jax", _safetensors),
}


def facts_of(path: pathlib.Path) -> dict[str, Any]:
  """What `student.json` says of the model in a directory or file.

  Raises:
    UserError: where there is no such file, or it is damaged.
  """
  folder = path if path.is_dir() else path.parent
  about = folder / "student.json"
  try:
    facts = json.loads(about.read_text())
    facts["labels"], facts["preprocessing"]["shape"]  # what is asked of it
  except FileNotFoundError as error:
    raise UserError(
      f"--model is {str(path)!r}, which holds no student.json; expected the"
      " directory export/ of a finished run, or a file in it."
    ) from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"--model is {str(path)!r}, whose student.json is damaged ({error});"
      " export the model again."
    ) from error
  return facts
