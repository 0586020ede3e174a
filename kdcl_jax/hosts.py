"""The processes of a run: how they find each other, stop together and end.

Each process of a run on several hosts is started with the same command. By hand
it is told the address of process 0, how many there are and which it is; on some
clusters it finds out (`kdcl_jax.clusters`).
"""

import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdcl_jax.clusters import Cluster, detected
from kdcl_jax.errors import UserError

log = logging.getLogger(__name__)

HEARTBEAT = 30  # seconds of silence after which a process counts as lost
LOST = 75  # exit code without the other processes: to be started again
_REPORTING = 1800  # seconds that the others wait for the lead host's report
_FAREWELL = 10  # seconds that a failing process waits for the others to fail
_FLAGS = ("--coordinator", "--num_processes", "--process_id")


def initialize(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  patience: int = 300,
) -> None:
  """Meets the other processes of the run; before any use of a device.

  A single process is left as it is. When one of several processes is lost, the
  others end within `HEARTBEAT` seconds and say so.

  Args:
    coordinator: HOST:PORT at which process 0 can be reached; None, as the other
      two, to find out (see
      `kdcl_jax.clusters`).
    num_processes: how many there are, >= 1; of 1, nothing is looked for.
    process_id: which this one is, in [0, num_processes).
    patience: seconds to wait for the others, >= 1.

  Raises:
    UserError: where only some of the three are given or they make no sense, and
      where what was found out will not do.
  """
  flags = (coordinator, num_processes, process_id)
  by_hand = any(value is not None for value in flags)
  cluster = _by_hand(*flags) if by_hand else detected()
  if cluster is None or are_several():
    return
  # JAX ends a process that has waited in vain with a stack trace.
  timer = threading.Timer(patience, _alone, (cluster.found, patience))
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      **cluster.arguments,
      initialization_timeout=patience + 60,
      heartbeat_timeout_seconds=HEARTBEAT,
      shutdown_timeout_seconds=_REPORTING,
    )
  except Exception as error:  # whatever a cluster's interface raises
    reason = (str(error).strip() or type(error).__name__).split("\n")[0]
    raise UserError(
      f"the processes of the run cannot meet ({cluster.found}: {reason}); give"
      f" {', '.join(_FLAGS)}."
    ) from error
  finally:
    timer.cancel()
  process, count = jax.process_index(), jax.process_count()
  _will.write(
    f"kdcl_jax: process {process} of {count} ended abruptly: another"
    " process of the run was lost, or this one was killed; start all of"
    " them again with the same command, and the run goes on from its last"
    " checkpoint."
  )
  log.info(
    "process %d of %d (%s): %d of %d devices",
    process,
    count,
    cluster.found,
    jax.local_device_count(),
    jax.device_count(),
  )


def leave(failure: int) -> None:
  """Ends the process's part in a run, in `finally`; nothing for one alone.

  One that has done its part waits for the others, of which the lead host may
  still be writing the report. One that fails waits only for others that fail
  alike, and ends, so that the rest learns of it.

  Args:
    failure: the exit code of a failure, 0 for none; where an exception is under
      way it is `LOST` if another process is the cause.
  """
  if not are_several():
    return
  error = sys.exception()
  if failure == 0 and error is None:
    jax.distributed.shutdown()
    _will.revoke()
    return
  if error is not None and _of_another(error):
    os._exit(LOST)
  _will.revoke()  # it is said why
  if error is not None:
    sys.excepthook(type(error), error, error.__traceback__)
  sys.stdout.flush()
  sys.stderr.flush()
  last = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  last.start()
  last.join(_FAREWELL)
  if last.is_alive() or error is not None:
    os._exit(failure or 1)


def is_lead() -> bool:
  """Whether this is the process that speaks and writes for all."""
  return not are_several() or jax.process_index() == 0


def told_by_lead(value: Any) -> Any:
  """The lead process's value, so that all decide alike.

  Args:
    value: what JSON has; of the others it is not looked at. All processes call
      this at the same place.

  Returns:
    The lead's value, as JSON has it (tuples are lists).
  """
  return gathered(value if is_lead() else None)[0] if are_several() else value


def gathered(value: Any) -> list[Any]:
  """What each process says, by its number; `[value]` of one alone.

  Args:
    value: what JSON has. All processes call this at the same place.

  Returns:
    The values, as JSON has them (of one alone: as they are).
  """
  if not are_several():
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  room = np.zeros(np.max(sizes), np.uint8)
  room[: len(text)] = text
  told = multihost_utils.process_allgather(room)
  return [
    json.loads(np.asarray(row[:size], np.uint8).tobytes())
    for row, size in zip(np.asarray(told), np.asarray(sizes), strict=True)
  ]


def all_agree(yes: bool) -> bool:
  """Whether all processes, which call this at the same place, say yes."""
  return all(gathered(bool(yes)))


