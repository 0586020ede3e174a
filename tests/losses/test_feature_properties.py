"""What every loss on features has to satisfy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feature_inputs import (
  NAMES,
  PER_EXAMPLE,
  SCALAR,
  SHAPES,
  features,
  loss_of,
)
from loss_inputs import array_names

from kdcl_jax import losses
from kdcl_jax.losses import LOSSES

ON_TOKENS = ("hidden_mse", "hidden_cosine", "hidden_mmd", "hidden_fsp")
ON_SCORES = ("attention_mse", "attention_ce")


@functools.cache
def compiled(name, **options):
  loss = loss_of(name)
  total = lambda s, t, where: jnp.sum(loss(s, t, **where, **options))
  return jax.jit(jax.value_and_grad(total))


def value_and_gradient(name, s, t, where=None, **options):
  masked = {} if where is None else {"where": where}
  return compiled(name, **options)(s, t, masked)


def test_every_loss_of_the_config_is_tested_by_this_or_the_tests_on_logits():
  on_features = {
    n for n in LOSSES if {"student_features"} & set(array_names(n))
  }
  assert on_features == set(NAMES)


EDGES = {
  "zeros": lambda x: jnp.zeros_like(x),
  "ties": lambda x: jnp.ones_like(x),
  "signs": lambda x: jnp.sign(x),
  "large": lambda x: 1e4 * jnp.sign(x),
  "bfloat16": lambda x: x.astype(jnp.bfloat16),
}


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_finite_at_every_edge(name):
  s, t = features(name)
  cases = {edge: (f(s), f(t)) for edge, f in EDGES.items()}
  cases["student zero"] = (jnp.zeros_like(s), t)
  cases["teacher zero"] = (s, jnp.zeros_like(t))
  cases["duplicates"] = (s.at[1].set(s[0]), t.at[1].set(t[0]))
  if s.shape == t.shape:
    cases["equal"] = (s, s)
  cases["one example"] = (s[:1], t[:1])
  if s.ndim == 4 and name not in ON_SCORES:
    cases["one position"] = (s[:, :1, :1], t[:, :1, :1])
  for case, (student, teacher) in cases.items():
    value, gradient = value_and_gradient(name, student, teacher)
    assert np.isfinite(value), case
    assert np.all(np.isfinite(gradient.astype(np.float32))), case
    assert value.dtype == np.float32, case
    assert gradient.dtype == student.dtype, case


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_inputs_are_computed_in_float32(name):
  s, t = (x.astype(jnp.bfloat16) for x in features(name))
  value, _ = value_and_gradient(name, s, t)
  wanted, _ = value_and_gradient(
    name, s.astype(jnp.float32), t.astype(jnp.float32)
  )
  rtol = 1e-2 if name in ("fsp", "srrl") else 1e-6  # squared in the test
  np.testing.assert_allclose(value, wanted, rtol=rtol)


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_gets_no_gradient_at_all(name):
  s, t = features(name)
  gradient = jax.grad(lambda t: jnp.sum(loss_of(name)(s, t)))(t)
  assert np.all(np.asarray(gradient) == 0)


# crd and vid score more than agreement, srd is a logarithm.
@pytest.mark.parametrize(
  "name",
  [
    n
    for n in NAMES
    if SHAPES[n](1)[0] == SHAPES[n](1)[1]
    and n not in ("ab", "attention_ce", "crd", "srd", "vid")
  ],
)
def test_agreement_is_a_minimum_with_value_zero(name):
  s, t = features(name)
  if name == "ofd":
    s = t = jnp.abs(t)
  value, gradient = value_and_gradient(name, s, s)
  np.testing.assert_allclose(value, 0, atol=1e-5)
  np.testing.assert_allclose(gradient, 0, atol=1e-5)
  assert value_and_gradient(name, *features(name))[0] > 1e-6


@pytest.mark.parametrize(
  "name", [n for n in NAMES if n not in ON_TOKENS + ON_SCORES]
)
def test_masking_examples_is_the_same_as_not_having_them(name):
  s, t = features(name, batch=6)
  where = jnp.array([True, True, False, True, True, False])
  keep = np.flatnonzero(where)
  few = [x[keep] for x in (s, t)]
  if name == "crd":  # contrasts belong to the rows
    where, keep = jnp.arange(6) < 4, np.arange(4)
    few = [s[:4], t[:4]]
  hidden = [
    jnp.where(where.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan)
    for x in (s, t)
  ]
  if name == "srrl":  # whose logits the test computes from the features
    hidden = [s, t]
  value, gradient = value_and_gradient(name, *hidden, where=where)
  wanted, expected = value_and_gradient(name, *few)
  np.testing.assert_allclose(value, wanted, rtol=2e-5)
  np.testing.assert_allclose(gradient[keep], expected, rtol=2e-4, atol=1e-6)
  others = np.setdiff1d(np.arange(6), keep)
  if name != "fsp":  # the test squares, so NaN times 0 comes back
    assert np.all(np.asarray(gradient[others]) == 0)
  if name in PER_EXAMPLE:
    each = loss_of(name)(*hidden, where=where)
    assert each.shape == (6,) and np.all(np.asarray(each[others]) == 0)


@pytest.mark.parametrize("name", ON_TOKENS)
def test_masking_positions_is_the_same_as_not_having_them(name):
  s, t = features(name)
  where = jnp.broadcast_to(jnp.arange(3) < 2, (5, 3))
  hidden = [jnp.where(where[..., None], x, jnp.nan) for x in (s, t)]
  value, gradient = value_and_gradient(name, *hidden, where=where)
  wanted, expected = value_and_gradient(name, s[:, :2], t[:, :2])
  np.testing.assert_allclose(value, wanted, rtol=2e-5)
  np.testing.assert_allclose(gradient[:, :2], expected, rtol=1e-4, atol=1e-6)
  assert np.all(np.asarray(gradient[:, 2:]) == 0)


@pytest.mark.parametrize("name", ON_SCORES)
@pytest.mark.parametrize("hidden", [50.0, -np.inf])
def test_masking_queries_and_keys_is_the_same_as_not_having_them(name, hidden):
  s, t = features(name)
  where = jnp.broadcast_to(jnp.arange(3) < 2, (5, 3))
  pair = (where[:, None, :, None]) & (where[:, None, None, :])
  s, t = (jnp.where(pair, x, hidden) for x in (s, t))
  options = {"masked_softmax": True} if name == "attention_ce" else {}
  value, gradient = value_and_gradient(name, s, t, where=where, **options)
  few = [x[:, :, :2, :2] for x in (s, t)]
  wanted, expected = value_and_gradient(name, *few)
  np.testing.assert_allclose(value, wanted, rtol=2e-5)
  np.testing.assert_allclose(
    gradient[:, :, :2, :2], expected, rtol=1e-4, atol=1e-6
  )
  assert np.all(np.asarray(gradient[:, :, 2:]) == 0)
  assert np.all(np.asarray(gradient[..., 2:]) == 0)


# Distances below 1e-6, powers and measured constants are smooth at these.
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_slope_of_the_value(name):
  with jax.enable_x64(True):
    s, t = features(name, dtype=np.float64)
    direction = np.random.default_rng(1).standard_normal(s.shape)
    loss = loss_of(name, dtype=np.float64)
    options = {}
    if name == "crd":  # Z is a constant for the gradient: fix it
      memory = losses.crd_init(jax.random.key(0), 20, 6)
      memory = memory._replace(
        student_z=jnp.asarray(40.0), teacher_z=jnp.asarray(40.0)
      )
      index = jnp.arange(20).reshape(5, 4)
      loss = lambda s, t: losses.crd(s, t, memory, index)
    value = lambda h: jnp.sum(loss(s + h * direction, t, **options))
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(0.0), slope, rtol=1e-5)


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_one_value_per_example_whatever_the_batch(name):
  s, t = features(name)
  together = np.asarray(jax.jit(loss_of(name))(s, t))
  assert together.shape[0] == 5
  if name == "crd":  # Z is fixed by the batch
    return
  mapped = jax.vmap(lambda a, b: loss_of(name)(a[None], b[None])[0])(s, t)
  np.testing.assert_allclose(mapped, together, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in SCALAR if n != "cc"])
def test_the_sequence_of_the_batch_does_not_matter(name):
  s, t = features(name)
  shuffled = np.array([3, 1, 4, 0, 2])
  value, gradient = value_and_gradient(name, s, t)
  other, turned = value_and_gradient(name, s[shuffled], t[shuffled])
  np.testing.assert_allclose(other, value, rtol=1e-5)
  np.testing.assert_allclose(turned, gradient[shuffled], rtol=1e-4, atol=1e-6)


def test_the_sequence_of_the_batch_matters_to_cc():
  s, t = features("cc")
  order = np.array([3, 1, 4, 0, 2])
  assert losses.cc(s, t) != losses.cc(s[order], t[order])


@pytest.mark.parametrize(
  ("name", "rtol"),
  [("at", 1e-5), ("ft", 1e-5), ("nst", 1e-5), ("rkd", 1e-5), ("sp", 1e-5)]
  + [("pkt", 1e-4), ("cckd", 1e-5), ("bert_pkd", 1e-5)]
  + [("hidden_cosine", 1e-5), ("crd", 1e-5)],
)
@pytest.mark.parametrize("factor", [1e-3, 37.0])
def test_the_scale_of_either_feature_does_not_matter(name, rtol, factor):
  s, t = features(name)
  value = np.sum(loss_of(name)(s, t))
  for one, two in ((factor * s, t), (s, factor * t)):
    np.testing.assert_allclose(
      np.sum(loss_of(name)(one, two)), value, rtol=rtol, atol=1e-5
    )


def test_pearson_ignores_scale_and_offset_of_every_channel():
  s, t = features("pearson")
  scale = jnp.array([0.5, 2.0, 9.0]).reshape(1, 1, 1, 3)
  np.testing.assert_allclose(
    losses.pearson(scale * s + 3, t), losses.pearson(s, t), rtol=1e-4
  )


@pytest.mark.parametrize(
  "name",
  [
    "ab",
    "cwd",
    "fitnet",
    "fsp",
    "hidden_mse",
    "mgd",
    "ofd",
    "vid",
    "cc",
    "srd",
  ],
)
def test_features_that_do_not_fit_call_for_a_projector(name):
  s, t = features(name)
  with pytest.raises(ValueError, match=r"student_features \(.*projector"):
    loss_of(name)(s[..., :-1], t)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_different_lengths_are_refused(name):
  s, t = features(name)
  with pytest.raises((ValueError, AssertionError, TypeError)):
    loss_of(name)(s, t[:-1])


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("at", {"p": 0}),
    ("at", {"p": 1.5}),
    ("at", {"form": "papre"}),
    ("ft", {"p2": 3, "form": "paper"}),
    ("ft", {"form": "code2"}),
    ("ab", {"margin": 0.0}),
    ("cwd", {"temperature": 0.0}),
    ("vid", {"eps": 0.0}),
    ("mgd", {"alpha": -1.0}),
    ("pkt", {"eps": 0.0}),
    ("pearson", {"eps": -1.0}),
    ("srd", {"exponent": 0.5}),
    ("cckd", {"kernel": "rbf"}),
    ("cckd", {"gamma": -0.1}),
    ("rkd", {"distance_weight": -1.0}),
    ("rkd_angle", {"chunk_size": 0}),
    ("crd", {"temperature": 0.0}),
    ("attention_mse", {"heads": "all"}),
    ("srrl", {"alpha": -1.0}),
  ],
)
def test_hyper_parameters_out_of_range_are_refused_by_name(name, options):
  s, t = features(name)
  if options.get("form") == "paper":
    t = s
  with pytest.raises(ValueError, match=rf"{next(iter(options))} is .*expected"):
    loss_of(name)(s, t, **options)


@pytest.mark.parametrize(
  ("kind", "share"), [("channels", 0.15), ("positions", 0.65)]
)
def test_mgd_masks_drop_their_share_for_each_example(kind, share):
  shape = (64, 8, 8, 32)
  kept = losses.mgd_mask(jax.random.key(0), shape, mask=kind, mask_ratio=share)
  assert kept.shape == ((64, 1, 1, 32) if kind == "channels" else (64, 8, 8, 1))
  assert abs(1 - np.mean(kept) - share) < 0.03
  assert np.any(np.asarray(kept[0]) != np.asarray(kept[1]))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5])
def test_chunks_of_anchors_change_neither_value_nor_gradient(chunk_size):
  s, t = features("rkd")
  value, gradient = value_and_gradient("rkd", s, t)
  other, turned = value_and_gradient("rkd", s, t, chunk_size=chunk_size)
  np.testing.assert_allclose(other, value, rtol=1e-5)
  np.testing.assert_allclose(turned, gradient, rtol=1e-4, atol=1e-5)


def test_the_angles_of_a_batch_of_1024_fit_into_a_quarter_of_a_gigabyte():
  rows = jax.ShapeDtypeStruct((1024, 128), np.float32)
  step = jax.jit(jax.value_and_grad(losses.rkd_angle)).lower(rows, rows)
  peak = step.compile().memory_analysis().temp_size_in_bytes
  assert peak < 2**28  # all angles of one network alone are 4 GiB
