"""How much each example of a batch counts, from its loss.

Pure functions of per-example losses [...] that return weights (or losses) of
the same shape, computed in float32, or in float64 where the losses are. Weights
are constants for the gradient unless a function says otherwise; thresholds and
other hyper-parameters are numbers or traced scalars, so that they can follow a
pacing function. What looks at the whole batch (a quantile, the top k) takes
`where` for padded examples and `axis_name`, and then sees the global batch.
"""

# ruff: noqa: F401, I001 (re-exports, by kind)

from collections.abc import Callable

import jax

# Self-paced learning: easy examples count, up to a threshold.
from kdcl_jax.weighting.self_paced import spl_hard
from kdcl_jax.weighting.self_paced import spl_linear
from kdcl_jax.weighting.self_paced import spl_logarithmic
from kdcl_jax.weighting.self_paced import spl_logistic
from kdcl_jax.weighting.self_paced import spl_mixture
from kdcl_jax.weighting.self_paced import spl_mixture_gamma
from kdcl_jax.weighting.self_paced import spl_polynomial
from kdcl_jax.weighting.thresholds import quantile_threshold

# SuperLoss: a confidence in each example, found in closed form.
from kdcl_jax.weighting.lambert import lambert_w
from kdcl_jax.weighting.super_loss import superloss
from kdcl_jax.weighting.super_loss import superloss_tau
from kdcl_jax.weighting.super_loss import superloss_weights

# MentorNet's predefined curriculum, against a moving percentile of the losses.
from kdcl_jax.weighting.mentornet import hard_example_mining
from kdcl_jax.weighting.mentornet import mentornet_dropout
from kdcl_jax.weighting.mentornet import mentornet_pd
from kdcl_jax.weighting.thresholds import moving_percentile

# Confidence of the model, or of its teacher.
from kdcl_jax.weighting.confidences import focal
from kdcl_jax.weighting.confidences import focal_logits
from kdcl_jax.weighting.confidences import teacher_confidence

# A part of an oversized batch.
from kdcl_jax.weighting.selection import selective_backprop
from kdcl_jax.weighting.selection import selective_backprop_probabilities
from kdcl_jax.weighting.selection import top_k
from kdcl_jax.weighting.selection import top_k_indices

# What a training step can compute from losses [...] and keywords alone.
WEIGHTINGS: dict[str, Callable[..., jax.Array]] = {
  "focal": focal,
  "hard_example_mining": hard_example_mining,
  "spl_hard": spl_hard,
  "spl_linear": spl_linear,
  "spl_logarithmic": spl_logarithmic,
  "spl_logistic": spl_logistic,
  "spl_mixture": spl_mixture,
  "spl_mixture_gamma": spl_mixture_gamma,
  "spl_polynomial": spl_polynomial,
  "superloss_weights": superloss_weights,
}
