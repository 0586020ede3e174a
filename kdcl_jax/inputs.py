"""A model's own view of the pictures that a batch brings, on the device.

Of one batch a teacher and its student see the same records, cropped and
augmented alike; each then takes them at its own size, with its own sequence of
channels, mean and standard deviation.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdcl_jax.errors import UserError

CHANNELS = {"grey": 1, "rgb": 3, "bgr": 3}
METHODS = ("bilinear", "bicubic")
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
_RANK = 3  # height, width, channels


class Input(NamedTuple):
  """What a model does to a picture before its first layer.

  Attributes:
    mean: one for each channel, or one for all, or () for 0.
    std: one for each channel, or one for all, or () for 1.
    size: (height, width) in pixels, or () for as it comes.
    channels: 'grey', 'rgb' or 'bgr', or '' for as they come. Colours come as
      red, green, blue.
    interpolation: 'bilinear' or 'bicubic', smoothed where pixels get fewer.
  """

  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  size: tuple[int, ...] = ()
  channels: str = ""
  interpolation: str = METHODS[0]

  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies it.

    Args:
      x: [B, ...], a picture [B, H, W, C] where there is a size or channels; any
        real type.

    Returns:
      float32, [B, *self.shape(x.shape[1:])].

    Example:
      >>> x = jnp.zeros((2, 8, 8, 1), jnp.uint8)
      >>> Input(mean=(0.5,), size=(4, 4), channels="rgb")(x).shape
      (2, 4, 4, 3)
    """
    bounded = jnp.issubdtype(x.dtype, jnp.integer)
    x = scaled(x)
    if self.channels:
      x = _in_channels(x, self.channels)
    if self.size and x.shape[1:3] != self.size:
      method = {"bilinear": "linear", "bicubic": "cubic"}[self.interpolation]
      shape = (x.shape[0], *self.size, x.shape[-1])
      x = jax.image.resize(x, shape, method)
      x = jnp.clip(x, 0.0, 1.0) if bounded else x  # cubic curves overshoot
    return standardised(x, self.mean, self.std)

  def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one input as the model gets it, from that of the data.

    Example:
      >>> Input(size=(224, 224), channels="bgr").shape((28, 28, 1))
      (224, 224, 3)
    """
    height_width = self.size or tuple(shape[:-1])
    last = (CHANNELS[self.channels],) if self.channels else tuple(shape[-1:])
    return (*height_width, *last)

  def facts(self, shape: Sequence[int]) -> dict[str, Any]:
    """What another program must know, as JSON has it.

    Args:
      shape: of one input of the data.

    Returns:
      `mean`, `std`, and for pictures `size`, `channels`, `interpolation`.

    Example:
      >>> Input((0.5,), (0.25,)).facts((8, 8, 1))["channels"]
      'grey'
    """
    known = {"mean": list(self.mean), "std": list(self.std)}
    *size, channels = self.shape(shape) or (1,)
    if len(size) != _RANK - 1:
      return known
    named = {1: "grey", 3: "rgb"}.get(channels, "")
    return known | {
      "size": size,
      "channels": self.channels or named,
      "interpolation": self.interpolation,
    }

  def check(self, shape: Sequence[int], field: str) -> None:
    """Checks it against the data.

    Args:
      shape: of one input of the data.
      field: the config section, for messages.

    Raises:
      UserError: where it does not go with them.
    """
    picture = len(shape) == _RANK
    for name in ("size", "channels"):
      if getattr(self, name) and not picture:
        raise UserError(
          f"{field}.{name} is {getattr(self, name)!r}, but an input of the data"
          f" has the shape {tuple(shape)}, which is no picture of height, width"
          " and channels."
        )
    if self.channels and shape[-1] not in (1, 3):
      raise UserError(
        f"{field}.channels is {self.channels!r}, but the data has {shape[-1]}"
        " channels; expected 1 or 3."
      )
    count = self.shape(shape)[-1] if shape else 1
    for name in ("mean", "std"):
      numbers = getattr(self, name)
      if len(numbers) not in (0, 1, count):
        raise UserError(
          f"{field}.{name} has {len(numbers)} numbers, expected {count}, one"
          " for each channel of what the model gets, or one."
        )


def of(
  own: Mapping[str, Any], facts: Mapping[str, Any], data: Mapping[str, Any]
) -> Input:
  """A stage's input: what its config says, else its weights, else the data's.

  Args:
    own: the section `input` of a stage, its empty fields open.
    facts: what comes with its weights, as `Input.facts` has it; {} for nothing.
    data: `config.data`, with `mean` and `std`.

  Returns:
    The input.

  Example:
    >>> own = {"mean": (), "std": (), "size": 0, "channels": "bgr",
    ...        "interpolation": ""}
    >>> of(own, {"size": [32, 32]}, {"mean": (0.1, 0.2, 0.3), "std": ()})[:3]
    ((0.3, 0.2, 0.1), (), (32, 32))
  """
  channels = own["channels"] or facts.get("channels", "")

  def numbers(name: str) -> tuple[float, ...]:
    if own[name] or name in facts:
      return tuple(own[name] or facts[name])
    turned = -1 if channels == "bgr" else 1  # the data's are of r, g, b
    return tuple(data[name])[::turned]

  size = own["size"] or facts.get("size", ())
  return Input(
    mean=numbers("mean"),
    std=numbers("std"),
    size=(size, size) if isinstance(size, int) else tuple(size),
    channels=channels,
    interpolation=own["interpolation"]
    or facts.get("interpolation", METHODS[0]),
  )


def check_numbers(
  data: Mapping[str, Any], shape: Sequence[int], name: str
) -> None:
  """Checks the data's own mean and standard deviation.

  Args:
    data: `config.data`.
    shape: of one input.
    name: of the data, for messages.

  Raises:
    UserError: where there are too many or too few.
  """
  channels = shape[-1] if shape else 1
  for field in ("mean", "std"):
    numbers = data[field]
    if len(numbers) not in (0, 1, channels):
      raise UserError(
        f"config.data.{field} has {len(numbers)} numbers, expected"
        f" {channels}, one for each channel of {name!r}, or one."
      )


def preprocess(
  x: jax.Array, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> jax.Array:
  """Scales an integer input to [0, 1] and standardises its channels.

  Args:
    x: [B, ...] or [B, H, W, C], any real type.
    mean: C numbers (or 1), or () for 0.
    std: C numbers (or 1), or () for 1.

  Returns:
    float32 of the same shape.

  Example:
    >>> import numpy as np
    >>> preprocess(np.array([[255]], np.uint8), (0.5,), (0.5,)).tolist()
    [[1.0]]
  """
  return standardised(scaled(x), mean, std)


def scaled(x: jax.Array) -> jax.Array:
  """An integer input [B, ...] as float32 in [0, 1]; others as they are."""
  whole = jnp.issubdtype(x.dtype, jnp.integer)
  x = jnp.asarray(x, jnp.float32)
  return x / 255.0 if whole else x


def standardised(
  x: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """`(x - mean) / std` over the last axis; see `preprocess`."""
  shape = (1,) * (x.ndim - 1) + (-1,)
  if len(mean):
    x = x - jnp.reshape(jnp.asarray(mean, jnp.float32), shape)
  if len(std):
    x = x / jnp.reshape(jnp.asarray(std, jnp.float32), shape)
  return x


def _in_channels(x: jax.Array, channels: str) -> jax.Array:
  """A picture [B, H, W, 1 or 3] in the channels that a model wants."""
  have, want = x.shape[-1], CHANNELS[channels]
  if have == 1 and want != 1:
    return jnp.repeat(x, want, axis=-1)
  if have != 1 and want == 1:
    luma = jnp.asarray(_LUMA, jnp.float32)
    return jnp.einsum("...c,c->...", x, luma)[..., None]
  return x[..., ::-1] if channels == "bgr" and have == want else x
