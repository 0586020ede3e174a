"""Windows of the order: exactly the ranks from m(t) to below n(t)."""

import math
from fractions import Fraction

import numpy as np
import pytest
from courses import RECORDS, batches_seen, fit, training
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcl_jax import controller, curriculum, pacing, stages
from kdcl_jax.randomness import permute


class Ranks:
  """An order whose ids are its ranks, of any length, without memory."""

  def __init__(self, size):
    self.size = size

  def __len__(self):
    return self.size

  def __getitem__(self, ranks):
    return ranks


def course_of(low, high, total=100, lessons=5, **options):
  named = {name: {"on": True} | values for name, values in options.items()}
  return controller.build(
    high,
    low=low,
    total_steps=total,
    lessons=lessons,
    validation_size=100,
    options=named,
  )


def constant(value):
  return lambda progress: np.full(np.shape(progress), value)[()]


def windowed(size, low, high, batch, seed=0):
  """A curriculum of one window throughout."""
  course = course_of(constant(low), constant(high), total=1, lessons=1)
  return curriculum.Curriculum(Ranks(size), course, seed, batch)


def states_of(course, metric=0.5):
  """The state of every step."""
  state = course.init()
  for step in range(course.total_steps):
    if step == state.lesson_end:
      state = course.update(state, metric)
    yield step, state


