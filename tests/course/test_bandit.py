"""The bandit over buckets, against plain forms of the published rules."""

import dataclasses
import json
import math

import numpy as np
import pytest
from courses import RECORDS, batches_seen, fit, training
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcl_jax import controller, course, curriculum, pacing
from kdcl_jax.bandit import POLICIES, Bandit, BanditState, reward_of
from kdcl_jax.randomness import uniform
from kdcl_jax.train import Outlet

GREEDY = ("online", "window", "thompson")


def softmax(values):
  total = sum(math.exp(v) for v in values)
  return [math.exp(v) / total for v in values]


def exp3s_weights(history, buckets, rate, epsilon):
  """The log-weights of Graves et al., appendix A, reward by reward."""
  w = [0.0] * buckets
  for t, (chosen, _) in enumerate(history, 1):
    rewards = [r for _, r in history[:t]]
    low, high = np.percentile(rewards, [20, 80])
    if rewards[-1] < low:
      scaled = -1.0
    elif rewards[-1] > high:
      scaled = 1.0
    elif low == high:
      scaled = 0.0
    else:
      scaled = 2 * (rewards[-1] - low) / (high - low) - 1
    chance = (1 - epsilon) * softmax(w)[chosen] + epsilon / buckets
    moved = [
      math.exp(w[i] + rate * scaled / chance * (i == chosen))
      for i in range(buckets)
    ]
    share = 1 / (t + 1)
    w = [
      math.log(
        (1 - share) * moved[i]
        + share / (buckets - 1) * sum(moved[:i] + moved[i + 1 :])
      )
      for i in range(buckets)
    ]
  return w


def plain_values(bandit, history):
  """What each bucket is worth, from all that has happened."""
  rewards = [[r for b, r in history if b == i] for i in range(bandit.buckets)]
  if bandit.policy == "online":
    worth = [0.0] * bandit.buckets
    for bucket, reward in history:
      worth[bucket] = (1 - bandit.rate) * worth[bucket] + bandit.rate * reward
    return worth
  if bandit.policy == "exp3s":
    return exp3s_weights(history, bandit.buckets, bandit.rate, bandit.epsilon)
  last = [r[-bandit.window :] for r in rewards]
  return [
    np.polyfit(range(len(r)), r, 1)[0] if len(r) > 1 else sum(r) for r in last
  ]


def plain_probabilities(bandit, history, lesson):
  """How likely the buckets of a lesson are, from all that has happened."""
  count = bandit.buckets
  worth = plain_values(bandit, history)
  if bandit.policy == "exp3s":
    return [
      (1 - bandit.epsilon) * p + bandit.epsilon / count for p in softmax(worth)
    ]
  for bucket in range(count):
    if bucket not in [b for b, _ in history]:
      return [float(i == bucket) for i in range(count)]
  if bandit.policy == "thompson":
    for i in range(count):
      last = [r for b, r in history if b == i][-bandit.window :]
      draw = uniform(bandit.seed, 0xBA4E, lesson, i)
      worth[i] = last[math.floor(draw * len(last))]
  worth = [abs(w) for w in worth]
  if bandit.temperature:
    return softmax([w / bandit.temperature for w in worth])
  best = worth.index(max(worth))
  return [
    bandit.epsilon / count + (1 - bandit.epsilon) * (i == best)
    for i in range(count)
  ]


def plain_choice(bandit, history, lesson):
  draw, choice = uniform(bandit.seed, 0xBA4D, lesson), 0
  chances = plain_probabilities(bandit, history, lesson)
  while choice < bandit.buckets - 1 and draw >= sum(chances[: choice + 1]):
    choice += 1
  return choice


def played(bandit, reward, lessons):
  """The states of a course of lessons, reward being a function of both."""
  states = [bandit.init()]
  for _ in range(lessons):
    state = states[-1]
    states.append(bandit.update(state, reward(state.lesson, state.choice)))
  return states


