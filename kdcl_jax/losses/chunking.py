"""Losses over many tokens, a chunk at a time."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

PER_EXAMPLE_KEYWORDS = ("where", "temperature")


def chunked(
  loss: Callable[..., jax.Array], chunk_size: int
) -> Callable[..., jax.Array]:
  """The same pointwise loss, computed for `chunk_size` tokens at a time.

  Softmaxes over a large vocabulary are made for one chunk and thrown away;
  the backward pass makes them again. What stays is the arguments and, where
  they are differentiated, their gradients. To avoid whole logits as well, give
  a loss of hidden states that applies the output layer itself.

  The wrapped function needs token counts that `chunk_size` divides to be free
  of copies; a remainder is split off, which copies the arguments once.

  Args:
    loss: a function of arrays [..., K] (and labels [...]) that returns one
      value per token, [...]: any pointwise loss here, or your own.
    chunk_size: tokens per chunk, >= 1.

  Returns:
    A function with the signature of `loss`. The keywords `where` and
    `temperature` are split along with the tokens where they are given per
    token; all others reach every chunk whole.

  Raises:
    ValueError: if chunk_size is not a whole number >= 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from kdcl_jax.losses import forward_kl
    >>> small = chunked(forward_kl, 2)
    >>> print(small(jnp.zeros((3, 4, 9)), jnp.ones((3, 4, 9))).shape)
    (3, 4)
  """
  if not isinstance(chunk_size, int) or chunk_size < 1:
    raise ValueError(
      f"chunk_size is {chunk_size!r}, expected a whole number >= 1."
    )

  @functools.wraps(loss)
  def over_chunks(*arrays: Any, **options: Any) -> jax.Array:
    if options.get("axis", -1) not in (-1, jnp.ndim(arrays[0]) - 1):
      raise ValueError(
        f"axis is {options['axis']}, expected -1: chunks are taken over all"
        " axes but the last."
      )
    tokens = jnp.shape(arrays[0])[:-1]
    for array in arrays:
      chex.assert_equal(
        jnp.shape(array)[: len(tokens)],
        tokens,
        custom_message="arrays of a chunked loss need the same token axes",
      )
    split = {}
    for name in PER_EXAMPLE_KEYWORDS:
      rank = 0 if options.get(name) is None else jnp.ndim(options[name])
      if rank >= len(tokens) > 0:
        shape = tokens + jnp.shape(options[name])[len(tokens) :]
        split[name] = jnp.broadcast_to(options[name], shape)
    whole = {k: v for k, v in options.items() if k not in split}

    @jax.checkpoint
    def one_chunk(chunk: tuple[tuple[Any, ...], dict[str, Any]]) -> jax.Array:
      return loss(*chunk[0], **chunk[1], **whole)

    flat = jax.tree.map(
      lambda x: jnp.reshape(x, (-1, *jnp.shape(x)[len(tokens) :])),
      (arrays, split),
    )
    count = jax.tree.leaves(flat)[0].shape[0]
    steps, rest = divmod(count, chunk_size)
    parts = []
    if steps:
      main = jax.tree.map(
        lambda x: x[: steps * chunk_size].reshape(
          steps, chunk_size, *x.shape[1:]
        ),
        flat,
      )
      parts.append(jax.lax.map(one_chunk, main).reshape(-1))
    if rest:
      parts.append(one_chunk(jax.tree.map(lambda x: x[count - rest :], flat)))
    losses = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return losses.reshape(tokens)

  return over_chunks
