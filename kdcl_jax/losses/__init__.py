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

# Features, layer by layer.
from kdcl_jax.losses.features import cwd
from kdcl_jax.losses.features import fitnet
from kdcl_jax.losses.features import srrl
from kdcl_jax.losses.features import vid
from kdcl_jax.losses.features import vid_initial_log_scale
from kdcl_jax.losses.attention_maps import at
from kdcl_jax.losses.attention_maps import ft
from kdcl_jax.losses.attention_maps import nst
from kdcl_jax.losses.layers import ab
from kdcl_jax.losses.layers import fsp
from kdcl_jax.losses.layers import reviewkd
from kdcl_jax.losses.margins import ofd
from kdcl_jax.losses.margins import ofd_margin
from kdcl_jax.losses.masked_features import mgd
from kdcl_jax.losses.masked_features import mgd_mask

# Features over the whole batch, and relations between its examples.
from kdcl_jax.losses.feature_statistics import pearson
from kdcl_jax.losses.feature_statistics import srd
from kdcl_jax.losses.similarities import pkt
from kdcl_jax.losses.similarities import sp
from kdcl_jax.losses.relations import rkd
from kdcl_jax.losses.relations import rkd_angle
from kdcl_jax.losses.relations import rkd_distance
from kdcl_jax.losses.congruence import cc
from kdcl_jax.losses.congruence import cckd

# Contrast against remembered embeddings.
from kdcl_jax.losses.contrastive import crd
from kdcl_jax.losses.contrastive import crd_nce
from kdcl_jax.losses.contrast_memory import CrdMemory
from kdcl_jax.losses.contrast_memory import crd_init
from kdcl_jax.losses.contrast_memory import crd_negatives
from kdcl_jax.losses.contrast_memory import crd_update

# Hidden states and attention scores of transformers.
from kdcl_jax.losses.attention_scores import attention_ce
from kdcl_jax.losses.attention_scores import attention_mse
from kdcl_jax.losses.hidden_states import bert_pkd
from kdcl_jax.losses.hidden_states import hidden_cosine
from kdcl_jax.losses.hidden_states import hidden_fsp
from kdcl_jax.losses.hidden_states import hidden_mmd
from kdcl_jax.losses.hidden_states import hidden_mse

# A teacher of which only the top k classes are stored.
from kdcl_jax.losses.stores import TopK
from kdcl_jax.losses.sparse import sparse_jsd
from kdcl_jax.losses.sparse import sparse_kl
from kdcl_jax.losses.sparse import sparse_total_variation
from kdcl_jax.losses.stores import top_k_mask
from kdcl_jax.losses.stores import top_k_targets
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
  "ab": ab,
  "adaptive_kl": adaptive_kl,
  "at": at,
  "attention_ce": attention_ce,
  "attention_mse": attention_mse,
  "bert_pkd": bert_pkd,
  "ca_mkd": ca_mkd,
  "cc": cc,
  "cckd": cckd,
  "crd": crd,
  "cross_entropy": cross_entropy,
  "cwd": cwd,
  "deit_soft": deit_soft,
  "dist": dist,
  "dkd": dkd,
  "dml": dml,
  "fitnet": fitnet,
  "forward_kl": forward_kl,
  "fsp": fsp,
  "ft": ft,
  "gkd": gkd,
  "hard": hard,
  "hidden_cosine": hidden_cosine,
  "hidden_fsp": hidden_fsp,
  "hidden_mmd": hidden_mmd,
  "hidden_mse": hidden_mse,
  "js": js,
  "kd": kd,
  "kd_ce": kd_ce,
  "kd_teachers": kd_teachers,
  "logit_mse": logit_mse,
  "lskd": lskd,
  "mgd": mgd,
  "mld": mld,
  "mlkd": mlkd,
  "mlkd_batch": mlkd_batch,
  "mlkd_class": mlkd_class,
  "nkd": nkd,
  "nst": nst,
  "ofd": ofd,
  "pearson": pearson,
  "pkt": pkt,
  "reverse_kl": reverse_kl,
  "reviewkd": reviewkd,
  "rkd": rkd,
  "rkd_angle": rkd_angle,
  "rkd_distance": rkd_distance,
  "skew_forward_kl": skew_forward_kl,
  "skew_reverse_kl": skew_reverse_kl,
  "sp": sp,
  "sparse_hinge_rank": sparse_hinge_rank,
  "sparse_jsd": sparse_jsd,
  "sparse_kl": sparse_kl,
  "sparse_logistic_rank": sparse_logistic_rank,
  "sparse_total_variation": sparse_total_variation,
  "srd": srd,
  "srrl": srrl,
  "symmetric_kl": symmetric_kl,
  "total_variation": total_variation,
  "vid": vid,
  "wsld": wsld,
}
