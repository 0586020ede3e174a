"""Pages: markdown, pictures beside it, and both as one HTML file."""

import base64
import html
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import markdown

from kdcl_jax.writers import write_text

if TYPE_CHECKING:
  from matplotlib.figure import Figure  # slow to import

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


class Pictures:
  """Saves figures beside the report and links them."""

  def __init__(self, folder: pathlib.Path):
    """Starts without a picture; the folder is made with the first."""
    self._folder = folder

  def add(self, name: str, title: str, figure: "Figure") -> str:
    """Saves a figure and returns its link."""
    self._folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(
      self._folder / f"{name}.png", dpi=130, metadata={"Software": None}
    )
    return f"![{title}]({self._folder.name}/{name}.png)"


def cell(text: Any) -> str:
  """Text that means nothing else in markdown or HTML."""
  return html.escape(str(text), quote=False).replace("|", "\\|")


def table(rows: Sequence[Sequence[str]]) -> str:
  """A markdown table; the first row is its head."""
  line = lambda cells: "| " + " | ".join(cell(c) for c in cells) + " |"
  rule = "|" + "---|" * len(rows[0])
  return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def write(path: pathlib.Path, title: str, text: str) -> None:
  """Writes markdown as a page that opens without a network.

  Args:
    path: the HTML file.
    title: the page's title.
    text: markdown; its pictures, FOLDER/NAME.png, lie beside the page and are
      put inside. What follows "### Config" is folded away.
  """
  body = markdown.markdown(text, extensions=["tables", "fenced_code"])

  def embedded(match: re.Match) -> str:
    content = (path.parent / match.group(1)).read_bytes()
    return f'src="data:image/png;base64,{base64.b64encode(content).decode()}"'

  body = re.sub(r'src="(\w+/\w+\.png)"', embedded, body)
  body = body.replace("<table>", '<div class="scroll"><table>')
  body = body.replace("</table>", "</table></div>")
  folded = "<details><summary>Config</summary>"
  body, found = re.subn("<h3>Config</h3>", folded, body)
  write_text(
    path,
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n"
    f"</head>\n<body>\n{body}\n{'</details>' * found}\n</body>\n</html>\n",
  )