def noisy(seed=0):
  draws = np.random.default_rng(seed).normal(0, 1, 1000)
  return lambda lesson, bucket: float(draws[lesson] + 0.3 * bucket)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_choice_is_that_of_the_plain_rule(policy, temperature):
  bandit = Bandit(
    4,
    policy,
    rate=0.3,
    window=3,
    epsilon=0.2,
    temperature=temperature,
    seed=11,
  )
  chosen = set()
  for state in played(bandit, noisy(), 60)[1:]:
    np.testing.assert_allclose(
      state.values, plain_values(bandit, state.history), rtol=1e-9, atol=1e-9
    )
    assert state.choice == plain_choice(bandit, state.history, state.lesson)
    chances = bandit.probabilities(state)
    np.testing.assert_allclose(
      chances,
      plain_probabilities(bandit, state.history, state.lesson),
      rtol=1e-9,
      atol=1e-12,
    )
    assert chances.sum() == pytest.approx(1.0) and chances.min() >= 0
    chosen.add(state.choice)
  assert len(chosen) >= 3


def test_exp3s_does_not_lose_a_reward_beyond_equal_percentiles():
  # Most lessons of a learned task bring exactly nothing, which makes both
  # percentiles 0; the one that brings something is then the best there is.
  bandit = Bandit(2, "exp3s", rate=0.5, epsilon=0.2)
  states = played(bandit, lambda lesson, bucket: float(lesson == 9), 9)
  np.testing.assert_allclose(
    states[-1].values, plain_values(bandit, states[-1].history), rtol=1e-9
  )
  lucky = states[-1].history[-1][0]
  assert states[-1].values[lucky] > states[-1].values[1 - lucky]


@pytest.mark.parametrize("policy", GREEDY)
def test_every_bucket_is_tried_once_before_any_comes_again(policy):
  bandit = Bandit(5, policy, epsilon=1.0, seed=3)
  states = played(bandit, noisy(), 6)
  assert [s.choice for s in states[:5]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("other", "chosen"), [(2.0, {0, 1}), (5.0, {1})])
def test_thompson_draws_from_the_last_rewards_only(other, chosen):
  bandit = Bandit(2, "thompson", window=2, epsilon=0.0, seed=5)
  # Bucket 0 is worth 1 or 3; the 9 is forgotten.
  history = ((0, 9.0), (0, 1.0), (0, 3.0), (1, other))
  found = {
    int(
      np.argmax(
        bandit.probabilities(BanditState(lesson, 0, (0.0, 0.0), history))
      )
    )
    for lesson in range(200)
  }
  assert found == chosen


@pytest.mark.parametrize("policy", POLICIES)
def test_an_update_is_pure(policy):
  bandit = Bandit(3, policy, seed=1)
  state = played(bandit, noisy(), 7)[-1]
  before = dataclasses.asdict(state)
  assert bandit.update(state, 0.3) == bandit.update(state, 0.3)
  assert dataclasses.asdict(state) == before
  with pytest.raises(dataclasses.FrozenInstanceError):
    state.choice = 1


@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_goes_through_json_in_the_middle_of_a_course(policy):
  bandit = Bandit(3, policy, epsilon=0.3, seed=2)
  reward = noisy(4)
  whole = played(bandit, reward, 40)
  state = bandit.init()
  for expected in whole[1:]:
    text = json.dumps(dataclasses.asdict(state), allow_nan=False)
    state = BanditState.from_json(json.loads(text))
    state = bandit.update(state, reward(state.lesson, state.choice))
    assert state == expected
    assert hash(state) == hash(expected)  # tuples all the way down


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_depend_on_the_seed_and_the_lesson_alone(policy):
  bandit = Bandit(2, policy, epsilon=1.0, seed=8)
  rest = lambda past: BanditState(30, 0, (0.2, 0.1), past)
  # Whatever came before, everything being random, the next choice is the same.
  one = bandit.update(rest(((0, 0.1), (1, 0.2))), 0.5)
  two = bandit.update(rest(((1, 3.0), (0, 0.2), (1, -1.0))), -2.0)
  assert one.choice == two.choice
  by_lesson = {
    bandit.update(
      dataclasses.replace(rest(((0, 0.1), (1, 1.0))), lesson=n), 0.0
    ).choice
    for n in range(20)
  }
  by_seed = {
    dataclasses.replace(bandit, seed=n)
    .update(rest(((0, 0.1), (1, 1.0))), 0.0)
    .choice
    for n in range(20)
  }
  assert by_lesson == by_seed == {0, 1}


