"""Distillation losses: pure functions of arrays, for any JAX trainer.

Student arrays come first, then teacher arrays, then labels; everything else is
a keyword. Pointwise losses return one value per example or token, [...] from
logits [..., K]; losses over pairs of examples return a scalar and take
`axis_name`, so that they see the global batch. Teachers get no gradient, except
from `dml`. Computed in float32, or in float64 where the inputs are.
"""

# ruff: noqa: F401, I001 (re-exports, by kind)

from collections.abc import Callable

import jax

# Labels alone.
from kdcl_jax.losses.supervised import cross_entropy

# The teacher's softened outputs.
from kdcl_jax.losses.soft_targets import deit_soft
from kdcl_jax.losses.soft_targets import hard
from kdcl_jax.losses.soft_targets import kd
from kdcl_jax.losses.soft_targets import kd_ce
from kdcl_jax.losses.soft_targets import logit_mse
from kdcl_jax.losses.soft_targets import mld
from kdcl_jax.losses.soft_targets import wsld
from kdcl_jax.losses.decoupled import dkd
from kdcl_jax.losses.decoupled import nkd
from kdcl_jax.losses.standardization import lskd
from kdcl_jax.losses.standardization import standardize_logits

# Divergences, for classes and tokens alike.
from kdcl_jax.losses.divergences import forward_kl
from kdcl_jax.losses.divergences import gkd
from kdcl_jax.losses.divergences import js
from kdcl_jax.losses.divergences import reverse_kl
from kdcl_jax.losses.divergences import symmetric_kl
from kdcl_jax.losses.skewed_divergences import adaptive_kl
from kdcl_jax.losses.skewed_divergences import skew_forward_kl
from kdcl_jax.losses.skewed_divergences import skew_reverse_kl
from kdcl_jax.losses.skewed_divergences import total_variation

# Relations between the predictions of a batch.
from kdcl_jax.losses.correlation import dist
from kdcl_jax.losses.correlation import mlkd
from kdcl_jax.losses.correlation import mlkd_batch
from kdcl_jax.losses.correlation import mlkd_class

# A teacher of which only the top k classes are stored.
from kdcl_jax.losses.sparse import TopK
from kdcl_jax.losses.sparse import sparse_jsd
from kdcl_jax.losses.sparse import sparse_kl
from kdcl_jax.losses.sparse import sparse_total_variation
from kdcl_jax.losses.sparse import top_k_mask
from kdcl_jax.losses.sparse import top_k_targets
from kdcl_jax.losses.rankings import sparse_hinge_rank
from kdcl_jax.losses.rankings import sparse_logistic_rank

# Several teachers, and networks that teach each other.
from kdcl_jax.losses.teachers import average_teachers
from kdcl_jax.losses.teachers import ca_mkd
from kdcl_jax.losses.teachers import confidence_weights
from kdcl_jax.losses.teachers import dml
from kdcl_jax.losses.teachers import kd_teachers

# Temperatures that are learned or differ from example to example.
from kdcl_jax.losses.temperatures import ctkd_schedule
from kdcl_jax.losses.temperatures import ctkd_temperature
from kdcl_jax.losses.temperatures import cwsm_temperature
from kdcl_jax.losses.temperatures import flsw_temperature
from kdcl_jax.losses.temperatures import gradient_reversal

# Many tokens, a chunk at a time.
from kdcl_jax.losses.chunking import chunked

# The losses that a config can name: their arrays are what a stage has.
LOSSES: dict[str, Callable[..., jax.Array]] = {
  "adaptive_kl": adaptive_kl,
  "cross_entropy": cross_entropy,
  "deit_soft": deit_soft,
  "dist": dist,
  "dkd": dkd,
  "dml": dml,
  "forward_kl": forward_kl,
  "gkd": gkd,
  "hard": hard,
  "js": js,
  "kd": kd,
  "kd_ce": kd_ce,
  "logit_mse": logit_mse,
  "lskd": lskd,
  "mld": mld,
  "mlkd": mlkd,
  "mlkd_batch": mlkd_batch,
  "mlkd_class": mlkd_class,
  "nkd": nkd,
  "reverse_kl": reverse_kl,
  "skew_forward_kl": skew_forward_kl,
  "skew_reverse_kl": skew_reverse_kl,
  "symmetric_kl": symmetric_kl,
  "total_variation": total_variation,
  "wsld": wsld,
}
