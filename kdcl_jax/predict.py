"""What an exported student says of pictures.

  python -m kdcl_jax.predict --model=runs/digits/export image.png ...

and in a program, with NumPy, Pillow and the file's own runtime:

  from kdcl_jax import predict
  model = predict.load("runs/digits/export")
  model(["image.png"])[0].label
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from kdcl_jax import runtimes
from kdcl_jax.errors import UserError
from kdcl_jax.sources import UnreadableRecord
from kdcl_jax.sources.images import decode, view
from kdcl_jax.sources.windows import centre

_ROWS = 64  # pictures at a time
_PICTURE = 3  # axes: height, width, channels


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a model says of one picture.

  Attributes:
    name: the file, `file.npy[3]` for one of several in an array.
    labels: of all classes, the most probable first.
    probabilities: theirs, falling.
  """

  name: str
  labels: tuple[str, ...]
  probabilities: tuple[float, ...]

  @property
  def label(self) -> str:
    """The most probable label."""
    return self.labels[0]

  @property
  def probability(self) -> float:
    """Its probability."""
    return self.probabilities[0]


@dataclasses.dataclass(frozen=True)
class Model:
  """An exported model that can be asked.

  Attributes:
    path: the file.
    labels: a name for each class.
    preprocessing: how its pictures are read, from `student.json`.
    function: pictures [B, ...] -> logits [B, K].
  """

  path: pathlib.Path
  labels: tuple[str, ...]
  preprocessing: Mapping[str, Any]
  function: runtimes.Function

  @property
  def shape(self) -> tuple[int, ...]:
    """Of one input."""
    return tuple(self.preprocessing["shape"])

  def __call__(
    self, inputs: Sequence[str | pathlib.Path | np.ndarray] | np.ndarray
  ) -> list[Prediction]:
    """Predicts.

    Args:
      inputs: paths of PNG, JPEG or .npy files, and arrays of one picture or of
        several [B, ...]; or one array of several.

    Returns:
      A prediction for each picture.

    Raises:
      UnreadableRecord: for what cannot be read as a picture of this model.
    """
    rows = [row for one in inputs for row in self.read(one)]
    return [
      prediction
      for start in range(0, len(rows), _ROWS)
      for prediction in self._predicted(rows[start : start + _ROWS])
    ]

  def read(
    self, given: str | pathlib.Path | np.ndarray
  ) -> list[tuple[str, np.ndarray]]:
    """The pictures of a file or array, named, as the model takes them.

    Raises:
      UnreadableRecord: where there are none.
    """
    if isinstance(given, np.ndarray):
      return self._rows(given, "array")
    path = pathlib.Path(given).expanduser()
    try:
      if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
      else:
        array = self._decoded(path.read_bytes())
      return self._rows(array, str(given))
    except (OSError, ValueError, EOFError, UnreadableRecord) as error:
      reason = getattr(error, "strerror", None) or error
      raise UnreadableRecord(f"{given}: {reason}") from error

  def _decoded(self, content: bytes) -> np.ndarray:
    """A picture as the source of the training data would have read it."""
    if len(self.shape) != _PICTURE or self._type != np.uint8:
      raise UnreadableRecord(
        f"the model takes {self._type} of shape {self.shape} and no pictures;"
        " give a .npy file"
      )
    *size, channels = self.shape
    share = self.preprocessing.get("crop")
    if share:
      window = centre(share, tuple(size))
      return view(content, window, tuple(size), channels=channels)
    if size[0] == size[1]:
      return decode(content, size=size[0], channels=channels)
    return decode(content, channels=channels)

  @property
  def _type(self) -> np.dtype:
    return np.dtype(self.preprocessing.get("dtype", "uint8"))

  def _rows(self, array: np.ndarray, name: str) -> list[tuple[str, np.ndarray]]:
    single = array.shape == self.shape
    if not single and array.shape[1:] != self.shape:
      raise UnreadableRecord(
        f"its shape is {array.shape}, expected {self.shape} or several of them"
      )
    if array.dtype.kind != self._type.kind:
      raise UnreadableRecord(
        f"its type is {array.dtype}, expected {self._type}"
      )
    if array.dtype != self._type and self._type.kind in "iu":
      limits = np.iinfo(self._type)
      if array.size and not (
        limits.min <= array.min() and array.max() <= limits.max
      ):
        raise UnreadableRecord(
          f"its values are not all in {limits.min} ... {limits.max}"
        )
    array = array.astype(self._type)
    if single:
      return [(name, array)]
    return [(f"{name}[{place}]", row) for place, row in enumerate(array)]

  def _predicted(
    self, rows: Sequence[tuple[str, np.ndarray]]
  ) -> Iterator[Prediction]:
    logits = self.function(np.stack([image for _, image in rows]))
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    for (name, _), row in zip(
      rows, powers / powers.sum(-1, keepdims=True), strict=True
    ):
      order = np.argsort(-row, kind="stable")
      yield Prediction(
        name,
        tuple(self.labels[place] for place in order),
        tuple(float(row[place]) for place in order),
      )