def frequencies(bandit, values, lessons=4000):
  """How often the buckets are chosen where their worth stays as it is."""
  past = tuple((i, 0.0) for i in range(bandit.buckets))
  chosen = [
    bandit.update(BanditState(n, 0, values, past), values[0]).choice
    for n in range(lessons)
  ]
  return np.bincount(chosen, minlength=bandit.buckets) / lessons


def test_epsilon_is_the_share_of_random_choices_in_the_long_run():
  got = frequencies(Bandit(4, epsilon=0.2), (0.1, 0.3, -0.5, 0.2))
  # The largest absolute worth is the best: 1 - .2 + .2 / 4.
  np.testing.assert_allclose(got, [0.05, 0.05, 0.85, 0.05], atol=0.02)


def test_a_temperature_makes_softmax_of_the_worth():
  got = frequencies(Bandit(3, temperature=0.1), (0.1, 0.2, -0.3))
  np.testing.assert_allclose(got, softmax([1.0, 2.0, 3.0]), atol=0.03)


def test_exp3s_explores_with_epsilon_and_follows_its_weights():
  got = Bandit(2, "exp3s", epsilon=0.1)
  state = BanditState(5, 0, (math.log(3.0), 0.0))
  np.testing.assert_allclose(
    got.probabilities(state), [0.9 * 0.75 + 0.05, 0.9 * 0.25 + 0.05]
  )


@pytest.mark.parametrize("policy", POLICIES)
def test_the_bucket_that_brings_something_is_chosen_most(policy):
  noise = np.random.default_rng(1).normal(0, 0.05, 1000)
  visits = {2: 0}

  def reward(lesson, bucket):
    if bucket != 2:
      return float(noise[lesson])
    visits[2] += 1
    # A slope is what `window` looks for; the others look at the height.
    height = 0.5 * visits[2] if policy == "window" else 0.5
    return height + float(noise[lesson])

  bandit = Bandit(5, policy, rate=0.1, epsilon=0.1, seed=4)
  states = played(bandit, reward, 300)
  counts = np.bincount([s.choice for s in states], minlength=5)
  assert counts[2] > 150 and counts[2] == counts.max()
  assert counts.min() > 0


def test_rewards_are_the_gain_of_accuracy_or_the_loss_of_the_lesson():
  metric = {"accuracy": 0.7, "train_loss": 1.25}
  assert reward_of("gain", metric, 0.6) == pytest.approx(0.1)
  assert reward_of("gain", metric, None) == 0.7
  assert reward_of("gain", metric, -math.inf) == 0.7
  assert reward_of("hardness", metric, 0.6) == 1.25


def bandit_course(total=100, lessons=7, seed=0, **options):
  named = {"bandit": {"on": True, "buckets": 4, "epsilon": 0.0}} | {
    name: {"on": True} | values for name, values in options.items()
  }
  return controller.build(
    pacing.constant(),
    total_steps=total,
    lessons=lessons,
    validation_size=100,
    options=named,
    seed=seed,
  )


def history(course_, metrics):
  states = [course_.init()]
  for metric in metrics:
    states.append(course_.update(states[-1], metric))
  return states


@pytest.mark.parametrize("total", [7, 100, 1000])
def test_a_bandits_lessons_are_as_many_as_were_asked_for(total):
  course_ = bandit_course(total)
  states = history(course_, [0.1] * 7)
  assert [s.lesson_end for s in states[:-1]] == list(course_.boundaries)
  assert states[-2].lesson_end == total


def test_a_course_hands_its_bandit_the_gains_of_validation():
  course_ = bandit_course(seed=6, bandit=dict(buckets=4, epsilon=0.7))
  accuracies = [0.1, 0.4, 0.5, 0.45, 0.9, 0.8]
  states = history(course_, accuracies)
  gains = np.diff([0.0, *accuracies])
  np.testing.assert_allclose(
    [r for _, r in states[-1].bandit.history], gains, atol=1e-12
  )
  bandit = Bandit(4, epsilon=0.7, seed=6)
  expected = bandit.init()
  for state, gain in zip(states[1:], gains, strict=True):
    expected = bandit.update(expected, gain)
    assert state.bandit.choice == expected.choice
    assert state.low == expected.choice / 4
    assert state.fraction == (expected.choice + 1) / 4
    assert course.CHOOSE in state.actions
    assert f"next is bucket {expected.choice + 1}" in state.reasons[-1]


