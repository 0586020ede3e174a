"""A model as portable StableHLO, for servers that run JAX or XLA."""

import jax
from jax import export

from kdcl_jax.export.subject import Subject

PLATFORMS = ("cpu", "cuda", "tpu")


def convert(subject: Subject) -> bytes:
  """Serialises a model with a free batch size, for each of `PLATFORMS`.

  Args:
    subject: the model.

  Returns:
    The content of a file for `jax.export.deserialize`.
  """
  return bytes(exported(subject, PLATFORMS).serialize())


def exported(
  subject: Subject, platforms: tuple[str, ...], batch: int | None = None
) -> export.Exported:
  """A model as `jax.export` has it.

  Args:
    subject: the model.
    platforms: for which it is lowered.
    batch: rows; None for any number.

  Returns:
    A function from pictures [B, ...] to logits [B, K].
  """
  rows = export.symbolic_shape("batch")[0] if batch is None else batch
  pictures = jax.ShapeDtypeStruct((rows, *subject.shape), subject.dtype)
  function = jax.jit(subject.logits)
  return export.export(function, platforms=platforms)(pictures)
