"""The one exception for what a user can put right."""


class UserError(Exception):
  """A mistake of the user's, told in one sentence.

  The sentence names the field, its value and what would be valid. `main` prints
  it and exits with code 2; there is no traceback.
  """
