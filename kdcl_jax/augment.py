"""Views of records: each a pure function of (seed, record id, visit).

The same view can be made again later, by anyone, alone or in another batch. The
one exception is `mixup`, whose views also depend on the partner in the batch,
which is a function of (seed, step) as the batch is. Numbers may change over a
stage; a view is then a function of the progress of its step as well. What
`WINDOWS` has is done by the reader, which need not decode what is not seen.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdcl_jax import lookup, resampling, schedules
from kdcl_jax.errors import UserError
from kdcl_jax.randomness import integers, uniform
from kdcl_jax.sources.windows import Window, Windows, random_resized_crop

Batch = dict[str, np.ndarray]

_BLOCK = 2**17  # numbers that are resampled at once, so that a cache holds them
_CROP_Y, _CROP_X, _FLIP, _CUT_Y, _CUT_X, _MIX = range(0xA06, 0xA0C)


def pad_crop(*, pad: int = 4) -> Callable[[Batch, int], Batch]:
  """Pads with zeros on every side and crops a random window of the old size.

  Args:
    pad: pixels on each side, at least 1.

  Returns:
    (batch, seed) -> batch; `image` is [B, H, W, C].

  Raises:
    ValueError: where pad is not a whole number >= 1.
  """
  if not isinstance(pad, int) or pad < 1:
    raise ValueError(f"pad is {pad!r}, expected a whole number >= 1")

  def apply(batch: Batch, seed: int) -> Batch:
    image = batch["image"]
    height, width = image.shape[1:3]
    keys = (batch["id"], batch["visit"])
    top = integers(2 * pad + 1, seed, _CROP_Y, *keys)
    left = integers(2 * pad + 1, seed, _CROP_X, *keys)
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    row = np.arange(len(image))[:, None, None]
    y = top[:, None, None] + np.arange(height)[None, :, None]
    x = left[:, None, None] + np.arange(width)[None, None, :]
    return batch | {"image": padded[row, y, x]}

  return apply


def flip(*, probability: float = 0.5) -> Callable[[Batch, int], Batch]:
  """Mirrors left and right with a probability.

  Args:
    probability: in [0, 1].

  Returns:
    (batch, seed) -> batch; `image` is [B, H, W, C].

  Raises:
    ValueError: where the probability is outside [0, 1].
  """
  if not 0 <= probability <= 1:
    raise ValueError(f"probability is {probability!r}, expected it in [0, 1]")

  def apply(batch: Batch, seed: int) -> Batch:
    image = batch["image"]
    turned = uniform(seed, _FLIP, batch["id"], batch["visit"]) < probability
    mirrored = np.where(turned[:, None, None, None], image[:, :, ::-1], image)
    return batch | {"image": mirrored}

  return apply


def cutout(*, size: int = 8) -> Callable[[Batch, int], Batch]:
  """Sets a square at a random centre to zero, cut off at the border.

  Args:
    size: side of the square in pixels, at least 1.

  Returns:
    (batch, seed) -> batch; `image` is [B, H, W, C].

  Raises:
    ValueError: where size is not a whole number >= 1.

  Reference: DeVries and Taylor, "Improved regularization of convolutional
  neural networks with cutout", 2017, arXiv:1708.04552.
  """
  if not isinstance(size, int) or size < 1:
    raise ValueError(f"size is {size!r}, expected a whole number >= 1")

  def apply(batch: Batch, seed: int) -> Batch:
    image = batch["image"]
    height, width = image.shape[1:3]
    keys = (batch["id"], batch["visit"])

    def inside(key: int, length: int) -> np.ndarray:
      # An odd square is centred on a pixel, an even one between two.
      centre = integers(length + 1 - size % 2, seed, key, *keys)
      offset = np.arange(length) - (centre - size // 2)[:, None]
      return (offset >= 0) & (offset < size)

    y, x = inside(_CUT_Y, height), inside(_CUT_X, width)
    cut = (y[:, :, None] & x[:, None, :])[..., None]
    return batch | {"image": np.where(cut, np.zeros((), image.dtype), image)}

  return apply


def mixup(*, alpha: float = 0.2) -> Callable[[Batch, int], Batch]:
  """Mixes the rows 2k and 2k + 1 of a batch with each other.

  `x = m x_i + (1 - m) x_j`, m ~ Beta(alpha, alpha), and the loss is
  `m l(y_i) + (1 - m) l(y_j)`. A row whose partner is not there stays as it is.

  Args:
    alpha: of the Beta distribution, > 0.

  Returns:
    (batch, seed) -> batch with float32 `image`, `mix_label` and `mix`.

  Raises:
    ValueError: where alpha is not > 0.

  Reference: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: beyond empirical risk
  minimization", 2018, arXiv:1710.09412.
  """
  if not alpha > 0:
    raise ValueError(f"alpha is {alpha!r}, expected a number > 0")

  def apply(batch: Batch, seed: int) -> Batch:
    from scipy.special import betaincinv  # slow to import

    rows = np.arange(len(batch["id"]))
    partner = np.minimum(rows ^ 1, len(rows) - 1)
    chance = uniform(seed, _MIX, batch["id"], batch["visit"])
    mix = betaincinv(alpha, alpha, chance)
    mix = np.where(batch["weight"][partner] > 0, mix, 1.0).astype(np.float32)
    image = batch["image"]
    if image.dtype == np.uint8:
      image = image.astype(np.float32) / 255.0
    share = mix.reshape((-1,) + (1,) * (image.ndim - 1))
    return batch | {
      "image": share * image + (1 - share) * image[partner],
      "mix": mix,
      "mix_label": batch["label"][partner],
    }

  return apply


def resolution(
  *, size: float, method: str = "bilinear"
) -> Callable[[Batch, int], Batch]:
  """Takes detail away: down to fewer pixels and up to as many as before.

  Down, a pixel is the mean of the area that it covers; up, see `method`. The
  shape stays, so that a size that grows over a stage costs no compilation.

  Args:
    size: up to 1 a share of height and width, above 1 the pixels of the shorter
      side, the other one in proportion; each side is rounded, to at least one
      pixel. A picture that is not larger stays as it is.
    method: 'bilinear' or 'nearest'; see `kdcl_jax.resampling.enlarged`.

  Returns:
    (batch, seed) -> batch; `image` is [B, H, W, C] and keeps its type.

  Raises:
    ValueError: where size is not a number > 0, or the method is unknown.
  """
  number = isinstance(size, int | float) and not isinstance(size, bool)
  if not number or not 0 < size < math.inf:
    raise ValueError(
      f"size is {size!r}, expected a share in (0, 1] or a number of pixels"
    )
  if method not in resampling.METHODS:
    raise ValueError(
      f"method is {method!r}, expected one of {', '.join(resampling.METHODS)}"
    )

  def apply(batch: Batch, seed: int) -> Batch:
    image = batch["image"]
    shape = image.shape[1:3]
    share = size if size <= 1 else min(size / min(shape), 1.0)
    small = tuple(max(_whole(share * side), 1) for side in shape)
    if small == shape:
      return batch
    view = np.empty_like(image)
    rows = max(_BLOCK // image[0].size, 1)
    for block in range(0, len(image), rows):
      some = slice(block, block + rows)
      found = resampling.averaged(image[some], small)
      found = resampling.enlarged(found, shape, method)
      if np.issubdtype(image.dtype, np.integer):
        found = np.rint(found)
      view[some] = found
    return batch | {"image": view}

  return apply


AUGMENTATIONS: dict[str, Callable[..., Callable[[Batch, int], Batch]]] = {
  "pad_crop": pad_crop,
  "flip": flip,
  "cutout": cutout,
  "mixup": mixup,
  "resolution": resolution,
}
WINDOWS: dict[str, Callable[..., Windows]] = {
  "random_resized_crop": random_resized_crop
}
_KNOWN = AUGMENTATIONS | WINDOWS
_OF_PICTURES = ("pad_crop", "flip", "cutout", "resolution", *WINDOWS)
# A schedule may bring these down to 0, where the augmentation is left out.
_STRENGTHS = {"pad_crop": "pad", "cutout": "size"}


@dataclasses.dataclass(frozen=True)
class Views:
  """The augmentations of `config.data.augment`, one after the other.

  Attributes:
    steps: progress -> ((batch, seed) -> batch), one for each.
    reader: progress -> windows, of what the reader does before these; None
      where it takes whole pictures.
  """

  steps: Sequence[Callable[[float], Callable[[Batch, int], Batch]]]
  reader: Callable[[float], Windows] | None

  def __call__(self, batch: Batch, seed: int, progress: float = 0.0) -> Batch:
    """A batch of views of what the reader has taken."""
    for step in self.steps:
      batch = step(progress)(batch, seed)
    return batch

  def windows(
    self, ids: np.ndarray, visits: np.ndarray, seed: int, progress: float
  ) -> Sequence[Window] | None:
    """The part of each picture that the reader takes; None for whole ones."""
    if self.reader is None:
      return None
    return self.reader(progress)(ids, visits, seed)


def build(sections: Sequence[Mapping[str, Any]]) -> Views:
  """The augmentations of `config.data.augment`.

  Args:
    sections: each with `name` and the arguments of that augmentation. Numbers
      may be schedules of the stage's progress, see `kdcl_jax.schedules`; those
      that must be whole are rounded.

  Returns:
    (batch, seed, progress=0.0) -> batch, and what the reader does.

  Raises:
    UserError: for an unknown name or argument, or one out of range.
  """
  steps, reader = [], None
  for place, section in enumerate(sections):
    field = f"config.data.augment[{place}]"
    if not isinstance(section, Mapping) or "name" not in section:
      raise UserError(
        f"{field} is {section!r}, expected a dictionary like dict(name='flip')."
      )
    step = _step(section, field)
    if section["name"] not in WINDOWS:
      steps.append(step)
    elif place == 0:
      reader = step
    else:
      raise UserError(
        f"{field}.name is {section['name']!r}, which chooses what is decoded of"
        " a picture; expected it first in config.data.augment."
      )
  return Views(tuple(steps), reader)


def _step(
  section: Mapping[str, Any], field: str
) -> Callable[[float], Callable[..., Any]]:
  """From progress to what a section names; checked for a whole stage."""
  function = lookup.find(_KNOWN, section["name"], f"{field}.name")
  arguments = {k: v for k, v in section.items() if k != "name"}
  numbers = paced(section, field)
  if not numbers:
    constant = lookup.call(function, arguments, field)
    return lambda progress: constant
  strength = _STRENGTHS.get(section["name"])

  def at(progress: float) -> Callable[..., Any]:
    values = {name: number(progress) for name, number in numbers.items()}
    if values.get(strength) == 0:
      return lambda batch, seed: batch
    return lookup.call(function, arguments | values, field)

  moments = _moments(section)
  for progress in moments:
    at(progress)
  if function is resolution and "size" in numbers:
    sizes = [numbers["size"](progress) for progress in moments]
    if min(sizes) <= 1 < max(sizes):
      raise UserError(
        f"{field}.size goes from {sizes[0]:g} to {sizes[-1]:g}, expected only"
        " shares in (0, 1] or only numbers of pixels above 1."
      )
  return at


def _moments(section: Mapping[str, Any]) -> list[float]:
  """Moments of a stage between whose values all others lie."""
  moments = {0.0, 1.0}  # every curve stays between its ends
  for spec in section.values():
    if isinstance(spec, Mapping) and "values" in spec:
      begin, reach = spec.get("begin", 0.0), spec.get("reach", 1.0)
      parts = len(spec["values"])
      middle = (np.arange(parts) + 0.5) / parts
      moments.update((begin + (reach - begin) * middle).tolist())
  return sorted(moments)


def paced(
  section: Mapping[str, Any], field: str
) -> dict[str, Callable[[float], float]]:
  """The arguments of an augmentation that change over a stage.

  Args:
    section: one of `config.data.augment`.
    field: its name in messages.

  Returns:
    argument -> (progress -> value).

  Raises:
    UserError: for an unknown name, or what is no schedule.
  """
  function = lookup.find(_KNOWN, section["name"], f"{field}.name")
  parameters = inspect.signature(function).parameters
  found = {}
  for name, spec in section.items():
    if isinstance(spec, Mapping):
      value = schedules.build(spec, f"{field}.{name}")
      whole = name in parameters and parameters[name].annotation in (int, "int")
      rounded = lambda progress, value=value: _whole(value(progress))
      found[name] = rounded if whole else value
  return found


def _whole(number: float) -> int:
  """The nearest whole number, the larger one of two."""
  return math.floor(number + 0.5)


def check(
  sections: Sequence[Mapping[str, Any]], shape: tuple[int, ...]
) -> None:
  """Raises `UserError` where an augmentation needs pictures and gets none.

  Args:
    sections: as for `build`.
    shape: shape of an input.
  """
  for place, section in enumerate(sections):
    if section["name"] in _OF_PICTURES and len(shape) != 3:
      raise UserError(
        f"config.data.augment[{place}].name is {section['name']!r}, which needs"
        f" pictures of shape (height, width, channels), but the inputs have"
        f" shape {shape}."
      )
