"""SuperLoss and the function W that it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import lambertw

from kdcl_jax import weighting

BRANCH = -np.exp(-1)
w = jax.jit(weighting.lambert_w)
w_slope = jax.jit(jax.vmap(jax.grad(weighting.lambert_w)))
LOSSES = np.array([0.0, 1e-30, 0.3, 2.0, 2.0, 9.0, 1e4, 1e30], np.float32)


def exact(z):
  """W of float64 z; near the branch from the series, where SciPy loses it."""
  p = np.sqrt(2 * np.e * np.maximum(z + np.exp(-1) - 1.2428753672788363e-17, 0))
  near = -1 + p - p**2 / 3 + 11 / 72 * p**3 - 43 / 540 * p**4
  return np.where(p < 1e-3, near, lambertw(np.maximum(z, BRANCH)).real)


@settings(max_examples=200, deadline=None)
@given(z=st.floats(BRANCH, 1e6, width=64))
def test_w_times_e_to_the_w_is_z(z):
  with jax.enable_x64(True):
    got = float(w(jnp.float64(z)))
  assert got >= -1
  np.testing.assert_allclose(got * np.exp(got), z, rtol=1e-12, atol=1e-15)


def test_w_is_accurate_from_the_branch_point_to_a_million():
  above = np.logspace(-16, 0, 400) * np.exp(-1)
  z = np.concatenate([[BRANCH, 0.0], BRANCH + above, np.logspace(-9, 6, 300)])
  with jax.enable_x64(True):
    got = np.asarray(w(jnp.asarray(z)))
  want = exact(z)
  # At the very branch point the digits of z run out before those of W.
  far = z > BRANCH + 1e-14
  np.testing.assert_allclose(got[far], want[far], rtol=1e-12, atol=1e-12)
  np.testing.assert_allclose(got, want, atol=2e-8)
  single = z.astype(np.float32)
  want = exact(single.astype(np.float64))
  for function in (w, weighting.lambert_w, jax.vmap(weighting.lambert_w)):
    got = function(single)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_w_is_finite_everywhere_and_stops_at_the_branch_point():
  z = np.float32([-np.inf, -1e30, -1.0, -0.4, BRANCH, 0.0, 1e30, 3e38, np.inf])
  got, slope = w(z), w_slope(z)
  np.testing.assert_array_equal(got[:5], -1)
  assert np.all(np.isfinite(got)) and np.all(np.diff(got[4:]) >= 0)
  assert np.all(np.isfinite(slope)) and np.all(slope[:5] == 0)
  assert slope[5] == 1
  assert np.isnan(w(jnp.float32(jnp.nan)))
  for number in np.nextafter(np.float32(BRANCH), np.float32([-1, 0, 1])):
    assert np.isfinite(jax.grad(weighting.lambert_w)(number))
  curved = jax.jit(jax.vmap(jax.grad(jax.grad(weighting.lambert_w))))
  assert np.all(np.isfinite(curved(np.float32([-1.0, BRANCH, -0.2, 1.0]))))
  np.testing.assert_allclose(curved(np.float32([0.0])), -2, rtol=1e-5)


def test_the_slope_of_w_is_that_of_its_differences():
  with jax.enable_x64(True):
    z = jnp.asarray([-0.36, -0.3, -0.01, 0.0, 0.02, 0.4, 3.0, 1e3])
    step = 1e-6
    want = (w(z + step) - w(z - step)) / (2 * step)
    np.testing.assert_allclose(w_slope(z), want, rtol=1e-5)
    forward = jax.jvp(weighting.lambert_w, (z,), (jnp.ones_like(z),))[1]
    np.testing.assert_allclose(forward, w_slope(z), rtol=1e-12)


def energy(sigma, loss, tau, lam):
  return (loss - tau) * sigma + lam * np.log(sigma) ** 2


@settings(max_examples=100, deadline=None)
@given(loss=st.floats(0, 20), tau=st.floats(0, 5), lam=st.floats(0.1, 4))
def test_no_other_confidence_has_a_smaller_superloss(loss, tau, lam):
  with jax.enable_x64(True):
    options = {"tau": jnp.float64(tau), "lam": jnp.float64(lam)}
    sigma = float(weights(jnp.float64(loss), **options))
    value = float(value_of(jnp.float64(loss), **options))
  np.testing.assert_allclose(value, energy(sigma, loss, tau, lam), atol=1e-9)
  others = np.exp(np.linspace(-12, 1, 2000))  # up to e, where it is clamped
  assert value <= energy(others, loss, tau, lam).min() + 1e-9


weights = jax.jit(weighting.superloss_weights)
value_of = jax.jit(weighting.superloss)


@pytest.mark.parametrize("lam", [0.25, 1.0, 3.0])
def test_the_slope_of_superloss_is_its_weight_by_the_envelope_theorem(lam):
  def total(losses, tau, lam):
    return jnp.sum(weighting.superloss(losses, tau=tau, lam=lam))

  with jax.enable_x64(True):
    # The last two are clamped for every lam here.
    losses = jnp.asarray([1.9, 2.0, 3.0, 9.0, 60.0, 0.0, -30.0])
    args = (losses, jnp.float64(2.0), jnp.float64(lam))
    got = jax.grad(total, (0, 1, 2))(*args)
    sigma = weighting.superloss_weights(losses, tau=2.0, lam=lam)
    np.testing.assert_array_equal(got[0], sigma)
    step = 1e-6
    ahead = value_of(losses + step, tau=2.0, lam=lam)
    behind = value_of(losses - step, tau=2.0, lam=lam)
    np.testing.assert_allclose(got[0], (ahead - behind) / (2 * step), rtol=1e-6)
    for argument in (1, 2):
      more, less = list(args), list(args)
      more[argument] += step
      less[argument] -= step
      slope = (total(*more) - total(*less)) / (2 * step)
      np.testing.assert_allclose(got[argument], slope, rtol=1e-6)
    assert not np.any(
      jax.grad(
        lambda x: jnp.sum(weighting.superloss_weights(x, tau=2.0, lam=lam))
      )(losses)
    )


@pytest.mark.parametrize("tau, lam", [(2.3, 1.0), (0.0, 1e-6), (1e6, 1e6)])
def test_superloss_is_finite_where_published_code_is_not(tau, lam):
  value, slope = jax.vmap(
    jax.value_and_grad(lambda x: weighting.superloss(x, tau=tau, lam=lam))
  )(LOSSES)
  assert np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
  assert np.all(slope > 0) and np.all(slope <= np.float32(np.e))
  assert np.all(np.diff(slope) <= 0)
  clamped = LOSSES - tau <= -2 * lam / np.e * (1 + 1e-6)
  np.testing.assert_allclose(slope[clamped], np.e, rtol=1e-6)


def test_superloss_of_half_precision_is_that_of_single():
  half = jnp.asarray(LOSSES[2:6], jnp.bfloat16)
  got = weighting.superloss(half, tau=2.0)
  assert got.dtype == jnp.float32
  want = weighting.superloss(half.astype(jnp.float32), tau=2.0)
  np.testing.assert_array_equal(got, want)


def test_a_running_tau_is_a_mean_over_those_present_without_gradient():
  losses, where = jnp.array([1.0, 3.0, 100.0]), jnp.array([True, True, False])
  tau = weighting.superloss_tau(1.0, losses, factor=0.5, where=where)
  assert tau == 1.5
  first = weighting.superloss_tau(0.0, losses, where=where)
  assert first == 2.0
  nobody = weighting.superloss_tau(1.0, losses, where=jnp.zeros(3, bool))
  assert nobody == 1.0
  grad = jax.grad(lambda x, t: weighting.superloss_tau(t, x), (0, 1))
  slopes = grad(losses, 1.0)
  assert not np.any(slopes[0]) and slopes[1] == 0


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda: weighting.superloss(LOSSES, tau=1.0, lam=0.0), "lam is 0.0"),
    (lambda: weighting.superloss(LOSSES, tau=None), "tau is None"),
    (lambda: weighting.superloss_weights(LOSSES, tau=1, lam=-1), "lam is -1"),
    (lambda: weighting.superloss_tau(1.0, LOSSES, factor=2), "factor is 2"),
    (
      lambda: weighting.superloss_tau(1.0, LOSSES, factor_of="mean"),
      "factor_of is 'mean', expected one of old, new",
    ),
  ],
)
def test_a_bad_keyword_is_refused_by_its_name(call, words):
  with pytest.raises(ValueError, match=words):
    call()
