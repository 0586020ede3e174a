"""Tuning: by validation alone, level by level, on seeds of its own."""

import pathlib
import re

import pytest
from grids import CLAIM, Made, experiment, grid, rate, resolved, stage

from kdcl_jax import config as kdcl
from kdcl_jax.errors import UserError
from kdcl_jax.experiments import cells, definition, tuning

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def by_rate(best):
  """Validation accuracy that is highest at a learning rate for each stage."""
  return lambda name, section, seed: 0.9 - abs(rate(section) - best[name])


BEST = dict(
  teacher=0.03, teacher_random=0.01, baseline=0.03, kd_random=0.01, student=0.03
)


def chosen_values(chosen):
  return {name: choice.value for name, choice in chosen.items()}


def test_each_stage_takes_the_value_with_the_best_validation(tmp_path):
  made = Made(by_rate(BEST))
  chosen = tuning.tune(resolved(), "noisy", tmp_path, made)
  assert chosen_values(chosen) == BEST
  config = cells.final(resolved(), "noisy", chosen)
  assert {name: rate(config[name]) for name in BEST} == BEST
  assert config["seed"] == 0 and config["seeds"] == 2


def test_the_test_records_have_no_part_in_it(tmp_path):
  test = lambda name, section, seed: 1.0 - by_rate(BEST)(name, section, seed)
  one = tuning.tune(resolved(), "noisy", tmp_path / "a", Made(by_rate(BEST)))
  two = tuning.tune(
    resolved(), "noisy", tmp_path / "b", Made(by_rate(BEST), test)
  )
  assert chosen_values(one) == chosen_values(two) == BEST


def test_the_mean_over_all_seeds_decides(tmp_path):
  def accuracy(name, section, seed):  # the other value is best with one seed
    return {(0.01, 1000): 0.95, (0.01, 1001): 0.4, (0.03, 1000): 0.8}.get(
      (rate(section), seed), 0.7
    )

  chosen = tuning.tune(resolved(), "noisy", tmp_path, Made(accuracy))
  assert chosen["student"].value == 0.03
  tried = chosen["student"].to_json()["tried"]
  assert [one["validation_accuracy"] for one in tried] == [0.675, 0.75]
  assert tried[0]["values"] == [0.95, 0.4]


def test_of_equal_values_the_smallest_wins_also_where_sums_are_rounded(
  tmp_path,
):
  thirds = {0.01: (0.3, 0.2, 0.1), 0.03: (0.1, 0.2, 0.3)}
  assert sum(thirds[0.03]) > sum(thirds[0.01])
  accuracy = lambda name, section, seed: thirds[rate(section)][seed - 1000]
  settings = dict(values=(0.03, 0.01), seeds=3)
  chosen = tuning.tune(
    resolved(tuning=settings), "noisy", tmp_path, Made(accuracy)
  )
  assert set(chosen_values(chosen).values()) == {0.01}


@pytest.mark.parametrize(
  ("best", "edge"), [(0.01, True), (0.02, False), (0.03, True)]
)
def test_it_is_known_whether_the_best_lies_at_the_edge(best, edge, tmp_path):
  settings = dict(values=(0.02, 0.03, 0.01), seeds=1)
  made = Made(by_rate(dict.fromkeys(BEST, best)))
  chosen = tuning.tune(resolved(tuning=settings), "noisy", tmp_path, made)
  assert all(choice.value == best for choice in chosen.values())
  assert all(choice.at_edge == edge for choice in chosen.values())


def test_one_value_alone_is_no_edge(tmp_path):
  chosen = tuning.tune(resolved(), "noisy", tmp_path, Made(by_rate(BEST)))
  assert not chosen["baseline"].at_edge and chosen["student"].at_edge


