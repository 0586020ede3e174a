"""Ranks, their fusion, and orders with as many of each class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdcl_jax import difficulty

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=30)
GENERATOR = np.random.default_rng(6)


@given(values=scores)
def test_ranks_and_cdf_are_scipys(values):
  np.testing.assert_array_equal(
    difficulty.rank(values), stats.rankdata(values, "average")
  )
  np.testing.assert_array_equal(
    difficulty.cdf(values), stats.rankdata(values, "max") / len(values)
  )


@given(seed=st.integers(0, 1000), ties=st.booleans())
def test_spearman_is_scipys(seed, ties):
  generator = np.random.default_rng(seed)
  a, b = generator.standard_normal((2, 12))
  if ties:
    a, b = np.round(a), np.round(b + a)
  if len(set(a)) > 1 and len(set(b)) > 1:
    expected = stats.spearmanr(a, b).statistic
    np.testing.assert_allclose(difficulty.spearman(a, b), expected, atol=1e-12)


def test_a_constant_score_agrees_with_nothing():
  assert difficulty.spearman([1, 1, 1], [1, 2, 3]) == 0
  assert difficulty.spearman([1], [2]) == 0


def test_only_the_order_of_scores_counts_in_ranks():
  a, b = GENERATOR.standard_normal((2, 50))
  b = b + a
  for function in (difficulty.rank, difficulty.cdf):
    np.testing.assert_array_equal(function(np.exp(a)), function(a))
  expected = difficulty.spearman(a, b)
  np.testing.assert_allclose(difficulty.spearman(a, b**3), expected, rtol=1e-12)
  np.testing.assert_allclose(difficulty.spearman(a, -b), -expected, rtol=1e-12)
  np.testing.assert_array_equal(difficulty.rank(a), difficulty.rank(a - 1e6))


def test_fusion_orders_records_as_the_published_sum_does():
  rouge, loss = GENERATOR.standard_normal((2, 20))
  # POCL: large ROUGE-L and small loss are easy, rank 1; a large sum is easy.
  published = 1 / (60 + stats.rankdata(-rouge)) + 1 / (
    60 + stats.rankdata(loss)
  )
  fused = difficulty.fuse_ranks([-rouge, loss])
  np.testing.assert_allclose(fused, -published, rtol=1e-12)
  np.testing.assert_array_equal(
    difficulty.order(fused), np.argsort(-published, kind="stable")
  )


def test_fusion_of_a_score_with_itself_keeps_its_order_on_any_scale():
  a = GENERATOR.standard_normal(20)
  fused = difficulty.fuse_ranks([a, 1000 * a + 7, np.exp(a)])
  np.testing.assert_array_equal(difficulty.order(fused), difficulty.order(a))


def test_the_mean_over_seeds_can_let_each_training_count_alike():
  small, large = np.array([1.0, 2.0, 3.0]), np.array([300.0, 200.0, 100.0])
  plain = difficulty.mean_over_seeds([small, large])
  np.testing.assert_allclose(plain, (small + large) / 2)
  alike = difficulty.mean_over_seeds([small, large], ranks=True)
  np.testing.assert_allclose(alike, [2 / 3] * 3)


def test_traced_scores_are_ranked_as_those_on_the_host():
  a = np.round(GENERATOR.standard_normal((2, 15)), 1).astype(np.float32)

  def everything(x):
    return (
      difficulty.rank(x[0]),
      difficulty.cdf(x[0]),
      difficulty.spearman(x[0], x[1]),
      difficulty.fuse_ranks(x),
      difficulty.mean_over_seeds(x),
      difficulty.mean_over_seeds(x, ranks=True),
    )

  a[1, 4:] = a[1, 3]
  for traced, host in zip(jax.jit(everything)(a), everything(a), strict=True):
    assert isinstance(host, np.ndarray | np.float64)
    np.testing.assert_allclose(traced, host, rtol=1e-5)


def test_classes_are_standardised_each_on_its_own():
  labels = np.array([5, -1, 5, -1, 5, 8, *[3] * 7])
  values = GENERATOR.standard_normal(13).astype(np.float32)
  values[[1, 3]] += 100
  values[6:] = 0.7  # no spread, though the mean is rounded
  normal = np.asarray(jax.jit(difficulty.normalize_by_class)(values, labels))
  for label in (5, -1):
    mine = normal[labels == label]
    np.testing.assert_allclose([mine.mean(), mine.std()], [0, 1], atol=1e-4)
    own = values[labels == label]
    np.testing.assert_array_equal(np.argsort(mine), np.argsort(own))
  np.testing.assert_array_equal(normal[5:], 0)
  gradient = jax.jit(
    jax.grad(lambda x: jnp.sum(difficulty.normalize_by_class(x, labels) ** 3))
  )(jnp.asarray(values))
  assert np.all(np.isfinite(gradient))


@given(
  labels=st.lists(st.integers(-2, 3), min_size=1, max_size=40), data=st.data()
)
def test_a_balanced_order_takes_the_classes_in_turn(labels, data):
  labels = np.array(labels)
  order = np.array(data.draw(st.permutations(range(len(labels)))))
  balanced = difficulty.balance_order(order, labels)
  assert balanced.dtype == np.int64
  assert sorted(balanced) == sorted(order)
  place = {int(i): n for n, i in enumerate(order)}
  turn, turns = {}, []
  for record in balanced.tolist():
    turns.append(turn.get(labels[record], 0))
    turn[labels[record]] = turns[-1] + 1
  # Rounds follow one another, and within one, as in a class, the order stays.
  keys = [(t, place[r]) for t, r in zip(turns, balanced.tolist(), strict=True)]
  assert keys == sorted(keys)
  for label in set(labels.tolist()):
    own = [place[r] for r in balanced.tolist() if labels[r] == label]
    assert own == sorted(own)


def test_an_order_of_some_records_is_balanced_by_their_own_labels():
  labels = np.array([9, 0, 9, 0, 1, 0, 1])
  order = np.array([1, 3, 5, 6, 4])  # 0 and 2 belong to the validation split
  expected = [1, 6, 3, 4, 5]
  assert difficulty.balance_order(order, labels).tolist() == expected
  traced = jax.jit(difficulty.balance_order)(order, labels)
  assert traced.tolist() == expected


def test_the_curriculum_and_its_reverse_are_two_orders():
  # A published script takes 'anti-curr' for the curriculum itself.
  values = [0.2, 0.1, 0.3]
  assert difficulty.order(values).tolist() == [1, 0, 2]
  assert difficulty.order(values, kind="anti").tolist() == [2, 0, 1]
  with pytest.raises(ValueError, match="kind is 'anti-curr', expected one of"):
    difficulty.order(values, kind="anti-curr")


def test_unseen_records_come_last():
  assert difficulty.order([np.inf, 2.0, np.inf, 1.0]).tolist() == [3, 1, 0, 2]
  assert difficulty.cdf([np.inf, 2.0, np.inf, 1.0]).tolist() == [
    1,
    0.5,
    1,
    0.25,
  ]


def test_mistakes_with_ranks_are_told_in_one_sentence():
  with pytest.raises(ValueError, match="scores has a NaN, expected numbers"):
    difficulty.rank([0.0, np.nan])
  with pytest.raises(ValueError, match="scores is empty"):
    difficulty.cdf([])
  with pytest.raises(ValueError, match="k is 0, expected"):
    difficulty.fuse_ranks([[1.0, 2.0]], k=0)
  with pytest.raises(ValueError, match="order has record 3, expected ids"):
    difficulty.balance_order([0, 3], [0, 1])
