"""What a course decides, against hand-made validation histories."""

import json

import numpy as np
import pytest

from kdcl_jax import controller, rates
from kdcl_jax.fields import CURRICULUM

LINEAR = lambda p: 0.2 + 0.8 * np.minimum(np.asarray(p) / 0.8, 1.0)
STEPS = lambda p: np.where(np.asarray(p) < 0.3, 0.25, 1.0)


def build(pacing=LINEAR, total=1000, lessons=10, size=100, **options):
  return controller.build(
    pacing,
    total_steps=total,
    lessons=lessons,
    validation_size=size,
    options={name: {"on": True} | values for name, values in options.items()},
  )


def history(course, metrics):
  states = [course.init()]
  for metric in metrics:
    states.append(course.update(states[-1], metric))
  return states


def test_without_actions_the_fraction_is_the_pacing_at_every_step():
  course = build()
  state = course.init()
  for step in range(1000):
    if step == state.lesson_end:
      state = course.update(state, 0.0)
    assert course.fraction(state, step) == pytest.approx(LINEAR(step / 1000))
  assert state.lesson == 9 and state.lesson_end == 1000


def test_lessons_of_a_stepwise_pacing_end_where_it_grows():
  assert controller.lesson_ends(STEPS, 1000, 10) == (300, 1000)


def test_lessons_of_a_smooth_pacing_are_equal_intervals():
  ends = controller.lesson_ends(LINEAR, 1000, 10)
  assert ends == tuple(range(100, 1001, 100))


def test_a_real_fall_twice_freezes_and_rolls_back_to_the_best():
  course = build(freeze={"patience": 2, "tolerance": 1.0})
  states = history(course, [0.50, 0.60, 0.54, 0.52, 0.70])
  # sqrt(1 / 400) = .05: both 0.54 and 0.52 are further below 0.60.
  assert course.tolerance == pytest.approx(0.05)
  assert states[3].worse == 1 and not states[3].frozen
  frozen = states[4]
  assert frozen.actions == (controller.FREEZE, controller.ROLL_BACK)
  assert frozen.best_step == 200
  assert frozen.fraction == pytest.approx(float(LINEAR(199 / 1000)))
  assert course.fraction(frozen, 450) == frozen.fraction
  # Frozen for good, even when validation recovers.
  assert states[5].fraction == frozen.fraction and states[5].frozen
  assert states[5].best_accuracy == 0.70


def test_a_fall_within_the_sampling_error_changes_nothing():
  course = build(freeze={"patience": 1, "tolerance": 1.0})
  states = history(course, [0.60, 0.56, 0.555, 0.552])
  assert not any(state.frozen for state in states)


def test_one_fall_between_good_lessons_does_not_freeze():
  course = build(freeze={"patience": 2, "tolerance": 1.0})
  states = history(course, [0.60, 0.50, 0.60, 0.50, 0.60])
  assert not any(state.frozen for state in states)


def test_the_tolerance_shrinks_with_the_validation_split():
  small, large = build(size=100), build(size=10_000)
  assert small.tolerance == pytest.approx(10 * large.tolerance)
  # The default is the rule of the pilot: two points on two hundred records.
  assert build(size=200).tolerance == pytest.approx(0.021, abs=5e-4)


def test_the_learning_rate_falls_when_validation_loss_stops_improving():
  course = build(
    reduce_learning_rate={"factor": 0.1, "patience": 2, "floor": 0.05}
  )
  losses = [1.0, 0.9, 0.95, 0.91, 0.91, 0.92, 0.93]
  states = history(course, [{"accuracy": 0.5, "loss": x} for x in losses])
  scales = [state.learning_rate_scale for state in states[1:]]
  assert scales == pytest.approx([1, 1, 1, 0.1, 0.1, 0.05, 0.05])
  assert rates.REDUCE in states[4].actions
  assert "0.9100" in states[4].reasons[0]


def test_a_lesson_is_held_until_it_is_learned():
  course = build(STEPS, hold={"train_accuracy": 0.9, "most": 5})
  metric = lambda a: {"accuracy": 0.5, "loss": 1.0, "train_accuracy": a}
  states = history(course, [metric(0.5), metric(0.8), metric(0.95)])
  assert [s.lesson_end for s in states] == [300, 600, 900, 1000]
  assert [s.fraction for s in states] == [0.25, 0.25, 0.25, 1.0]
  assert states[1].actions == (controller.HOLD,)
  assert course.fraction(states[2], 899) == 0.25
  assert course.fraction(states[3], 900) == 1.0


def test_holding_ends_after_the_most_lessons():
  course = build(STEPS, hold={"train_accuracy": 0.9, "most": 1})
  metric = {"accuracy": 0.5, "loss": 1.0, "train_accuracy": 0.1}
  states = history(course, [metric, metric])
  assert states[1].fraction == 0.25 and states[2].fraction == 1.0


def test_held_smooth_pacing_goes_on_from_where_it_stood():
  course = build(hold={"train_accuracy": 0.9, "most": 9})
  metric = lambda a: {"accuracy": 0.5, "loss": 1.0, "train_accuracy": a}
  states = history(course, [metric(1.0), metric(0.2), metric(1.0)])
  assert not states[2].growing
  held = float(LINEAR(199 / 1000))
  assert states[2].fraction == pytest.approx(held)
  assert states[3].fraction == pytest.approx(float(LINEAR(200 / 1000)))
  fractions = [course.fraction(states[3], t) for t in range(300, 400)]
  assert np.diff(fractions).min() >= 0 and fractions[0] >= held


def test_stopping_waits_for_the_patience_and_says_why():
  course = build(stop={"patience": 2})
  states = history(course, [0.5, 0.6, 0.6, 0.59])
  assert [s.stopped for s in states] == [False, False, False, False, True]
  assert "2 lessons" in states[4].reasons[0]


def test_a_state_survives_json_exactly():
  course = build(freeze={}, stop={}, reduce_learning_rate={})
  states = history(
    course, [{"accuracy": 0.5 + i / 7, "loss": 1 / 3} for i in range(3)]
  )
  for state in states:
    text = json.dumps(state.to_json(), allow_nan=False)
    assert controller.CourseState.from_json(json.loads(text)) == state


def test_update_is_pure():
  course = build(freeze={})
  state = course.update(course.init(), 0.5)
  assert course.update(state, 0.4) == course.update(state, 0.4)
  assert state.lesson == 1


def test_the_config_offers_exactly_the_options_of_the_controller():
  for name, values in controller.OPTIONS.items():
    fields = CURRICULUM[name]
    assert set(fields) == {"on", *values}
    assert not fields["on"].default
    for key, value in values.items():
      assert fields[key].default == value