def test_students_are_tuned_under_tuned_teachers(tmp_path):
  made = Made(by_rate(BEST))
  tuning.tune(resolved(), "noisy", tmp_path, made)
  places = {p.relative_to(tmp_path / "tuning" / "noisy") for p in made.configs}
  assert {str(p) for p in places} == {
    f"level_{n}/{value}" for n in (0, 1) for value in (0.01, 0.03)
  }
  for path, config in made.configs.items():
    value = float(path.name)
    for name in config["stages"]:
      lower = path.parent.name == "level_1" and name.startswith("teacher")
      assert rate(config[name]) == (BEST[name] if lower else value), (
        path,
        name,
      )


def test_a_stage_is_tried_only_at_the_values_of_its_own_range(tmp_path):
  made = Made(by_rate(BEST))
  tuning.tune(resolved(), "noisy", tmp_path, made)
  with_baseline = [
    path.name for path, c in made.configs.items() if "baseline" in c["stages"]
  ]
  assert with_baseline == ["0.03"]


def test_a_teacher_that_is_tuned_is_copied_and_not_trained_again(tmp_path):
  made = Made(by_rate(BEST))
  tuning.tune(resolved(), "noisy", tmp_path, made)
  folder = tmp_path / "tuning" / "noisy"
  for value in ("0.01", "0.03"):
    for name in ("teacher", "teacher_random"):
      for seed in (1000, 1001):
        copy = tuning.result_of(folder / "level_1" / value, name, seed)
        source = folder / "level_0" / repr(BEST[name])
        assert f'"made_in": "{source}"' in copy.read_text()
  with pytest.raises(FileNotFoundError):  # is not needed by any student
    next((folder / "level_1" / "0.01" / "baseline").iterdir())


def test_what_is_done_is_not_done_again_and_what_is_cut_off_goes_on(tmp_path):
  first = Made(by_rate(BEST))
  chosen = tuning.tune(resolved(), "noisy", tmp_path, first)
  again = Made(by_rate(BEST))
  assert tuning.tune(resolved(), "noisy", tmp_path, again) == chosen
  assert not again.configs
  lost = list(first.configs)[-1]
  tuning.result_of(lost, "student", 1001).unlink()
  assert cells.choices(resolved(), tmp_path, "noisy") is None
  assert tuning.tune(resolved(), "noisy", tmp_path, again) == chosen
  assert list(again.configs) == [lost]


def test_reported_seeds_are_never_tuned_on(tmp_path):
  config = resolved(tuning=dict(values=(0.01,), seeds=3, seed=7))
  made = Made(lambda *_: 0.5)
  tuning.tune(config, "noisy", tmp_path, made)
  for trial in made.configs.values():
    assert tuning.seeds_of(trial) == [7, 8, 9]
    assert not trial["export"]
  for first in (0, 1):  # two seeds are reported, 0 and 1
    with pytest.raises(UserError, match=r"config\.tuning\.seed is .* 0 to 1"):
      resolved(tuning=dict(values=(0.01,), seeds=3, seed=first))
  resolved(tuning=dict(values=(0.01,), seeds=3, seed=2))
  settings = dict(values=(0.01,), seeds=3, seed=7)
  resolved(runs=dict(noisy=grid(seed=10)), tuning=settings)
  with pytest.raises(UserError, match="seeds 7 to 9 tune"):
    resolved(runs=dict(noisy=grid(seed=9)), tuning=settings)


def test_a_cell_can_take_over_the_values_of_another(tmp_path):
  made = Made(by_rate(BEST))
  chosen = tuning.tune(resolved(), "clean", tmp_path, made)
  assert chosen_values(chosen) == BEST
  assert {path.parents[1].name for path in made.configs} == {"noisy"}
  settings = dict(values=(0.01,), at=dict(clean="noisy", noisy="noisy"))
  tasks = cells.tasks(
    resolved(tuning=settings), tmp_path / "b", ["clean", "noisy"]
  )
  assert [str(task) for task in tasks[2:]] == [
    "tune noisy", "run clean", "run noisy"
  ]  # fmt: skip


