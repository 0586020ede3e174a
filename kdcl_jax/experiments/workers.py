"""Tasks in one process or in several, which end together and go on later."""

import logging
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from typing import Any

from absl import flags

from kdcl_jax import command, hosts, train
from kdcl_jax.errors import UserError
from kdcl_jax.experiments import cells

_LOG = logging.getLogger(__name__)
_ASK = 1.0  # seconds between two requests to a worker to end

Experiment = Mapping[str, Any]


def work(
  experiment: Experiment,
  workdir: pathlib.Path,
  tasks: Sequence[cells.Task],
  jobs: int,
) -> None:
  """Does all tasks.

  Args:
    experiment: a resolved experiment.
    workdir: its directory.
    tasks: each comes after those that it needs.
    jobs: 1 works in this process, more in as many others.

  Raises:
    UserError: for a mistake that showed on the way.
    train.Interrupted: after saving, where this process got a SIGTERM.
  """
  interrupted = hosts.interruption()
  jobs = min(jobs, len(tasks))
  if jobs > 1:
    _Pool(experiment, workdir, tasks, jobs, interrupted).work()
    return
  for number, task in enumerate(tasks, 1):
    started = time.perf_counter()
    cells.perform(task, experiment, workdir, interrupted)
    _say(task, number, len(tasks), started)


def shares(cores: Sequence[int], jobs: int) -> list[list[int]]:
  """The cores divided among workers; each has one at least.

  Example:
    >>> shares([0, 1, 2, 3, 4], 2), shares([0, 1], 3)
    ([[0, 2, 4], [1, 3]], [[0], [1], [0]])
  """
  return [list(cores[i::jobs]) or [cores[i % len(cores)]] for i in range(jobs)]


def _say(task: cells.Task, number: int, count: int, started: float) -> None:
  seconds = time.perf_counter() - started
  _LOG.info("%s: done in %.0f s (%d of %d)", task, seconds, number, count)


class _Pool:
  """Worker processes, each with one task at a time."""

  def __init__(
    self,
    experiment: Experiment,
    workdir: pathlib.Path,
    tasks: Sequence[cells.Task],
    jobs: int,
    interrupted: Callable[[], bool],
  ):
    self.tasks = list(tasks)
    self.done: list[cells.Task] = []
    self.running: dict[connection.Connection, tuple[cells.Task, float]] = {}
    self.interrupted = interrupted
    self.processes: dict[connection.Connection, Any] = {}
    context = multiprocessing.get_context("spawn")
    cores = _cores()
    for number in range(jobs):
      ours, theirs = context.Pipe()
      process = context.Process(
        target=_worker,
        args=(experiment, workdir, theirs, number, jobs, cores),
        name=f"worker {number}",
      )
      process.start()
      theirs.close()  # so that its end shows here
      self.processes[ours] = process

  def work(self) -> None:
    try:
      self._work()
    finally:
      self._end()

  def _work(self) -> None:
    waiting = list(self.tasks)
    while len(self.done) < len(self.tasks):
      for pipe in self.processes:
        task = self._next(waiting)
        if pipe not in self.running and task is not None:
          waiting.remove(task)
          self.running[pipe] = task, time.perf_counter()
          self._send(pipe, task)
      for pipe in connection.wait(list(self.running), timeout=0.5):
        self._received(pipe)
      if self.interrupted():
        raise train.Interrupted

  def _next(self, waiting: Sequence[cells.Task]) -> cells.Task | None:
    ready = (t for t in waiting if all(need in self.done for need in t.needs))
    return next(ready, None)

  def _send(self, pipe: connection.Connection, task: cells.Task) -> None:
    try:
      pipe.send(task)
    except OSError:
      self._lost(pipe)

  def _received(self, pipe: connection.Connection) -> None:
    try:
      kind, text = pipe.recv()
    except (EOFError, OSError):
      self._lost(pipe)
    task, started = self.running.pop(pipe)
    if kind == "done":
      self.done.append(task)
      _say(task, len(self.done), len(self.tasks), started)
    elif kind == "mistake":
      raise UserError(text)
    elif kind == "interrupted":
      raise train.Interrupted
    else:
      raise RuntimeError(f"{task} failed:\n{text}")

  def _lost(self, pipe: connection.Connection) -> None:
    """Raises for a worker that is gone without a word."""
    process = self.processes[pipe]
    process.join()
    if self.interrupted() or process.exitcode == -signal.SIGTERM:
      raise train.Interrupted
    raise RuntimeError(
      f"{self.running[pipe][0]}: its process ended with exit code"
      f" {process.exitcode}; logs/ has what it said."
    )

  def _end(self) -> None:
    """Has the workers save and end."""
    for pipe in self.processes:
      if pipe not in self.running:
        pipe.close()  # an idle worker ends by itself
    for process in () if self.running else self.processes.values():
      process.join(10 * _ASK)
    while living := [p for p in self.processes.values() if p.is_alive()]:
      for process in living:
        process.terminate()  # again and again: it may come too early to be seen
      living[0].join(_ASK)


def _cores() -> list[int]:
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return []


def _worker(
  experiment: Experiment,
  workdir: pathlib.Path,
  pipe: connection.Connection,
  number: int,
  jobs: int,
  cores: Sequence[int],
) -> None:
  """The life of a worker: tasks, until there are no more."""
  if cores:  # before JAX makes its threads
    os.sched_setaffinity(0, shares(cores, jobs)[number])
  share = f"{0.9 / jobs:.3f}"  # of an accelerator's memory
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain reads them
  _log_to(workdir / "logs" / f"worker_{number}.log")
  command.quiet_others()
  command.compile_cache(workdir)
  asked = hosts.interruption()
  parent = os.getppid()
  interrupted = lambda: asked() or os.getppid() != parent
  while not interrupted():
    try:
      task = pipe.recv()
    except (EOFError, OSError):
      return
    answer = _answer(task, experiment, workdir, interrupted)
    try:
      pipe.send(answer)
    except OSError:  # there is nobody to hear it
      return


def _answer(
  task: cells.Task,
  experiment: Experiment,
  workdir: pathlib.Path,
  interrupted: Callable[[], bool],
) -> tuple[str, str]:
  try:
    cells.perform(task, experiment, workdir, interrupted)
  except UserError as error:
    return "mistake", str(error)
  except train.Interrupted:
    return "interrupted", ""
  except Exception:
    return "failed", traceback.format_exc()
  return "done", ""


def _log_to(path: pathlib.Path) -> None:
  """Sends what this process prints to a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  sys.stdout.flush()
  sys.stderr.flush()
  with path.open("a") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