@st.composite
def windows(draw, most):
  """(size, low, high, m, n): a window of k-ths and the ranks it must have."""
  size = draw(st.one_of(st.integers(1, 50), st.integers(1, most)))
  parts = draw(st.integers(1, 64))
  high = draw(st.integers(1, parts))
  low = draw(st.integers(0, high - 1))
  ceiling = lambda k: -(-k * size // parts)
  last = ceiling(high)
  first = min(ceiling(low), last - 1)  # small orders: never empty
  return size, low / parts, high / parts, first, last


@settings(deadline=None, max_examples=200)
@given(
  window=windows(10**9),
  step=st.integers(0, 10**9),
  batch=st.integers(1, 128),
  seed=st.integers(0, 2**31 - 1),
)
def test_a_batch_comes_from_its_window_without_replacement(
  window, step, batch, seed
):
  size, low, high, first, last = window
  made = windowed(size, low, high, batch, seed)
  state = made.controller.init()
  assert made.window(state, step) == (first, last)
  assert made.active(state, step) == last - first
  ids, visits, present = made.batch(state, step)
  assert ids.shape == visits.shape == present.shape == (batch,)
  # Padding is read too, so it may not leave the window either.
  assert ids.min() >= first and ids.max() < last
  here = ids[present].tolist()
  assert 1 <= len(here) == len(set(here)) <= batch
  steps = -(-(last - first) // batch)
  assert set(visits) == {step // steps}
  full = min(batch, last - first - step % steps * batch)
  assert len(here) == full


@settings(deadline=None, max_examples=60)
@given(
  window=windows(300),
  batch=st.integers(1, 64),
  seed=st.integers(0, 2**31 - 1),
)
def test_a_pass_visits_each_record_of_the_window_once(window, batch, seed):
  size, low, high, first, last = window
  made = windowed(size, low, high, batch, seed)
  state = made.controller.init()
  steps = -(-(last - first) // batch)
  for visit in range(2):
    seen = []
    for step in range(visit * steps, (visit + 1) * steps):
      ids, visits, present = made.batch(state, step)
      assert (visits == visit).all()
      seen += ids[present].tolist()
    assert sorted(seen) == list(range(first, last))


@settings(deadline=None, max_examples=60)
@given(window=windows(10**9), step=st.integers(0, 10**6))
def test_the_hosts_rows_put_together_are_the_global_batch(window, step):
  size, low, high, _, _ = window
  made = windowed(size, low, high, 16)
  state = made.controller.init()
  whole = made.batch(state, step)
  for hosts in (1, 2, 4, 8):
    parts = [
      made.batch(state, step, rows) for rows in np.split(np.arange(16), hosts)
    ]
    for part, field in zip(zip(*parts, strict=True), whole, strict=True):
      np.testing.assert_array_equal(np.concatenate(part), field)


@settings(deadline=None, max_examples=25)
@given(
  size=st.integers(20, 10**9),
  buckets=st.one_of(
    st.integers(1, 9), st.just((0.5, 0.3, 0.2)), st.just((0.1, 0.9))
  ),
  total=st.integers(9, 200),
  lessons=st.integers(1, 12),
)
def test_one_pass_goes_bucket_by_bucket_through_the_whole_order(
  size, buckets, total, lessons
):
  window = pacing.one_pass_window(buckets)
  course = course_of(
    lambda p: window(p)[0], lambda p: window(p)[1], total, lessons
  )
  made = curriculum.Curriculum(Ranks(size), course, 0, 8)
  count = buckets if isinstance(buckets, int) else len(buckets)
  if isinstance(buckets, int):
    shares = [Fraction(1, count)] * count
  else:
    shares = [Fraction(str(share)) for share in buckets]
  edges = [math.ceil(size * sum(shares[:i])) for i in range(count + 1)]
  want = list(zip(edges, edges[1:], strict=False))
  found = [made.window(state, step) for step, state in states_of(course)]
  # In sequence, none left out, none twice, each equally long.
  assert list(dict.fromkeys(found)) == want
  assert found == sorted(found)
  counts = [found.count(bucket) for bucket in want]
  assert max(counts) - min(counts) <= 1


def test_a_bucket_of_one_pass_is_a_lesson():
  window = stages.window_of({"name": "one_pass", "buckets": 4}, "pacing")
  course = course_of(*window, total=101, lessons=10)
  ends = [state.lesson_end for _, state in states_of(course)]
  assert sorted(set(ends)) == [26, 51, 76, 101]


# Ids, visits and presence before there were windows: seed 5, 17 records, 4 to
# a batch, lessons of 3 steps, 30 % to 100 % of the order.
FROZEN = [
  ([7, 12, 3, 11], 0, 4),
  ([3, 14, 11, 9], 0, 3),
  ([7, 13, 14, 3], 1, 4),
  ([14, 12, 2, 3], 1, 4),
  ([2, 7, 4, 14], 1, 4),
  ([14, 12, 7, 13], 1, 4),
  ([3, 15, 11, 4], 1, 4),
  ([7, 9, 13, 9], 1, 3),
  ([11, 14, 15, 3], 2, 4),
  ([0, 9, 9, 9], 1, 1),
  ([0, 10, 1, 15], 2, 4),
  ([2, 4, 3, 16], 2, 4),
]


@pytest.mark.parametrize("low", [None, constant(0.0)])
def test_without_a_lower_end_the_streams_are_those_they_always_were(low):
  growing = lambda p: np.minimum(0.3 + 0.9 * np.asarray(p), 1.0)
  course = course_of(low, growing, total=12, lessons=4)
  order = permute(np.arange(17), 17, 9)
  made = curriculum.Curriculum(order, course, seed=5, batch_size=4)
  for (step, state), (ids, visit, present) in zip(
    states_of(course), FROZEN, strict=True
  ):
    got = made.batch(state, step)
    np.testing.assert_array_equal(got[0], ids)
    np.testing.assert_array_equal(got[1], [visit] * 4)
    np.testing.assert_array_equal(got[2], np.arange(4) < present)
    assert got[0].dtype == got[1].dtype == np.int64
    active = curriculum.active_count(float(growing(step / 12)), 17)
    assert made.window(state, step) == (0, active)


def test_a_held_window_stays_where_it_is_and_then_goes_on():
  quarters = stages.window_of({"name": "one_pass", "buckets": 4}, "pacing")
  course = course_of(*quarters, hold={"train_accuracy": 0.9, "most": 5})
  states = [course.init()]
  for train_accuracy in (1.0, 0.2, 1.0):
    metric = {"accuracy": 0.5, "train_accuracy": train_accuracy}
    states.append(course.update(states[-1], metric))
  held = states[2]
  assert (held.step, held.lesson_end) == (50, 75)
  assert controller.HOLD in held.actions
  second, third = (0.25, 0.5), (0.5, 0.75)
  for state, window in zip(states[1:], (second, second, third), strict=True):
    for step in (state.step, state.lesson_end - 1):
      assert course.window(state, step) == window


def test_freezing_goes_back_to_the_window_of_the_best_lesson():
  quarters = stages.window_of({"name": "one_pass", "buckets": 4}, "pacing")
  course = course_of(*quarters, freeze={"patience": 1, "tolerance": 0.1})
  states = [course.init()]
  for accuracy in (0.2, 0.9, 0.1):
    states.append(course.update(states[-1], accuracy))
  frozen = states[-1]
  assert frozen.frozen and frozen.best_step == 50
  for step in (75, 99):
    assert course.window(frozen, step) == (0.25, 0.5)


def test_a_stage_on_one_pass_trains_on_one_bucket_after_the_other(monkeypatch):
  seen = batches_seen(monkeypatch)
  fields = dict(
    steps=39,
    curriculum=dict(
      order="curriculum", pacing=dict(name="one_pass", buckets=3)
    ),
  )
  outcome = fit(**fields)
  order = training(**fields).curriculum.order
  edges = [math.ceil(RECORDS * i / 3) for i in range(4)]
  for bucket in range(3):
    inside = set(order[edges[bucket] : edges[bucket + 1]])
    steps = range(13 * bucket, 13 * (bucket + 1))
    assert all(set(seen[step]) <= inside for step in steps)
    # 13 steps hold two whole passes of five batches, wherever they begin.
    assert set(np.concatenate([seen[step] for step in steps])) == inside
  assert len(seen) == 39 and outcome.traces == 1