def test_tasks_come_after_what_they_need(tmp_path):
  words = lambda names: [str(t) for t in cells.tasks(*names)]
  both = words((resolved(), tmp_path, ["noisy", "clean"]))
  assert both == ["check noisy", "check clean", "tune noisy", "run noisy"] + [
    "run clean"
  ]
  alone = words((resolved(), tmp_path, ["clean"]))
  assert alone == ["check clean", "check noisy", "tune noisy", "run clean"]
  for task in cells.tasks(resolved(), tmp_path, ["noisy", "clean"]):
    if task.kind == "run":
      assert [str(need) for need in task.needs] == ["tune noisy"]


def test_without_values_nothing_is_tuned(tmp_path):
  config = resolved(tuning=dict(values=()))
  assert cells.choices(config, tmp_path, "noisy") == {}
  tasks = cells.tasks(config, tmp_path, ["noisy"])
  assert [str(task) for task in tasks] == ["check noisy", "run noisy"]
  assert cells.final(config, "noisy", {}) == config["runs"]["noisy"]


def test_another_field_can_be_tuned(tmp_path):
  field = "curriculum.freeze.tolerance"
  accuracy = lambda name, section, seed: section["curriculum"]["freeze"][
    "tolerance"
  ]
  config = resolved(tuning=dict(field=field, values=(1.0, 2), seeds=1))
  chosen = tuning.tune(
    config, "noisy", tmp_path, Made(lambda *a: accuracy(*a) / 9)
  )
  final = cells.final(config, "noisy", chosen)
  assert final["student"]["curriculum"]["freeze"]["tolerance"] == 2


def test_pretrained_stages_are_not_tuned_and_chains_have_their_levels():
  chain = kdcl.run(
    stages=("given", "first", "second", "third"),
    given=kdcl.stage(weights="somewhere"),
    first=stage(teachers=("given",)),
    second=stage(teachers=("first",)),
    third=stage(teachers=("given", "second")),
  ).to_dict()
  assert definition.trained(chain) == ["first", "second", "third"]
  assert definition.levels(chain) == [["first"], ["second"], ["third"]]


