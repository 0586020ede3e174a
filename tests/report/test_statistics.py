"""Intervals against independent computations, and what is said of them."""

import numpy as np
import pytest
from scipy import stats

from kdcl_jax import chapters, statistics


def test_the_t_interval_is_that_of_scipy():
  a = np.array([0.91, 0.93, 0.90, 0.94])
  b = np.array([0.88, 0.91, 0.91, 0.90])
  got = statistics.paired_t_interval(a - b)
  want = stats.ttest_rel(a, b).confidence_interval(0.95)
  assert got == pytest.approx((want.low, want.high))


def test_the_record_interval_covers_the_true_difference_95_times_in_100():
  rng = np.random.default_rng(0)
  covered = 0
  for _ in range(2000):
    hard = rng.random(400)
    one = rng.random(400) < 0.9 - 0.3 * hard
    two = rng.random(400) < 0.8 - 0.3 * hard
    low, high = statistics.paired_records_interval(one, two)
    covered += low <= 0.1 <= high
  assert 0.935 < covered / 2000 < 0.965


def test_one_value_has_no_spread_and_two_have_the_sample_deviation():
  assert statistics.summary([0.5])["std"] == 0.0
  assert statistics.summary([0.0, 1.0])["std"] == pytest.approx(0.5**0.5)


def _comparison(interval, values=(0.02, 0.04)):
  return {
    "a": "student",
    "b": "baseline",
    "difference": statistics.summary(values),
    "interval_95": list(interval),
    "method": "paired t over seeds",
    "verdict": statistics.verdict(interval),
  }


def test_a_gain_a_loss_and_no_gain_are_said_in_words():
  gain = chapters.sentence(_comparison((0.01, 0.05)))
  assert "**student** is 3.0 ± 1.4 points above baseline" in gain
  loss = chapters.sentence(_comparison((-0.05, -0.01), (-0.02, -0.04)))
  assert "points below baseline" in loss and "3.0" in loss
  none = chapters.sentence(_comparison((-0.01, 0.07)))
  assert none.startswith("No gain of student over baseline is shown")
  assert "includes 0" in none
