"""Which rows of an oversized batch are trained on."""

import courses
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import difficulty, parallel, selection
from kdcl_jax.config import resolve, run, stage
from kdcl_jax.errors import UserError
from kdcl_jax.validation import check

GENERATOR = np.random.default_rng(5)
LOGITS, TEACHER = (
  jnp.asarray(2 * GENERATOR.standard_normal((12, 4)), jnp.float32)
  for _ in range(2)
)
LABELS = jnp.asarray(GENERATOR.integers(0, 4, 12), jnp.int32)


def batch(weight=None):
  return {
    "id": jnp.arange(100, 112),
    "image": jnp.arange(24.0).reshape(12, 2),
    "label": LABELS,
    "weight": jnp.ones(12) if weight is None else jnp.asarray(weight),
  }


def choose(name, rows=None, keep=4, key=0, candidates=3):
  section = dict(name=name, candidates=candidates)
  made = selection.build(section, keep)
  return made.choose(
    LOGITS, [TEACHER], rows or batch(), jax.random.key(key), None
  )


def largest(scores, keep=4):
  return 100 + np.argsort(-np.asarray(scores), kind="stable")[:keep]


def test_the_rows_with_the_largest_scores_are_kept_whole():
  chosen = choose("loss")
  want = largest(difficulty.loss(LOGITS, LABELS))
  np.testing.assert_array_equal(chosen["id"], want)
  rows = np.asarray(want) - 100
  for name, array in batch().items():
    np.testing.assert_array_equal(chosen[name], np.asarray(array)[rows])


def test_reducible_loss_is_that_of_the_model_less_that_of_its_teacher():
  gap = difficulty.loss(LOGITS, LABELS) - difficulty.loss(TEACHER, LABELS)
  np.testing.assert_array_equal(choose("reducible_loss")["id"], largest(gap))


def test_padding_is_never_chosen_before_a_record():
  weight = np.ones(12, np.float32)
  hard = np.asarray(largest(difficulty.loss(LOGITS, LABELS))) - 100
  weight[hard] = 0
  chosen = choose("loss", batch(weight))
  assert np.all(chosen["weight"] == 1)
  assert not np.isin(chosen["id"] - 100, hard).any()
  few = np.zeros(12, np.float32)
  few[:2] = 1
  chosen = choose("loss", batch(few))
  assert chosen["weight"].tolist() == [1, 1, 0, 0]


def test_selective_backprop_draws_hard_rows_more_often_and_by_its_key():
  first = [np.sort(choose("selective_backprop", key=3)["id"]) for _ in (0, 1)]
  np.testing.assert_array_equal(*first)
  made = selection.build(dict(name="selective_backprop", candidates=3), 4)
  draw = jax.vmap(
    lambda key: made.choose(LOGITS, [], batch(), key, None)["id"] - 100
  )
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
  counts = np.bincount(drawn.ravel(), minlength=12)
  rank = np.argsort(np.argsort(difficulty.loss(LOGITS, LABELS)))
  assert all(len(set(rows)) == 4 for rows in drawn)
  assert np.corrcoef(counts, rank)[0, 1] > 0.9 and np.all(counts[rank > 8] > 50)


def student(place, name="loss", **fields):
  return courses.fit(
    place,
    teachers=(courses.model(place=place),),
    objective=dict(cross_entropy={}, kd=dict(coefficient=0.5)),
    batch_size=8,
    steps=8,
    selection=dict(name=name, candidates=4),
    **fields,
  )


@pytest.mark.parametrize("name", ["reducible_loss", "selective_backprop"])
def test_one_and_eight_devices_train_on_the_same_rows(name):
  one = student(courses.ONE, name)
  for mode, devices in (("jit", 8), ("shard_map", 4)):
    other = student(parallel.create(mode, devices), name)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
      jax.device_get(one.variables),
      jax.device_get(other.variables),
    )
    assert one.totals.rows == other.totals.rows
    assert other.traces == 1


def test_the_ledger_counts_candidates_forward_and_chosen_rows_backward():
  made = courses.training(
    teachers=(courses.model(),),
    objective=dict(cross_entropy={}, kd={}),
    batch_size=8,
    steps=8,
    selection=dict(name="reducible_loss", candidates=4),
  )
  outcome = courses.train.fit(made, courses.ONE)
  ledger = made.ledger(outcome.totals)
  read = outcome.totals.rows
  assert ledger["example_backwards"] == 64
  assert ledger["example_forwards"] == read + 64 == ledger["teacher_forwards"]
  # 200 records are read in passes of six batches of 32 and one of 8.
  assert read == 7 * 32 + 8


WRONG = {
  "unknown": (dict(name="los"), {}, ["selection.name is 'los'", "'loss'"]),
  "nothing to choose": (
    dict(name="loss", candidates=1),
    {},
    ["selection.candidates is 1", ">= 2"],
  ),
  "no teacher": (
    dict(name="reducible_loss"),
    {},
    ["selection.name is 'reducible_loss'", "no", "`teachers`"],
  ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_selection_ends_in_a_sentence(case):
  section, fields, words = WRONG[case]
  config = run(
    stages=("student",), student=stage(steps=1, selection=section, **fields)
  )
  with pytest.raises(UserError) as error:
    check(resolve(config))
  for word in words:
    assert word in str(error.value)
