"""A teacher that knows nothing is told from one that knows little."""

import logging

import numpy as np
import pytest

from kdcl_jax import screening
from kdcl_jax.errors import UserError

RNG = np.random.default_rng(0)
SECTION = {"weights": "some.safetensors", "near_chance": "stop"}


def records(predictions, labels):
  return {"prediction": np.asarray(predictions), "label": np.asarray(labels)}


def test_chance_is_what_permutations_give():
  said = RNG.choice(5, 60, p=(0.4, 0.3, 0.1, 0.1, 0.1))
  true = RNG.choice(7, 60, p=(0.5, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05))
  drawn = [np.mean(RNG.permutation(said) == true) for _ in range(20000)]
  mean, deviation = screening.by_chance(said, true)
  assert mean == pytest.approx(np.mean(drawn), abs=0.002)
  assert deviation == pytest.approx(np.std(drawn), rel=0.03)


def test_always_the_largest_class_is_chance_however_large_it_is():
  labels = np.repeat([0, 1], [95, 5])
  mean, deviation = screening.by_chance(np.zeros(100, int), labels)
  assert mean == pytest.approx(0.95) and deviation == pytest.approx(0, abs=1e-6)
  with pytest.raises(UserError, match="0.9500 on the 100 validation records"):
    screening.check_accuracy(
      "teacher", SECTION, records(np.zeros(100, int), labels), 0
    )


def test_two_found_of_five_rare_ones_are_knowledge(caplog):
  labels = np.repeat([0, 1], [95, 5])
  said = labels.copy()
  said[-3:] = 0
  with caplog.at_level(logging.INFO, "kdcl_jax"):
    screening.check_accuracy("teacher", SECTION, records(said, labels), 3)
  assert "teacher: accuracy 0.9700 on the 100 validation records of seed 3" in (
    caplog.text
  )


def test_random_predictions_hardly_ever_pass_and_weak_ones_do():
  labels = np.arange(300) % 10
  stopped = 0
  for _ in range(200):
    try:
      screening.check_accuracy(
        "teacher", SECTION, records(RNG.permutation(labels), labels), 0
      )
    except UserError:
      stopped += 1
  assert stopped >= 197
  weak = np.where(RNG.random(300) < 0.2, labels, RNG.integers(0, 10, 300))
  screening.check_accuracy("teacher", SECTION, records(weak, labels), 0)


def test_labels_in_another_sequence_are_below_chance_and_stop():
  labels = np.arange(300) % 10
  with pytest.raises(UserError) as error:
    screening.check_accuracy(
      "teacher", SECTION, records((labels + 1) % 10, labels), 0
    )
  sentence = str(error.value)
  for word in (
    "config.teacher.weights is 'some.safetensors'",
    "0.0000",
    "by chance 0.1000",
    "sequence",
    "mean, std, channels",
    "config.teacher.near_chance",
  ):
    assert word in sentence
  assert "\n" not in sentence


def test_one_that_is_meant_to_know_nothing_is_only_warned_of(caplog):
  labels = np.arange(300) % 10
  section = SECTION | {"near_chance": "warn"}
  screening.check_accuracy(
    "teacher", section, records(np.zeros(300, int), labels), 0
  )
  assert "knows nothing" in caplog.text


def test_one_record_says_nothing_and_does_not_break():
  assert screening.by_chance(np.array([1]), np.array([1])) == (1.0, 0.0)
