"""The examples in the docstrings run and say the truth."""

import doctest
import importlib
import pkgutil

import pytest

import kdcl_jax

MODULES = [
  module.name
  for module in pkgutil.walk_packages(kdcl_jax.__path__, "kdcl_jax.")
  if not module.name.endswith(".main")  # defines flags when imported
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
  module = importlib.import_module(name)
  failures, _ = doctest.testmod(module)
  assert failures == 0
