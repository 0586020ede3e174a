"""Difficulty from one forward pass: what the model thinks of each record."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.difficulty.predictions import best_other, checked, of_label
from kdcl_jax.losses.arrays import safe_norm
from kdcl_jax.losses.reductions import as_float


def loss(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Cross-entropy: `-log p_y`.

  Args:
    logits: [N, K].
    labels: [N] integers in [0, K).

  Returns:
    [N] in nats, >= 0; larger is harder.

  Example:
    >>> round(float(loss(jnp.zeros((1, 2)), jnp.array([0]))[0]), 4)
    0.6931

  Reference: Wu, Dyer and Neyshabur, "When do curricula work?", 2021,
  arXiv:2012.03107, section 3.1.
  """
  logits, labels = checked(logits, labels)
  return -of_label(jax.nn.log_softmax(logits), labels)


def confidence(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Lack of confidence in the label: `1 - p_y`.

  Args:
    logits: [N, K].
    labels: [N] integers in [0, K).

  Returns:
    [N] in [0, 1]; larger is harder.

  Example:
    >>> confidence(jnp.zeros((1, 4)), jnp.array([0])).tolist()
    [0.75]

  Reference: Hacohen and Weinshall, "On the power of curriculum learning in
  training deep networks", 2019, arXiv:1904.03626 (with a transfer teacher).
  """
  logits, labels = checked(logits, labels)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  # The sum over the others keeps its digits where p_y is nearly 1.
  return jnp.sum(jnp.where(is_label, 0.0, jax.nn.softmax(logits)), axis=-1)


def margin(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Margin of probability: `max_{c != y} p_c - p_y`.

  Args:
    logits: [N, K], K >= 2.
    labels: [N] integers in [0, K).

  Returns:
    [N] in [-1, 1]; larger is harder, above 0 is misclassified.

  Example:
    >>> margin(jnp.zeros((1, 2)), jnp.array([0])).tolist()
    [0.0]
  """
  logits, labels = checked(logits, labels)
  p = jax.nn.softmax(logits)
  return best_other(p, labels) - of_label(p, labels)


def logit_margin(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Margin of the logits: `max_{c != y} z_c - z_y`.

  Args:
    logits: [N, K], K >= 2.
    labels: [N] integers in [0, K).

  Returns:
    [N]; larger is harder, above 0 is misclassified.

  Example:
    >>> logit_margin(jnp.array([[3.0, 1.0]]), jnp.array([0])).tolist()
    [-2.0]

  Reference: Pleiss, Zhang, Elenberg and Weinberger, "Identifying mislabeled
  data using the area under the margin ranking", 2020, arXiv:2001.10528, eq. 1
  (with the opposite sign).
  """
  logits, labels = checked(logits, labels)
  return best_other(logits, labels) - of_label(logits, labels)


def entropy(logits: ArrayLike, labels: ArrayLike | None = None) -> jax.Array:
  """Entropy of the prediction: `-sum_c p_c log p_c`; needs no label.

  Args:
    logits: [N, K].
    labels: not used; there so that every score is called alike.

  Returns:
    [N] in [0, log K] nats; larger is harder.

  Example:
    >>> round(float(entropy(jnp.zeros((1, 2)))[0]), 4)
    0.6931
  """
  del labels
  logits = as_float(logits)
  chex.assert_rank(logits, 2)
  log_p = jax.nn.log_softmax(logits)
  p = jnp.exp(log_p)
  return -jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, log_p, 0.0), 0.0), -1)


def el2n(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Norm of the error: `||softmax(z) - onehot(y)||_2`.

  Args:
    logits: [N, K].
    labels: [N] integers in [0, K).

  Returns:
    [N] in [0, sqrt 2]; larger is harder.

  Example:
    >>> round(float(el2n(jnp.zeros((1, 2)), jnp.array([0]))[0]), 4)
    0.7071

  Reference: Paul, Ganguli and Dziugaite, "Deep learning on a data diet", 2021,
  arXiv:2107.07075, definition 2.2.
  """
  logits, labels = checked(logits, labels)
  error = jax.nn.softmax(logits) - jax.nn.one_hot(
    labels, logits.shape[-1], dtype=logits.dtype
  )
  return safe_norm(error)


def el1n(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Absolute error: `||softmax(z) - onehot(y)||_1 = 2 (1 - p_y)`.

  The same order as `confidence`, on the scale of `el2n`.

  Args:
    logits: [N, K].
    labels: [N] integers in [0, K).

  Returns:
    [N] in [0, 2]; larger is harder.

  Example:
    >>> el1n(jnp.zeros((1, 4)), jnp.array([0])).tolist()
    [1.5]

  Reference: as `el2n`; in the published code.
  """
  return 2 * confidence(logits, labels)
