"""Makes files for a phone or a server of a finished run's student.

  python -m kdcl_jax.export --workdir=runs/digits --to=onnx,stablehlo

Each file is evaluated by its own runtime; the report and the model card gain
the table. See docs/export.md.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from kdcl_jax import command, environment, report, results
from kdcl_jax import config as fields
from kdcl_jax import dataset as datasets
from kdcl_jax.errors import UserError
from kdcl_jax.export import card, delivery, formats
from kdcl_jax.writers import read_json


class _Parser(argparse.ArgumentParser):
  """Says what is wrong in one sentence."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}; see python -m kdcl_jax.export --help.")


def main(argv: Sequence[str]) -> int:
  """Does what the command line asks for; returns the exit code."""
  command.quiet_others()
  known = ",".join(formats.FORMATS)
  parser = _Parser(prog="python -m kdcl_jax.export")
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--to", required=True, help=f"some of {known}")
  parser.add_argument("--calibration", type=int, default=512, help="records")
  parser.add_argument("--runs", type=int, default=100, help="for latency")
  try:
    print(_made(parser.parse_args(argv)))
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr)
    return 2
  return 0


def _made(arguments: argparse.Namespace) -> str:
  for name in ("calibration", "runs"):
    value = getattr(arguments, name)
    if value < 1:
      raise UserError(f"--{name} is {value}, expected at least 1.")
  workdir = arguments.workdir.expanduser()
  config = _config(workdir)
  names = formats.named(arguments.to)
  folder = workdir / "export"
  seed = read_json(folder / "student.json")["provenance"]["seed"]
  with environment.only_process(workdir):
    data = datasets.load(config["data"], seed=seed)
    delivery.make(
      workdir,
      config,
      data,
      names,
      calibration=arguments.calibration,
      runs=arguments.runs,
    )
    seeds = range(config["seed"], config["seed"] + config["seeds"])
    compared = results.collect(workdir, config["stages"], list(seeds))
    card.write(workdir, config, compared)
    if seed != seeds[0]:
      data = datasets.load(config["data"], seed=seeds[0])
    report.write(workdir, config, data, config["stages"], list(seeds))
  return f"The files are in {folder}; the table is in {workdir}/report.html."


def _config(workdir: pathlib.Path) -> dict[str, Any]:
  """The config of a run that is through."""
  if not (workdir / "config.json").exists():
    raise UserError(f"--workdir is {str(workdir)!r}, which holds no run.")
  config = fields.resolve(read_json(workdir / "config.json"))
  if not (workdir / "export" / "student.json").exists():
    why = "exports nothing (config.export is '')"
    raise UserError(
      f"--workdir is {str(workdir)!r}, whose run"
      f" {'is not finished' if config['export'] else why}; run it to its end"
      " with config.export naming a stage."
    )
  return config


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
