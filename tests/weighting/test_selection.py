"""Parts of a batch: of the right size, the same on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from kdcl_jax import weighting

SIZE = 32
GENERATOR = np.random.default_rng(7)
SCORES = GENERATOR.standard_normal(SIZE).astype(np.float32)
TIES = np.round(SCORES)
WHERE = np.arange(SIZE) % 5 != 4  # devices hold different numbers of examples
KEY = jax.random.key(3)


def mesh(devices):
  return jax.make_mesh(
    (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )


def weights_of_steps(losses, where, axis_name):
  """A threshold, running means and what follows from them, [b] each."""
  options = {"where": where, "axis_name": axis_name}
  threshold = weighting.quantile_threshold(losses, 0.4, **options)
  average = weighting.moving_percentile(1.0, losses, **options)
  tau = weighting.superloss_tau(1.0, losses, **options)
  return jnp.stack(
    [
      weighting.spl_hard(losses, threshold=threshold),
      weighting.mentornet_pd(losses, 0.95, threshold=average),
      weighting.superloss_weights(losses, tau=tau),
    ],
    -1,
  )


# What looks at the whole batch: (rows, where, axis_name) -> this device's rows.
GLOBAL = {
  "top_k": lambda x, where, axis_name: weighting.top_k(
    x, 9, where=where, axis_name=axis_name
  ),
  "selective_backprop": lambda x, where, axis_name: (
    weighting.selective_backprop(
      x, KEY, keep=0.3, where=where, axis_name=axis_name
    )
  ),
  "probabilities": lambda x, where, axis_name: (
    weighting.selective_backprop_probabilities(
      x, keep=0.3, where=where, axis_name=axis_name
    )
  ),
  "dropout": lambda x, where, axis_name: weighting.mentornet_dropout(
    x, 0.1, KEY, where=where, axis_name=axis_name
  ),
  "thresholds": weights_of_steps,
}


BATCHES = ((SCORES, WHERE), (TIES, np.ones(SIZE, bool)))


def everything(axis_name):
  return lambda x, where: {
    name: function(x, where, axis_name) for name, function in GLOBAL.items()
  }


@functools.cache
def on_one_device():
  whole = jax.jit(everything(None))
  return [whole(*batch) for batch in BATCHES]


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_batch_spread_over_devices_is_selected_from_as_a_whole(devices):
  sharded = jax.jit(
    jax.shard_map(
      everything("data"),
      mesh=mesh(devices),
      in_specs=P("data"),
      out_specs=P("data"),
    )
  )
  for batch, wanted in zip(BATCHES, on_one_device(), strict=True):
    got = sharded(*batch)
    for name, want in wanted.items():
      np.testing.assert_allclose(got[name], want, rtol=1e-5, err_msg=name)


def test_without_the_axis_name_a_selection_would_depend_on_the_devices():
  part = jax.jit(everything(None))
  halves = [part(SCORES[i : i + 16], WHERE[i : i + 16]) for i in (0, 16)]
  for name, whole in on_one_device()[0].items():
    assert np.any(np.concatenate([h[name] for h in halves]) != whole), name


def test_thresholds_are_known_to_be_the_same_on_every_device():
  def three(losses, where):
    options = {"where": where, "axis_name": "data"}
    return (
      weighting.quantile_threshold(losses, 0.5, **options),
      weighting.moving_percentile(0.0, losses, **options),
      weighting.superloss_tau(0.0, losses, **options),
    )

  sharded = jax.jit(
    jax.shard_map(three, mesh=mesh(4), in_specs=P("data"), out_specs=P())
  )
  got = sharded(np.exp(SCORES), WHERE)
  named = jax.jit(jax.vmap(three, axis_name="data"))(
    np.exp(SCORES).reshape(4, 8), WHERE.reshape(4, 8)
  )
  for shared, each in zip(got, named, strict=True):
    np.testing.assert_allclose(each, np.full(4, shared), rtol=1e-6)


TOP = {
  k: jax.jit(
    lambda x, where, k=k: (
      weighting.top_k(x, k, where=where),
      weighting.top_k_indices(x, k, where=where),
    )
  )
  for k in (1, 5, 12)
}


def kept(scores, where, k):
  """The k rows with the largest scores by a stable sort in NumPy."""
  order = sorted(
    range(len(scores)), key=lambda i: (not where[i], -scores[i], i)
  )
  mask = np.zeros(len(scores), bool)
  mask[order[:k]] = True
  return mask & where, order[:k]


@settings(max_examples=60, deadline=None)
@given(
  scores=st.lists(
    st.integers(-3, 3) | st.just(np.inf) | st.just(-np.inf),
    min_size=12,
    max_size=12,
  ),
  absent=st.sets(st.integers(0, 11), max_size=12),
  k=st.sampled_from(sorted(TOP)),
)
def test_exactly_k_rows_are_kept_and_ties_go_by_the_row(scores, absent, k):
  scores = np.float32(scores)
  where = np.array([i not in absent for i in range(12)])
  mask, order = kept(scores, where, k)
  got, indices = TOP[k](scores, where)
  np.testing.assert_array_equal(got, mask)
  assert got.sum() == min(k, where.sum())
  np.testing.assert_array_equal(indices, order)
  assert indices.dtype == jnp.int32


def test_a_score_that_is_no_number_comes_last():
  scores = jnp.array([jnp.nan, 1.0, -jnp.inf, 2.0])
  where = jnp.array([True, True, True, False])
  order = weighting.top_k_indices(scores, 4, where=where)
  assert order.tolist() == [1, 2, 0, 3]
  assert weighting.top_k(scores, 2, where=where).tolist() == [0, 1, 1, 0]


def test_zeros_of_both_signs_tie():
  scores = jnp.array([-0.0, 0.0, -0.0, 0.0])
  assert weighting.top_k_indices(scores, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("k", [0, 33, 1.5, True, "2"])
def test_a_k_that_no_batch_has_is_refused(k):
  for function in (weighting.top_k, weighting.top_k_indices):
    with pytest.raises(ValueError, match="expected a whole number from 1 to"):
      function(SCORES, k)


def test_k_counts_the_rows_of_all_devices():
  sharded = lambda k: jax.jit(
    jax.shard_map(
      lambda x: weighting.top_k(x, k, axis_name="data"),
      mesh=mesh(4),
      in_specs=P("data"),
      out_specs=P("data"),
    )
  )(SCORES)
  assert sharded(SIZE).all() and sharded(11).sum() == 11
  with pytest.raises(ValueError, match="32 rows"):
    sharded(SIZE + 1)


chances = jax.jit(
  lambda x, keep, where: weighting.selective_backprop_probabilities(
    x, keep=keep, where=where
  )
)


@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_the_chance_of_a_rank_is_composers_power(keep):
  everybody = np.ones(SIZE, bool)
  got = chances(SCORES, keep, everybody)
  rank = np.argsort(np.argsort(SCORES))
  want = ((rank + 0.5) / SIZE) ** (1 / keep - 1)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  many = chances(np.arange(10_000.0), keep, np.ones(10_000, bool))
  np.testing.assert_allclose(np.mean(many), keep, rtol=1e-3)
  # Equal losses have equal chances, whatever their rows.
  same = chances(TIES, keep, everybody)
  for value in np.unique(TIES):
    assert len(np.unique(np.asarray(same)[value == TIES])) == 1
  half = chances(SCORES, keep, WHERE)
  alone = chances(SCORES[WHERE], keep, everybody[WHERE])
  np.testing.assert_allclose(half[WHERE], alone, rtol=1e-6)
  assert np.all(half[~WHERE] == 0)


draw = jax.jit(
  lambda x, key, keep, where: weighting.selective_backprop(
    x, key, keep=keep, where=where
  )
)
number = jax.jit(
  lambda x, key, keep: weighting.selective_backprop(x, key, keep=keep),
  static_argnums=2,
)


@pytest.mark.parametrize(
  "keep, count", [(0.29, 29), (0.5, 50), (0.53, 53), (0.59, 59), (1.0, 100)]
)
def test_a_draw_has_exactly_its_share_of_the_batch(keep, count):
  losses, everybody = np.arange(100.0), np.ones(100, bool)
  mask = draw(losses, KEY, keep, everybody)
  assert mask.dtype == bool and mask.sum() == count
  np.testing.assert_array_equal(number(losses, KEY, keep), mask)
  two = losses < 2
  few = np.asarray(draw(losses, KEY, keep, two))
  assert few.sum() == max(int(2 * keep), 1) and not np.any(few & ~two)
  assert draw(losses, KEY, keep, losses < 0).sum() == 0


def test_draws_differ_by_key_and_prefer_the_biggest_losers():
  losses = jnp.asarray(SCORES)
  keys = jax.random.split(jax.random.key(0), 4000)
  many = jax.jit(
    jax.vmap(
      lambda key, keep: weighting.selective_backprop(losses, key, keep=keep),
      (0, None),
    )
  )
  masks = many(keys, 0.25)
  assert np.all(np.sum(masks, 1) == 8)
  assert np.any(masks[0] != masks[1])
  often = np.mean(masks, 0)[np.argsort(SCORES)]
  # Of one row drawn from p ~ q^3 the chances are p; of eight they follow it.
  first = many(keys, 1 / 32)
  q = (np.arange(SIZE) + 0.5) / SIZE
  p = q**31 / np.sum(q**31)
  share = np.mean(first, 0)[np.argsort(SCORES)]
  np.testing.assert_allclose(share, p, atol=4 * np.sqrt(0.25 / 4000))
  assert often[-1] > 0.6 and often[:8].max() < 0.06
  assert np.corrcoef(often, q**3)[0, 1] > 0.95


@pytest.mark.parametrize("keep", [0.0, 1.5, "x"])
def test_a_share_out_of_range_is_refused(keep):
  with pytest.raises(ValueError, match="keep is"):
    weighting.selective_backprop(SCORES, KEY, keep=keep)


def test_no_gradient_flows_into_a_selection():
  def total(x):
    q = weighting.selective_backprop_probabilities(x)
    mask = weighting.top_k(x, 3) | weighting.selective_backprop(x, KEY)
    return jnp.sum(jnp.where(mask, q, 0))

  assert not np.any(jax.grad(total)(jnp.asarray(SCORES)))


drop = jax.jit(
  lambda x, progress, key, rate, where: weighting.mentornet_dropout(
    x, progress, key, rate=rate, where=where
  )
)


def test_dropout_keeps_its_share_of_weights_as_they_are():
  weights, everybody = np.linspace(0.1, 1.0, 40), np.ones(40, bool)
  for progress, want in ((0.0, 20), (0.16, 20), (0.17, 38), (1.0, 38)):
    got = drop(weights, progress, KEY, 0.05, everybody)
    assert np.sum(got > 0) == want
    np.testing.assert_array_equal(got[got > 0], np.float32(weights)[got > 0])
  half = drop(weights, 0.0, KEY, 0.05, np.arange(40) < 10)
  assert np.sum(half > 0) == 5 and np.all(half[10:] == 0)
  keys = [KEY, jax.random.key(4)]
  one, other = (drop(weights, 0.0, k, 0.05, everybody) for k in keys)
  assert np.any((one > 0) != (other > 0))
  for rate, count in ((0.0, 40), (1.0, 0), (0.3, 28)):
    got = drop(weights, 0.5, KEY, rate, everybody)
    assert np.sum(got > 0) == count
  with pytest.raises(ValueError, match="rate is 2"):
    weighting.mentornet_dropout(weights, 0.5, KEY, rate=2)
