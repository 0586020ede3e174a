"""Files of plain arrays: read without pickles, written the same every time."""

import io
import pathlib
import zipfile

import numpy as np

from kdcl_jax.errors import UserError


def read(path: str | pathlib.Path, field: str) -> dict[str, np.ndarray]:
  """The arrays of an .npz file.

  Args:
    path: the file.
    field: the config field that names it, for messages.

  Returns:
    name -> array.

  Raises:
    UserError: where the file is missing, damaged, or holds pickled objects.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(
      f"{field} is {str(path)!r}, which does not exist; expected an .npz file."
    )
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    AttributeError,  # a bare .npy has no `files`
    zipfile.BadZipFile,
  ) as error:
    raise UserError(
      f"{field} is {str(path)!r}, which is no readable .npz file of plain"
      f" arrays ({error})."
    ) from error


def to_bytes(**arrays: np.ndarray) -> bytes:
  """The bytes of an .npz file; the same arrays give the same bytes."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()
