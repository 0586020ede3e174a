"""Digests of a folder's files, by which damage to one of them is found.

They lie in the folder as `SHA256SUMS`, in the form of sha256sum, so that they
can be checked by hand: `cd FOLDER && sha256sum -c SHA256SUMS`.
"""

import concurrent.futures
import hashlib
import pathlib

NAME = "SHA256SUMS"
_THREADS = 4  # hashing lets other threads run


def write(folder: pathlib.Path, parts: tuple[str, ...]) -> None:
  """Writes the digests of all files in some sub-folders.

  Args:
    folder: where the sub-folders are and the digests go.
    parts: names of the sub-folders.
  """
  paths = sorted(p for part in parts for p in (folder / part).rglob("*"))
  paths = [path for path in paths if path.is_file()]
  lines = [
    f"{digest}  {path.relative_to(folder).as_posix()}\n"
    for path, digest in zip(paths, _of(paths), strict=True)
  ]
  (folder / NAME).write_text("".join(lines))


def fault(folder: pathlib.Path) -> str:
  """What is wrong with a folder's files; '' where they are as written.

  Example:
    >>> fault(pathlib.Path("no such folder"))
    'SHA256SUMS is missing'
  """
  try:
    text = (folder / NAME).read_text()
  except FileNotFoundError:
    return f"{NAME} is missing"
  except (OSError, ValueError) as error:
    return f"{NAME} cannot be read: {error}"
  known = {}
  for line in text.splitlines():
    digest, _, name = line.partition("  ")
    place = pathlib.PurePosixPath(name)
    if not name or place.is_absolute() or ".." in place.parts:
      return f"{NAME} is damaged"
    known[name] = digest
  if not known:
    return f"{NAME} is empty"
  for name in known:
    if not (folder / name).exists():
      return f"{name} is missing"
  try:
    found = _of([folder / name for name in known])
  except (OSError, ValueError) as error:
    return str(error)
  for (name, digest), now in zip(known.items(), found, strict=True):
    if digest != now:
      return f"{name} is not as it was written"
  return ""


def _of(paths: list[pathlib.Path]) -> list[str]:
  """The digest of each file."""

  def digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(digest, paths))
