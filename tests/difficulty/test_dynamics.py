"""Scores of a whole training, from outputs stored epoch by epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import difficulty

GENERATOR = np.random.default_rng(2)
LOGITS = GENERATOR.standard_normal((5, 9, 4)).astype(np.float32)
LABELS = GENERATOR.integers(4, size=9)
STORED = {
  "aum": difficulty.aum,
  "variability": difficulty.variability,
  "cumulative_confidence": difficulty.cumulative_confidence,
  "forgetting": lambda z, y: difficulty.forgetting(
    jnp.argmax(z, -1) == jnp.asarray(y)[None]
  ),
  "learned_epoch": lambda z, y: difficulty.learned_epoch(
    jnp.argmax(z, -1) == jnp.asarray(y)[None]
  ),
}


@pytest.mark.parametrize("score", STORED.values(), ids=STORED)
def test_the_score_of_a_record_does_not_depend_on_the_others(score):
  score = jax.jit(score)
  whole = score(LOGITS, LABELS)
  moved = GENERATOR.permutation(9)
  np.testing.assert_allclose(
    score(LOGITS[:, moved], LABELS[moved]), whole[moved], rtol=1e-6
  )
  # One record at a time: the published AUM fails on such a batch.
  alone = score(LOGITS[:, 4:5], LABELS[4:5])
  np.testing.assert_allclose(alone, whole[4:5], rtol=1e-5)


def test_one_epoch_is_enough():
  one = LOGITS[:1]
  for name, expected in (
    ("aum", difficulty.logit_margin(LOGITS[0], LABELS)),
    ("variability", np.zeros(9)),
    ("cumulative_confidence", difficulty.confidence(LOGITS[0], LABELS)),
    ("forgetting", LOGITS[0].argmax(-1) != LABELS),
    ("learned_epoch", LOGITS[0].argmax(-1) != LABELS),
  ):
    np.testing.assert_allclose(STORED[name](one, LABELS), expected, rtol=1e-6)


def test_forgetting_counts_falls_only_and_puts_the_never_learned_last():
  correct = np.array(
    [[1, 1, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 0, 1, 0], [1, 0, 0, 1, 1]]
  )
  forgotten = difficulty.forgetting(correct).tolist()
  assert forgotten == [0.0, 2.0, 4.0, 0.0, 1.0]
  # A late fall costs all epochs: it is not right from then on.
  assert difficulty.learned_epoch(correct).tolist() == [0, 4, 4, 2, 3]
  for kind in (bool, np.float32):
    np.testing.assert_array_equal(
      difficulty.forgetting(correct.astype(kind)), forgotten
    )


def test_aum_finds_a_wrong_label_among_right_ones():
  logits = np.tile(4 * np.eye(4)[LABELS], (5, 1, 1)) + 0.5 * LOGITS
  wrong = LABELS.copy()
  wrong[6] = (wrong[6] + 1) % 4
  assert np.argmax(difficulty.aum(logits, wrong)) == 6
  assert np.all(np.asarray(difficulty.aum(logits, LABELS)) < 0)


def test_the_data_map_takes_probabilities_too():
  p = jax.nn.softmax(LOGITS)
  place = difficulty.data_map(LOGITS, LABELS)
  again = difficulty.data_map(p, LABELS, probabilities=True)
  for value, wanted in zip(again, place, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
  assert place.correctness.dtype == jnp.int32


def test_what_is_easy_and_what_is_never_learned_varies_as_little():
  sure = 50 * np.eye(2, dtype=np.float32)[[0, 1]]
  logits = np.tile(sure, (4, 1, 1))
  labels = np.zeros(2, int)
  np.testing.assert_array_equal(difficulty.variability(logits, labels), 0)
  mean = difficulty.cumulative_confidence(logits, labels)
  np.testing.assert_allclose(mean, [0, 1], atol=1e-6)
  assert mean[0] > 0  # the digits of a record that is nearly certain


def test_mistakes_with_dynamics_are_told():
  with pytest.raises(ValueError, match="two epochs or more, there are 1"):
    difficulty.data_map(LOGITS[:1], LABELS, interval=True)
  with pytest.raises(AssertionError):
    difficulty.aum(LOGITS, LABELS[:-1])
  with pytest.raises(AssertionError):
    difficulty.forgetting(np.zeros((0, 3)))
