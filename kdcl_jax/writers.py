"""Where a stage's numbers go: JSON lines, TensorBoard, the terminal."""

import hashlib
import json
import logging
import os
import pathlib
import sys
import tempfile
from typing import Any

import tqdm

from kdcl_jax import hosts
from kdcl_jax.errors import UserError

log = logging.getLogger(__name__)

_DIGEST = "sha256"
_NUMBERS = {
  "train": ("step", "fraction", "active", "loss", "accuracy", "learning_rate"),
  "lesson": ("step", "fraction", "active", "learning_rate_scale"),
}


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all; of several processes the lead does."""
  if not hosts.is_lead():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(name, 0o644)
    os.replace(name, path)
  except BaseException:
    pathlib.Path(name).unlink(missing_ok=True)
    raise


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file whole or not at all."""
  write_text(path, _finite_text(value, str(path), indent=2) + "\n")


def _finite_text(value: Any, where: str, **options: Any) -> str:
  """JSON, which has no NaN."""
  try:
    return json.dumps(value, allow_nan=False, **options)
  except ValueError as error:
    raise UserError(
      f"what was measured for {where} is NaN or infinite; see that the"
      " validation and test records hold finite numbers only, and that the"
      " training did not diverge."
    ) from error


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: where it is missing or damaged.
  """
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(damaged(path, error)) from error


def write_sealed(path: pathlib.Path, value: dict[str, Any]) -> None:
  """Writes a JSON object with its digest, whole or not at all."""
  write_json(path, value | {_DIGEST: _digest(value)})


def read_sealed(path: pathlib.Path) -> dict[str, Any]:
  """Reads what `write_sealed` wrote; without the digest, which need not be.

  Raises:
    UserError: where it is missing, or not as it was written.
  """
  value = read_json(path)
  if not isinstance(value, dict):
    raise UserError(damaged(path, "it holds no object"))
  digest = value.pop(_DIGEST, None)
  if digest is not None and digest != _digest(value):
    raise UserError(damaged(path, "it is not as it was written"))
  return value


def _digest(value: dict[str, Any]) -> str:
  text = _finite_text(value, "a result", sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def damaged(path: pathlib.Path, error: object) -> str:
  """The sentence on a file of a run that cannot be used any more."""
  return (
    f"{str(path)!r} is missing or damaged ({error}); put a copy in its place,"
    " or delete it and start again what made it."
  )


def read_lines(path: pathlib.Path) -> list[dict]:
  """The lines of a `metrics.jsonl`; an unfinished last line is left out.

  Damaged lines are left out too, which is said.
  """
  if not path.exists():
    return []
  try:
    texts = path.read_text(errors="replace").split("\n")[:-1]
  except OSError as error:
    raise UserError(damaged(path, error)) from error
  lines = [line for line in map(_line, texts) if line is not None]
  if len(lines) < len(texts):
    lost = len(texts) - len(lines)
    log.warning("%d lines of %s are damaged and left out.", lost, path)
  return lines


def _line(text: str) -> dict | None:
  """A line that has what reports read of it, else None."""
  try:
    line = json.loads(text)
    numbers = [line[name] for name in _NUMBERS[line["kind"]]]
    if line["kind"] == "lesson":
      numbers += [line["validation"]["accuracy"]]
      if not all(type(line[name]) is list for name in ("actions", "reasons")):
        return None
    if all(type(number) in (int, float) for number in numbers):
      return line
  except (ValueError, TypeError, KeyError, RecursionError):
    pass
  return None


class MetricsWriter:
  """One stage's metrics: `metrics.jsonl`, TensorBoard and a progress bar.

  On a terminal there is a bar with an estimate of the time left; elsewhere one
  line for each interval.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    title: str,
    total_steps: int,
    start: int = 0,
    tensorboard: bool = True,
    quiet: bool = False,
  ):
    """Opens the writers; lines of steps after `start` are dropped.

    Args:
      directory: the stage's directory.
      title: what the progress bar is headed with.
      total_steps: length of the stage.
      start: the step from which the stage goes on.
      tensorboard: whether to write TensorBoard events.
      quiet: whether to leave the terminal alone.
    """
    path = directory / "metrics.jsonl"
    self._file = None
    if hosts.is_lead():  # which speaks for all
      kept = [line for line in read_lines(path) if line["step"] <= start]
      write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
      self._file = path.open("a")
    quiet = quiet or self._file is None
    self._title = title
    self._total = total_steps
    self._quiet = quiet
    self._terminal = sys.stderr.isatty() and not quiet
    self._bar = tqdm.tqdm(
      total=total_steps,
      initial=start,
      desc=title,
      disable=not self._terminal,
      dynamic_ncols=True,
      leave=True,
    )
    self._events = None
    if tensorboard and self._file is not None:
      import tensorboardX  # only for runs that want it

      self._events = tensorboardX.SummaryWriter(
        str(directory / "tensorboard"), purge_step=start + 1
      )

  def advance(self, step: int) -> None:
    """Moves the progress bar."""
    if self._terminal:
      self._bar.update(step - self._bar.n)

  def write(self, line: dict) -> None:
    """Adds a line; `kind` and `step` are among its keys."""
    if self._file is None:
      return
    where = f"{self._title} at step {line['step']}"
    self._file.write(_finite_text(line, where) + "\n")
    self._file.flush()
    if self._events:
      for name, value in _scalars(line):
        self._events.add_scalar(name, value, line["step"])
    if self._terminal and line["kind"] == "train":
      self._bar.set_postfix(
        loss=f"{line['loss']:.3f}", accuracy=f"{line['accuracy']:.3f}"
      )
    elif not self._quiet:
      self.say(_sentence(line, self._total))

  def say(self, text: str) -> None:
    """Prints a line without breaking the bar."""
    if not self._quiet:
      tqdm.tqdm.write(f"{self._title}: {text}", file=sys.stderr)

  def close(self) -> None:
    """Closes the files and the bar."""
    if self._file is not None:
      self._file.close()
    self._bar.close()
    if self._events:
      self._events.close()


def _scalars(line: dict, prefix: str = "") -> list[tuple[str, float]]:
  scalars = []
  for key, value in line.items():
    if isinstance(value, dict):
      scalars += _scalars(value, f"{prefix}{key}/")
    elif key not in ("kind", "step") and type(value) in (int, float):
      kind = f"{line['kind']}/" if "kind" in line else prefix
      scalars.append((f"{kind}{key}", value))
  return scalars


def _sentence(line: dict, total: int) -> str:
  head = f"step {line['step']}/{total}"
  if line["kind"] == "lesson":
    validation = line["validation"]
    text = (
      f"{head} lesson {line['lesson']}: validation accuracy"
      f" {validation['accuracy']:.3f}, loss {validation['loss']:.3f}, fraction"
      f" {line['fraction']:.3f}"
    )
    return "; ".join([text, *line["reasons"]])
  return (
    f"{head} loss {line['loss']:.4f}, accuracy {line['accuracy']:.3f},"
    f" active {line['active']}, {line['examples_per_second']:.0f} examples/s"
  )
