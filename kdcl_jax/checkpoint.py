"""Checkpoints of a stage; the only file that knows Orbax."""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

log = logging.getLogger(__name__)


class _Manager(ocp.CheckpointManager):
  """A manager that leaves it to the run to ask whether it shall end."""

  def reached_preemption(self, step: int) -> bool:
    # Orbax would count its questions with ours, and neither would be answered.
    return False


class Checkpoints:
  """The checkpoints of one stage: arrays and a JSON object at each step.

  A checkpoint is whole or absent (Orbax renames it into place); saving goes on
  in the background. Restoring falls back from a broken checkpoint to the one
  before it, and says so.
  """

  def __init__(self, directory: pathlib.Path, *, keep: int = 2):
    """Opens (and creates) the directory.

    Args:
      directory: where the checkpoints are.
      keep: how many of the latest are kept.
    """
    self._directory = directory.absolute()
    self._manager = _Manager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=True
      ),
    )

  def save(self, step: int, arrays: Any, facts: dict) -> None:
    """Saves a pytree of arrays and a JSON object under a step.

    The arrays are copied to the host before this returns, so they may be
    donated afterwards.
    """
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays), facts=ocp.args.JsonSave(facts)
      ),
    )

  def restore(self, like: Any) -> tuple[Any, dict] | None:
    """The latest whole checkpoint, or None where there is none.

    Args:
      like: a pytree of arrays with the shapes, types and shardings wanted.

    Returns:
      (arrays, JSON object).
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            arrays=ocp.args.StandardRestore(abstract),
            facts=ocp.args.JsonRestore(),
          ),
        )
      except Exception as error:  # whatever a damaged file makes Orbax raise
        reason = str(error).strip().split("\n")[0]
        log.warning(
          "The checkpoint of step %d in %s cannot be read (%s: %s); falling"
          " back to the one before it.",
          step,
          self._directory,
          type(error).__name__,
          reason[:200],
        )
        self._manager.delete(step)
        continue
      return restored["arrays"], restored["facts"]
    return None

  def close(self) -> None:
    """Waits for saves under way."""
    self._manager.wait_until_finished()
    self._manager.close()


def latest_variables(directory: pathlib.Path) -> dict[str, Any] | None:
  """The model variables in a stage's latest checkpoint, or None.

  Args:
    directory: a directory that `Checkpoints` wrote.

  Returns:
    `params` and, where the model has them, `batch_stats`, as host arrays; the
    moving average where there is one.
  """
  handlers = {
    "arrays": ocp.PyTreeCheckpointHandler(),
    "facts": ocp.JsonCheckpointHandler(),
  }
  with ocp.CheckpointManager(
    directory.absolute(), item_handlers=handlers
  ) as manager:
    step = manager.latest_step()
    if step is None:
      return None
    # To the host, whatever devices it was saved from.
    to_host = ocp.RestoreArgs(restore_type=np.ndarray)
    like = manager.item_metadata(step)["arrays"].tree
    wanted = ocp.args.PyTreeRestore(
      restore_args=jax.tree.map(lambda _: to_host, like)
    )
    arrays = manager.restore(step, args=ocp.args.Composite(arrays=wanted))[
      "arrays"
    ]
  state = arrays["state"]
  variables = state.get("ema") or {
    key: state[key] for key in ("params", "batch_stats") if state.get(key)
  }
  return variables
