"""The one exception for what a user can put right, and how it is worded."""

import difflib
import errno
import os
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
  """A mistake of the user's, told in one sentence.

  The sentence names the field, its value and what would be valid. `main` prints
  it and exits with code 2; there is no traceback.
  """


class Stuck(UserError):
  """One that leaves threads and open files behind, which cannot end well."""


def did_you_mean(name: Any, names: Iterable[Any]) -> str:
  """Returns "; did you mean 'x'?" for the nearest of the names, or nothing."""
  close = difflib.get_close_matches(str(name), [str(n) for n in names], 1)
  return f"; did you mean {close[0]!r}?" if close else ""


_STORAGE = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EIO,
  errno.ESTALE,
)


def storage_fault(error: BaseException) -> str:
  """What the storage said no with, such as a full disk; "" for another error.

  Args:
    error: any error; of libraries that wrap the system's, the text counts.

  Example:
    >>> storage_fault(OSError(errno.ENOSPC, "whatever"))
    'No space left on device'
    >>> storage_fault(RuntimeError("write: No space left on device [x.cc]"))
    'No space left on device'
  """
  known = [os.strerror(number) for number in _STORAGE]
  if isinstance(error, OSError):
    return os.strerror(error.errno) if error.errno in _STORAGE else ""
  return next((text for text in known if text in str(error)), "")
