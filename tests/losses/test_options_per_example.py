"""Options that differ from example to example, against each example alone."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import losses, schedules
from kdcl_jax.losses import LOSSES

ROWS, CLASSES, STORED = 3, 5, 3
RANDOM = np.random.default_rng(11)
NORMAL = lambda *shape: jnp.asarray(
  2 * RANDOM.standard_normal(shape), jnp.float32
)
LOGITS = NORMAL(ROWS, CLASSES), NORMAL(ROWS, CLASSES)
MAPS = NORMAL(ROWS, 4, 4, 3), NORMAL(ROWS, 4, 4, 3)
STORE = losses.top_k_targets(LOGITS[1], STORED)
ARRAYS = {
  "student_logits": LOGITS[0],
  "teacher_logits": LOGITS[1],
  "cross_logits": NORMAL(ROWS, CLASSES),
  "labels": jnp.array([0, 3, 4]),
  "student_features": MAPS[0],
  "teacher_features": MAPS[1],
  "teacher_indices": STORE[0],
  "teacher_log_probs": STORE[1],
  "teachers_logits": NORMAL(2, ROWS, CLASSES),
}
# Where values between 0 and 1 are the only ones, or make no difference.
VALUES = jnp.array([0.9, 0.2, 0.6])


def cases():
  """What a config may let go from easy to hard."""
  for name, loss in LOSSES.items():
    parameters = inspect.signature(loss).parameters
    if "axis_name" in parameters:
      continue
    for option in parameters.values():
      if "Array" in str(option.annotation) and schedules.is_number(
        option.default
      ):
        yield name, option.name


CASES = list(cases())


def of(name, rows):
  """The arrays of some rows; the student's come first."""
  found = []
  for p in inspect.signature(LOSSES[name]).parameters.values():
    if p.kind is not p.KEYWORD_ONLY:
      array = ARRAYS[p.name]
      found.append(array[:, rows] if p.name[:8] == "teachers" else array[rows])
  return found


def test_many_losses_take_an_option_of_each_example():
  assert len(CASES) >= 35
  names = {name for name, option in CASES if option == "temperature"}
  assert {"kd", "dkd", "nkd", "lskd", "js", "cwd", "kd_teachers"} <= names


@pytest.mark.parametrize(("name", "option"), CASES)
def test_each_example_has_its_own_number_in_value_and_gradient(name, option):
  weights = jnp.array([1.0, 2.0, 4.0])

  @jax.jit
  def total(values, *arrays):
    found = LOSSES[name](*arrays, **{option: values})
    assert found.shape == (len(arrays[0]),)
    count = found.shape[0]
    return jnp.sum(weights[:count] * found), found

  def alone(row):
    arrays = of(name, slice(row, row + 1))
    loss = lambda student: jnp.sum(
      LOSSES[name](student, *arrays[1:], **{option: float(VALUES[row])})
    )
    return jax.value_and_grad(loss)(arrays[0])

  found = jax.value_and_grad(total, 1, has_aux=True)
  (_, each), gradient = found(VALUES, *of(name, slice(None)))
  for row in range(ROWS):
    value, own = alone(row)
    np.testing.assert_allclose(each[row], value, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(
      gradient[row], weights[row] * own[0], rtol=2e-4, atol=1e-5
    )


def softmax(z):
  exponent = np.exp(z - z.max())
  return exponent / exponent.sum()


def test_kd_with_a_temperature_of_each_example_is_the_formula_of_each():
  temperatures = np.array([1.0, 2.5, 4.0], np.float32)
  value, pullback = jax.vjp(
    lambda s: losses.kd(s, LOGITS[1], temperature=jnp.asarray(temperatures)),
    LOGITS[0],
  )
  (gradient,) = pullback(jnp.ones(ROWS))
  for row, t in enumerate(temperatures.astype(float)):
    s, z = (np.asarray(x[row], float) for x in LOGITS)
    q, p = softmax(s / t), softmax(z / t)
    np.testing.assert_allclose(
      value[row], t**2 * np.sum(p * np.log(p / q)), rtol=1e-5
    )
    # d T^2 KL / d z_s = T (q - p): the square keeps it in size.
    np.testing.assert_allclose(gradient[row], t * (q - p), rtol=1e-4, atol=1e-6)


def test_a_column_of_temperatures_is_one_of_each_sequence():
  tokens = NORMAL(ROWS, 4, CLASSES), NORMAL(ROWS, 4, CLASSES)
  found = losses.kd(*tokens, temperature=VALUES[:, None])
  assert found.shape == (ROWS, 4)
  for row in range(ROWS):
    alone = losses.kd(
      tokens[0][row], tokens[1][row], temperature=float(VALUES[row])
    )
    np.testing.assert_allclose(found[row], alone, rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "option"),
  [
    ("gkd", "beta"),
    ("skew_forward_kl", "skew"),
    ("skew_reverse_kl", "skew"),
    ("cross_entropy", "label_smoothing"),
    ("sparse_kl", "temperature"),
    ("cwd", "temperature"),
  ],
)
def test_numbers_on_the_host_are_numbers_too(name, option):
  arrays = of(name, slice(None))
  np.testing.assert_allclose(
    LOSSES[name](*arrays, **{option: np.asarray(VALUES)}),
    LOSSES[name](*arrays, **{option: VALUES}),
    rtol=1e-5,
  )
