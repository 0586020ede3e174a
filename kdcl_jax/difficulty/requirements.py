"""What a score asks of a model, where logits and labels are not enough.

A score is a function whose attribute `needs` names its arguments, in their
sequence. Those of `BATCH` are there for each batch of records, so the score is
computed with the forward pass. A score that needs one of `SUPPORT` compares
records with those that the model was trained on, all at once and afterwards.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from kdcl_jax.difficulty.confidence import loss
from kdcl_jax.difficulty.depth import prediction_depth
from kdcl_jax.difficulty.gradients import grand
from kdcl_jax.losses.reductions import as_float, check_number

Score = Callable[..., jax.Array]

BATCH = (
  "logits",  # [B, K] float32
  "labels",  # [B] observed
  "outputs",  # `logits`, `taps` (name -> [B, ...]) and `inputs`
  "layers",  # of `layers_of`, each [B, D]
  "forward",  # (variables, batch) -> (outputs, batch_stats)
  "variables",  # `params` and perhaps `batch_stats`
  "batch",  # `image`, `label`, `weight` and `id`, each [B, ...]
)
SUPPORT = (
  "support_layers",  # of the records that the model was trained on, [S, D]
  "support_labels",  # [S] observed
  "support_index",  # [B] where each record is among them; -1 where it is not
)
_AFTERWARDS = ("logits", "labels", "layers", *SUPPORT)
_DEFAULT = ("logits", "labels")
_WIDTH = 1024  # numbers of a layer that are kept of a record
_GRADIENTS = 2**26  # numbers in memory at the same time: 256 MB


def needs(
  *names: str, forwards: int = 0, backwards: int = 0
) -> Callable[[Score], Score]:
  """Declares what a score takes; one without takes `logits` and `labels`.

  Args:
    *names: of its arguments, in their sequence; see `BATCH` and `SUPPORT`.
    forwards: how often it sends each record forward through the model, besides
      the pass that gives the logits.
    backwards: how often it sends each record backward.

  Returns:
    A decorator that returns the same function.

  Raises:
    ValueError: for a name that there is not, or not together with the others.

  Example:
    >>> @needs("outputs")
    ... def length(outputs):
    ...   return jnp.linalg.norm(outputs["taps"]["f1"], axis=-1)
    >>> needs_of(length)
    ('outputs',)
  """
  known = _AFTERWARDS if set(names) & set(SUPPORT) else BATCH
  for name in names:
    if name not in known:
      beside = " beside the records trained on" if known is _AFTERWARDS else ""
      raise ValueError(
        f"needs is {names!r}, of which {name!r} is not there{beside}, expected"
        f" some of {', '.join(known if beside else BATCH + SUPPORT)}."
      )

  def declared(score: Score) -> Score:
    score.needs, score.forwards, score.backwards = names, forwards, backwards
    return score

  return declared


def needs_of(score: Score) -> tuple[str, ...]:
  """The names of a score's arguments.

  Args:
    score: a score.

  Returns:
    What `needs` declared, `logits` and `labels` where nothing did.

  Example:
    >>> needs_of(loss)
    ('logits', 'labels')
  """
  return tuple(getattr(score, "needs", _DEFAULT))


def compares(score: Score) -> bool:
  """Whether a score compares records with those that were trained on.

  Args:
    score: a score.

  Returns:
    True where it needs one of `SUPPORT`.

  Example:
    >>> compares(loss), compares(depth_of_model)
    (False, True)
  """
  return bool(set(needs_of(score)) & set(SUPPORT))


def layers_of(
  outputs: Mapping[str, Any], *, width: int = _WIDTH
) -> tuple[jax.Array, ...]:
  """A model's layers for probes: input, taps in their sequence, softmax.

  A layer of more than `width` numbers is hashed to so many: each is multiplied
  by a random sign (the same for all records) and added to a place. Squared
  distances are kept on average, to about sqrt(2 / width).

  Args:
    outputs: `inputs` [B, ...], `taps`, name -> [B, ...], and `logits` [B, K].
    width: the largest number of columns.

  Returns:
    A [B, at most width] for each layer.

  Raises:
    ValueError: if width is not >= 1.

  Example:
    >>> outputs = {"inputs": jnp.ones((2, 3)), "logits": jnp.zeros((2, 4))}
    >>> outputs["taps"] = {}
    >>> [layer.shape for layer in layers_of(outputs, width=3)]
    [(2, 3), (2, 3)]

  Reference: Weinberger, Dasgupta, Langford, Smola and Attenberg, "Feature
  hashing for large scale multitask learning", 2009, arXiv:0902.2206, section 2.
  """
  check_number("width", width, low=1)
  softmax = jax.nn.softmax(as_float(outputs["logits"]))
  layers = [outputs["inputs"], *outputs["taps"].values(), softmax]
  chex.assert_equal_shape_prefix(layers, 1)

  def bounded(layer: jax.Array) -> jax.Array:
    rows = as_float(layer).reshape(layer.shape[0], -1)
    size = rows.shape[1]
    if size <= width:
      return rows
    signs = jax.random.rademacher(jax.random.key(0), (1, size), rows.dtype)
    rows = jnp.pad(rows * signs, ((0, 0), (0, -size % width)))
    return jnp.sum(rows.reshape(rows.shape[0], -1, width), 1)

  return tuple(bounded(layer) for layer in layers)


@needs("forward", "variables", "batch", forwards=1, backwards=1)
def grand_of_model(
  forward: Callable[..., Any],
  variables: Mapping[str, Any],
  batch: Mapping[str, jax.Array],
) -> jax.Array:
  """`grand` of the cross-entropy over all parameters of a model.

  Each record goes through the model alone, in evaluation mode. So many
  gradients are in memory at a time as 256 MB hold, at least one.

  Args:
    forward: `(variables, batch) -> ({"logits": [B, K], ...}, batch_stats)`.
    variables: `params`, what the gradients are taken of, and further ones.
    batch: arrays [B, ...], of which `label` is the observed label.

  Returns:
    [B] >= 0; larger is harder.

  Example:
    >>> forward = lambda v, batch: ({"logits": batch["x"] @ v["params"]}, {})
    >>> batch = {"x": jnp.array([[3.0, 4.0]]), "label": jnp.array([0])}
    >>> grand = grand_of_model(forward, {"params": jnp.zeros((2, 2))}, batch)
    >>> round(float(grand[0]), 4)
    3.5355

  Reference: see `grand`.
  """
  rest = {name: v for name, v in variables.items() if name != "params"}

  def loss_of(params: Any, example: Mapping[str, jax.Array]) -> jax.Array:
    one = jax.tree.map(lambda x: x[None], example)
    outputs = forward({"params": params} | rest, one)[0]
    return loss(outputs["logits"], one["label"])[0]

  params = variables["params"]
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  chunk = max(1, _GRADIENTS // max(size, 1))
  return grand(loss_of, params, dict(batch), chunk_size=chunk)


@needs("logits", "layers", *SUPPORT)
def depth_of_model(
  logits: jax.Array,
  layers: tuple[jax.Array, ...],
  support_layers: tuple[jax.Array, ...],
  support_labels: jax.Array,
  support_index: jax.Array,
  *,
  k: int = 30,
) -> jax.Array:
  """`prediction_depth` by probes on the records that a model was trained on.

  Args:
    logits: of the records in question, [Q, K].
    layers: theirs, each [Q, D]; see `layers_of`.
    support_layers: of the records trained on, each [S, D].
    support_labels: [S] integers in [0, K).
    support_index: [Q], where in the support each record is; -1 for none.
    k: neighbours of each probe; S - 1 where there are fewer.

  Returns:
    [Q] in [0, L]; larger is harder.

  Raises:
    ValueError: if the support has fewer than two records.

  Example:
    >>> support = (jnp.array([[0.0], [0.1], [9.0]]),)
    >>> depth_of_model(
    ...   jnp.array([[0.0, 1.0]]), (jnp.array([[8.0]]),), support,
    ...   jnp.array([1, 1, 0]), jnp.array([-1]), k=1
    ... ).tolist()
    [1.0]

  Reference: see `prediction_depth`.
  """
  return prediction_depth(
    support_layers,
    support_labels,
    layers,
    jnp.argmax(jnp.asarray(logits), -1),
    k=min(k, len(support_labels) - 1),
    num_classes=logits.shape[-1],
    support_index=support_index,
  )
