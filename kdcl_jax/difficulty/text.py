"""Difficulty of texts: long ones, and those of rare words. On the host."""

import chex
import numpy as np
from numpy.typing import ArrayLike

from kdcl_jax.losses.reductions import check_number


def _tokens(
  token_ids: ArrayLike, where: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
  """Token ids, and which of them are no padding."""
  token_ids = np.asarray(token_ids)
  if where is None:
    where = np.ones(token_ids.shape, bool)
  where = np.asarray(where, bool)
  chex.assert_equal_shape([token_ids, where])
  return token_ids, where


def _check_ids(token_ids: np.ndarray, vocabulary_size: int) -> None:
  bad = token_ids[(token_ids < 0) | (token_ids >= vocabulary_size)]
  if bad.size:
    raise ValueError(
      f"token_ids has {bad[0]}, expected ids from 0 to {vocabulary_size - 1};"
      " mask padding with where."
    )


def length(where: ArrayLike) -> np.ndarray:
  """The number of tokens.

  Args:
    where: boolean [N, T], False for padding; or lengths as they are, [N].

  Returns:
    [N] float64; larger is harder.

  Example:
    >>> length([[True, True, False], [True, False, False]]).tolist()
    [2.0, 1.0]

  Reference: Platanios, Stretcu, Neubig, Poczos and Mitchell, "Competence-based
  curriculum learning for neural machine translation", 2019, arXiv:1903.09848.
  """
  where = np.asarray(where)
  chex.assert_rank(where, {1, 2})
  return (where.astype(bool).sum(-1) if where.ndim == 2 else where).astype(
    np.float64
  )


def unigram_log_probabilities(
  token_ids: ArrayLike,
  vocabulary_size: int,
  *,
  where: ArrayLike | None = None,
  smoothing: float = 0.0,
) -> np.ndarray:
  """How frequent each token is in a corpus: `log((n_w + s) / (n + s V))`.

  Args:
    token_ids: integers of any shape in [0, vocabulary_size).
    vocabulary_size: V >= 1.
    where: boolean, shape of `token_ids`; False for padding, whose ids may be
      anything.
    smoothing: s >= 0, added to each count; above 0 where texts are to be
      scored with tokens that this corpus does not have.

  Returns:
    [V] float64 in nats; -inf for tokens without a count.

  Raises:
    ValueError: for an id or a number out of range, or a corpus without tokens.

  Example:
    >>> np.exp(unigram_log_probabilities([0, 0, 1], 2)).round(4).tolist()
    [0.6667, 0.3333]

  Reference: see `rarity`.
  """
  check_number("vocabulary_size", vocabulary_size, low=1)
  check_number("smoothing", smoothing, low=0)
  token_ids, where = _tokens(token_ids, where)
  present = token_ids[where].astype(np.int64)
  _check_ids(present, vocabulary_size)
  counts = np.bincount(present, minlength=vocabulary_size) + smoothing
  total = counts.sum()
  if total == 0:
    raise ValueError("token_ids has no token, expected at least one.")
  with np.errstate(divide="ignore"):
    return np.log(counts) - np.log(total)


def rarity(
  token_ids: ArrayLike,
  log_probabilities: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> np.ndarray:
  """How unlikely the words are, one by one: `-sum_t log p(w_t)`.

  Args:
    token_ids: [N, T] integers.
    log_probabilities: [V] in nats, of `unigram_log_probabilities` or a larger
      corpus.
    where: boolean [N, T], False for padding, whose ids may be anything.

  Returns:
    [N] float64 in nats, >= 0; larger is harder. Grows with the length, too.
    inf where a token has probability 0.

  Raises:
    ValueError: for an id that has no probability.

  Example:
    >>> log_p = np.log([0.75, 0.25])
    >>> rarity([[0, 0], [0, 1]], log_p).round(4).tolist()
    [0.5754, 1.674]

  Reference: Platanios, Stretcu, Neubig, Poczos and Mitchell, "Competence-based
  curriculum learning for neural machine translation", 2019, arXiv:1903.09848.
  """
  token_ids, where = _tokens(token_ids, where)
  log_probabilities = np.asarray(log_probabilities, np.float64)
  chex.assert_rank([token_ids, log_probabilities], [2, 1])
  _check_ids(token_ids[where], len(log_probabilities))
  values = log_probabilities[np.where(where, token_ids, 0)]
  # Adding 0.0 turns the -0.0 of an empty text into 0.0.
  return -np.where(where, values, 0.0).sum(-1) + 0.0
