"""What the loop does with what the course decides."""

import dataclasses

import jax
import numpy as np
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, evaluate, parallel, stages, train


def training(validation=True, **fields):
  base = dict(
    model=dict(name="mlp", widths=(8,)),
    steps=30,
    batch_size=32,
    optimizer=dict(
      name="sgd",
      learning_rate=0.1,
      momentum=0.9,
      schedule=dict(name="constant"),
    ),
  )
  course = dict(lessons=3) | fields.pop("curriculum", {})
  section = kdcl.stage(**base, curriculum=course, **fields)
  config = kdcl.resolve(kdcl.run(stages=("student",), student=section))
  return stages.training_of(
    "student",
    config["student"],
    config,
    dataset.load(config["data"], seed=0),
    parallel.create("jit", 1),
    seed=0,
    validation=validation,
  )


def fit(*args, **fields):
  return train.fit(training(*args, **fields), parallel.create("jit", 1))


@pytest.fixture
def scripted(monkeypatch):
  """Makes validation say what a test wants, and remembers the variables."""

  def script(*measures):
    seen, measures = [], list(measures)
    records = evaluate.Evaluator.records

    def spy(self, variables, split, ids=None):
      seen.append(jax.device_get(variables))
      return records(self, variables, split, ids)

    monkeypatch.setattr(evaluate.Evaluator, "records", spy)
    monkeypatch.setattr(
      evaluate,
      "measure",
      lambda rows: dict(
        zip(("accuracy", "loss"), measures.pop(0), strict=True)
      ),
    )
    return seen

  return script


def assert_same(one, two):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), two)


def test_rolling_back_restores_the_best_parameters(scripted):
  seen = scripted((0.9, 1.0), (0.1, 1.0), (0.1, 1.0))
  outcome = fit(curriculum=dict(freeze=dict(on=True, patience=2)))
  assert_same(outcome.variables, seen[0])
  assert outcome.course.best_step == 10


def test_after_rolling_back_training_goes_on_from_there(scripted):
  seen = scripted((0.9, 1.0), (0.1, 1.0), (0.1, 1.0))
  outcome = fit(curriculum=dict(freeze=dict(on=True, patience=1)))
  # Had the second lesson not been undone, the third would have gone further.
  undone = jax.tree.leaves(seen[1]["params"])[0]
  third = jax.tree.leaves(seen[2]["params"])[0]
  first = jax.tree.leaves(seen[0]["params"])[0]
  assert np.abs(third - first).max() < np.abs(third - undone).max() * 3
  assert outcome.course.frozen and outcome.steps == 30


def test_the_best_is_kept_where_it_is_asked_for(scripted):
  measures = ((0.2, 1.0), (0.9, 1.0), (0.3, 1.0))
  seen = scripted(*measures)
  assert_same(fit(keep="best").variables, seen[1])
  seen = scripted(*measures)
  assert_same(fit(keep="last").variables, seen[2])


def test_stopping_ends_the_stage_early(scripted):
  scripted((0.9, 1.0), (0.1, 1.0), (0.1, 1.0))
  outcome = fit(curriculum=dict(stop=dict(on=True, patience=1)))
  assert outcome.steps == 20 and outcome.course.stopped


def test_a_reduced_learning_rate_makes_smaller_steps(scripted):
  scripted((0.5, 1.0), (0.5, 2.0), (0.5, 2.0))
  outcome = fit(
    curriculum=dict(
      reduce_learning_rate=dict(on=True, patience=1, factor=0.001, floor=0.0)
    )
  )
  seen = scripted((0.5, 1.0), (0.5, 2.0), (0.5, 2.0))
  again = fit(
    curriculum=dict(
      reduce_learning_rate=dict(on=True, patience=1, factor=0.001, floor=0.0)
    )
  )
  assert_same(outcome.variables, jax.device_get(again.variables))
  change = lambda a, b: max(
    np.abs(x - y).max()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )
  early, late = change(seen[0], seen[1]), change(seen[1], seen[2])
  assert late < 0.02 * early
  assert outcome.course.learning_rate_scale == pytest.approx(1e-6)


def test_without_validation_nothing_is_evaluated(scripted):
  seen = scripted()
  outcome = fit(validation=False)
  assert outcome.steps == 30 and not seen
  assert outcome.totals.validated == 0


def test_rows_are_counted_without_padding():
  plain = training()
  short = dataclasses.replace(
    plain,
    curriculum=dataclasses.replace(
      plain.curriculum, order=plain.curriculum.order[:40]
    ),
  )
  outcome = train.fit(short, parallel.create("jit", 1))
  assert outcome.totals.rows == 15 * 40  # 30 steps are 15 passes over 40
  assert outcome.traces == 1
