"""Numbers that change over a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import schedules
from kdcl_jax.errors import UserError

PARTS = {"values": (1.0, 2.0, 4.0), "begin": 0.1, "reach": 0.7}


def test_values_follow_one_another_in_equal_parts_and_the_last_one_stays():
  value = schedules.build(PARTS, "x")
  moments = [0.0, 0.1, 0.29, 0.3, 0.49, 0.5, 0.7, 1.0]
  expected = [1, 1, 1, 2, 2, 4, 4, 4]
  assert [value(p) for p in moments] == expected
  np.testing.assert_array_equal(value(np.array(moments)), expected)
  np.testing.assert_array_equal(jax.jit(value)(jnp.array(moments)), expected)


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    ({"values": ()}, ["x.values is ()", "tuple of numbers"]),
    ({"values": (1.0, "a")}, ["x.values", "tuple of numbers"]),
    ({"values": (1.0,), "start": 1.0}, ["x.start is no field", "values"]),
    ({"values": (1.0, 2.0), "begin": 0.5, "reach": 0.5}, ["begin"]),
  ],
)
def test_wrong_values_end_in_a_sentence(spec, words):
  with pytest.raises(UserError) as error:
    schedules.build(spec, "x")
  for word in words:
    assert word in str(error.value)
