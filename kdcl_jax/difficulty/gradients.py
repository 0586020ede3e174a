"""Difficulty from gradients: how much a record pulls at the model."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdcl_jax.difficulty.confidence import el2n
from kdcl_jax.difficulty.predictions import checked, of_label
from kdcl_jax.losses.arrays import safe_norm, safe_sqrt
from kdcl_jax.losses.reductions import as_float, check_number


def grand(
  loss_fn: Callable[..., jax.Array],
  params: Any,
  *examples: Any,
  chunk_size: int | None = None,
) -> jax.Array:
  """Norm of each example's gradient: `||d loss(params, x_i) / d params||_2`.

  Average it over some models early in training: at initialisation it says
  little more than the norm of the input. Compile it with your loss, batch by
  batch: `jax.jit(functools.partial(grand, loss_fn))`.

  Args:
    loss_fn: `(params, *example)` -> scalar loss of one example, whose arrays
      come without the axis of examples. In evaluation mode: an example's loss
      must not depend on the others.
    params: pytree of floating arrays, what the gradient is taken of.
    *examples: arrays or pytrees of arrays, each [N, ...]: inputs, labels.
    chunk_size: examples whose gradients are in memory at the same time, each as
      large as params; all N where None.

  Returns:
    [N] >= 0; larger is harder.

  Raises:
    ValueError: if there is no example, or chunk_size is not >= 1.

  Example:
    >>> loss_fn = lambda w, x: 0.5 * jnp.sum(w * x) ** 2
    >>> grand(loss_fn, jnp.array([1.0, 0.0]), jnp.array([[3.0, 4.0]])).tolist()
    [15.0]

  Reference: Paul, Ganguli and Dziugaite, "Deep learning on a data diet", 2021,
  arXiv:2107.07075, definition 2.1.
  """
  leaves = jax.tree.leaves(examples)
  if not leaves:
    raise ValueError("examples has no array, expected at least one, [N, ...].")
  chex.assert_equal_shape_prefix(leaves, 1)
  if chunk_size is not None:
    check_number("chunk_size", chunk_size, low=1)

  def norm(example: tuple[Any, ...]) -> jax.Array:
    gradient = jax.grad(loss_fn)(params, *example)
    parts = [safe_norm(as_float(g).ravel()) for g in jax.tree.leaves(gradient)]
    return safe_norm(jnp.stack(parts))

  if chunk_size is None or chunk_size >= leaves[0].shape[0]:
    return jax.vmap(norm)(examples)
  return jax.lax.map(norm, examples, batch_size=chunk_size)


def grand_last_layer(
  logits: ArrayLike,
  labels: ArrayLike,
  features: ArrayLike,
  *,
  bias: bool = True,
) -> jax.Array:
  """GraNd of the last layer in closed form: `el2n sqrt(||h||_2^2 + 1)`.

  For `z = h W + c` the gradient of the cross-entropy is h (p - y)^T for W and
  p - y for c, so one forward pass is enough.

  Args:
    logits: [N, K].
    labels: [N] integers in [0, K).
    features: h, inputs of the last layer, [N, ...] (flattened).
    bias: whether the layer has c; `el2n ||h||_2` without.

  Returns:
    [N] >= 0; larger is harder.

  Example:
    >>> logits, features = jnp.zeros((1, 2)), jnp.array([[1.0, 1.0, 1.0]])
    >>> round(float(grand_last_layer(logits, jnp.array([0]), features)[0]), 4)
    1.4142

  Reference: `grand` for the parameters of a linear layer.
  """
  error, features = el2n(logits, labels), as_float(features)
  chex.assert_equal_shape_prefix([error, features], 1)
  features = features.reshape(features.shape[0], -1)
  if bias:
    one = jnp.ones((features.shape[0], 1), features.dtype)
    features = jnp.concatenate([features, one], -1)
  return error * safe_norm(features)


def label_gradients(
  logits_fn: Callable[[jax.Array], jax.Array],
  inputs: ArrayLike,
  labels: ArrayLike,
) -> jax.Array:
  """How the label's logit depends on the input: `S = d z_y / d x`.

  One checkpoint's part of `vog`: compute it with the parameters of each and
  stack.

  Args:
    logits_fn: inputs [N, ...] -> logits [N, K], in evaluation mode: the logits
      of an example must not depend on the others.
    inputs: [N, ...], floating.
    labels: [N] integers in [0, K).

  Returns:
    The gradients, with the shape of the inputs.

  Example:
    >>> weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> inputs, labels = jnp.ones((1, 2)), jnp.array([1])
    >>> label_gradients(lambda x: x @ weights, inputs, labels).tolist()
    [[2.0, 4.0]]

  Reference: see `vog`.
  """
  return jax.grad(lambda x: jnp.sum(of_label(*checked(logits_fn(x), labels))))(
    as_float(inputs)
  )


def vog(gradients: ArrayLike, *, channel_axis: int | None = -1) -> jax.Array:
  """Variance of gradients over checkpoints: `mean_p sqrt(var_k S_kp)`.

  S_kp is the gradient of `label_gradients` at checkpoint k, averaged over the
  channels of pixel p. Classes differ in scale: `normalize_by_class` makes
  records of several classes comparable. For a part of the training give the
  gradients of its checkpoints only.

  Args:
    gradients: [C, N, ...], C checkpoints in any sequence; of images
      [C, N, H, W, channels].
    channel_axis: the axis averaged over before the variance is taken, None for
      inputs without channels.

  Returns:
    [N] >= 0; larger is harder. 0 for one checkpoint.

  Raises:
    ValueError: if the channels are no axis of the inputs, or all of them.

  Example:
    >>> gradients = jnp.array([[[1.0, 4.0]], [[3.0, 4.0]]])
    >>> vog(gradients, channel_axis=None).tolist()
    [0.5]

  Reference: Agarwal, D'souza and Hooker, "Estimating example difficulty using
  variance of gradients", 2022, arXiv:2008.11600. The published code
  sums over all checkpoints where a window of them is asked for, and divides by
  the length of the window.
  """
  gradients = as_float(gradients)
  chex.assert_rank(gradients, {2, 3, 4, 5, 6})
  if channel_axis is not None:
    axis = channel_axis + gradients.ndim * (channel_axis < 0)
    if gradients.ndim < 4 or not 2 <= axis < gradients.ndim:
      raise ValueError(
        f"channel_axis is {channel_axis} for gradients of shape"
        f" {gradients.shape}, expected one of several axes after"
        " [checkpoints, N], or None for inputs without channels."
      )
    gradients = jnp.mean(gradients, axis)
  deviations = gradients - jnp.mean(gradients, 0, keepdims=True)
  spread = safe_sqrt(jnp.mean(jnp.square(deviations), 0))
  return jnp.mean(spread.reshape(spread.shape[0], -1), -1)
