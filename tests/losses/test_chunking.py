"""Chunked token losses: the same numbers in a fraction of the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import losses

GENERATOR = np.random.default_rng(5)
STUDENT, TEACHER = (
  jnp.asarray(GENERATOR.standard_normal((2, 7, 11)), jnp.float32)
  for _ in range(2)
)
LABELS = jnp.asarray(GENERATOR.integers(0, 11, (2, 7)))


@pytest.mark.parametrize("chunk_size", [2, 4, 14, 99])
def test_chunks_change_neither_value_nor_gradient(chunk_size):
  where = jnp.arange(7)[None] < jnp.array([[7], [3]])
  temperature = jnp.linspace(1.0, 3.0, 14).reshape(2, 7)

  def total(loss):
    value = lambda s: jnp.sum(
      jnp.sin(loss(s, TEACHER, LABELS, where=where, temperature=temperature))
    )
    return jax.jit(jax.value_and_grad(value))(STUDENT)

  value, gradient = total(losses.chunked(losses.dkd, chunk_size))
  expected, wanted = total(losses.dkd)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_chunks_take_masks_of_classes_and_scalar_options():
  where = (jnp.arange(11) < 8)[None, None]
  value = losses.chunked(losses.gkd, 4)(
    STUDENT, TEACHER, where=where, beta=0.3, temperature=2.0
  )
  expected = losses.gkd(
    STUDENT, TEACHER, where=where, beta=0.3, temperature=2.0
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def peak(loss, tokens, vocabulary):
  """Bytes that forward and backward need beside arguments and gradient."""
  shape = jax.ShapeDtypeStruct((tokens, vocabulary), jnp.float32)
  gradient = jax.grad(lambda s, t: jnp.sum(loss(s, t)))
  compiled = jax.jit(gradient).lower(shape, shape).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
  ("loss", "copies"), [(losses.kd, 4), (losses.gkd, 8), (losses.adaptive_kl, 9)]
)
def test_a_large_vocabulary_needs_only_copies_of_a_chunk(loss, copies):
  tokens, vocabulary, chunk_size = 64, 262_144, 4
  copy = chunk_size * vocabulary * 4
  assert peak(losses.chunked(loss, chunk_size), tokens, vocabulary) < (
    copies * copy
  )
  assert peak(loss, tokens, vocabulary) > 2 * tokens * vocabulary * 4


def test_the_output_layer_may_be_applied_inside_the_chunks():
  hidden = jnp.asarray(GENERATOR.standard_normal((8, 3)), jnp.float32)
  layer = jnp.asarray(GENERATOR.standard_normal((3, 11)), jnp.float32)
  teacher = jnp.asarray(GENERATOR.standard_normal((8, 11)), jnp.float32)

  def total(layer, chunk_size=None):
    loss = lambda h, t: losses.kd(h @ layer, t)
    if chunk_size:
      loss = losses.chunked(loss, chunk_size)
    return jnp.sum(loss(hidden, teacher))

  expected, wanted = jax.value_and_grad(total)(layer)
  value, gradient = jax.value_and_grad(total)(layer, 2)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [0, 1.5])
def test_a_chunk_size_that_is_no_count_is_refused(chunk_size):
  with pytest.raises(ValueError, match="chunk_size is .*, expected a whole"):
    losses.chunked(losses.kd, chunk_size)
