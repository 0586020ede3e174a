"""What every loss on logits has to satisfy, over all that a config can name."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import (
  NAMES,
  POINTWISE,
  RELATIONAL,
  WITH_TEACHER,
  array_names,
  arrays,
  parameters,
)

from kdcl_jax.losses import LOSSES

ZERO_AT_AGREEMENT = [
  name
  for name in WITH_TEACHER
  if name not in ("dist", "hard", "kd_ce", "nkd", "wsld")
]


def value_and_gradient(name, args, **options):
  total = lambda s: jnp.sum(LOSSES[name](s, *args[1:], **options))
  return jax.value_and_grad(total)(args[0])


EDGES = {
  "zeros": lambda z: jnp.zeros_like(z),
  "ties": lambda z: jnp.sign(z),
  "saturated": lambda z: 1e4 * jnp.sign(z),
  "saturated, one class": lambda z: (
    1e4 * jax.nn.one_hot(jnp.argmax(z, -1), z.shape[-1])
  ),
  "bfloat16": lambda z: z.astype(jnp.bfloat16),
}


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_finite_at_every_edge(name):
  is_logits = [n.endswith("logits") for n in array_names(name)]
  compiled = jax.jit(lambda args: value_and_gradient(name, args))
  plain = arrays(name)
  cases = {
    edge: [
      f(a) if logits else a for a, logits in zip(plain, is_logits, strict=True)
    ]
    for edge, f in EDGES.items()
  }
  cases["opposite"] = list(cases["saturated"])
  cases["opposite"][0] = -cases["saturated"][0]
  cases["equal"] = [
    plain[0] if logits else a for a, logits in zip(plain, is_logits)
  ]
  for classes in (1, 2):
    cases[f"{classes} classes"] = arrays(name, classes=classes)
  cases["one example"] = arrays(name, batch=1)
  for case, args in cases.items():
    value, gradient = compiled(args)
    assert np.all(np.isfinite(value)), case
    assert np.all(np.isfinite(gradient.astype(np.float32))), case
    assert value.dtype == np.float32, case
    assert gradient.dtype == args[0].dtype, case


@pytest.mark.parametrize("name", ZERO_AT_AGREEMENT)
def test_agreement_is_a_minimum_with_value_zero(name):
  args = arrays(name)
  args[1] = args[0]
  value, gradient = value_and_gradient(name, args)
  np.testing.assert_allclose(value, 0, atol=1e-4)
  np.testing.assert_allclose(gradient, 0, atol=1e-5)
  assert value_and_gradient(name, arrays(name))[0] > 1e-3


@pytest.mark.parametrize("name", [n for n in WITH_TEACHER if n != "dml"])
def test_the_teacher_gets_no_gradient_at_all(name):
  args = arrays(name)
  total = lambda t: jnp.sum(LOSSES[name](args[0], t, *args[2:]))
  assert np.all(np.asarray(jax.grad(total)(args[1])) == 0)


@pytest.mark.parametrize("name", POINTWISE)
def test_masking_classes_is_the_same_as_not_having_them(name):
  args, loss = arrays(name, classes=4), LOSSES[name]
  wide = [
    jnp.concatenate([a, jnp.full((6, 3), 50.0)], -1) if a.ndim == 2 else a
    for a in args
  ]
  where = jnp.broadcast_to(jnp.arange(7) < 4, (6, 7))
  np.testing.assert_allclose(
    loss(*wide, where=where), loss(*args), rtol=2e-5, atol=1e-6
  )
  _, gradient = value_and_gradient(name, wide, where=where)
  _, expected = value_and_gradient(name, args)
  np.testing.assert_allclose(gradient[:, :4], expected, rtol=1e-4, atol=1e-5)
  assert np.all(np.asarray(gradient[:, 4:]) == 0)


@pytest.mark.parametrize("name", NAMES)
def test_masking_examples_is_the_same_as_not_having_them(name):
  args, loss = arrays(name), LOSSES[name]
  if name == "kd":  # what stands in a padded row must not matter
    args = [a.at[4:].set(jnp.nan) for a in args]
  where = jnp.arange(6) < 4
  few = [a[:4] for a in args]
  value, gradient = value_and_gradient(name, args, where=where)
  wanted, expected = value_and_gradient(name, few)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  np.testing.assert_allclose(gradient[:4], expected, rtol=1e-4, atol=1e-6)
  assert np.all(np.asarray(gradient[4:]) == 0)
  if name in POINTWISE:
    losses = loss(*args, where=where)
    assert losses.shape == (6,) and np.all(np.asarray(losses[4:]) == 0)


@pytest.mark.parametrize("name", POINTWISE)
def test_any_axis_can_hold_the_classes(name):
  args, loss = arrays(name, classes=5), LOSSES[name]
  moved = [a.T if a.ndim == 2 else a for a in args]
  np.testing.assert_allclose(
    loss(*moved, axis=0), loss(*args), rtol=1e-6, atol=1e-7
  )


@pytest.mark.parametrize("name", POINTWISE)
def test_one_value_per_token_under_jit_and_vmap(name):
  args, loss = arrays(name, batch=6), LOSSES[name]
  tokens = [a.reshape(2, 3, *a.shape[1:]) for a in args]
  expected = np.asarray(loss(*args))
  assert expected.shape == (6,)
  for values in (jax.jit(loss)(*tokens), jax.vmap(loss)(*tokens)):
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values.ravel(), expected, rtol=2e-5, atol=1e-6)


# The weights in adaptive_kl and wsld are constants for the gradient on purpose.
@pytest.mark.parametrize(
  "name", [n for n in NAMES if n not in ("adaptive_kl", "wsld")]
)
def test_gradient_is_the_slope_of_the_value(name):
  with jax.enable_x64(True):
    args = arrays(name, batch=3, classes=4, dtype=np.float64)
    direction = np.random.default_rng(1).standard_normal((3, 4))
    value = lambda h: jnp.sum(LOSSES[name](args[0] + h * direction, *args[1:]))
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(0.0), slope, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_shapes_that_do_not_fit_are_named(name):
  args = arrays(name)
  args[1] = args[1][:, :-1]
  with pytest.raises(AssertionError, match="student_logits and teacher_logits"):
    LOSSES[name](*args)


@pytest.mark.parametrize(
  "name", [n for n in NAMES if "temperature" in parameters(n)]
)
@pytest.mark.parametrize("temperature", [0.0, -1, float("nan"), True, "4"])
def test_a_temperature_that_is_no_positive_number_is_refused(name, temperature):
  with pytest.raises(ValueError, match="temperature is .*, expected a"):
    LOSSES[name](*arrays(name), temperature=temperature)


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("dkd", {"alpha": -1.0}),
    ("dkd", {"beta": -1.0}),
    ("nkd", {"gamma": -1.0}),
    ("wsld", {"alpha": -1.0}),
    ("dist", {"gamma": -1.0}),
    ("gkd", {"beta": 1.5}),
    ("js", {"student_weight": 1.0}),
    ("skew_forward_kl", {"skew": 0.0}),
    ("skew_reverse_kl", {"skew": 1}),
    ("adaptive_kl", {"mu": 2.0}),
    ("cross_entropy", {"label_smoothing": -0.1}),
    ("mlkd", {"batch_weight": -0.1}),
    ("mlkd", {"temperatures": ()}),
  ],
)
def test_hyper_parameters_out_of_range_are_refused_by_name(name, options):
  with pytest.raises(
    ValueError, match=rf"^{next(iter(options))} is .*expected"
  ):
    LOSSES[name](*arrays(name), **options)


@pytest.mark.parametrize(
  "name", [n for n in POINTWISE if "temperature" in parameters(n)]
)
def test_temperatures_may_differ_from_example_to_example(name):
  args, loss = arrays(name, batch=3), LOSSES[name]
  temperatures = jnp.array([1.0, 2.5, 9.0])
  together = jax.jit(loss)(*args, temperature=temperatures)
  apart = [
    loss(*(a[i : i + 1] for a in args), temperature=float(temperatures[i]))[0]
    for i in range(3)
  ]
  np.testing.assert_allclose(together, apart, rtol=2e-5)


@pytest.mark.parametrize(
  "name", ["kd", "kd_ce", "forward_kl", "gkd", "total_variation", "dkd", "nkd"]
)
def test_a_teacher_may_rule_classes_out_with_minus_infinity(name):
  args = arrays(name)
  args[1] = args[1].at[:, 2].set(-jnp.inf)
  if len(args) == 3:
    args[2] = jnp.full_like(args[2], 1)
  value, gradient = value_and_gradient(name, args)
  nearly = [*args]
  nearly[1] = args[1].at[:, 2].set(-1e4)
  expected, slope = value_and_gradient(name, nearly)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_traced_beta_of_gkd_has_the_same_ends(beta):
  args = arrays("gkd")
  np.testing.assert_allclose(
    jax.jit(LOSSES["gkd"])(*args, beta=beta),
    LOSSES["gkd"](*args, beta=beta),
    rtol=1e-5,
  )


def test_cross_entropy_takes_soft_labels_and_smoothing():
  z, labels = arrays("cross_entropy")
  one_hot = jax.nn.one_hot(labels, 7)
  smooth = 0.9 * one_hot + 0.1 / 7
  loss = LOSSES["cross_entropy"]
  expected = -jnp.sum(smooth * jax.nn.log_softmax(z), -1)
  for value in (
    loss(z, labels, label_smoothing=0.1),
    loss(z, one_hot, label_smoothing=0.1),
    loss(z, smooth),
    loss(z.T, smooth.T, axis=0),
  ):
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_importing_the_losses_takes_no_framework_along():
  code = (
    "import sys, kdcl_jax.losses;"
    "names = {m.split('.')[0] for m in sys.modules};"
    "print(names & {'flax', 'grain', 'tensorflow', 'orbax',"
    " 'tensorflow_datasets', 'ml_collections', 'torch'})"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "set()"


def test_relational_losses_are_told_apart_by_their_axis_name():
  assert RELATIONAL == ["dist", "mlkd", "mlkd_batch", "mlkd_class"]
