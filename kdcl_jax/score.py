"""Scores a data set: `python -m kdcl_jax.score --config=FILE --workdir=DIR`.

This file is intentionally kept short: it calls `kdcl_jax.survey` with what the
command line says. Running the same command again scores the seeds that are not
done yet and makes the report anew.
"""

import pathlib
import sys
from typing import Any

from kdcl_jax import command, survey


def main(argv: list[str]) -> int:
  """Scores the data set of a command line's config; returns the exit code."""
  return command.main(argv, _execute)


def _execute(config: dict[str, Any], workdir: pathlib.Path) -> str:
  survey.execute(config, workdir)
  return f"The report is {workdir / 'score.html'}."


if __name__ == "__main__":
  sys.exit(main(sys.argv))
