"""Difficulty from depth: the layer at which a model makes up its mind."""

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.arrays import EXACT
from kdcl_jax.losses.reductions import as_float, check_number


def _rows(embeddings: ArrayLike) -> jax.Array:
  embeddings = as_float(embeddings)
  return embeddings.reshape(embeddings.shape[0], -1)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _votes(
  support: jax.Array,
  labels: jax.Array,
  query: jax.Array,
  own: jax.Array,
  k: int,
  num_classes: int,
  chunk_size: int,
) -> jax.Array:
  """`knn_predictions` of rows; layers of one width are compiled once."""
  # |q - s|^2 - |q|^2, around the mean so that fewer digits cancel.
  center = jnp.mean(support, 0, keepdims=True)
  support, query = support - center, query - center
  squares = jnp.sum(jnp.square(support), -1)

  def predict(row: tuple[jax.Array, jax.Array]) -> jax.Array:
    q, index = row
    distances = squares - 2 * jnp.matmul(support, q, precision=EXACT)
    distances = jnp.where(jnp.arange(len(squares)) == index, jnp.inf, distances)
    nearest = jax.lax.top_k(-distances, k)[1]
    votes = jnp.zeros((num_classes,), jnp.int32).at[labels[nearest]].add(1)
    return jnp.argmax(votes).astype(jnp.int32)

  return jax.lax.map(predict, (query, own), batch_size=chunk_size)


def knn_predictions(
  support_emb: ArrayLike,
  support_labels: ArrayLike,
  query_emb: ArrayLike,
  *,
  k: int = 30,
  num_classes: int,
  support_index: ArrayLike | None = None,
  chunk_size: int = 256,
) -> jax.Array:
  """The class of most of the k nearest neighbours, by Euclidean distance.

  Args:
    support_emb: embeddings with known labels, [S, ...] (flattened).
    support_labels: [S] integers in [0, num_classes).
    query_emb: embeddings of the records in question, [Q, ...].
    k: neighbours that vote, each with one vote; 1 <= k <= S.
    num_classes: number of classes.
    support_index: [Q], where in the support each query is, which then does not
      vote for itself; -1 for queries that are not there. None: no query is.
    chunk_size: queries whose distances are in memory at the same time, S each.

  Returns:
    [Q] int32. Of classes with as many votes the smallest number wins, of
    neighbours as far the earlier one votes.

  Raises:
    ValueError: if there are not k neighbours.

  Example:
    >>> support, labels = jnp.array([[0.0], [1.0], [9.0]]), jnp.array([0, 0, 1])
    >>> query = jnp.array([[0.4], [8.0]])
    >>> knn_predictions(support, labels, query, k=1, num_classes=2).tolist()
    [0, 1]
  """
  support, query = _rows(support_emb), _rows(query_emb)
  labels = jnp.asarray(support_labels)
  chex.assert_equal_shape_suffix([support, query], 1)
  chex.assert_shape(labels, support.shape[:1])
  size = support.shape[0]
  most = size if support_index is None else size - 1
  if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
    raise ValueError(
      f"k is {k!r}, expected a whole number from 1 to {most}, the neighbours"
      " that there are."
    )
  check_number("num_classes", num_classes, low=1)
  check_number("chunk_size", chunk_size, low=1)
  if support_index is None:
    support_index = jnp.full(query.shape[:1], -1)
  own = jnp.asarray(support_index)
  chex.assert_shape(own, query.shape[:1])

  return _votes(support, labels, query, own, k, num_classes, chunk_size)


def prediction_depth(
  support_emb: ArrayLike | Sequence[Any],
  support_labels: ArrayLike,
  query_emb: ArrayLike | Sequence[Any],
  final_prediction: ArrayLike,
  *,
  k: int = 30,
  num_classes: int,
  support_index: ArrayLike | None = None,
  chunk_size: int = 256,
) -> jax.Array:
  """First layer from which every k-NN probe says what the model says.

  Args:
    support_emb: embeddings of a labelled support set, layer by layer (input,
      blocks, softmax): [L, S, D], or a list of L arrays [S, ...] where layers
      differ in width.
    support_labels: [S] integers in [0, num_classes).
    query_emb: embeddings of the records to be scored, [L, Q, D] or a list.
    final_prediction: [Q] classes that the whole model predicts, right or not.
    k: neighbours of each probe.
    num_classes: number of classes.
    support_index: [Q], where in the support each query is, see
      `knn_predictions`; needed where records are scored that the support holds.
    chunk_size: queries whose distances are in memory at the same time.

  Returns:
    [Q] in [0, L], counted from 0; L where the last probe disagrees. Larger is
    harder.

  Raises:
    ValueError: if there are not as many layers of both, or not k neighbours.

  Example:
    >>> support = jnp.array([[[0.0], [0.1]], [[0.0], [9.0]]])
    >>> query = jnp.array([[[1.0]], [[8.0]]])
    >>> prediction_depth(
    ...   support, jnp.array([0, 1]), query, jnp.array([1]), k=1, num_classes=2
    ... ).tolist()
    [0.0]

  Reference: Baldock, Maennel and Neyshabur, "Deep learning through the lens of
  example difficulty", 2021, arXiv:2106.09647. An unofficial implementation
  takes the farthest neighbours and never returns 0.
  """
  support, query = list(support_emb), list(query_emb)
  if len(support) != len(query) or not support:
    raise ValueError(
      f"support_emb has {len(support)} layers and query_emb {len(query)},"
      " expected as many of both, at least 1."
    )
  final = jnp.asarray(final_prediction)
  agrees = []
  for layer_support, layer_query in zip(support, query, strict=True):
    probe = knn_predictions(
      layer_support,
      support_labels,
      layer_query,
      k=k,
      num_classes=num_classes,
      support_index=support_index,
      chunk_size=chunk_size,
    )
    chex.assert_equal_shape([probe, final])
    agrees.append(probe == final)
  # The layers from the last one back to the first that disagrees.
  agreeing = jnp.cumprod(jnp.stack(agrees[::-1]).astype(jnp.int32), axis=0)
  return (len(support) - jnp.sum(agreeing, 0)).astype(jnp.float32)
