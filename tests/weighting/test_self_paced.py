"""Self-paced weights: their bounds, their threshold, and its quantile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcl_jax import weighting

LOSSES = np.array(
  [0.0, 1e-30, 1e-6, 0.1, 0.5, 0.5, 0.7, 0.9, 1.0, 3.0, 50.0, 1e30], np.float32
)
# name -> weights of losses at a threshold that may be traced.
SCHEMES = {
  "spl_hard": weighting.spl_hard,
  "spl_linear": weighting.spl_linear,
  "spl_logarithmic": weighting.spl_logarithmic,
  "spl_logistic": weighting.spl_logistic,
  "spl_mixture": lambda x, *, threshold: weighting.spl_mixture(
    x, threshold=threshold, low_threshold=0.4 * threshold
  ),
  "spl_mixture_gamma": lambda x, *, threshold: weighting.spl_mixture_gamma(
    x, threshold=threshold**0.5, gamma=0.5
  ),
  "spl_polynomial": weighting.spl_polynomial,
}
JITTED = {
  name: jax.jit(lambda x, t, f=f: f(x, threshold=t))
  for name, f in SCHEMES.items()
}
everything = pytest.mark.parametrize("name", SCHEMES)


def test_every_self_paced_scheme_is_here_and_in_the_table():
  ours = {n for n in weighting.WEIGHTINGS if n.startswith("spl_")}
  assert ours == set(SCHEMES)
  for name, function in weighting.WEIGHTINGS.items():
    assert getattr(weighting, name) is function


@everything
@pytest.mark.parametrize(
  "threshold", [0.0, 1e-38, 0.3, 0.5, 0.999999, 1.0, 2.3, 1e30, np.inf]
)
def test_weights_of_any_traced_threshold_lie_in_0_to_1_and_never_rise(
  name, threshold
):
  weights = np.asarray(JITTED[name](LOSSES, jnp.float32(threshold)))
  assert weights.dtype == np.float32 and weights.shape == LOSSES.shape
  assert np.all(np.isfinite(weights))
  assert np.all(weights >= 0) and np.all(weights <= 1)
  assert np.all(np.diff(weights) <= 1e-6)
  if threshold > 1e-30:
    np.testing.assert_allclose(weights[0], 1, rtol=1e-6)
    if name != "spl_logistic":
      assert np.all(weights[threshold < LOSSES] == 0)
  if threshold == 0:
    assert name == "spl_logistic" or np.all(weights[1:] == 0)


@everything
def test_an_example_exactly_at_the_threshold_counts_as_hard(name):
  losses = jnp.array([0.1, 0.25, 0.75])
  for threshold in (0.25, jnp.float32(0.25)):
    weights = SCHEMES[name](losses, threshold=threshold)
    assert weights[0] > 0
    assert name == "spl_logistic" or np.all(weights[1:] == 0)


def test_a_number_is_a_threshold_to_its_last_digit():
  # 0.9 lies above this float32 and below the next.
  losses = jnp.array([0.9, np.nextafter(np.float32(0.9), np.float32(1))])
  for function in (weighting.spl_hard, jax.jit(weighting.spl_hard)):
    weights = function(losses, threshold=jnp.float32(0.9))
    assert weights.tolist() == [0.0, 0.0]
  number = lambda x: weighting.spl_hard(x, threshold=0.9)
  assert number(losses).tolist() == jax.jit(number)(losses).tolist() == [1, 0]
  share = jax.jit(lambda x: weighting.spl_linear(x, threshold=0.9))(losses)
  want = 1 - float(losses[0]) / 0.9
  np.testing.assert_allclose(share, [want, 0], rtol=1e-5)


@everything
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_weighted_in_single_precision(name, dtype):
  half = jnp.asarray(LOSSES[:10], dtype)
  got = SCHEMES[name](half, threshold=0.8)
  want = SCHEMES[name](half.astype(jnp.float32), threshold=0.8)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)


@everything
def test_self_paced_weights_are_constants_for_the_gradient(name):
  def total(losses, threshold):
    return jnp.sum(losses * SCHEMES[name](losses, threshold=threshold))

  losses = jnp.asarray(LOSSES[:-1])
  grads = jax.grad(total, (0, 1))(losses, jnp.float32(0.8))
  weights = SCHEMES[name](losses, threshold=jnp.float32(0.8))
  np.testing.assert_allclose(grads[0], weights, rtol=1e-6)
  assert grads[1] == 0


@everything
def test_weights_are_those_of_each_example_alone_in_any_shape(name):
  losses = jnp.asarray(LOSSES[1:-1]).reshape(2, 5)
  weights = SCHEMES[name](losses, threshold=0.8)
  flat = SCHEMES[name](losses.ravel(), threshold=0.8)
  np.testing.assert_array_equal(weights, flat.reshape(2, 5))
  mapped = jax.vmap(lambda x: SCHEMES[name](x, threshold=0.8))(losses)
  np.testing.assert_array_equal(weights, mapped)


def objective(name, weight, loss, threshold):
  """The function of a weight that each scheme minimises, in NumPy."""
  z = 1 - threshold
  if name == "spl_hard":
    regulariser = -threshold * weight
  elif name == "spl_linear":
    regulariser = threshold * (weight**2 / 2 - weight)
  elif name == "spl_logarithmic":
    regulariser = z * weight - z**weight / np.log(z)
  else:
    t = 3
    regulariser = threshold * (weight**t / t - weight)
  return weight * loss + regulariser


@pytest.mark.parametrize(
  "name", ["spl_hard", "spl_linear", "spl_logarithmic", "spl_polynomial"]
)
@settings(max_examples=50, deadline=None)
@given(loss=st.floats(0, 2), threshold=st.floats(0.05, 0.95))
def test_no_other_weight_has_a_smaller_self_paced_objective(
  name, loss, threshold
):
  got = float(JITTED[name](np.float32([loss]), np.float32(threshold))[0])
  others = np.linspace(0, 1, 201)
  best = objective(name, others, loss, threshold).min()
  assert objective(name, got, loss, threshold) <= best + 1e-5


def test_logarithmic_weights_of_a_threshold_from_1_on_are_scaled_to_it():
  with pytest.raises(ValueError, match=r"threshold is 1.0, .* \(0, 1\)"):
    weighting.spl_logarithmic(LOSSES, threshold=1.0)
  with pytest.raises(ValueError, match="threshold"):
    jax.jit(lambda x: weighting.spl_logarithmic(x, threshold=2.5))(LOSSES)
  losses = np.linspace(0, 3, 31).astype(np.float32)
  got = JITTED["spl_logarithmic"](losses, jnp.float32(2.0))
  want = np.log(np.maximum(0.9 * losses / 2 + 0.1, 0)) / np.log(0.1)
  np.testing.assert_allclose(got, np.clip(want, 0, 1), atol=1e-6)
  assert got[0] == 1 and got[20] == 0 and 0 < got[19] < got[18]


def test_a_traced_low_threshold_above_the_other_makes_hard_weights():
  got = jax.jit(
    lambda x, high, low: weighting.spl_mixture(
      x, threshold=high, low_threshold=low
    )
  )(LOSSES, jnp.float32(0.8), jnp.float32(0.9))
  want = weighting.spl_hard(LOSSES, threshold=0.8)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda: weighting.spl_hard(LOSSES, threshold=0.0), "threshold is 0.0"),
    (lambda: weighting.spl_linear(LOSSES, threshold="a"), "threshold is 'a'"),
    (lambda: weighting.spl_polynomial(LOSSES, threshold=1.0, t=1), "t is 1"),
    (
      lambda: weighting.spl_mixture(LOSSES, threshold=1.0, low_threshold=1.0),
      "low_threshold is 1.0, expected a number below threshold",
    ),
    (
      lambda: weighting.spl_mixture_gamma(LOSSES, threshold=1.0, gamma=0),
      "gamma is 0",
    ),
    (lambda: weighting.quantile_threshold(LOSSES, 0.0), "fraction is 0.0"),
    (lambda: weighting.quantile_threshold(LOSSES, 1.1), "fraction is 1.1"),
  ],
)
def test_a_bad_number_is_refused_by_its_name(call, words):
  with pytest.raises(ValueError, match=words):
    call()


quantile = jax.jit(
  lambda x, fraction, where: weighting.quantile_threshold(
    x, fraction, where=where
  )
)


@settings(max_examples=100, deadline=None)
@given(
  seed=st.integers(0, 1000),
  k=st.integers(1, 20),
  absent=st.integers(0, 19),
  ties=st.booleans(),
)
def test_below_the_quantile_lie_the_k_easiest_of_those_present(
  seed, k, absent, ties
):
  generator = np.random.default_rng(seed)
  losses = generator.exponential(size=20).astype(np.float32)
  if ties:
    losses = np.floor(2 * losses)
  where = generator.permutation(20) >= absent
  size = where.sum()
  k = min(k, size)
  threshold = quantile(losses, np.float32(k / size), where)
  kth = np.sort(losses[where])[k - 1]
  below = (losses < np.asarray(threshold)) & where
  np.testing.assert_array_equal(below, (losses <= kth) & where)
  assert below.sum() >= k and (ties or below.sum() == k)


def test_the_quantile_of_ties_zeros_and_infinity_is_of_use():
  for losses in (np.zeros(8), np.full(8, 2.3), np.full(8, 1e30), LOSSES):
    for fraction in (0.01, 0.5, 1.0):
      threshold = weighting.quantile_threshold(np.float32(losses), fraction)
      assert np.isfinite(threshold) and threshold > 0
      below = np.float32(losses) < np.asarray(threshold)
      assert below.sum() >= np.ceil(fraction * len(losses))
      if fraction == 1:
        assert below.all()
  negative = jnp.array([-3.0, -2.0, -1.0, 4.0])
  assert (negative < weighting.quantile_threshold(negative, 0.5)).sum() == 2
  nobody = weighting.quantile_threshold(LOSSES, 0.5, where=LOSSES < 0)
  assert np.isfinite(nobody)
  tokens = jnp.asarray(LOSSES).reshape(3, 4)
  np.testing.assert_array_equal(
    weighting.quantile_threshold(tokens, 0.5, where=tokens < 2),
    weighting.quantile_threshold(LOSSES, 0.5, where=LOSSES < 2),
  )


def test_no_gradient_flows_into_a_quantile():
  grad = jax.grad(lambda x: weighting.quantile_threshold(x, 0.5))
  assert not np.any(grad(jnp.asarray(LOSSES)))
