"""What makes a text or a recording hard, without a model."""

import collections
import math

import numpy as np
import pytest

from kdcl_jax import difficulty

TEXTS = [
  "the cat sat on the mat",
  "the dog sat",
  "quantum chromodynamics confines quarks",
]
VOCABULARY = sorted({w for text in TEXTS for w in text.split()})
COUNTS = collections.Counter(w for text in TEXTS for w in text.split())
LONGEST = max(len(text.split()) for text in TEXTS)
TOKENS = np.array(
  [
    [VOCABULARY.index(w) for w in text.split()]
    + [-1] * (LONGEST - len(text.split()))
    for text in TEXTS
  ]
)
WHERE = TOKENS >= 0


def test_rarity_is_the_sum_of_the_words_own_log_frequencies():
  log_p = difficulty.unigram_log_probabilities(
    TOKENS, len(VOCABULARY), where=WHERE
  )
  assert math.isclose(np.exp(log_p).sum(), 1)
  total = sum(COUNTS.values())
  expected = [
    -sum(math.log(COUNTS[w] / total) for w in text.split()) for text in TEXTS
  ]
  rarity = difficulty.rarity(TOKENS, log_p, where=WHERE)
  np.testing.assert_allclose(rarity, expected, rtol=1e-12)


def test_padding_does_not_change_texts_whatever_it_holds():
  wide = np.concatenate([TOKENS, np.full((3, 4), 10**6)], 1)
  where = np.concatenate([WHERE, np.zeros((3, 4), bool)], 1)
  size = len(VOCABULARY)
  log_p = difficulty.unigram_log_probabilities(TOKENS, size, where=WHERE)
  np.testing.assert_array_equal(
    difficulty.unigram_log_probabilities(wide, size, where=where), log_p
  )
  np.testing.assert_array_equal(
    difficulty.rarity(wide, log_p, where=where),
    difficulty.rarity(TOKENS, log_p, where=WHERE),
  )
  assert difficulty.length(where).tolist() == [6, 3, 4]
  assert difficulty.length(np.array([6, 3, 4])).tolist() == [6, 3, 4]
  assert difficulty.rarity([[0]], log_p, where=[[False]]).tolist() == [0]


def test_smoothing_makes_unseen_words_rare_and_not_impossible():
  plain = difficulty.unigram_log_probabilities([0, 0, 1], 3)
  assert difficulty.rarity([[2]], plain).tolist() == [np.inf]
  smooth = difficulty.unigram_log_probabilities([0, 0, 1], 3, smoothing=1)
  np.testing.assert_allclose(np.exp(smooth), [3 / 6, 2 / 6, 1 / 6])


def noisy_speech(level, seed=0, rate=8000):
  """Bursts of a voice-like sound with pauses, in noise of a given level."""
  generator = np.random.default_rng(seed)
  t = np.arange(2 * rate) / rate
  sound = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 6))
  sound = sound * (np.sin(2 * np.pi * 1.5 * t) > 0)
  sound /= np.sqrt(np.mean(sound**2))
  noise = generator.standard_normal(len(t))
  return 0.1 * (sound + level * noise)


@pytest.mark.parametrize("decibels", [5, 15, 30])
def test_the_snr_is_that_of_the_mixture(decibels):
  waveform = noisy_speech(10 ** (-decibels / 20))
  assert abs(difficulty.snr(waveform) + decibels) < 1.5


def test_the_snr_knows_no_volume_no_offset_and_no_sample_format():
  waveform = noisy_speech(0.1)
  expected = difficulty.snr(waveform)
  assert math.isclose(difficulty.snr(20 * waveform), expected, rel_tol=1e-9)
  assert math.isclose(difficulty.snr(waveform + 3), expected, rel_tol=1e-9)
  integers = np.rint(waveform * 32767).astype(np.int16)
  assert abs(difficulty.snr(integers) - expected) < 0.01


def test_silence_is_the_hardest_and_a_clean_digital_pause_the_easiest():
  assert difficulty.snr(np.zeros(4000)) == 100
  assert difficulty.snr(np.zeros(4000, np.int16) + 7) == 100
  bursts = np.where(np.arange(4000) % 2000 < 1000, 1.0, 0.0)
  bursts *= np.where(np.arange(4000) % 2, 1.0, -1.0)
  assert difficulty.snr(bursts) == -100
  assert difficulty.snr(np.ones(3)) == 100  # shorter than a frame


def test_noise_makes_recordings_less_compressible():
  ratios = [
    difficulty.compression_ratio(noisy_speech(level))
    for level in (0.0, 0.01, 0.1, 1.0)
  ]
  assert ratios == sorted(ratios) and 0 < ratios[0] < ratios[-1] < 1.1


def test_the_ratio_is_of_bytes_and_the_same_on_any_machine():
  samples = np.rint(32767 * noisy_speech(0.1)).astype(np.int16)
  ratio = difficulty.compression_ratio(samples)
  swapped = samples.astype(samples.dtype.newbyteorder(">"))
  assert difficulty.compression_ratio(swapped) == ratio
  floating = samples / 32767
  assert difficulty.compression_ratio(floating) == ratio
  assert difficulty.compression_ratio(floating.astype(np.float32)) == ratio


def test_durations_are_in_seconds_also_of_mixed_rates():
  seconds = difficulty.duration([8000, 8000], np.array([8000, 16000]))
  assert seconds.tolist() == [1.0, 0.5]


def test_mistakes_with_data_are_told_in_one_sentence():
  with pytest.raises(ValueError, match="token_ids has -1, expected ids from 0"):
    difficulty.unigram_log_probabilities(TOKENS, len(VOCABULARY))
  with pytest.raises(ValueError, match="has 5, expected ids from 0 to 2"):
    difficulty.rarity([[5]], np.zeros(3))
  with pytest.raises(ValueError, match="no token"):
    difficulty.unigram_log_probabilities([[0]], 2, where=[[False]])
  with pytest.raises(ValueError, match="smoothing is -1, expected"):
    difficulty.unigram_log_probabilities([0], 2, smoothing=-1)
  with pytest.raises(ValueError, match="waveform has no sample"):
    difficulty.compression_ratio(np.zeros(0))
  with pytest.raises(ValueError, match="percentile is 100, expected"):
    difficulty.snr(np.ones(9), percentile=100)
  with pytest.raises(ValueError, match="level is 0, expected"):
    difficulty.compression_ratio(np.ones(9), level=0)
  with pytest.raises(ValueError, match="sample_rate is"):
    difficulty.duration([8000], 0)
