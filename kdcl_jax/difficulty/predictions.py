"""Logits and labels, checked, and what the scores read off them."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.losses.reductions import as_float


def checked(
  logits: ArrayLike, labels: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Logits [N, K] in float32 or float64, and labels [N]."""
  logits, labels = as_float(logits), jnp.asarray(labels)
  chex.assert_rank([logits, labels], [2, 1])
  chex.assert_equal_shape_prefix([logits, labels], 1)
  return logits, labels


def of_label(values: jax.Array, labels: jax.Array) -> jax.Array:
  """The value of the label, [N] from values [N, K]."""
  return jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]


def best_other(values: jax.Array, labels: jax.Array) -> jax.Array:
  """The largest value of the classes that are not the label, [N]."""
  is_label = jax.nn.one_hot(labels, values.shape[-1], dtype=bool)
  return jnp.max(jnp.where(is_label, -jnp.inf, values), axis=-1)


def is_correct(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Whether the largest logit is the label's, [N] boolean."""
  logits, labels = checked(logits, labels)
  return jnp.argmax(logits, axis=-1) == labels
