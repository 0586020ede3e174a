"""The command line of every command: --config, --workdir and overrides."""

import logging
import os
import pathlib
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from kdcl_jax import config as fields
from kdcl_jax import environment, hosts, train
from kdcl_jax.errors import Stuck, UserError, storage_fault

_MISTAKE = 2  # exit code for a mistake of the user's
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config, as FILE or FILE:VARIANT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where everything goes that the command writes."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of process 0, where a run has several."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "How many processes the run has."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Which of them this is, from 0."
)
_INTERRUPTED_CODE = flags.DEFINE_integer(
  "interrupted_code",
  0,
  "Exit code when asked to end, after saving; for"
  " launchers, which start again what ends with another code than 0.",
)


def main(
  argv: list[str],
  execute: Callable[[dict[str, Any], pathlib.Path], str],
  temporary: Callable[[], bool] = lambda: False,
  resolve: Callable[[Any], dict[str, Any]] = fields.resolve,
) -> int:
  """Parses the command line and does what the command is there for.

  Args:
    argv: the command line, the program's name first.
    execute: (resolved config, working directory) -> what to say at the end.
    temporary: asked once the flags are read: whether a temporary directory
      will do where no --workdir is given.
    resolve: from what the config file returned to a resolved config.

  Returns:
    The exit code: 0 when it is done or (see --interrupted_code) was asked to
    end and has saved, 2 for a mistake of the user's, which is told in one
    sentence; of several processes also 75 or 134, when another was lost.
  """
  quiet_others()
  failure = 1
  try:
    code = _done(argv, execute, temporary, resolve)
    failure = code if code == _MISTAKE else 0
  finally:
    hosts.leave(failure)
  return code


def _done(
  argv: list[str],
  execute: Callable[[dict[str, Any], pathlib.Path], str],
  temporary: Callable[[], bool],
  resolve: Callable[[Any], dict[str, Any]],
) -> int:
  """See `main`."""
  try:
    config, workdir = _parsed(argv, temporary, resolve)
    hosts.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    if not hosts.is_lead():  # which speaks for all
      logging.getLogger("kdcl_jax").setLevel(logging.WARNING)
    environment.check_writable(workdir)
    if _WORKDIR.value:
      compile_cache(workdir)
    try:
      done = execute(config, workdir)
    except train.Interrupted:
      if hosts.is_lead():
        print("Saved; the same command goes on from here.", file=sys.stderr)
      return _INTERRUPTED_CODE.value
    except OSError as error:
      if not storage_fault(error):
        raise
      raise Stuck(
        f"--workdir is {str(workdir)!r}, where something cannot be read or"
        f" written ({error.filename or 'a file'}: {storage_fault(error)});"
        " what was saved before is kept. Put that right, and the same command"
        " goes on from there."
      ) from error
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr, flush=True)
    if isinstance(error, Stuck):  # Python would wait for its threads
      hosts.leave(_MISTAKE)
      os._exit(_MISTAKE)
    return _MISTAKE
  if hosts.is_lead():
    print(done)
  return 0


def quiet_others() -> None:
  """Sets up what a process logs: our own lines, and others' warnings."""
  # Over the format of what some of the imported packages have set up.
  logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
  logging.getLogger("kdcl_jax").setLevel(logging.INFO)
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  threading.excepthook = _of_a_thread


def _of_a_thread(what: threading.ExceptHookArgs) -> None:
  """A thread that cannot write its file, as TensorBoard's, shows no trail."""
  fault = what.exc_value and storage_fault(what.exc_value)
  if not fault:
    threading.__excepthook__(what)
  else:
    logging.getLogger(__name__).warning("A file cannot be written: %s.", fault)


def _parsed(
  argv: list[str],
  temporary: Callable[[], bool],
  resolve: Callable[[Any], dict[str, Any]],
) -> tuple[dict, pathlib.Path]:
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _CONFIG.value.to_dict()  # a file that cannot be read shows here
  except (AttributeError, KeyError) as error:
    raise UserError(_unknown(error, argv)) from error
  except Exception as error:  # whatever a config file raises while it is read
    raise UserError(_sentence(error)) from error
  if len(rest) > 1:
    raise UserError(
      f"{rest[1]!r} is no flag; expected --config=FILE --workdir=DIR and"
      " overrides like --config.seeds=5."
    )
  if _CONFIG.value is None:
    raise UserError(
      "--config is missing; give a file such as configs/digits.py."
    )
  if not _WORKDIR.value and not temporary():
    raise UserError(
      "--workdir is missing; give a directory such as runs/digits."
    )
  config = resolve(_CONFIG.value)
  workdir = _WORKDIR.value or tempfile.mkdtemp(prefix="kdcl_jax_")
  return config, pathlib.Path(workdir).expanduser().absolute()


def _unknown(error: Exception, argv: list[str]) -> str:
  """What an override of a field that the config does not have failed at."""
  inner = error.args[0] if error.args else ""
  while isinstance(inner, Exception) and inner.args:
    inner = inner.args[0]
  name, _, hint = str(inner).partition("\n")
  flags_given = [a.partition("=")[0] for a in argv if a.startswith("--config.")]
  named = [f for f in flags_given if f.rpartition(".")[2] == name.strip("'\"")]
  if not named:
    return _sentence(error)
  hint = hint or "Further fields of a section go into the config file."
  return f"{named[0]} sets a field that the config does not have. {hint}"


def _sentence(error: Exception) -> str:
  """What reading flags and config file failed at, in one line."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  if not lines:
    return f"--config cannot be read: {type(error).__name__}."
  if "Traceback" in str(error) or isinstance(error, OSError):
    return f"--config cannot be read: {lines[-1]}"
  return " ".join(lines)


def compile_cache(workdir: pathlib.Path) -> None:
  """Compiled steps are kept beside the run, for its next start and seeds."""
  warnings.filterwarnings("ignore", module="jax._src.compilation_cache")
  if jax.config.jax_compilation_cache_dir is None:
    cache = workdir.parent / ".jax_cache"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
