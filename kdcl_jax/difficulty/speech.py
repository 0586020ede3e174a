"""Difficulty of recordings: long, noisy or irregular ones. On the host."""

import zlib

import chex
import numpy as np
from numpy.typing import ArrayLike

from kdcl_jax.losses.reductions import check_number

_LIMIT = 100.0  # decibels; 16 bits reach 96


def _waveform(waveform: ArrayLike) -> np.ndarray:
  waveform = np.asarray(waveform)
  chex.assert_rank(waveform, 1)
  if not waveform.size:
    raise ValueError("waveform has no sample, expected at least one.")
  return waveform


def duration(num_samples: ArrayLike, sample_rate: ArrayLike) -> np.ndarray:
  """How long recordings are, in seconds.

  Args:
    num_samples: [N] samples of each.
    sample_rate: samples a second, > 0: one number or [N].

  Returns:
    [N] float64; larger is harder.

  Raises:
    ValueError: if a sample rate is not > 0.

  Example:
    >>> duration([8000, 4000], 8000).tolist()
    [1.0, 0.5]

  Reference: Amodei et al., "Deep Speech 2: end-to-end speech recognition in
  English and Mandarin", 2016, arXiv:1512.02595 (SortaGrad: sorted in the first
  epoch only).
  """
  rate = np.asarray(sample_rate, np.float64)
  check_number("sample_rate", rate, above=0)
  return np.asarray(num_samples, np.float64) / rate


def snr(
  waveform: ArrayLike, *, frame: int = 200, percentile: float = 10.0
) -> float:
  """Minus the signal-to-noise ratio: `-10 log10((P - P_n) / P_n)`.

  P is the mean power of the frames, and the noise P_n the power of the quiet
  ones: pauses hold the noise alone. So it needs recordings with pauses, of
  noise that does not come and go; a steady tone passes for noise.

  Args:
    waveform: [T] samples, floating or integer. A constant offset is removed.
    frame: samples a frame: 25 ms are 200 at 8 kHz, 400 at 16 kHz.
    percentile: share of the frames taken for quiet, in percent, in [0, 100).

  Returns:
    Decibels in [-100, 100]; larger is harder. Silence is 100.

  Raises:
    ValueError: for a number out of range, or no sample.

  Example:
    >>> t = np.arange(4000)
    >>> burst = np.sin(t) * (t < 2000)
    >>> noise = np.random.default_rng(0).standard_normal(4000)
    >>> [round(snr(burst + s * noise)) for s in (0.01, 0.1)]
    [-34, -14]
  """
  check_number("frame", frame, low=1)
  check_number("percentile", percentile, low=0)
  if percentile >= 100:
    raise ValueError(
      f"percentile is {percentile!r}, expected a number in [0, 100)."
    )
  samples = _waveform(waveform).astype(np.float64)
  samples = samples - samples.mean()
  frame = min(frame, len(samples))
  count = len(samples) // frame
  frames = samples[: count * frame].reshape(count, frame)
  powers = np.square(frames).mean(-1)
  noise = np.percentile(powers, percentile)
  signal = powers.mean() - noise
  if signal <= 0:
    return _LIMIT
  if noise <= 0:
    return -_LIMIT
  return float(np.clip(10 * np.log10(noise / signal), -_LIMIT, _LIMIT))


def compression_ratio(waveform: ArrayLike, *, level: int = 6) -> float:
  """Bytes of the compressed over bytes of the raw waveform.

  Noise does not compress, regular sounds and pauses do. The ratio depends on
  loudness: compare recordings on one scale.

  Args:
    waveform: [T] samples: integers as they were recorded, or floating in
      [-1, 1], which are rounded to 16 bits (random digits do not compress).
    level: zlib's, 1 (fast) to 9.

  Returns:
    The ratio, > 0, about 1 for white noise; larger is harder.

  Raises:
    ValueError: for a level out of range, or no sample.

  Example:
    >>> tone = np.sin(np.arange(8000) * 2 * np.pi / 80)
    >>> noise = np.random.default_rng(0).uniform(-1, 1, 8000)
    >>> [round(compression_ratio(x), 1) for x in (tone, noise)]
    [0.0, 1.0]

  Reference: Kuznetsova, Kumar, Fox and Tyers, "Curriculum optimization for
  low-resource speech recognition", 2022, arXiv:2202.08883 (where what shrinks
  more has the larger ratio, and is easier).
  """
  if isinstance(level, bool) or level not in range(1, 10):
    raise ValueError(
      f"level is {level!r}, expected a whole number from 1 to 9."
    )
  samples = _waveform(waveform)
  if np.issubdtype(samples.dtype, np.floating):
    samples = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
  # The bytes, and so the ratio, must not depend on the machine.
  raw = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
  return len(zlib.compress(raw, level)) / len(raw)
