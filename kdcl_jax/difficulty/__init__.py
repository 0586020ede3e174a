"""How hard each record is: larger is harder, in every function here.

Pure functions `(logits, labels) -> [N]`, and the orders made of them. Score in
evaluation mode, without augmentation, by models that have not memorised what
they score.
"""

# ruff: noqa: F401 (re-exports)

from collections.abc import Callable

import jax

from kdcl_jax.difficulty.confidence import (
  confidence,
  el2n,
  entropy,
  logit_margin,
  loss,
  margin,
)
from kdcl_jax.difficulty.orders import order

# What a pipeline can compute from logits and labels in one forward pass.
SCORES: dict[str, Callable[..., jax.Array]] = {
  "loss": loss,
  "confidence": confidence,
  "margin": margin,
  "logit_margin": logit_margin,
  "entropy": entropy,
  "el2n": el2n,
}
