"""A model as a LiteRT (TensorFlow Lite) file, in float32 and int8."""

import contextlib
import io
import warnings

import numpy as np

from kdcl_jax.errors import UserError
from kdcl_jax.export import stablehlo
from kdcl_jax.export.subject import Subject

_SIGNATURE = "serving_default"


def convert(subject: Subject) -> bytes:
  """Converts a model by way of StableHLO; TensorFlow is not needed.

  The graph takes one picture: what computes on a phone wants fixed shapes. The
  converter folds constants, and each BatchNorm into its convolution.

  Args:
    subject: the model.

  Returns:
    The content of a .tflite file: `image` [1, ...] -> `logits` [1, K].

  Raises:
    UserError: where an operation of the model has no translation.
  """
  from litert_converter.mlir import ir, passmanager
  from litert_converter.mlir._mlir_libs import converter_api_ext as converter
  from litert_converter.mlir.dialects import stablehlo as dialect

  text = stablehlo.exported(subject, ("cpu",), batch=1).mlir_module()
  context = ir.Context()
  dialect.register_dialect(context)
  converter.prepare_mlir_context(context)
  try:
    with context:
      module = ir.Module.parse(text)
      converter.set_signature(
        module.operation,
        signature_name=_SIGNATURE,
        input_names=["image"],
        output_names=["logits"],
      )
      converter.run_convert_to_tfl_passes(
        module, passmanager.PassManager(), converter.ConvertToTFLConfig()
      )
      return converter.export_flatbuffer_to_bytes(module.operation)
  except Exception as error:  # the converter raises whatever it fails at
    reason = (str(error).strip().splitlines() or [""])[0]
    raise UserError(
      f"--to=tflite: litert_converter cannot translate the model of stage"
      f" {subject.name!r} ({type(error).__name__}: {reason[:200]}); expected"
      " another format, such as onnx."
    ) from error


def quantize(content: bytes, pictures: np.ndarray) -> bytes:
  """Quantises weights, for each channel by itself, and activations to int8.

  Args:
    content: of a float32 file.
    pictures: [N, ...] that the ranges of the activations are calibrated with.

  Returns:
    The content of a .tflite file; its logits are int8 with a scale.
  """
  from ai_edge_quantizer import quantizer, recipe

  quiet = io.StringIO()
  with (
    contextlib.redirect_stdout(quiet),
    contextlib.redirect_stderr(quiet),
    warnings.catch_warnings(),
  ):
    warnings.simplefilter("ignore")
    work = quantizer.Quantizer(content)
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    rows = [{"image": picture[None]} for picture in pictures]
    ranges = work.calibrate({_SIGNATURE: rows})
    return bytes(work.quantize(ranges).quantized_model)
