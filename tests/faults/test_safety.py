"""Nothing that is read can run code, leave its folder, or fill the memory."""

import ast
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from kdcl_jax import config as kdcl
from kdcl_jax import run, weights
from kdcl_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(
  path
  for folder in ("kdcl_jax", "benchmarks", "configs")
  for path in (ROOT / folder).rglob("*.py")
)
FORBIDDEN = {
  "pickle",
  "cPickle",
  "_pickle",
  "dill",
  "cloudpickle",
  "joblib",
  "marshal",
  "shelve",
}
CALLS = {"eval", "exec", "compile", "__import__"}


def walked(path):
  return ast.walk(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_can_run_code(path):
  for node in walked(path):
    if isinstance(node, ast.Import):
      roots = {alias.name.partition(".")[0] for alias in node.names}
      # An error by its name reads nothing.
      assert roots & FORBIDDEN <= {"pickle"}
    elif isinstance(node, ast.Attribute):
      if ast.unparse(node.value) == "pickle":
        assert node.attr == "UnpicklingError", f"line {node.lineno}"
    elif isinstance(node, ast.ImportFrom):
      assert (node.module or "").partition(".")[0] not in FORBIDDEN
    elif isinstance(node, ast.Call):
      name = node.func
      if isinstance(name, ast.Name):
        assert name.id not in CALLS, f"line {node.lineno}"
      elif isinstance(name, ast.Attribute) and name.attr == "load":
        of = ast.unparse(name.value)
        said = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if of == "torch":
          assert said.get("weights_only") == "True", f"line {node.lineno}"
        if of in ("np", "numpy", "jnp"):
          assert said.get("allow_pickle") == "False", f"line {node.lineno}"


def test_only_our_own_programs_are_run_and_no_shell():
  for path in FILES:
    for node in walked(path):
      if isinstance(node, ast.Call):
        said = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert said.get("shell", "False") == "False", f"{path}: {node.lineno}"
        name = ast.unparse(node.func)
        assert name not in ("os.system", "os.popen"), f"{path}: {node.lineno}"


@pytest.mark.parametrize(
  "name",
  [
    "../x",
    "a/b",
    "/tmp/x",
    "config.json",
    "results.json",
    ".lock_run",
    "..",
    ".",
    "",
    "difficulty",
    "export",
    "report",
    "a b",
    "a\nb",
    "x" * 300,
    "0",
  ],
)
def test_a_stage_cannot_be_called_after_another_place(name):
  section = kdcl.plain(kdcl.stage(steps=1))
  config = kdcl.plain(kdcl.run(stages=("teacher",), teacher=section))
  config["stages"] = (name,)
  config[name] = section
  with pytest.raises(UserError, match="config.stages names"):
    kdcl.resolve(config)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", ""])
def test_a_cell_of_an_experiment_cannot_either(name):
  from kdcl_jax.experiments import definition

  short = kdcl.run(stages=("student",), student=kdcl.stage(steps=1), export="")
  config = kdcl.plain(kdcl.experiment(runs=dict(one=short)))
  config["runs"] = {name: config["runs"]["one"]}
  config["cells"] = (name,)
  with pytest.raises(UserError, match="config.runs"):
    definition.resolve(config)


def test_a_score_cannot_name_a_file_elsewhere():
  stage = kdcl.stage(
    steps=1,
    curriculum=dict(order="curriculum", difficulty=dict(score="../../x")),
  )
  config = kdcl.resolve(kdcl.run(stages=("s",), export="", s=stage))
  with pytest.raises(UserError, match="difficulty.score"):
    run.execute(config, pathlib.Path("unused"))
  assert not pathlib.Path("unused").exists()


def test_no_secret_of_the_environment_is_written_or_logged(
  tmp_path, monkeypatch, capfd, caplog
):
  secret = "hf_thisIsNoRealToken0123456789"
  for name in (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
  ):
    monkeypatch.setenv(name, secret)
  stage = kdcl.stage(steps=4, batch_size=16, model=dict(name="mlp"))
  config = kdcl.run(
    stages=("teacher",),
    export="teacher",
    teacher=stage,
    data=dict(train_size=200, test_size=50, validation=40),
  )
  run.execute(kdcl.resolve(config), tmp_path)
  written = [path for path in tmp_path.rglob("*") if path.is_file()]
  assert len(written) > 10
  for path in written:
    assert secret.encode() not in path.read_bytes(), path
  assert secret not in "".join(capfd.readouterr()) + caplog.text


def test_weights_are_checked_by_their_digest(tmp_path):
  path = tmp_path / "w.safetensors"
  weights.save(path, {"params": {"a": np.arange(4.0)}}, {"stage": "x"})
  whole = path.read_bytes()
  path.write_bytes(whole[:-1] + b"\x01")
  with pytest.raises(UserError, match="not as they were written"):
    weights.load(path, "config.x")
  # Files of others have no digest, and are read as they are.
  path.write_bytes(safetensors.numpy.save({"params/a": np.arange(4.0)}))
  assert weights.load(path, "config.x")["params"]["a"].tolist() == [0, 1, 2, 3]
