"""Checkpoints of a stage; the only file that knows Orbax."""

import contextlib
import functools
import json
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from kdcl_jax import digests, hosts
from kdcl_jax.errors import Stuck, UserError, storage_fault

log = logging.getLogger(__name__)

_PARTS = ("arrays", "facts")


class _Manager(ocp.CheckpointManager):
  """A manager that leaves it to the run to ask whether it shall end."""

  def reached_preemption(self, step: int) -> bool:
    # Orbax would count its questions with ours, and neither would be answered.
    return False


class _LastAndBest:
  """Which checkpoints stay: the last ones, and the one of highest accuracy."""

  def __init__(self, last: int, accuracies: dict[int, float]):
    self._last, self._accuracies = last, accuracies

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    """For each checkpoint, the oldest first; see Orbax."""
    del context
    steps = [one.step for one in checkpoints]
    kept = set(steps[-self._last :])
    rated = [step for step in steps if step in self._accuracies]
    if rated:
      kept.add(max(rated, key=self._accuracies.__getitem__))  # the first best
    return [step in kept for step in steps]


class Checkpoints:
  """The checkpoints of one stage: arrays and a JSON object at each step.

  A checkpoint is whole or absent: it is written in the background to a folder
  of another name, then its digests, then it is renamed. One that is damaged
  later is found by its digests before anything of it is used; the one before
  takes its place, which is said, and the damaged one is set aside.
  """

  def __init__(self, directory: pathlib.Path, *, keep: int = 2):
    """Checks what is there.

    Args:
      directory: where the checkpoints are. Damaged ones are moved beside it.
      keep: how many of the latest are kept, >= 1; further the one that was
        saved with the highest accuracy.

    Raises:
      UserError: where there are checkpoints and none of them is whole. They are
        left as they are.
    """
    self._directory = directory.absolute()
    # The lead process reads for all, which then go on from the same step.
    found = self._checked() if hosts.is_lead() else None
    steps = hosts.told_by_lead(found)
    self._latest, broken = steps["latest"], steps["broken"]
    if broken and self._latest is None:
      raise UserError(_nothing_left(self._directory, broken))
    accuracies = hosts.told_by_lead(
      {s: accuracy(self._directory / str(s)) for s in steps["whole"]}
    )
    self._accuracies = {
      int(s): value for s, value in accuracies.items() if value is not None
    }
    self._saving = 0
    self._keep = keep

  @functools.cached_property
  def _manager(self) -> _Manager:
    """Orbax's, made (with the directory) when it is needed first."""
    _hush_orbax()
    return _Manager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=_LastAndBest(self._keep, self._accuracies),
        create=True,
        cleanup_tmp_directories=True,  # of writes that were cut off
        enable_async_checkpointing=True,
        async_options=ocp.options.AsyncOptions(
          post_finalization_callback=self._seal
        ),
      ),
    )

  def _checked(self) -> dict[str, Any]:
    """Finds the latest whole checkpoint; sets later ones aside."""
    broken, latest = {}, None
    steps = steps_in(self._directory)
    for step in reversed(steps):
      reason = digests.fault(self._directory / str(step))
      if not reason:
        latest = step
        break
      broken[step] = reason
    if latest is not None:
      for step, reason in broken.items():
        place = _set_aside(self._directory, step)
        log.warning(
          "The checkpoint of step %d in %s is damaged (%s); falling back to the"
          " one before it. It is set aside in %s.",
          step,
          self._directory,
          reason,
          place,
        )
    whole = [step for step in steps if step not in broken]
    return {"latest": latest, "broken": broken, "whole": whole}

  def _seal(self) -> None:
    """Adds the digests to what has been written and has no name yet."""
    (folder,) = [
      path
      for path in self._directory.glob(f"{self._saving}*")
      if path.name.partition(".")[0] == str(self._saving)
      and (path / _PARTS[0]).is_dir()
    ]
    digests.write(folder, _PARTS)

  def save(
    self, step: int, arrays: Any, facts: dict, accuracy: float | None = None
  ) -> None:
    """Saves a pytree of arrays and a JSON object under a step.

    The arrays are copied to the host before this returns, so they may be
    donated afterwards.

    Args:
      step: the step.
      arrays: the arrays.
      facts: what JSON has.
      accuracy: of these arrays on the validation split, where it is known.

    Raises:
      UserError: where this checkpoint, or the one before it, cannot be written.
    """
    if step in self._manager.all_steps():
      return
    with self._told():
      self._manager.wait_until_finished()
    self._saving = step
    if accuracy is not None:
      self._accuracies[step] = accuracy
    with self._told():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(arrays),
          facts=ocp.args.JsonSave(facts | {"accuracy": accuracy}),
        ),
      )

  def restore(self, like: Any) -> tuple[Any, dict] | None:
    """The latest whole checkpoint, or None where there is none.

    Args:
      like: a pytree of arrays with the shapes, types and shardings wanted.

    Returns:
      (arrays, JSON object).

    Raises:
      UserError: where it is whole and of another form.
    """
    if self._latest is None:
      return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
      restored = self._manager.restore(
        self._latest,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardRestore(abstract),
          facts=ocp.args.JsonRestore(),
        ),
      )
    except Exception as error:  # Orbax has many names for "does not fit"
      raise UserError(
        f"the checkpoint of step {self._latest} in {str(self._directory)!r} is"
        f" whole, but not of the form that this program saves"
        f" ({_reason(error)}); go on with the versions that it was saved with"
        " (environment.json), or give another --workdir."
      ) from error
    facts = restored["facts"]
    facts.pop("accuracy", None)
    return restored["arrays"], facts

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Tells in a sentence why a checkpoint could not be written."""
    try:
      yield
    except (
      Exception
    ) as error:  # Orbax and TensorStore have many for a full disk
      raise Stuck(
        f"the checkpoint of step {self._saving} cannot be written to"
        f" {str(self._directory)!r} ({_reason(error)}); those before it are"
        " kept. Put that right, and the same command goes on from there."
      ) from error

  def close(self) -> None:
    """Waits for saves under way.

    Raises:
      UserError: where one cannot be written.
    """
    if "_manager" not in vars(self):
      return
    with self._told():
      self._manager.wait_until_finished()
    self._manager.close()


def steps_in(directory: pathlib.Path) -> list[int]:
  """The steps of the checkpoints in a directory, the first one first."""
  if not directory.is_dir():
    return []
  names = [path.name for path in directory.iterdir() if path.is_dir()]
  return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))


def accuracy(folder: pathlib.Path) -> float | None:
  """The validation accuracy that a checkpoint was saved with, if any."""
  try:
    found = json.loads((folder / "facts" / "metadata").read_text())["accuracy"]
    return None if found is None else float(found)
  except (OSError, ValueError, TypeError, KeyError):
    return None


def latest_variables(
  directory: pathlib.Path, field: str = "the checkpoints"
) -> dict[str, Any] | None:
  """The model variables in a stage's latest checkpoint, or None.

  Args:
    directory: a directory that `Checkpoints` wrote.
    field: the config field that names it, for messages.

  Returns:
    `params` and, where the model has them, `batch_stats`, as host arrays; the
    moving average where there is one.

  Raises:
    UserError: where there are checkpoints and none can be read.
  """
  directory = directory.absolute()
  broken: dict[int, str] = {}
  _hush_orbax()
  for step in reversed(steps_in(directory)):
    sealed = (directory / str(step) / digests.NAME).exists()
    broken[step] = digests.fault(directory / str(step)) if sealed else ""
    if not broken[step]:
      try:
        state = _read(directory, step)["state"]
      except Exception as error:  # whatever a damaged file makes Orbax raise
        broken[step] = _reason(error)
        continue
      return state.get("ema") or {
        key: state[key] for key in ("params", "batch_stats") if state.get(key)
      }
    log.warning(
      "%s: the checkpoint of step %d in %s is damaged (%s); taking the one"
      " before it.",
      field,
      step,
      directory,
      broken[step],
    )
  if broken:
    raise UserError(f"{field}: {_nothing_left(directory, broken)}")
  return None


def _read(directory: pathlib.Path, step: int) -> dict[str, Any]:
  """The arrays of a checkpoint, to the host from whatever devices."""
  handlers = {
    "arrays": ocp.PyTreeCheckpointHandler(),
    "facts": ocp.JsonCheckpointHandler(),
  }
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(
    directory, item_handlers=handlers, options=options
  ) as manager:
    to_host = ocp.RestoreArgs(restore_type=np.ndarray)
    like = manager.item_metadata(step)["arrays"].tree
    wanted = ocp.args.PyTreeRestore(
      restore_args=jax.tree.map(lambda _: to_host, like)
    )
    found = manager.restore(step, args=ocp.args.Composite(arrays=wanted))
    return found["arrays"]


def _set_aside(directory: pathlib.Path, step: int) -> pathlib.Path:
  """Moves a damaged checkpoint out of the way, and never deletes it."""
  aside = directory.with_name(f"{directory.name}_damaged")
  aside.mkdir(exist_ok=True)
  number = 1
  while (place := aside / f"{step}_{number}").exists():
    number += 1
  (directory / str(step)).rename(place)
  return place


def _nothing_left(directory: pathlib.Path, broken: dict[Any, str]) -> str:
  each = "; ".join(f"step {step}: {why}" for step, why in broken.items())
  return (
    f"no checkpoint in {str(directory)!r} is whole ({each}). They are left as"
    " they are: put copies in their place, or delete the directory to begin the"
    " stage anew."
  )


def _reason(error: BaseException) -> str:
  """The first line of what an error says, without its trail."""
  while error.__cause__ is not None:
    error = error.__cause__
  if storage_fault(error):
    return storage_fault(error)
  text = str(error).strip().split("\n")[0].split(" [source locations=")[0]
  return f"{type(error).__name__}: {text}"[:300]


def _of_others(record: logging.LogRecord) -> bool:
  return "orbax" not in record.pathname or record.levelno < logging.ERROR


@functools.cache
def _hush_orbax() -> None:
  """Orbax prints the trails of an error that it raises anyway."""
  logging.getLogger("absl").addFilter(_of_others)
  unraisable = sys.unraisablehook

  def hook(what: Any) -> None:
    # Of the writes or reads that go on when the first one has failed.
    code = getattr(what.object, "cr_code", None)  # of a coroutine
    if str(what.exc_value) == "Event loop is closed" or (
      code is not None and "orbax" in code.co_filename
    ):
      return
    unraisable(what)

  sys.unraisablehook = hook