# what is wrong -> (fields of the experiment, what the sentence must contain)
WRONG = {
  "no runs": (dict(runs={}), ["config.runs is empty"]),
  "unknown field": (dict(run={}), ["config.run ", "'runs'"]),
  "unknown field of the tuning": (
    dict(tuning=dict(value=())),
    ["config.tuning.value ", "'values'"],
  ),
  "a cell without a run": (
    dict(cells=("noisy", "cleen")),
    ["config.cells", "'cleen'", "'clean'"],
  ),
  "a bad name": (dict(runs={"a/b": grid()}), ["config.runs", "'a/b'"]),
  "no run config": (dict(runs=dict(a=3)), ["config.runs.a"]),
  "a mistake in a run": (
    dict(runs=dict(good=grid(), bad=grid(student=stage(teachers=("nobody",))))),
    ["config.runs.bad.student.teachers", "'nobody'"],
  ),
  "a field of a run": (
    dict(runs=dict(bad=grid(batchsize=3))),
    ["config.runs.bad.batchsize"],
  ),
  "unknown field to tune": (
    dict(tuning=dict(field="optimizer.learning_rat", values=(1.0,))),
    ["config.tuning.field", "learning_rat'", "'learning_rate'"],
  ),
  "a field to tune that is no number": (
    dict(tuning=dict(field="optimizer", values=(1.0,))),
    ["config.tuning.field is 'optimizer'", "number"],
  ),
  "a value that the field does not take": (
    dict(tuning=dict(values=(0.1, -0.1))),
    ["config.runs.noisy.teacher.optimizer.learning_rate", "-0.1"],
  ),
  "a value twice": (
    dict(tuning=dict(values=(0.1, 0.1))),
    ["config.tuning.values", "different"],
  ),
  "values of an unknown stage": (
    dict(tuning=dict(values=dict(default=(0.1,), studnet=(0.1,)))),
    ["config.tuning.values", "'studnet'", "'student'"],
  ),
  "values at an unknown cell": (
    dict(tuning=dict(values=(0.1,), at=dict(clean="nosy"))),
    ["config.tuning.at", "'nosy'", "'noisy'"],
  ),
  "values at a cell that is not tuned": (
    dict(tuning=dict(values=(0.1,), at=dict(clean="noisy", noisy="clean"))),
    ["config.tuning.at", "not tuned itself"],
  ),
  "values at a cell without the stage": (
    dict(
      runs=dict(all=grid(), few=grid(stages=("baseline",), export="")),
      tuning=dict(values=(0.1,), at=dict(all="few")),
      claims={},
    ),
    ["config.tuning.at.all", "'few'", "'teacher'"],
  ),
  "a claim for an unknown stage": (
    dict(claims=dict(studnet=CLAIM)),
    ["config.claims.studnet", "'studnet'", "'student'"],
  ),
  "a claim against an unknown stage": (
    dict(claims=dict(student=dict(against=("kd_randm",)))),
    ["config.claims.student", "'kd_randm'", "'kd_random'"],
  ),
  "a claim against nobody": (
    dict(claims=dict(student=dict(twin="kd_random"))),
    ["config.claims.student.against", "at least one"],
  ),
  "a claim with an unknown twin": (
    dict(claims=dict(student=CLAIM | dict(twin="twin"))),
    ["config.claims.student", "'twin'"],
  ),
  "a claim against itself": (
    dict(claims=dict(student=dict(against=("student",)))),
    ["config.claims.student", "twice"],
  ),
  "a claim that no cell has whole": (
    dict(
      runs=dict(
        a=grid(stages=("baseline",), export=""),
        b=grid(stages=("teacher", "student")),
      ),
      tuning={},
      claims=dict(student=dict(against=("baseline",))),
    ),
    ["config.claims.student", "no run has all"],
  ),
  "a group of an unknown cell": (
    dict(groups=dict(all=("noisy", "cleen"))),
    ["config.groups.all", "'cleen'", "'clean'"],
  ),
  "an empty group": (dict(groups=dict(none=())), ["config.groups.none", "()"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_in_one_sentence(case):
  fields, words = WRONG[case]
  with pytest.raises(UserError) as error:
    resolved(**fields)
  for word in words:
    assert word in str(error.value), str(error.value)
  assert "\n" not in str(error.value)


def test_the_config_of_one_run_is_told_from_an_experiment():
  with pytest.raises(UserError, match=r"kdcl_jax\.main"):
    definition.resolve(grid())


def test_seeds_of_all_runs_can_be_given_in_one_place():
  assert {r["seeds"] for r in resolved(seeds=7)["runs"].values()} == {7}
  assert {r["seeds"] for r in resolved()["runs"].values()} == {2}
  config = experiment()
  config.runs.clean.seeds = 3
  found = definition.resolve(config)["runs"]
  assert (found["clean"]["seeds"], found["noisy"]["seeds"]) == (3, 2)


def test_a_run_that_was_begun_with_another_config_is_not_gone_on_with(tmp_path):
  tuning.tune(resolved(), "noisy", tmp_path, Made(by_rate(BEST)))
  changed = resolved(runs=dict(noisy=grid(0.2), clean=grid(0.0)))
  with pytest.raises(UserError) as error:
    cells.tasks(changed, tmp_path, ["noisy"])
  assert re.search(
    r"config\.runs\.noisy\.data\.label_noise\.rate is 0\.2", str(error.value)
  )


def test_the_experiment_that_the_docs_show_has_no_mistake():
  text = (DOCS / "experiments.md").read_text()
  shown: dict = {}
  exec(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1], shown)
  found = definition.resolve(shown["get_config"]())
  assert list(found["runs"]) == ["noisy_20", "noisy_40"]
  assert definition.values_of(found, "teacher") == (1e-3, 3e-3, 1e-2)
  assert definition.values_of(found, "kd") == (3e-3, 1e-2, 3e-2)


def test_cells_are_picked_by_their_names():
  config = resolved()
  assert definition.picked(config, []) == ["noisy", "clean"]
  assert definition.picked(config, ["clean"]) == ["clean"]
  with pytest.raises(UserError, match="--only names 'cleen'.*'clean'"):
    definition.picked(config, ["clean", "cleen"])
