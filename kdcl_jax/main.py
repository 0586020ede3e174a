"""Runs a config: `python -m kdcl_jax.main --config=FILE --workdir=DIR`.

This file is intentionally kept short: it reads the command line and calls
`kdcl_jax.run`. Running the same command again resumes.
"""

import logging
import os
import pathlib
import sys
import warnings

from absl import flags
from ml_collections import config_flags

from kdcl_jax import config as fields
from kdcl_jax import environment, run, train
from kdcl_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config, as FILE or FILE:VARIANT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where checkpoints, metrics, report and export go."
)


def main(argv: list[str]) -> int:
  """Parses the command line and executes the run.

  Returns:
    The exit code: 0 when the run is done or was interrupted and saved, 2 for a
    mistake of the user's, which is told in one sentence.
  """
  logging.basicConfig(level=logging.WARNING, format="%(message)s")
  logging.getLogger("kdcl_jax").setLevel(logging.INFO)
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  try:
    config, workdir = _parsed(argv)
    environment.check_writable(workdir)
    _compile_cache(workdir)
    try:
      run.execute(config, workdir)
    except train.Interrupted:
      print("Saved; the same command goes on from here.", file=sys.stderr)
      return 0
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr)
    return 2
  print(f"The report is {workdir / 'report.html'}.")
  return 0


def _parsed(argv: list[str]) -> tuple[dict, pathlib.Path]:
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _CONFIG.value.to_dict()  # a file that cannot be read shows here
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
  if not _WORKDIR.value:
    raise UserError(
      "--workdir is missing; give a directory such as runs/digits."
    )
  workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
  return fields.resolve(_CONFIG.value), workdir


def _sentence(error: Exception) -> str:
  """What reading flags and config file failed at, in one line."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  if not lines:
    return f"--config cannot be read: {type(error).__name__}."
  if "Traceback" in str(error) or isinstance(error, OSError):
    return f"--config cannot be read: {lines[-1]}"
  return " ".join(lines)


def _compile_cache(workdir: pathlib.Path) -> None:
  """Compiled steps are kept beside the run, for its next start and seeds."""
  import jax

  warnings.filterwarnings("ignore", module="jax._src.compilation_cache")
  if jax.config.jax_compilation_cache_dir is None:
    cache = workdir.parent / ".jax_cache"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
