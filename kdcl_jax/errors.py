"""The one exception for what a user can put right, and how it is worded."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
  """A mistake of the user's, told in one sentence.

  The sentence names the field, its value and what would be valid. `main` prints
  it and exits with code 2; there is no traceback.
  """


def did_you_mean(name: Any, names: Iterable[Any]) -> str:
  """Returns "; did you mean 'x'?" for the nearest of the names, or nothing."""
  close = difflib.get_close_matches(str(name), [str(n) for n in names], 1)
  return f"; did you mean {close[0]!r}?" if close else ""
