"""The experiment on noisy labels compares like with like."""

import importlib.util
import pathlib

import pytest

from kdcl_jax.experiments import definition

PATH = pathlib.Path(__file__).parents[2] / "configs/experiments/noisy_labels.py"
_SPEC = importlib.util.spec_from_file_location("noisy_labels", PATH)
noisy_labels = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(noisy_labels)


@pytest.fixture(scope="module", params=noisy_labels.VARIANTS)
def cells(request):
  config = noisy_labels.get_config(request.param)
  return definition.resolve(config)["runs"]


def test_every_teacher_takes_the_same_steps_with_its_scoring(cells):
  for run in cells.values():
    scorer = run["scorer"]
    whole = set()
    for name in run["stages"]:
      if name.startswith("teacher"):
        scored = run[name]["curriculum"]["order"] in ("curriculum", "anti")
        whole.add(
          run[name]["steps"] + scored * scorer["folds"] * scorer["steps"]
        )
    assert len(whole) == 1


def test_every_student_takes_the_same_steps(cells):
  for run in cells.values():
    students = [n for n in run["stages"] if not n.startswith("teacher")]
    assert len({run[name]["steps"] for name in students}) == 1
    assert len({run[name]["batch_size"] for name in run["stages"]}) == 1


def test_a_twin_differs_in_its_order_alone(cells):
  for run in cells.values():
    if "teacher_random" in run["stages"]:
      one, twin = (
        run[name]
        | {"steps": 0, "curriculum": run[name]["curriculum"] | {"order": ""}}
        for name in ("teacher", "teacher_random")
      )
      assert one == twin
      student = run["student"] | {"teachers": ("teacher_random",)}
      assert student == run["student_random"]


def test_validation_labels_are_as_noisy_as_the_rest(cells):
  for run in cells.values():
    noise = run["data"]["label_noise"]
    assert noise["validation"] == (noise["kind"] != "none")