def meet() -> None:
  """Waits for all processes, which call this at the same place.

  What the lead wrote before is then there for all of them.
  """
  gathered(None)


def by_lead(work: Callable[[], Any]) -> Any:
  """Does something in the lead process only, for all.

  Args:
    work: what to do. All processes call this at the same place; they wait for
      the lead, so what it has written is there for all of them.

  Returns:
    What `work` returned, as JSON has it.

  Raises:
    UserError: in all processes, where `work` raised it.
  """
  if not are_several():
    return work()
  said, mistake = None, ""
  if is_lead():
    try:
      said = work()
    except UserError as error:
      mistake = str(error)
  said, mistake = told_by_lead([said, mistake])
  if mistake:
    raise UserError(mistake)
  return said


def check_alike(facts: Mapping[str, Any]) -> None:
  """Checks that all processes of a run were given the same.

  Args:
    facts: name in a sentence -> what must be the same, as JSON has it.

  Raises:
    UserError: in all processes, where something differs.
  """
  said = gathered(dict(facts))
  for name in facts:
    others = [i for i, one in enumerate(said) if one[name] != said[0][name]]
    if others:
      raise UserError(
        f"{name} is {said[others[0]][name]!r} in process {others[0]} of the run"
        f" and {said[0][name]!r} in process 0; start all processes with the"
        " same command, program and data."
      )


def interruption() -> Callable[[], bool]:
  """Makes SIGTERM a wish, on which the processes of a run agree.

  Returns:
    A function that says whether to save and end. All processes ask it equally
    often, such as after each step; once one of them was sent SIGTERM, all hear
    True at the same call, and from then on.
  """
  asked: list[bool] = []
  if not are_several():
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    return lambda: bool(asked)
  # JAX listens for SIGTERM since `initialize`; a handler here would deafen it.
  calls = itertools.count(1)

  def agreed() -> bool:
    if not asked and multihost_utils.reached_preemption_sync_point(next(calls)):
      asked.append(True)
    return bool(asked)

  return agreed


def _by_hand(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Cluster | None:
  """What the flags say, of which some are given; None for a process alone."""
  given = dict(zip(_FLAGS, (coordinator, num_processes, process_id)))
  missing = [flag for flag, value in given.items() if value is None]
  if missing:
    present = [flag for flag in _FLAGS if flag not in missing]
    raise UserError(
      f"{' and '.join(present)} without {' and '.join(missing)}: expected all"
      " three, or none where the cluster is found by itself."
    )
  host, _, port = str(coordinator).rpartition(":")
  if (
    not host
    or not re.fullmatch("[0-9]{1,5}", port)
    or not (0 < int(port) < 2**16)
  ):
    raise UserError(
      f"--coordinator is {coordinator!r}; expected HOST:PORT of process 0, such"
      " as 10.0.0.1:8476."
    )
  if num_processes < 1:
    raise UserError(
      f"--num_processes is {num_processes}; expected a whole number >= 1."
    )
  if not 0 <= process_id < num_processes:
    raise UserError(
      f"--process_id is {process_id}; expected a whole number from 0 to"
      f" {num_processes - 1}, one less than --num_processes."
    )
  if num_processes == 1:
    return None
  return Cluster(
    f"at {coordinator}",
    {
      "coordinator_address": coordinator,
      "num_processes": num_processes,
      "process_id": process_id,
      "cluster_detection_method": "deactivate",
    },
  )


def are_several() -> bool:
  """Whether this process has met others, with which it makes a run."""
  return jax.distributed.is_initialized()


def _of_another(error: BaseException) -> bool:
  """Whether an error is but the loss of another process."""
  return isinstance(error, jax.errors.JaxRuntimeError) and bool(
    re.search("gloo|coordination|heartbeat|peer", str(error), re.I)
  )


def _alone(found: str, patience: int) -> None:
  print(
    f"kdcl_jax: the processes of the run have not met within {patience} s"
    f" ({found}); see that all of them are started and can reach process 0.",
    file=sys.stderr,
    flush=True,
  )
  os._exit(LOST)


class _Will:
  """A sentence that is printed should the process end without revoking it.

  JAX ends the processes of which another is lost from within, by abort, with a
  stack trace and no word on what to do. A shell that reads from a pipe notices.
  """

  def __init__(self) -> None:
    self._shell: subprocess.Popen | None = None

  def write(self, sentence: str) -> None:
    script = 'trap "" HUP INT TERM; read -r word || printf "%s\\n" "$0" >&2'
    self._shell = subprocess.Popen(
      ["/bin/sh", "-c", script, sentence],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
    )

  def revoke(self) -> None:
    if self._shell is not None:
      self._shell.communicate(b"revoked\n")
      self._shell = None


_will = _Will()
