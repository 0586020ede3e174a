"""Where a stage's numbers go: JSON lines, TensorBoard, the terminal."""

import json
import os
import pathlib
import sys
import tempfile
from typing import Any

import tqdm


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
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
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file."""
  return json.loads(path.read_text())


def read_lines(path: pathlib.Path) -> list[dict]:
  """The JSON lines of a file; an unfinished last line is left out."""
  if not path.exists():
    return []
  lines = []
  for line in path.read_text().split("\n")[:-1]:
    try:
      lines.append(json.loads(line))
    except ValueError:
      break
  return lines


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
    kept = [line for line in read_lines(path) if line["step"] <= start]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    self._file = path.open("a")
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
    if tensorboard:
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
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
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
