"""Scores against the published implementations.

`golden/difficulty.npz` holds inputs and what the reference code (data_diet,
example_forgetting, aum, cartography, VOG, understanding-curricula) or an
independent NumPy formula returned for them in float64. There, confidences and
margins are small for hard records; here larger is harder.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import difficulty

FILE = pathlib.Path(__file__).parent / "golden" / "difficulty.npz"
GOLDEN: dict[str, dict[str, np.ndarray]] = {}
with np.load(FILE, allow_pickle=False) as arrays:
  for key in arrays.files:
    case, name = key.split("/")
    GOLDEN.setdefault(case, {})[name] = arrays[key]


def network(params, x, activation):
  act = {"relu": jax.nn.relu, "tanh": jnp.tanh}[activation]
  return act(x @ params["W1"] + params["b1"]) @ params["W2"] + params["b2"]


def grand(d):
  params = {k: d[k] for k in ("W1", "b1", "W2", "b2")}

  def loss_fn(params, x, label):
    logits = network(
      jax.tree.map(lambda p: p.reshape(-1, p.shape[-1]), params),
      x[None],
      d["activation"].item(),
    )
    return -jax.nn.log_softmax(logits)[0, label]

  return difficulty.grand(loss_fn, params, d["x"], d["labels"])


def last_layer(d):
  hidden = d["x"] @ d["W1"] + d["b1"][None]
  act = {"relu": jax.nn.relu, "tanh": jnp.tanh}[d["activation"].item()]
  return difficulty.grand_last_layer(d["logits"], d["labels"], act(hidden))


def cartography(d):
  return difficulty.data_map(
    d["logits"][: d["burn_out"].item()],
    d["labels"],
    interval=bool(d["include_ci"]),
  )


def depth(d):
  return difficulty.prediction_depth(
    d["support_emb"],
    d["support_labels"],
    d["query_emb"],
    d["final_prediction"],
    k=d["k"].item(),
    num_classes=d["classes"].item(),
    chunk_size=3,
  )


def probes(d):
  return jnp.stack(
    [
      difficulty.knn_predictions(
        support,
        d["support_labels"],
        query,
        k=d["k"].item(),
        num_classes=d["classes"].item(),
      )
      for support, query in zip(d["support_emb"], d["query_emb"], strict=True)
    ]
  )


def of(function):
  return lambda d: function(d["logits"], d["labels"])


# What is checked of each item: how it is computed, and what is expected.
CHECKS = {
  "basic_scores": [
    (of(difficulty.loss), lambda d: d["loss"]),
    (of(difficulty.confidence), lambda d: 1 - d["confidence_label"]),
    (of(difficulty.entropy), lambda d: d["entropy"]),
    (of(difficulty.margin), lambda d: -d["margin_prob"]),
    (of(difficulty.logit_margin), lambda d: -d["margin_logit"]),
  ],
  "el2n_grand": [
    (of(difficulty.el2n), lambda d: d["el2n"]),
    (of(difficulty.el1n), lambda d: d["el1n"]),
    (of(difficulty.margin), lambda d: d["max_margin_error"]),
    (grand, lambda d: d["grand"]),
    (last_layer, lambda d: d["grand_last_layer"]),
  ],
  "forgetting": [
    (
      lambda d: difficulty.forgetting(d["correct"]),
      lambda d: d["score_toneva"],
    ),
    (
      lambda d: difficulty.learned_epoch(d["correct"]),
      lambda d: d["presentations_to_learn"],
    ),
  ],
  "aum": [(of(difficulty.aum), lambda d: -d["aum"])],
  "cartography": [
    (lambda d: cartography(d).confidence, lambda d: d["confidence"]),
    (lambda d: cartography(d).variability, lambda d: d["variability"]),
    (lambda d: cartography(d).correctness, lambda d: d["correctness"]),
    (
      lambda d: difficulty.cumulative_confidence(
        d["logits"][: d["burn_out"].item()], d["labels"]
      ),
      lambda d: 1 - d["confidence"],
    ),
  ],
  "vog": [
    (lambda d: difficulty.vog(d["gradients"]), lambda d: d["vog"]),
    (
      lambda d: difficulty.normalize_by_class(
        difficulty.vog(d["gradients"]), d["labels"]
      ),
      lambda d: d["vog_class_normalised"],
    ),
  ],
  "prediction_depth": [
    (depth, lambda d: d["depth"]),
    (probes, lambda d: d["knn_prediction"]),
  ],
  "balance_order": [
    (
      lambda d: difficulty.balance_order(d["order"], d["labels"]),
      lambda d: d["balanced_order"],
    )
  ],
}


@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_scores_are_those_of_the_published_code(case):
  d = GOLDEN[case]
  checks = CHECKS[case.split("__")[0]]
  for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-5)):
    with jax.enable_x64(dtype == "float64"):
      held = {k: v for k, v in d.items() if v.dtype.kind == "U" or not v.ndim}
      arrays = {
        k: jnp.asarray(v, dtype if v.dtype.kind == "f" else v.dtype)
        for k, v in d.items()
        if k not in held
      }
      values = jax.jit(lambda a, h=held: [c(a | h) for c, _ in checks])(arrays)
      for value, (_, expected) in zip(values, checks, strict=True):
        wanted = np.asarray(expected(d))
        assert value.shape == wanted.shape
        scale = max(1, np.max(np.abs(wanted)))
        np.testing.assert_allclose(
          value, wanted, rtol=0, atol=tolerance * scale
        )


def test_a_cut_course_is_that_of_its_part_only():
  # The published VoG divides a sum over all checkpoints by a window's length.
  gradients = GOLDEN["vog__0"]["gradients"]
  window = gradients[2:]
  expected = window.mean(-1).std(0).mean((1, 2))
  np.testing.assert_allclose(difficulty.vog(window), expected, rtol=1e-5)
