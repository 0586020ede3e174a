"""Every config resolves, and to exactly the values it had when reviewed."""

import ast
import json
import pathlib
import runpy

import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import validation
from kdcl_jax.environment import plain

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
GOLDEN = pathlib.Path(__file__).parent / "golden" / "configs"
VARIANTS = {
  "digits": ("", "clean", "chain", "two_teachers"),
  "fashion_mnist": ("", "noisy", "mobile"),
  "cifar10": ("resnet56-resnet20",),
  "cifar100": ("resnet56-resnet20", "resnet32x4-shufflenet_v2"),
  "losses": ("digits,kd", "digits,crd,ctkd", "attention_ce,ca_mkd"),
  "curricula": ("rerank,bandit,spl_hard,rco,pocl", "clean,one_pass"),
  "imagenet": (
    "resnet50-mobilenet_v2",
    "resnet50-mobilenet_v1,dist,pretrained",
    "resnet34-resnet18,folder,progressive",
    "vit",
    "patient",
  ),
}
# Two of them are tables of many stages, and one has many recipes.
LINES = dict.fromkeys(VARIANTS, 125) | {
  "losses": 200,
  "curricula": 150,
  "imagenet": 150,
}
CASES = [(n, v) for n, variants in VARIANTS.items() for v in variants]


def golden(name, variant):
  words = [name, *([variant.replace(",", "-")] if variant else [])]
  return GOLDEN / f"{'_'.join(words)}.json"


def resolved(name, variant):
  get = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]
  return kdcl.resolve(get(variant) if variant else get())


def test_no_config_is_forgotten_here():
  assert {path.stem for path in CONFIGS.glob("*.py")} == set(VARIANTS)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_config_has_the_values_that_were_reviewed(name, variant):
  config = resolved(name, variant)
  validation.check(config)
  path = golden(name, variant)
  text = json.dumps(plain(config), indent=1) + "\n"
  assert path.exists() and path.read_text() == text, (
    "this config's values have changed; if that is meant, run `python"
    " tests/test_configs.py` and review the difference"
  )


@pytest.mark.parametrize(
  ("name", "variant", "least"),
  [("losses", "", 40), ("losses", "digits", 40), ("curricula", "", 20)],
)
def test_a_table_of_stages_has_no_mistake_as_a_whole(name, variant, least):
  config = resolved(name, variant)
  validation.check(config)
  assert len(config["stages"]) > least


@pytest.mark.parametrize("name", VARIANTS)
def test_a_config_is_short_and_headed_by_its_command(name):
  text = (CONFIGS / f"{name}.py").read_text()
  assert len(text.splitlines()) <= LINES[name]
  header = ast.get_docstring(ast.parse(text))
  assert f"--config=configs/{name}.py" in header
  assert "python -m kdcl_jax.main" in header


@pytest.mark.parametrize("name", VARIANTS)
def test_an_unknown_variant_is_refused(name):
  with pytest.raises(ValueError, match="no variant 'nothing'"):
    resolved(name, "nothing")


if __name__ == "__main__":
  GOLDEN.mkdir(parents=True, exist_ok=True)
  for name, variant in CASES:
    content = json.dumps(plain(resolved(name, variant)), indent=1) + "\n"
    golden(name, variant).write_text(content)
