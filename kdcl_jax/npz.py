"""Files of plain arrays: read without pickles, written the same every time."""

import io
import math
import os
import pathlib
import zipfile
import zlib

import numpy as np

from kdcl_jax.errors import UserError

_ERRORS = (
  OSError,
  ValueError,
  EOFError,
  KeyError,
  TypeError,
  SyntaxError,  # a header that is no Python literal
  OverflowError,
  MemoryError,
  NotImplementedError,  # a compression that is not known
  RuntimeError,  # an encrypted member
  zlib.error,
  zipfile.BadZipFile,
)


def read(path: str | pathlib.Path, field: str) -> dict[str, np.ndarray]:
  """The arrays of an .npz file.

  Args:
    path: the file.
    field: the config field that names it, for messages.

  Returns:
    name -> array.

  Raises:
    UserError: where the file is missing, damaged, larger than the memory, or
      holds pickled objects.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(
      f"{field} is {str(path)!r}, which does not exist; expected an .npz file."
    )
  try:
    return _arrays(path)
  except _ERRORS as error:
    raise UserError(
      f"{field} is {str(path)!r}, which is no readable .npz file of plain"
      f" arrays ({error})."
    ) from error


def read_own(path: pathlib.Path, *names: str) -> dict[str, np.ndarray]:
  """Some arrays, of one length, of a file that a run has written.

  Raises:
    UserError: where the file is missing or damaged.
  """
  try:
    arrays = _arrays(path)
    found = {name: arrays[name] for name in names}
    if len({array.shape for array in found.values()}) > 1:
      raise ValueError("its arrays differ in length")
    return found
  except _ERRORS as error:
    raise UserError(
      f"{str(path)!r} is missing or damaged ({error}); put a copy in its place,"
      " or delete the directory that it is in to make it anew."
    ) from error


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  with zipfile.ZipFile(path) as file:
    size = sum(member.file_size for member in file.infolist())
    if size > memory:
      raise ValueError(f"it unpacks to {size} bytes, more than the memory")
    for member in file.infolist():
      _check_member(file, member)
  with np.load(path, allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def _check_member(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
  """Refuses an array whose header promises more than there is."""
  with file.open(member) as content:
    version = np.lib.format.read_magic(content)
    reader = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
      raise ValueError(f"{member.filename} is of version {version}")
    shape, _, dtype = reader(content)
    if dtype.hasobject:
      raise ValueError(f"{member.filename} holds pickled objects")
    promised = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or promised > member.file_size:
      raise ValueError(f"{member.filename} is shorter than its header says")


def to_bytes(**arrays: np.ndarray) -> bytes:
  """The bytes of an .npz file; the same arrays give the same bytes."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()