def test_the_whole_course_goes_through_json_at_any_lesson():
  course_ = bandit_course(reduce_learning_rate={"patience": 1})
  metrics = [{"accuracy": 0.3 + i / 7, "loss": 1 / 3} for i in range(5)]
  states = history(course_, metrics)
  for state, metric, expected in zip(states, metrics, states[1:], strict=False):
    text = json.dumps(state.to_json(), allow_nan=False)
    restored = course.CourseState.from_json(json.loads(text))
    assert restored == state
    assert course_.update(restored, metric) == expected


def test_a_frozen_course_stays_on_the_bucket_of_its_best_lesson():
  course_ = bandit_course(freeze={"patience": 1, "tolerance": 0.1})
  states = history(course_, [0.1, 0.9, 0.1, 0.1, 0.1])
  assert states[3].frozen and states[3].best_step == states[1].lesson_end
  for state in states[3:]:
    assert course_.window(state, state.step) == (0.25, 0.5)
  assert states[5].bandit == states[3].bandit


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 10**9), buckets=st.integers(2, 64))
def test_buckets_share_the_order_out_without_gap_or_overlap(size, buckets):
  course_ = bandit_course(bandit={"buckets": buckets})
  state = course_.init()
  order = np.broadcast_to(np.int64(0), size)  # takes no memory
  made = curriculum.Curriculum(order, course_, seed=0, batch_size=4)
  edges = []
  for choice in range(buckets):
    low, high = choice / buckets, (choice + 1) / buckets
    now = dataclasses.replace(state, low=low, fraction=high)
    edges.append(made.window(now, 0))
  sizes = [high - low for low, high in edges]
  if size >= buckets:
    assert edges[0][0] == 0 and edges[-1][1] == size
    assert [e[1] for e in edges[:-1]] == [e[0] for e in edges[1:]]
    assert max(sizes) - min(sizes) <= 1
  assert min(sizes) >= 1 and edges[-1][1] <= size


def test_a_lesson_trains_on_its_bucket_alone(monkeypatch):
  seen = batches_seen(monkeypatch)
  options = dict(on=True, buckets=3, epsilon=0.5)
  fields = dict(
    curriculum=dict(order="curriculum", lessons=6, bandit=options), steps=60
  )
  outcome = fit(**fields)
  order = training(**fields).curriculum.order
  choices = [bucket for bucket, _ in outcome.course.bandit.history]
  assert len(choices) == 6 and choices[:3] == [0, 1, 2]
  edges = [math.ceil(RECORDS * i / 3) for i in range(4)]
  for step, ids in seen.items():
    bucket = choices[step // 10]
    assert set(ids) <= set(order[edges[bucket] : edges[bucket + 1]])
  assert outcome.traces == 1


def test_hardness_is_the_mean_loss_of_the_lessons_steps(tmp_path):
  options = dict(on=True, buckets=2, reward="hardness")
  outcome = fit(
    outlet=Outlet(tmp_path, log_steps=1, quiet=True),
    steps=12,
    batch_size=20,  # divides a bucket's 100 records
    curriculum=dict(order="curriculum", lessons=3, bandit=options),
  )
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  losses = [row["loss"] for row in rows if row["kind"] == "train"]
  means = np.reshape(losses, (3, 4)).mean(1)
  rewards = [reward for _, reward in outcome.course.bandit.history]
  np.testing.assert_allclose(rewards, means, rtol=1e-6)
  lessons = [row for row in rows if row["kind"] == "lesson"]
  for lesson, (bucket, _) in zip(
    lessons, outcome.course.bandit.history, strict=True
  ):
    assert (lesson["low"], lesson["fraction"]) == (bucket / 2, bucket / 2 + 0.5)
    assert lesson["active"] == 100 and "choose_bucket" in lesson["actions"]
