"""Several teachers, networks that teach each other, learned temperatures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from kdcl_jax import losses

GENERATOR = np.random.default_rng(11)
STUDENT = GENERATOR.standard_normal((5, 6)).astype(np.float32)
TEACHERS = (2 * GENERATOR.standard_normal((3, 5, 6))).astype(np.float32)
LABELS = GENERATOR.integers(0, 6, 5)
WEIGHTS = np.array([0.5, 0.0, 1.5], np.float32)


def test_the_average_is_the_mixture_at_the_temperature_of_the_loss():
  mixed = losses.average_teachers(TEACHERS, weights=WEIGHTS, temperature=3.0)
  expected = np.tensordot(WEIGHTS / 2, softmax(TEACHERS / 3, -1), 1)
  np.testing.assert_allclose(softmax(mixed / 3, -1), expected, rtol=1e-5)
  logits = losses.average_teachers(TEACHERS, space="logits")
  np.testing.assert_allclose(logits, TEACHERS.mean(0), rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match="probabilities, logits"):
    losses.average_teachers(TEACHERS, space="votes")


def test_averaging_losses_and_averaging_teachers_have_one_gradient():
  mean = jax.grad(
    lambda s: jnp.sum(losses.kd_teachers(s, TEACHERS, weights=WEIGHTS))
  )(STUDENT)
  mixed = losses.average_teachers(TEACHERS, weights=WEIGHTS, temperature=4.0)
  one = jax.grad(lambda s: jnp.sum(losses.kd(s, mixed)))(STUDENT)
  np.testing.assert_allclose(mean, one, rtol=1e-4, atol=1e-5)
  assert np.max(np.abs(one)) > 0.1


def test_confident_teachers_weigh_more_and_weights_sum_to_one():
  weights = losses.confidence_weights(TEACHERS, LABELS)
  p = softmax(TEACHERS, -1)[:, np.arange(5), LABELS]
  expected = (1 - (1 / p) / (1 / p).sum(0)) / 2
  np.testing.assert_allclose(weights, expected, rtol=1e-4)
  np.testing.assert_allclose(np.sum(weights, 0), 1, rtol=1e-6)
  np.testing.assert_array_equal(np.argmax(weights, 0), np.argmax(p, 0))
  terms = np.stack([losses.kd(STUDENT, t) for t in TEACHERS])
  np.testing.assert_allclose(
    losses.ca_mkd(STUDENT, TEACHERS, LABELS),
    (weights * terms).sum(0),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    losses.ca_mkd(STUDENT, TEACHERS[:1], LABELS), terms[0], rtol=1e-6
  )


def test_no_teacher_of_several_gets_a_gradient():
  for loss in (losses.kd_teachers, lambda s, t: losses.ca_mkd(s, t, LABELS)):
    gradient = jax.grad(lambda t, f=loss: jnp.sum(f(STUDENT, t)))(TEACHERS)
    assert np.all(np.asarray(gradient) == 0)


def test_mutual_learning_trains_the_peer_unless_told_not_to():
  total = lambda t, **o: jnp.sum(losses.dml(STUDENT, t, **o))
  peer = jnp.asarray(TEACHERS[0])
  assert np.max(np.abs(jax.grad(total)(peer))) > 1e-2
  fixed = jax.grad(lambda t: total(t, train_peer=False))(peer)
  assert np.all(np.asarray(fixed) == 0)


def test_the_reversal_scales_the_gradient_and_nothing_else():
  f = lambda x, scale: jnp.sum(losses.gradient_reversal(x, scale) ** 2)
  x = jnp.array([1.0, -2.0])
  for scale in (-1, 0.0, jnp.float32(0.5)):
    value, gradient = jax.jit(jax.value_and_grad(f))(x, scale)
    np.testing.assert_allclose(value, 5.0)
    np.testing.assert_allclose(gradient, 2 * x * scale)


def test_temperatures_per_example_follow_their_formulas():
  teacher = TEACHERS[0]
  norm = lambda z: np.linalg.norm(z, axis=-1) + 1e-4
  weight = (
    1 - (STUDENT * teacher).sum(-1) / norm(STUDENT) / norm(teacher)
  ) ** 2
  np.testing.assert_allclose(
    losses.flsw_temperature(STUDENT, teacher, beta=0.5, gamma=2.0),
    4 + (weight.mean() - weight) * 0.5,
    rtol=1e-5,
  )
  weight = 1 / (softmax(STUDENT, -1).max(-1) + 1e-3)
  temperatures = losses.cwsm_temperature(STUDENT, beta=0.5)
  np.testing.assert_allclose(
    temperatures, 4 + (weight.mean() - weight) * 0.5, rtol=1e-5
  )
  assert losses.kd(STUDENT, teacher, temperature=temperatures).shape == (5,)


def test_standardised_logits_ignore_scale_and_shift_and_survive_constants():
  z = losses.standardize_logits(STUDENT)
  np.testing.assert_allclose(np.std(z, -1, ddof=1), 1, rtol=1e-5)
  np.testing.assert_allclose(
    losses.standardize_logits(5 * STUDENT + 3), z, atol=1e-5
  )
  gradient = jax.grad(lambda z: jnp.sum(losses.standardize_logits(z)[..., 0]))
  assert np.all(np.isfinite(gradient(jnp.ones((2, 4)))))


def test_ca_mkd_takes_masks_and_another_axis():
  generator = np.random.default_rng(3)
  student = generator.standard_normal((4, 5)).astype(np.float32)
  teachers = generator.standard_normal((2, 4, 5)).astype(np.float32)
  labels = np.array([0, 1, 2, 0])
  whole = losses.ca_mkd(student, teachers, labels)
  where = np.array([True, True, False, True])
  hidden = np.where(where[:, None], student, np.nan)
  masked = losses.ca_mkd(hidden, teachers, labels, where=where)
  np.testing.assert_allclose(masked, np.where(where, whole, 0), rtol=1e-6)
  turned = losses.ca_mkd(student.T, teachers.transpose(0, 2, 1), labels, axis=0)
  np.testing.assert_allclose(turned, whole, rtol=1e-6)
  classes = np.arange(5) < 4
  few = losses.ca_mkd(student[:, :4], teachers[..., :4], labels)
  some = losses.ca_mkd(student, teachers, labels, where=classes[None])
  np.testing.assert_allclose(some, few, rtol=1e-6)
