"""Handwritten digits, 1,797 of 8 x 8 pixels; no download."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import lookup
from kdcl_jax.randomness import permute
from kdcl_jax.sources import ArraySource, Splits

_TRAIN = 1200
_SPLIT = 0xD161


def load(section: Mapping[str, Any], *, seed: int) -> Splits:
  """The digits of scikit-learn, 1,200 to train on and 597 to test on.

  The split is fixed, the same for every seed. Grey values 0 ... 16 become
  uint8 0 ... 255.

  Args:
    section: `config.data`; there are no options.
    seed: does not matter here.

  Returns:
    The splits.

  Raises:
    UserError: for an option, since there are none.

  Reference: Alpaydin and Kaynak, "Optical recognition of handwritten digits",
  UCI machine learning repository, 1998, doi:10.24432/C50P49 (its test part).
  """
  from sklearn.datasets import load_digits  # slow to import

  lookup.check_names(section["options"], (), "digits", "config.data.options")
  digits = load_digits()
  image = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  label = digits.target.astype(np.int64)
  shuffled = permute(np.arange(len(label)), len(label), _SPLIT)
  train, test = shuffled[:_TRAIN], shuffled[_TRAIN:]
  return Splits(
    train=ArraySource(image[train], label[train]),
    test=ArraySource(image[test], label[test]),
    label_names=tuple("0123456789"),
    shape=(8, 8, 1),
  )
