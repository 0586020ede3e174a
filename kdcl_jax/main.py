"""Runs a config: `python -m kdcl_jax.main --config=FILE --workdir=DIR`.

This file is intentionally kept short: it calls `kdcl_jax.run` with what the
command line says. Running the same command again resumes; with `--plan` it only
says and draws what it would do (`kdcl_jax.planning`).
"""

import pathlib
import sys
from typing import Any

from absl import flags

from kdcl_jax import command, run

_PLAN = flags.DEFINE_bool(
  "plan", False, "Draw all schedules and count the compute; train nothing."
)


def main(argv: list[str]) -> int:
  """Executes the run of a command line; returns the exit code."""
  return command.main(argv, _execute, temporary=lambda: _PLAN.value)


def _execute(config: dict[str, Any], workdir: pathlib.Path) -> str:
  if _PLAN.value:
    from kdcl_jax import planning  # as the report, slow to import

    return planning.execute(config, workdir)
  run.execute(config, workdir)
  return f"The report is {workdir / 'report.html'}."


if __name__ == "__main__":
  sys.exit(main(sys.argv))
