"""Scores from gradients against closed forms, and the gap to a teacher."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import difficulty

GENERATOR = np.random.default_rng(8)
FEATURES = GENERATOR.standard_normal((7, 2, 3)).astype(np.float32)
WEIGHTS = GENERATOR.standard_normal((6, 4)).astype(np.float32)
BIAS = GENERATOR.standard_normal(4).astype(np.float32)
LABELS = GENERATOR.integers(4, size=7)
LOGITS = FEATURES.reshape(7, 6) @ WEIGHTS + BIAS[None]


def loss_of_layer(params, features, label):
  logits = features.ravel() @ params["weights"] + params.get("bias", 0)
  return -jax.nn.log_softmax(logits)[label]


GRAND = jax.jit(functools.partial(difficulty.grand, loss_of_layer))


@pytest.mark.parametrize("bias", [True, False])
def test_the_closed_form_is_grand_over_the_parameters_of_the_last_layer(bias):
  params = {"weights": WEIGHTS} | ({"bias": BIAS} if bias else {})
  logits = LOGITS if bias else LOGITS - BIAS[None]
  full = GRAND(params, FEATURES, LABELS)
  closed = difficulty.grand_last_layer(logits, LABELS, FEATURES, bias=bias)
  np.testing.assert_allclose(closed, full, rtol=1e-5)


def test_el2n_is_grand_of_a_last_layer_with_inputs_of_one_length():
  ones = np.ones((7, 3), np.float32)
  closed = difficulty.grand_last_layer(LOGITS, LABELS, ones)
  el2n = difficulty.el2n(LOGITS, LABELS)
  np.testing.assert_allclose(closed, 2 * el2n, rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_chunks_change_memory_and_not_grand(chunk_size):
  params = {"weights": WEIGHTS, "bias": BIAS}
  whole = GRAND(params, FEATURES, LABELS)
  chunked = jax.jit(
    functools.partial(difficulty.grand, loss_of_layer, chunk_size=chunk_size)
  )
  parts = chunked(params, FEATURES, LABELS)
  np.testing.assert_allclose(parts, whole, rtol=1e-6)
  if chunk_size == 3:
    program = str(jax.make_jaxpr(chunked)(params, FEATURES, LABELS))
    assert "f32[3,6,4]" in program and "f32[7,6,4]" not in program


def test_grand_takes_examples_that_are_pytrees_and_half_precision_params():
  examples = {"x": FEATURES, "y": LABELS}
  loss_fn = lambda p, e: loss_of_layer(p, e["x"], e["y"])
  params = {"weights": WEIGHTS, "bias": BIAS}
  score_of = jax.jit(functools.partial(difficulty.grand, loss_fn))
  full = score_of(params, examples)
  np.testing.assert_allclose(full, GRAND(params, FEATURES, LABELS), rtol=1e-6)
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
  score = score_of(half, examples)
  assert score.dtype == jnp.float32
  np.testing.assert_allclose(score, full, rtol=0.05)


def test_scores_and_their_gradients_are_finite_at_zero_and_at_extremes():
  labels, features = np.array([0, 1]), np.zeros((2, 5), np.float32)

  def scores(z):
    return (
      difficulty.grand_last_layer(z, labels, features),
      difficulty.el2n(z, labels),
      difficulty.el1n(z, labels),
      difficulty.reducible_loss(z, z, labels),
      difficulty.variability(jnp.stack([z, z]), labels),
      difficulty.aum(jnp.stack([z, z]), labels),
    )

  both = jax.jit(lambda z: (scores(z), jax.jacobian(scores)(z)))
  for scale in (0, 1e4, -1e4):
    for values in jax.tree.leaves(both(np.float32(scale) * np.eye(2, 3))):
      assert np.all(np.isfinite(values))


def test_label_gradients_of_a_linear_model_are_its_weights():
  inputs = FEATURES.reshape(7, 6)
  gradients = difficulty.label_gradients(
    lambda x: x @ WEIGHTS + BIAS[None], inputs, LABELS
  )
  np.testing.assert_allclose(gradients, WEIGHTS.T[LABELS], rtol=1e-6)


def test_vog_of_models_that_drift_grows_with_their_drift():
  steps = np.arange(4)[:, None, None]
  drift = np.linspace(0, 2, 5)[None, :, None]
  gradients = 1 + steps * drift * np.ones((1, 1, 6))
  vog = difficulty.vog(gradients, channel_axis=None)
  expected = np.std(np.arange(4)) * drift[0, :, 0]
  np.testing.assert_allclose(vog, expected, rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(
    difficulty.vog(gradients[:1], channel_axis=None), 0
  )


def test_vog_averages_the_channels_wherever_they_are():
  gradients = GENERATOR.standard_normal((3, 4, 5, 6, 2)).astype(np.float32)
  last = difficulty.vog(gradients)
  first = difficulty.vog(np.moveaxis(gradients, -1, 2), channel_axis=2)
  np.testing.assert_allclose(first, last, rtol=1e-5)
  none = difficulty.vog(gradients, channel_axis=None)
  expected = gradients.std(0).mean((1, 2, 3))
  np.testing.assert_allclose(none, expected, rtol=1e-5)


def test_the_sequence_of_checkpoints_does_not_matter_to_vog():
  gradients = GENERATOR.standard_normal((3, 4, 5, 5, 2)).astype(np.float32)
  np.testing.assert_allclose(
    difficulty.vog(gradients[[2, 0, 1]]), difficulty.vog(gradients), rtol=1e-5
  )


def test_the_reducible_loss_is_small_for_noise_and_for_what_is_known():
  unsure, sure = [0.0, 0.0], [9.0, 0.0]
  student = np.array([unsure, sure, unsure])
  teacher = np.array([unsure, sure, sure])  # noise, known, worth learning
  labels = np.zeros(3, int)
  gap = difficulty.reducible_loss(student, teacher, labels)
  np.testing.assert_allclose(gap, [0, 0, np.log(2)], atol=2e-4)
  gradient = jax.grad(
    lambda t: jnp.sum(difficulty.reducible_loss(student, t, labels))
  )(jnp.asarray(teacher, jnp.float32))
  np.testing.assert_array_equal(gradient, 0)


def test_mistakes_with_gradients_are_told_in_one_sentence():
  with pytest.raises(ValueError, match="examples has no array"):
    difficulty.grand(loss_of_layer, {})
  with pytest.raises(ValueError, match="chunk_size is 0, expected"):
    difficulty.grand(loss_of_layer, {}, FEATURES, chunk_size=0)
  with pytest.raises(ValueError, match="channel_axis is -1 for gradients of"):
    difficulty.vog(np.zeros((3, 4, 5)))
  with pytest.raises(ValueError, match="channel_axis is 1 for gradients of"):
    difficulty.vog(np.zeros((3, 4, 5, 5, 1)), channel_axis=1)
