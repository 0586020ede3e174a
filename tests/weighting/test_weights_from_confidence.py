"""Weights from the model's and the teacher's confidence; MentorNet's phases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdcl_jax import losses, weighting

GENERATOR = np.random.default_rng(4)
LOGITS = (3 * GENERATOR.standard_normal((6, 4))).astype(np.float32)
LABELS = GENERATOR.integers(0, 4, 6)
P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
P_Y = P[np.arange(6), LABELS]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_weights_are_powers_of_the_missing_confidence(gamma):
  want = (1 - P_Y) ** gamma
  ce = losses.cross_entropy(LOGITS, LABELS)
  np.testing.assert_allclose(weighting.focal(ce, gamma=gamma), want, rtol=1e-4)
  got = weighting.focal_logits(LOGITS, LABELS, gamma=gamma)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  moved = weighting.focal_logits(LOGITS.T, LABELS, gamma=gamma, axis=0)
  np.testing.assert_allclose(moved, want, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_weights_times_losses_are_the_focal_loss_and_its_gradient(gamma):
  def ours(z):
    ce = losses.cross_entropy(z, jnp.zeros(3, int))
    return jnp.sum(weighting.focal(ce, gamma=gamma) * ce)

  def theirs(z):  # optax has the binary form
    gap = z[:, 0] - z[:, 1]
    loss = optax.sigmoid_focal_loss(gap, jnp.ones(3), gamma=gamma)
    return jnp.sum(loss)

  z = jnp.array([[0.3, -1.0], [2.0, 2.5], [-1.0, 3.0]])
  got, want = (jax.jit(jax.value_and_grad(f))(z) for f in (ours, theirs))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  np.testing.assert_allclose(got[1], want[1], rtol=1e-4)


focal_and_slope = jax.jit(
  jax.vmap(
    jax.value_and_grad(lambda x, gamma: weighting.focal(x, gamma=gamma)),
    (0, None),
  )
)


def test_focal_gradients_are_finite_where_confidence_is_complete():
  extreme = jnp.array([0.0, 1e-30, 1e-7, 1e30, -1.0])
  for gamma in (0.0, 0.5, 1.0, 2.0):
    value, slope = focal_and_slope(extreme, gamma)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
    assert value[0] == (gamma == 0) and value[3] == 1
  sure = jnp.array([[100.0, 0.0, -jnp.inf]])
  slope = jax.grad(
    lambda z: weighting.focal_logits(z, jnp.array([0]), gamma=0.5)[0]
  )(sure)
  assert np.all(np.isfinite(slope))
  traced = jax.grad(lambda g: jnp.sum(weighting.focal(extreme, gamma=g)))(2.0)
  assert np.isfinite(traced)
  half = weighting.focal(jnp.ones(2, jnp.bfloat16))
  assert half.dtype == jnp.float32


def test_a_teacher_is_as_sure_as_its_probabilities_say():
  confidence = lambda **k: weighting.teacher_confidence(LOGITS, LABELS, **k)
  np.testing.assert_allclose(confidence(), P_Y, rtol=1e-5)
  np.testing.assert_allclose(confidence(kind="max"), P.max(-1), rtol=1e-5)
  agrees = P.argmax(-1) == LABELS
  assert agrees.any() and not agrees.all()
  np.testing.assert_array_equal(confidence(kind="agreement"), agrees)
  entropy = 1 + np.sum(P * np.log(P), -1) / np.log(4)
  np.testing.assert_allclose(confidence(kind="entropy"), entropy, atol=1e-5)
  soft = np.exp(LOGITS / 3)
  soft = (soft / soft.sum(-1, keepdims=True))[np.arange(6), LABELS]
  np.testing.assert_allclose(confidence(temperature=3.0), soft, rtol=1e-5)


@pytest.mark.parametrize("kind", ["label", "max", "agreement", "entropy"])
def test_teacher_weights_are_in_0_to_1_constants_and_of_any_shape(kind):
  logits = np.concatenate([LOGITS, 1e30 * LOGITS, 0 * LOGITS])
  labels = np.concatenate([LABELS] * 3)
  call = lambda z, y: weighting.teacher_confidence(z, y, kind=kind)
  got = np.asarray(jax.jit(call)(logits, labels))
  assert np.all(got >= 0) and np.all(got <= 1)
  tokens = call(logits.reshape(3, 6, 4), labels.reshape(3, 6))
  np.testing.assert_allclose(tokens.ravel(), got, rtol=1e-6, atol=1e-7)
  slope = jax.grad(lambda z: jnp.sum(call(z, LABELS)))(jnp.asarray(LOGITS))
  assert not np.any(slope)
  channels = weighting.teacher_confidence(logits.T, labels, kind=kind, axis=0)
  np.testing.assert_allclose(channels, got, rtol=1e-6, atol=1e-7)


def test_a_teacher_without_labels_or_of_another_kind_is_refused():
  assert weighting.teacher_confidence(LOGITS, kind="max").shape == (6,)
  with pytest.raises(ValueError, match="labels is None"):
    weighting.teacher_confidence(LOGITS)
  with pytest.raises(ValueError, match="kind is 'mean', expected one of label"):
    weighting.teacher_confidence(LOGITS, LABELS, kind="mean")


def test_mentornets_phases_change_at_their_moments_and_not_before():
  gap = jnp.array([-1.0, 0.0, 0.25, 2.0])
  weights = jax.jit(lambda p: weighting.mentornet_pd(gap, p, threshold=0.0))
  for progress in (0.0, 0.1, 0.18):
    assert weights(progress).tolist() == [1, 1, 1, 1]
  for progress in (0.181, 0.5, 0.899):
    assert weights(progress).tolist() == [1, 1, 0, 0]
  for progress in (0.9, 1.0):
    assert weights(progress).tolist() == [1, 1, 0.75, 0]
  moved = weighting.mentornet_pd(gap + 3, 0.95, threshold=3.0)
  np.testing.assert_allclose(moved, [1, 1, 0.75, 0])


def test_mentornet_weights_carry_no_gradient_and_name_bad_numbers():
  slope = jax.grad(
    lambda x, t: jnp.sum(weighting.mentornet_pd(x, 0.95, threshold=t)), (0, 1)
  )(jnp.ones(3), 0.5)
  assert not np.any(slope[0]) and slope[1] == 0
  assert not np.any(
    jax.grad(
      lambda x: jnp.sum(weighting.hard_example_mining(x, threshold=0.5))
    )(jnp.ones(3))
  )
  for words, options in {
    "gamma is 0": {"gamma": 0},
    "burn_in is 2": {"burn_in": 2},
    "late is 0.1": {"late": 0.1},
  }.items():
    with pytest.raises(ValueError, match=words):
      weighting.mentornet_pd(jnp.ones(3), 0.5, threshold=0.0, **options)
  with pytest.raises(ValueError, match="percentile is 75"):
    weighting.moving_percentile(0.0, jnp.ones(3), percentile=75)


def test_a_moving_percentile_keeps_its_place_without_examples():
  nobody = jnp.zeros(3, bool)
  assert weighting.moving_percentile(1.5, jnp.ones(3), where=nobody) == 1.5
  where = jnp.array([True, False, True, True])
  got = weighting.moving_percentile(
    0.0, jnp.array([1.0, 99.0, 3.0, 2.0]), percentile=0.5, decay=0, where=where
  )
  assert got == 2.0
