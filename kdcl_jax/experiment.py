"""An experiment: `python -m kdcl_jax.experiment --config=FILE --workdir=DIR`.

This file is intentionally kept short: it has `kdcl_jax.experiments` do what is
not done yet of a grid of runs, and make the report anew of all that is there.
With `--jobs=N` N processes work side by side; `--only=CELL,...` picks cells.
"""

import pathlib
import sys
from typing import Any

from absl import flags

from kdcl_jax import command, environment, hosts
from kdcl_jax.errors import UserError
from kdcl_jax.experiments import cells, definition, summary, workers

_JOBS = flags.DEFINE_integer("jobs", 1, "Processes that work side by side.")
_ONLY = flags.DEFINE_list("only", [], "The cells to do; all where empty.")


def main(argv: list[str]) -> int:
  """Executes the experiment of a command line; returns the exit code."""
  return command.main(argv, _execute, resolve=definition.resolve)


def _execute(experiment: dict[str, Any], workdir: pathlib.Path) -> str:
  if _JOBS.value < 1:
    raise UserError(f"--jobs is {_JOBS.value}, expected a whole number >= 1.")
  if hosts.are_several():
    raise UserError(
      "an experiment is the work of one process (and its --jobs), but there are"
      " several; start it on one host, and pick cells for others by --only."
    )
  chosen = definition.picked(experiment, _ONLY.value)
  # This process leaves the devices to its workers.
  with environment.only_process(workdir, "experiment"):
    tasks = cells.tasks(experiment, workdir, chosen)
    workers.work(experiment, workdir, tasks, _JOBS.value)
    summary.write(experiment, workdir)
  return f"The report is {workdir / 'experiment.html'}."


if __name__ == "__main__":
  sys.exit(main(sys.argv))
