"""Files of the Hugging Face Hub, from its cache where they are there."""

import contextlib
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from kdcl_jax.errors import UserError

_PATIENCE = 10  # seconds that the Hub has for an answer
_TOKEN = re.compile(r"hf_\w+|(?<=Bearer )\S+")
_FORMS = (
  "'timm:NAME', such as 'timm:resnet50.a1_in1k', or"
  " 'hf:OWNER/REPOSITORY[@REVISION][/FILE]'"
)
# OWNER/REPOSITORY[@REVISION][/FILE], each of what the Hub allows.
_PLACE = re.compile(
  r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>\S+))?"
)


class Place(NamedTuple):
  """Where on the Hub something is.

  Attributes:
    repository: OWNER/NAME.
    revision: a branch, tag or commit; None for the main branch.
    file: a path in it; '' for none in particular.
  """

  repository: str
  revision: str | None
  file: str


def parse(source: str, field: str) -> Place | None:
  """Reads a reference to the Hub.

  Args:
    source: 'timm:NAME[@REVISION]' or 'hf:OWNER/NAME[@REVISION][/FILE]'.
    field: the config field that names it, for messages.

  Returns:
    The place; None for anything else, such as a local path.

  Raises:
    UserError: where it begins like one and is none.

  Example:
    >>> parse("hf:me/birds@v2/best/model.safetensors", "weights")
    Place(repository='me/birds', revision='v2', file='best/model.safetensors')
    >>> parse("timm:resnet18.a1_in1k", "weights").repository
    'timm/resnet18.a1_in1k'
  """
  kind, colon, rest = source.partition(":")
  if not colon or kind not in ("timm", "hf"):
    return None
  match = _PLACE.fullmatch(f"timm/{rest}" if kind == "timm" else rest)
  if not match or (kind == "timm" and match["file"]):
    raise UserError(f"{field} is {source!r}, expected {_FORMS}.")
  return Place(match["repository"], match["revision"], match["file"] or "")


def fetch(place: Place, file: str, field: str) -> pathlib.Path | None:
  """The local copy of a file, which is downloaded where there is none.

  Args:
    place: the repository; its own `file` is not looked at.
    file: a path in the repository.
    field: the config field that names it, for messages.

  Returns:
    The path; None where the repository has no such file.

  Raises:
    UserError: where it cannot be had.
  """
  try:
    import huggingface_hub as hub  # an extra
    from huggingface_hub import errors
  except ImportError as error:
    raise UserError(
      f"{field} is on the Hugging Face Hub ({place.repository}), for which the"
      " package huggingface_hub is needed: pip install 'kdcl_jax[hub]', or give"
      " a local file."
    ) from error
  where = {"repo_id": place.repository, "filename": file}
  where |= {"revision": place.revision} if place.revision else {}
  try:
    found = hub.try_to_load_from_cache(**where)
    if isinstance(found, str):
      return pathlib.Path(found)
    if found is not None:  # known not to exist
      return None
    with _quiet():
      return pathlib.Path(hub.hf_hub_download(**where, etag_timeout=_PATIENCE))
  except Exception as error:  # the Hub's, and those of the network below it
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
      error, errors.LocalEntryNotFoundError
    ):
      return None
    why = _reason(error, errors)
    raise UserError(
      f"{field} is on the Hugging Face Hub, but {file!r} of"
      f" {place.repository!r} {why}."
    ) from None  # whose trail may carry a token


def _reason(error: Exception, errors: Any) -> str:
  """The end of the sentence on why a file cannot be had."""
  if isinstance(error, errors.GatedRepoError):
    return (
      "is only for those who have been granted access: ask for it on the"
      " repository's page, and log in with `hf auth login`"
    )
  if isinstance(error, errors.RevisionNotFoundError):
    return "has no such revision"
  if isinstance(error, errors.RepositoryNotFoundError):
    return (
      "cannot be found: there is no such repository, or it is private and you"
      " are not logged in (`hf auth login`)"
    )
  if isinstance(error, errors.HFValidationError):
    return f"is no name that the Hub knows ({_first_line(error)})"
  cause = error.__cause__ or error.__context__ or error
  return (
    "is not in the local cache and cannot be downloaded"
    f" ({type(cause).__name__}: {_first_line(cause)}); is there a network?"
    " Without one, give a local file, or download it elsewhere and copy the"
    " cache (HF_HOME)"
  )


def _first_line(error: BaseException) -> str:
  """What an error says, in short, without tokens."""
  text = (str(error).strip() or "no details").splitlines()[0].rstrip(". ")
  return _TOKEN.sub("(token)", text)[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without the Hub's lines about every attempt."""
  logger = logging.getLogger("huggingface_hub")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
