"""Imports go one way, the core stays pure, and files stay small."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "kdcl_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
CORE = ("losses", "difficulty", "pacing", "weighting")
TRAINING = {
  "checkpoint",
  "clusters",
  "command",
  "config",
  "controller",
  "curriculum",
  "digests",
  "environment",
  "evaluate",
  "experiment",
  "experiments",
  "fields",
  "export",
  "hosts",
  "lanes",
  "loop",
  "main",
  "objective",
  "optimizer",
  "parallel",
  "pipeline",
  "pretrained",
  "report",
  "results",
  "run",
  "score",
  "scoring",
  "screening",
  "seed_run",
  "stages",
  "state",
  "step",
  "survey",
  "tables",
  "tally",
  "train",
  "training",
  "validation",
  "writers",
}
FILE_MODULES = {
  "checkpoint",
  "clusters",
  "command",
  "digests",
  "environment",
  "experiment",
  "experiments",
  "export",
  "hosts",
  "hub",
  "loop",
  "main",
  "page",
  "predict",
  "pretrained",
  "report",
  "results",
  "run",
  "runtimes",
  "score",
  "scoring",
  "seed_run",
  "survey",
  "tables",
  "train",
  "weights",
  "writers",
}


def name_of(path):
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return parts[0]


def imports(path, *, package=False):
  """Roots of what a file imports, at any depth; ours without the prefix."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      modules = [(alias.name, ()) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      modules = [(node.module or "", [alias.name for alias in node.names])]
    else:
      continue
    for module, names in modules:
      root, _, rest = module.partition(".")
      if root == "kdcl_jax" and package:
        found.update([rest.split(".")[0]] if rest else names)
      elif root != "kdcl_jax" and not package:
        found.add(root)
  return found


def of(*names):
  return [path for path in FILES if name_of(path) in names]


@pytest.mark.parametrize("path", of(*CORE), ids=str)
def test_the_core_imports_only_jax_numpy_optax_and_chex(path):
  allowed = {"jax", "numpy", "optax", "chex"} | set(sys.stdlib_module_names)
  assert imports(path) <= allowed
  assert imports(path, package=True) <= set(CORE)


DATA = ("models", "sources", "dataset", "augment", "label_noise", "randomness")


@pytest.mark.parametrize("path", of(*DATA), ids=str)
def test_models_and_data_know_nothing_of_training(path):
  assert not imports(path, package=True) & TRAINING


@pytest.mark.parametrize(
  "path", of("step", "objective", "optimizer", "state", "curriculum"), ids=str
)
def test_the_step_knows_nothing_of_files(path):
  assert not imports(path, package=True) & FILE_MODULES


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nobody_imports_a_command_and_only_commands_change_jax(path):
  commands = {"main", "score", "experiment"}
  assert not commands & imports(path, package=True)
  if path.name != "command.py":
    assert "jax.config.update" not in path.read_text()


@pytest.mark.parametrize(
  "module", ["losses", "difficulty", "pacing", "weighting"]
)
def test_importing_the_core_takes_no_framework_along(module):
  code = (
    f"import sys, kdcl_jax.{module}; print(' '.join(m for m in ('flax',"
    " 'grain', 'tensorflow', 'tensorflow_datasets', 'orbax', 'matplotlib',"
    " 'sklearn', 'ml_collections') if m in sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_is_longer_than_four_hundred_lines(path):
  assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_module_says_what_it_is(path):
  assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", of(*CORE), ids=str)
def test_public_functions_of_the_core_have_an_example(path):
  front = PACKAGE / name_of(path) / "__init__.py"
  shown = front.read_text() if front.exists() else path.read_text()
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.FunctionDef) and re.search(
      rf"\b{node.name}\b", shown
    ):
      if node.name.startswith("_"):
        continue
      text = ast.get_docstring(node) or ""
      assert ">>>" in text, f"{node.name} has no example"


def test_ruff_finds_nothing():
  pytest.importorskip("ruff", reason="ruff is not installed")
  for command in (["check"], ["format", "--check"]):
    done = subprocess.run(
      [sys.executable, "-m", "ruff", *command, "."],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
