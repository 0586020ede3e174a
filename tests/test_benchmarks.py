"""The benchmark of the losses leaves none out unsaid, and runs."""

import importlib
import inspect
import json
import pathlib
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest

from kdcl_jax.losses import LOSSES

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
shapes = importlib.import_module("shapes")
timing = importlib.import_module("timing")


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_arrays_that_fit_it_or_a_reason(name):
  measured = [
    case for shape in shapes.SIZES for case in shapes.cases(name, shape)
  ]
  assert measured
  for case in measured:
    specs = case.specs()
    value, gradients = jax.eval_shape(case.value_and_gradients, *specs)
    assert value.shape == ()
    student = [specs[i] for i in case.learned]
    assert len(student) >= 1 and case.names[0].startswith("student")
    assert jax.tree.map(lambda x: x.shape, list(gradients)) == jax.tree.map(
      lambda x: x.shape, student
    )
  for shape in shapes.SIZES:
    assert bool(shapes.cases(name, shape)) != bool(shapes.left_out(name, shape))


def test_the_tables_name_only_losses_that_there_are():
  named = {name for names in shapes.FEATURES.values() for name in names}
  named |= {name for _, name in shapes.MORE} | set(shapes.CHUNKED)
  for reasons in shapes.LEFT_OUT.values():
    named |= set(reasons) - set(shapes.FEATURES)
  assert named <= set(LOSSES)
  on_features = [name for names in shapes.FEATURES.values() for name in names]
  assert sorted(on_features) == sorted(
    name
    for name, loss in LOSSES.items()
    if "student_features" in inspect.signature(loss).parameters
  )


def test_student_and_teacher_are_not_the_same():
  (case,) = shapes.cases("kd", "cifar")
  student, teacher = (np.ravel(case.array(name)) for name in case.names)
  assert student.shape == teacher.shape
  assert abs(np.corrcoef(student, teacher)[0, 1]) < 0.1


class Scripted:
  """A program whose samples last as the list says."""

  def __init__(self, seconds, first=0.0):
    self.seconds, self.first = iter(seconds), first

  def sample(self):
    return next(self.seconds)


def test_a_machine_that_slows_down_steadily_changes_no_ratio():
  reference = Scripted([1.0, 3.0, 5.0, 7.0])
  program = Scripted([4.0, 8.0, 12.0])
  found = timing.compare(program, reference, rounds=3, budget=60.0)
  assert found == timing.Comparison(8.0, 2.0, 2.0, 2.0, 3)


def test_a_program_beyond_the_budget_is_not_called_again():
  program = Scripted([], first=9.0)
  found = timing.compare(program, Scripted([3.0, 3.0]), rounds=5, budget=1.0)
  assert found == timing.Comparison(9.0, 3.0, 3.0, 3.0, 1)


def test_a_program_counts_its_calls_and_its_memory():
  ran = []

  def function(x):
    jax.debug.callback(lambda: ran.append(0))
    return x[:, None] * x[None]

  program = timing.Program(function, [np.ones(8, np.float32)])
  before = len(ran)
  assert program.sample() > 0
  jax.effects_barrier()
  assert len(ran) - before == program.calls >= 1
  assert program.temporary >= 0


def test_the_command_writes_a_table_and_the_numbers(tmp_path):
  out = tmp_path / "deep" / "losses.json"
  options = "--only kd,rkd --shapes cifar --repeats 1 --seconds 0.01"
  done = subprocess.run(
    [
      *(sys.executable, str(BENCHMARKS / "losses.py"), *options.split()),
      *("--devices-note", "--out", str(out)),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  written = json.loads(out.read_text())
  assert [row["loss"] for row in written["rows"]] == ["kd", "rkd"]
  assert written["machine"]["jax"] == jax.__version__
  for row in written["rows"]:
    assert row["student_bytes"] == {"kd": 25_600, "rkd": 16_384}[row["loss"]]
    for part in ("forward", "forward_backward"):
      assert row[part]["seconds"] > 0 and row[part]["rounds"] == 1
  lines = [line for line in done.stdout.splitlines() if "`" in line]
  assert [line.split(" | ")[0] for line in lines] == ["| `kd`", "| `rkd`"]
  assert jax.__version__ in done.stdout.splitlines()[-1]


def test_an_unknown_loss_is_named_and_the_known_ones_listed(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["losses.py", "--only", "kd,dk"])
  with pytest.raises(SystemExit, match="--only names 'dk', expected .*rkd"):
    runpy.run_path(str(BENCHMARKS / "losses.py"), run_name="__main__")
