"""What a run says to people: `report.md`, and `report.html` in one file.

  python -m kdcl_jax.report --workdir=DIR

makes the report of a run again from its files, finished or not.
"""

import base64
import html
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import markdown

from kdcl_jax import chapters, results
from kdcl_jax.dataset import Dataset
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
  pictures = chapters.Pictures(workdir / "report")
  text = "\n\n".join(
    part
    for part in (
      f"# {chapters.cell(collected['name'] or 'Run')}",
      chapters.what(config, dataset, seeds),
      chapters.missing(collected),
      *chapters.comparison(collected, pictures),
      *chapters.course(workdir, stages, seeds, pictures),
      *chapters.difficulty(workdir, dataset, seeds, pictures),
      *chapters.ledger(collected),
      *chapters.how(workdir),
    )
    if part
  )
  markdown_path, html_path = workdir / "report.md", workdir / "report.html"
  write_text(markdown_path, text + "\n")
  write_text(html_path, _page(collected["name"], text, workdir))
  return markdown_path, html_path


_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: white; border-radius: 6px; padding: 6px;
  box-sizing: border-box; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem;
  text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; }
pre { overflow-x: auto; font-size: .8rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
"""


def _page(title: str, text: str, workdir: pathlib.Path) -> str:
  """One HTML file with the pictures inside."""
  body = markdown.markdown(text, extensions=["tables", "fenced_code"])

  def embedded(match: re.Match) -> str:
    content = (workdir / match.group(1)).read_bytes()
    return f'src="data:image/png;base64,{base64.b64encode(content).decode()}"'

  body = re.sub(r'src="(report/[a-z_]+\.png)"', embedded, body)
  body = body.replace("<table>", '<div class="scroll"><table>')
  body = body.replace("</table>", "</table></div>")
  body = body.replace("<h3>Config</h3>", "<details><summary>Config</summary>")
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title or 'Run')}</title>\n<style>{_STYLE}</style>\n"
    f"</head>\n<body>\n{body}\n</details>\n</body>\n</html>\n"
  )


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
  _, page = write(workdir, config, data, config["stages"], list(seeds))
  print(f"The report is {page}.")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
