"""The next snapshot of a teacher, when validation has stopped improving."""

import json

import pytest
from courses import NET, assert_same, fit, model
from test_teacher_pacing import KD, Killed, named, outlet, taught  # noqa: F401

from kdcl_jax import controller, course, evaluate
from kdcl_jax.train import Model

ON = dict(advance_teacher=dict(on=True, patience=2))


def build(snapshots=2, lessons=10, **options):
  return controller.build(
    lambda p: 1.0 + 0 * p,
    total_steps=10 * lessons,
    lessons=lessons,
    validation_size=100,
    snapshots=snapshots,
    options={name: {"on": True} | values for name, values in options.items()},
  )


def history(made, accuracies):
  states = [made.init()]
  for accuracy in accuracies:
    states.append(made.update(states[-1], accuracy))
  return states


def test_the_snapshot_after_so_many_others_teaches_and_then_the_final_one():
  teacher = Model("t", None, "final", {0.5: "half", 0.25: "quarter"})
  assert [teacher.after(count) for count in range(4)] == [
    *("quarter", "half", "final", "final")
  ]
  assert Model("t", None, "final").after(0) == "final"


def test_it_goes_on_after_so_many_lessons_without_improvement():
  made = build(advance_teacher={"patience": 2})
  # 0.6 stays the best; the count starts anew when a snapshot takes over.
  accuracies = [0.5, 0.6, 0.6, 0.59, 0.58, 0.6, 0.55, 0.5, 0.5]
  states = history(made, accuracies)
  assert [s.teacher for s in states] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
  moments = [i for i, s in enumerate(states) if course.ADVANCE in s.actions]
  assert moments == [4, 6]
  assert (
    "than 0.600 for 2 lessons: on to snapshot 2 of 2" in (states[4].reasons[0])
  )
  assert "on to the teacher as it ended" in states[6].reasons[0]
  assert {s.best_accuracy for s in states[2:]} == {0.6}


def test_an_improvement_starts_the_count_anew():
  made = build(advance_teacher={"patience": 2})
  states = history(made, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6])
  assert {s.teacher for s in states} == {0}


def test_nothing_advances_unless_asked_or_without_snapshots_or_time():
  falling = [0.9 - i / 100 for i in range(9)]
  assert history(build(), falling)[-1].teacher == 0
  none = build(snapshots=0, advance_teacher={"patience": 1})
  assert history(none, falling)[-1].actions == (course.GO_ON,)
  # At the end of the last lesson there is nothing left to teach.
  made = build(lessons=3, advance_teacher={"patience": 2})
  assert history(made, [0.5, 0.4, 0.3])[-1].teacher == 0


def test_a_stage_does_not_stop_before_its_last_teacher_is_exhausted():
  made = build(advance_teacher={"patience": 1}, stop={"patience": 2})
  states = history(made, [0.5, 0.4, 0.4, 0.4, 0.4])
  assert [s.teacher for s in states] == [0, 0, 1, 2, 2, 2]
  assert [s.stopped for s in states] == [False] * 5 + [True]


def test_the_teacher_of_a_state_survives_json_exactly():
  made = build(advance_teacher={"patience": 1})
  for state in history(made, [0.5, 0.4, 0.3]):
    text = json.dumps(state.to_json(), allow_nan=False)
    assert course.CourseState.from_json(json.loads(text)) == state


@pytest.fixture
def validated(monkeypatch):
  """What validation says at lesson ends, in place of what it would have."""
  measure, said = evaluate.measure, []

  def saying(records):
    found = measure(records)
    return found | {"accuracy": said.pop(0)} if said else found

  monkeypatch.setattr(evaluate, "measure", saying)
  return said


ACCURACIES = [0.5, 0.6, 0.5, 0.5, 0.7, 0.1, 0.1, 0.1]


def test_each_teacher_takes_its_own_next_snapshot(taught, validated):  # noqa: F811
  teachers = (
    model("teacher", 1, (0.75, 0.25), model=NET),  # in no order
    model("second", 9, (0.5,)),  # has no other
  )
  validated[:] = ACCURACIES
  outcome = fit(
    teachers=teachers, objective=KD, curriculum=dict(lessons=8) | ON
  )
  assert len(taught) == 24 and outcome.traces == 1
  first = [0.25] * 4 + [0.75] * 3 + ["final"]
  second = [0.5] * 4 + ["final"] * 4
  for step, given in enumerate(taught):
    assert named(teachers[0], given[0]) == first[step // 3]
    assert named(teachers[1], given[1]) == second[step // 3]


def test_the_lines_of_the_lessons_say_so(validated, tmp_path):
  validated[:] = ACCURACIES
  fit(
    outlet=outlet(tmp_path),
    teachers=(model(snapshots=(0.5,)),),
    objective=KD,
    curriculum=dict(lessons=8) | ON,
  )
  text = (tmp_path / "metrics.jsonl").read_text()
  lessons = [x for x in map(json.loads, text.splitlines()) if "actions" in x]
  said = {x["lesson"]: x["reasons"] for x in lessons if x["actions"]}
  assert list(said) == [3]
  assert said[3][0].endswith("2 lessons: on to the teacher as it ended")


@pytest.mark.parametrize("kill", [11, 17, 23])
def test_a_killed_student_goes_on_with_the_same_teacher(
  taught,  # noqa: F811
  tmp_path,
  kill,
):
  fields = dict(
    teachers=(model(snapshots=(0.2, 0.4, 0.6)),),
    objective=KD,
    # So fast that validation soon gets no better.
    optimizer=dict(name="sgd", learning_rate=3.0),
    curriculum=dict(lessons=8, advance_teacher=dict(on=True, patience=1)),
  )
  undisturbed = fit(outlet=outlet(tmp_path / "whole"), **fields)
  assert undisturbed.course.teacher >= 2
  expected, taught[:] = list(taught), []
  with pytest.raises(Killed):
    fit(outlet=outlet(tmp_path / "killed", kill=kill), **fields)
  before = len(taught)
  resumed = fit(outlet=outlet(tmp_path / "killed"), **fields)
  assert_same(resumed.variables, undisturbed.variables)
  assert resumed.course == undisturbed.course
  again = len(taught) - before
  assert 0 < again < 24
  assert_same(taught[before:], expected[24 - again :])
