"""What a run says to people: `report.md`, and `report.html` in one file.

  python -m kdcl_jax.report --workdir=DIR

makes the report of a run again from its files, finished or not.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kdcl_jax import chapters, page, results
from kdcl_jax.dataset import Dataset
from kdcl_jax.export import chapter
from kdcl_jax.writers import read_json, write_text


def write(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  stages: Sequence[str],
  seeds: Sequence[int],
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes `report.md` with `report/*.png`, and `report.html`.

  Args:
    workdir: the run's directory.
    config: its resolved config.
    dataset: the data of the first seed.
    stages: names of the stages.
    seeds: the seeds.

  Returns:
    The paths of report.md and report.html.
  """
  collected = results.collect(workdir, stages, seeds)
  pictures = page.Pictures(workdir / "report")
  text = "\n\n".join(
    part
    for part in (
      f"# {page.cell(collected['name'] or 'Run')}",
      chapters.what(config, dataset, seeds),
      chapters.missing(collected),
      *chapters.comparison(collected, pictures),
      *chapters.course(workdir, stages, seeds, pictures),
      *chapters.difficulty(workdir, config, dataset, seeds, pictures),
      *chapters.ledger(collected),
      *chapter.exported(workdir),
      *chapters.how(workdir),
    )
    if part
  )
  markdown_path, html_path = workdir / "report.md", workdir / "report.html"
  write_text(markdown_path, text + "\n")
  page.write(html_path, collected["name"] or "Run", text)
  return markdown_path, html_path


def main(argv: Sequence[str]) -> int:
  """Makes the report of a working directory; returns the exit code."""
  import argparse

  from kdcl_jax import config as fields
  from kdcl_jax import dataset as datasets
  from kdcl_jax.errors import UserError

  parser = argparse.ArgumentParser(prog="python -m kdcl_jax.report")
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  workdir = parser.parse_args(argv).workdir
  if not (workdir / "config.json").exists():
    print(f"kdcl_jax: {workdir} holds no run.", file=sys.stderr)
    return 2
  try:
    config = fields.resolve(read_json(workdir / "config.json"))
    seeds = range(config["seed"], config["seed"] + config["seeds"])
    data = datasets.load(config["data"], seed=seeds[0])
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr)
    return 2
  _, path = write(workdir, config, data, config["stages"], list(seeds))
  print(f"The report is {path}.")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
