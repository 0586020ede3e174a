"""The ids of a step: exact, without replacement, once per pass, host-free."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcl_jax import controller, curriculum
from kdcl_jax.randomness import permute, uniform

sizes = st.integers(1, 300)
seeds = st.integers(0, 2**31 - 1)


@given(size=sizes, seed=seeds)
def test_a_keyed_permutation_is_one(size, seed):
  image = permute(np.arange(size), size, seed)
  assert sorted(image.tolist()) == list(range(size))


def test_permutations_put_every_item_at_every_place_equally_often():
  counts = np.zeros((10, 10))
  for key in range(4000):
    counts[np.arange(10), permute(np.arange(10), 10, key)] += 1
  chi_square = ((counts - 400) ** 2 / 400).sum()
  assert chi_square < 145  # 81 degrees of freedom: beyond this 1 in 100,000


def test_uniform_numbers_have_the_moments_of_the_uniform_distribution():
  u = uniform(3, np.arange(100_000))
  np.testing.assert_allclose(u.mean(), 1 / 2, atol=5e-3)
  np.testing.assert_allclose(u.var(), 1 / 12, atol=2e-3)


@settings(deadline=None)
@given(active=sizes, batch=st.integers(1, 64), seed=seeds)
def test_each_pass_visits_every_active_record_exactly_once(active, batch, seed):
  steps = -(-active // batch)
  for visit in range(2):
    seen = []
    for step in range(visit * steps, (visit + 1) * steps):
      rows = curriculum.select(seed, step, active, batch)
      assert rows.rank.shape == (batch,)
      assert (rows.visit == visit).all()
      seen += rows.rank[rows.present].tolist()
    assert sorted(seen) == list(range(active))


@given(
  active=st.integers(1, 10**9),
  step=st.integers(0, 10**9),
  batch=st.integers(1, 128),
  seed=seeds,
)
def test_a_batch_is_active_and_without_replacement(active, step, batch, seed):
  rows = curriculum.select(seed, step, active, batch)
  present = rows.rank[rows.present]
  assert 1 <= len(present) <= batch
  assert present.min() >= 0 and present.max() < active
  assert len(set(present.tolist())) == len(present)


def test_two_passes_and_two_seeds_visit_in_different_sequences():
  first = curriculum.select(0, 0, 100, 100).rank
  assert (first != curriculum.select(0, 1, 100, 100).rank).any()
  assert (first != curriculum.select(1, 0, 100, 100).rank).any()


@given(k=st.integers(1, 10**6), size=st.integers(1, 10**9))
def test_the_active_count_of_k_nths_is_exactly_k(k, size):
  k = min(k, size)
  assert curriculum.active_count(k / size, size) == k


def _curriculum(pacing, total=100, size=50, batch=8, **options):
  course = controller.build(
    pacing,
    total_steps=total,
    lessons=10,
    validation_size=100,
    options=options,
  )
  order = permute(np.arange(size), size, 9)
  return curriculum.Curriculum(order, course, seed=0, batch_size=batch)


@settings(deadline=None, max_examples=30)
@given(
  start=st.floats(0.05, 1.0), grow=st.floats(0.0, 2.0), step=st.integers(0, 99)
)
def test_no_record_above_the_active_rank_is_ever_seen(start, grow, step):
  pacing = lambda p: np.minimum(start + grow * np.asarray(p), 1.0)
  course = _curriculum(pacing)
  state = course.controller.init()
  while state.lesson_end <= step:
    state = course.controller.update(state, 0.5)
  ids, _, present = course.batch(state, step)
  active = curriculum.active_count(float(pacing(step / 100)), 50)
  assert active == course.active(state, step)
  assert set(ids[present]) <= set(course.order[:active])


def test_a_batch_is_the_same_after_any_restart_and_for_a_slice_of_rows():
  course = _curriculum(lambda p: np.asarray(p) * 0 + 1.0)
  state = course.controller.init()
  before = [course.batch(state, t)[0] for t in range(5)]
  again = _curriculum(lambda p: np.asarray(p) * 0 + 1.0)
  np.testing.assert_array_equal(again.batch(state, 4)[0], before[4])
  np.testing.assert_array_equal(
    again.batch(state, 4, slice(4, 8))[0], before[4][4:]
  )


def test_stages_draw_different_passes_from_one_run_seed():
  seeds = {curriculum.stage_seed(0, n) for n in ("teacher", "student", "kd")}
  assert len(seeds) == 3
  with pytest.raises(dataclasses.FrozenInstanceError):
    _curriculum(lambda p: p).seed = 1
