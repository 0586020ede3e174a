"""Prediction depth: probes of the nearest neighbours, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import difficulty

GENERATOR = np.random.default_rng(4)
SUPPORT = GENERATOR.standard_normal((40, 6)).astype(np.float32)
QUERY = GENERATOR.standard_normal((13, 6)).astype(np.float32)
LABELS = GENERATOR.integers(3, size=40)


def neighbours(support, query, k, left_out=None):
  distances = np.square(
    query[:, None].astype(np.float64) - support[None].astype(np.float64)
  ).sum(-1)
  if left_out is not None:
    distances[np.arange(len(query)), left_out] = np.inf
  nearest = np.argsort(distances, -1, kind="stable")[:, :k]
  return np.stack([np.bincount(LABELS[i], minlength=3) for i in nearest])


@pytest.mark.parametrize("chunk_size", [1, 5, 13, 1000])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_probes_are_the_vote_of_the_nearest(chunk_size, offset):
  # Far from the origin the expanded square would lose its digits.
  prediction = difficulty.knn_predictions(
    SUPPORT + np.float32(offset),
    LABELS,
    QUERY + np.float32(offset),
    k=5,
    num_classes=3,
    chunk_size=chunk_size,
  )
  expected = neighbours(
    SUPPORT + np.float32(offset), QUERY + np.float32(offset), 5
  ).argmax(-1)
  np.testing.assert_array_equal(prediction, expected)


def test_a_record_of_the_support_does_not_vote_for_itself():
  places = np.array([7, 3, 30])
  options = {"k": 1, "num_classes": 3}
  with_itself = difficulty.knn_predictions(
    SUPPORT, LABELS, SUPPORT[places], **options
  )
  np.testing.assert_array_equal(with_itself, LABELS[places])
  without = difficulty.knn_predictions(
    SUPPORT, LABELS, SUPPORT[places], support_index=places, **options
  )
  expected = neighbours(SUPPORT, SUPPORT[places], 1, places).argmax(-1)
  np.testing.assert_array_equal(without, expected)
  assert (expected != LABELS[places]).any()
  mixed = difficulty.knn_predictions(
    SUPPORT,
    LABELS,
    SUPPORT[places],
    support_index=np.array([7, -1, 30]),
    **options,
  )
  assert mixed[1] == LABELS[3] and mixed[0] == without[0]


def test_ties_of_votes_go_to_the_smaller_class():
  support, labels = np.array([[0.0], [1.0]]), np.array([1, 0])
  prediction = difficulty.knn_predictions(
    support, labels, np.array([[0.1]]), k=2, num_classes=2
  )
  assert prediction.tolist() == [0]


def depth_of(votes, final):
  """Depths of one query whose probe says votes[l] at layer l."""
  support = [np.array([[0.0], [1.0]]) for _ in votes]
  query = [np.array([[float(v)]]) for v in votes]
  return difficulty.prediction_depth(
    support, np.array([0, 1]), query, np.array([final]), k=1, num_classes=2
  ).item()


def test_depth_is_the_first_layer_from_which_all_agree():
  assert depth_of([1, 1, 1], 1) == 0
  assert depth_of([0, 1, 1], 1) == 1
  assert depth_of([1, 0, 1], 1) == 2  # an early hit that is lost again
  assert depth_of([1, 1, 0], 1) == 3  # the last probe disagrees
  assert depth_of([0, 0, 0], 0) == 0  # right or not


def test_layers_may_differ_in_width_and_have_maps():
  maps = [SUPPORT.reshape(40, 1, 2, 3), SUPPORT[:, :2]]
  queries = [QUERY.reshape(13, 1, 2, 3), QUERY[:, :2]]
  final = np.zeros(13, int)
  options = {"k": 3, "num_classes": 3}
  ragged = jax.jit(
    lambda s, q: difficulty.prediction_depth(s, LABELS, q, final, **options)
  )(maps, queries)
  probes = [
    difficulty.knn_predictions(s, LABELS, q, **options)
    for s, q in zip(maps, queries, strict=True)
  ]
  agrees = np.stack(probes) == 0
  expected = np.where(agrees[1], np.where(agrees[0], 0, 1), 2)
  np.testing.assert_array_equal(ragged, expected)
  assert ragged.dtype == jnp.float32


def test_mistakes_with_depth_are_told_in_one_sentence():
  with pytest.raises(ValueError, match="k is 41, expected a whole number from"):
    difficulty.knn_predictions(SUPPORT, LABELS, QUERY, k=41, num_classes=3)
  with pytest.raises(ValueError, match="from 1 to 39, the neighbours"):
    difficulty.knn_predictions(
      SUPPORT,
      LABELS,
      SUPPORT,
      k=40,
      num_classes=3,
      support_index=np.arange(40),
    )
  with pytest.raises(ValueError, match="support_emb has 1 layers and query_em"):
    difficulty.prediction_depth(
      SUPPORT[None], LABELS, [QUERY, QUERY], np.zeros(13, int), num_classes=3
    )
