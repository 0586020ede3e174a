"""The formats of exported files, by name."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kdcl_jax import runtimes
from kdcl_jax.errors import UserError, did_you_mean
from kdcl_jax.export import litert, onnx_graph, stablehlo
from kdcl_jax.export.subject import Subject


class Format(NamedTuple):
  """How a model becomes a file.

  Attributes:
    ending: of its files, one of `kdcl_jax.runtimes.RUNTIMES`.
    modules: what must be importable to write them.
    install: what `pip install` brings those.
    convert: a model -> the content of its float32 file; None where the run has
      written it.
    quantize: (that content, pictures [N, ...]) -> the int8 file's; None where
      there is none.
  """

  ending: str
  modules: tuple[str, ...] = ()
  install: str = ""
  convert: Callable[[Subject], bytes] | None = None
  quantize: Callable[[bytes, np.ndarray], bytes] | None = None


FORMATS: dict[str, Format] = {
  "safetensors": Format(".safetensors"),
  "stablehlo": Format(
    ".stablehlo", ("flatbuffers",), "'kdcl_jax[export]'", stablehlo.convert
  ),
  "onnx": Format(
    ".onnx",
    ("jax2onnx", "onnx", "onnxruntime"),
    "'kdcl_jax[export]'",
    onnx_graph.convert,
    onnx_graph.quantize,
  ),
  "tflite": Format(
    ".tflite",
    (
      "litert_converter.mlir",
      "ai_edge_litert.interpreter",
      "ai_edge_quantizer",
    ),
    # Their own requirements are in conflict with chex.
    "'kdcl_jax[tflite]', then pip install --no-deps 'litert-converter==0.5.*'"
    " 'ai-edge-quantizer==0.10.*'",
    litert.convert,
    litert.quantize,
  ),
}


def named(text: str) -> list[str]:
  """The formats of a list such as 'onnx,tflite', each once.

  Raises:
    UserError: for one that does not exist, or whose packages are missing.

  Example:
    >>> named("safetensors, safetensors")
    ['safetensors']
  """
  names = list(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
  for name in names or [text]:
    if name not in FORMATS:
      raise UserError(
        f"--to names {name!r}, which is no format{did_you_mean(name, FORMATS)};"
        f" valid are {', '.join(FORMATS)}."
      )
  for name in names:
    one = FORMATS[name]
    runtimes.require(one.modules, one.install, f"--to={name}")
    runtimes.needs(runtimes.RUNTIMES[one.ending], f"--to={name}")
  return names