def load(path: str | pathlib.Path, *, threads: int = 0) -> Model:
  """Opens an exported model.

  Args:
    path: the directory `export/` of a run, of whose files the first is taken
      whose runtime is installed (ONNX, LiteRT, StableHLO, safetensors; the
      float32 ones), or one of the files.
    threads: how many the runtime computes with; 0 leaves it to the runtime.

  Returns:
    The model.

  Raises:
    UserError: where there is nothing to open, it is damaged, or its runtime is
      not installed.
  """
  path = pathlib.Path(path).expanduser()
  if not path.exists():
    raise UserError(
      f"--model is {str(path)!r}, which does not exist; expected the directory"
      " export/ of a finished run, or a file in it."
    )
  facts = runtimes.facts_of(path)
  file = _file(path) if path.is_dir() else path
  return Model(
    path=file,
    labels=tuple(map(str, facts["labels"])),
    preprocessing=facts["preprocessing"],
    function=runtimes.load(file, threads=threads),
  )


def _file(folder: pathlib.Path) -> pathlib.Path:
  """The file of a directory that can be run best here."""
  found = [
    (folder / f"student{ending}", runtime)
    for ending, runtime in runtimes.RUNTIMES.items()
    if (folder / f"student{ending}").exists()
  ]
  if not found:
    raise UserError(
      f"--model is {str(folder)!r}, which holds no student.* but student.json;"
      " expected the directory export/ of a finished run."
    )
  for path, runtime in found:
    if runtimes.available(runtime):
      return path
  path, runtime = found[0]
  runtimes.needs(runtime, path.name)
  return path


class _Parser(argparse.ArgumentParser):
  """Says what is wrong in one sentence."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}; see python -m kdcl_jax.predict --help.")


def main(argv: Sequence[str]) -> int:
  """Predicts what the command line names.

  Returns:
    The exit code: 0, 1 where a picture could not be read, 2 for a mistake.
  """
  parser = _Parser(prog="python -m kdcl_jax.predict")
  parser.add_argument("--model", required=True, help="export/, or a file in it")
  parser.add_argument("--top", type=int, default=3, help="labels to name (3)")
  parser.add_argument("--threads", type=int, default=0, help="0: as it likes")
  parser.add_argument("--json", action="store_true", help="a line for each")
  parser.add_argument("inputs", nargs="+", help="PNG, JPEG or .npy files")
  try:
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
      raise UserError(f"--top is {arguments.top}, expected at least 1.")
    model = load(arguments.model, threads=arguments.threads)
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr)
    return 2
  unreadable = 0
  for given in arguments.inputs:
    try:
      for prediction in model([given]):
        print(_line(prediction, arguments.top, arguments.json))
    except UnreadableRecord as error:
      unreadable += 1
      print(f"kdcl_jax: cannot read {error}.", file=sys.stderr)
  if unreadable:
    count = len(arguments.inputs)
    print(
      f"kdcl_jax: {unreadable} of {count} files could not be read.",
      file=sys.stderr,
    )
  return 1 if unreadable else 0


def _line(prediction: Prediction, top: int, as_json: bool) -> str:
  pairs = list(
    zip(prediction.labels[:top], prediction.probabilities[:top], strict=True)
  )
  if as_json:
    found = [{"label": one, "probability": share} for one, share in pairs]
    return json.dumps({"input": prediction.name, "top": found})
  said = ", ".join(f"{one} {100 * share:.1f} %" for one, share in pairs)
  return f"{prediction.name}: {said}"


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
