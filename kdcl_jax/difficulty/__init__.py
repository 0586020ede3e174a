"""How hard each record is: larger is harder, in every function here.

Scores `(logits, labels) -> [N]` of one forward pass, those that need gradients,
layers or the course of a training, streams that a train step carries along, and
the orders made of them. Score in evaluation mode, without augmentation, by
models that have not memorised what they score.
"""

# ruff: noqa: F401, I001 (re-exports, by kind)

from collections.abc import Callable

import jax

# One forward pass.
from kdcl_jax.difficulty.confidence import confidence
from kdcl_jax.difficulty.confidence import el1n
from kdcl_jax.difficulty.confidence import el2n
from kdcl_jax.difficulty.confidence import entropy
from kdcl_jax.difficulty.confidence import logit_margin
from kdcl_jax.difficulty.confidence import loss
from kdcl_jax.difficulty.confidence import margin

# One forward pass of student and teacher.
from kdcl_jax.difficulty.gaps import reducible_loss

# Gradients.
from kdcl_jax.difficulty.gradients import grand
from kdcl_jax.difficulty.gradients import grand_last_layer
from kdcl_jax.difficulty.gradients import label_gradients
from kdcl_jax.difficulty.gradients import vog

# The layers of a model.
from kdcl_jax.difficulty.depth import knn_predictions
from kdcl_jax.difficulty.depth import prediction_depth

# What a score asks of a model, and those that ask more than logits.
from kdcl_jax.difficulty.requirements import BATCH
from kdcl_jax.difficulty.requirements import SUPPORT
from kdcl_jax.difficulty.requirements import compares
from kdcl_jax.difficulty.requirements import depth_of_model
from kdcl_jax.difficulty.requirements import grand_of_model
from kdcl_jax.difficulty.requirements import layers_of
from kdcl_jax.difficulty.requirements import needs
from kdcl_jax.difficulty.requirements import needs_of

# The course of a training, from stored outputs.
from kdcl_jax.difficulty.dynamics import DataMap
from kdcl_jax.difficulty.dynamics import aum
from kdcl_jax.difficulty.dynamics import cumulative_confidence
from kdcl_jax.difficulty.dynamics import data_map
from kdcl_jax.difficulty.dynamics import forgetting
from kdcl_jax.difficulty.dynamics import learned_epoch
from kdcl_jax.difficulty.dynamics import variability

# The course of a training, while it goes on.
from kdcl_jax.difficulty.streams import Stream
from kdcl_jax.difficulty.streams import aum_stream
from kdcl_jax.difficulty.streams import cumulative_confidence_stream
from kdcl_jax.difficulty.streams import data_map_of
from kdcl_jax.difficulty.streams import data_map_stream
from kdcl_jax.difficulty.hardness import dih_stream
from kdcl_jax.difficulty.streams import forgetting_stream
from kdcl_jax.difficulty.streams import learned_epoch_stream

# The data themselves, without a model.
from kdcl_jax.difficulty.text import length
from kdcl_jax.difficulty.text import rarity
from kdcl_jax.difficulty.text import unigram_log_probabilities
from kdcl_jax.difficulty.speech import compression_ratio
from kdcl_jax.difficulty.speech import duration
from kdcl_jax.difficulty.speech import snr

# Several scores, and orders.
from kdcl_jax.difficulty.fusion import cdf
from kdcl_jax.difficulty.fusion import fuse_ranks
from kdcl_jax.difficulty.fusion import mean_over_seeds
from kdcl_jax.difficulty.fusion import normalize_by_class
from kdcl_jax.difficulty.fusion import rank
from kdcl_jax.difficulty.fusion import spearman
from kdcl_jax.difficulty.orders import balance_order
from kdcl_jax.difficulty.orders import order

# What a pipeline can compute from logits and labels in one forward pass.
SCORES: dict[str, Callable[..., jax.Array]] = {
  "loss": loss,
  "confidence": confidence,
  "margin": margin,
  "logit_margin": logit_margin,
  "entropy": entropy,
  "el2n": el2n,
  "el1n": el1n,
}

# What takes more of a model than its logits; see `needs`.
MODEL_SCORES: dict[str, Callable[..., jax.Array]] = {
  "grand": grand_of_model,
  "prediction_depth": depth_of_model,
}

# What a train step can carry along, made by name: STREAMS["aum"]().
STREAMS: dict[str, Callable[..., Stream]] = {
  "forgetting": forgetting_stream,
  "learned_epoch": learned_epoch_stream,
  "aum": aum_stream,
  "data_map": data_map_stream,
  "cumulative_confidence": cumulative_confidence_stream,
  "dih": dih_stream,
}
