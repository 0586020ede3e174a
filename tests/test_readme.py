"""What the README shows works as written."""

import pathlib
import re

import jax
import numpy as np

from kdcl_jax import config as kdcl
from kdcl_jax import losses, models, terms, validation

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(marker):
  """The Python block of the README that contains a text."""
  blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
  (found,) = [text for text in blocks if marker in text]
  return found


def test_the_config_for_own_data_resolves_in_about_twenty_lines():
  text = block("my_config.py")
  namespace = {}
  exec(text, namespace)
  config = kdcl.resolve(namespace["get_config"]())
  validation.check(config)
  assert config["stages"] == ("teacher", "baseline", "student")
  body = text[text.index("def get_config") :].strip().splitlines()
  assert len(body) <= 40


def test_the_own_model_builds_and_gives_logits():
  namespace = {"__name__": "own"}
  exec(block("class Net"), namespace)
  module = namespace["Net"](num_classes=3)
  x = np.zeros((2, 4, 4, 1), np.float32)
  variables = models.init(module, jax.random.key(0), x)
  outputs, _ = models.forward(module, variables, x)
  assert outputs["logits"].shape == (2, 3)


def test_the_losses_are_used_as_shown():
  namespace = {
    "student_logits": np.ones((2, 5), np.float32),
    "teacher_logits": np.eye(2, 5, dtype=np.float32),
  }
  exec(block("losses.kd("), namespace)
  want = losses.kd(namespace["student_logits"], namespace["teacher_logits"])
  assert namespace["loss"] == want.mean()


def test_the_terms_of_an_objective_are_built_as_shown():
  namespace = {}
  exec(block("fitnet=dict("), namespace)
  built = terms.build(namespace["objective"], ("teacher",))
  assert [term.name for term in built] == ["cross_entropy", "kd", "fitnet"]
  assert [float(built[1].options["temperature"](p)) for p in (0, 1)] == [8, 2]


def test_the_test_command_is_the_one_that_ci_runs():
  command = "pip install -e '.[test]' && pytest"
  assert command in README
  ci = (ROOT / ".ci" / "run").read_text()
  assert "pip install -q -e '.[test]' && pytest" in ci


def test_links_lead_somewhere():
  for path in (
    "README.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
  ):
    text = (ROOT / path).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
      if not target.startswith("http"):
        assert ((ROOT / path).parent / target).exists(), target
