"""Arrays in an .npz file."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import lookup, npz
from kdcl_jax.errors import UserError
from kdcl_jax.randomness import permute
from kdcl_jax.sources import ArraySource, Splits

_SPLIT = 0x7E57
_SPELLINGS = {
  "train_image": ("train_image", "x_train", "train_images"),
  "train_label": ("train_label", "y_train", "train_labels"),
  "test_image": ("test_image", "x_test", "test_images"),
  "test_label": ("test_label", "y_test", "test_labels"),
}


def load(section: Mapping[str, Any], *, seed: int) -> Splits:
  """Reads an .npz file; pickled objects in it are refused.

  Args:
    section: `config.data`: `path`, and `options.test` (share in (0, 1)) for a
      file that holds only `image` and `label`; `options.label_names`.
    seed: draws the test records of such a file.

  Returns:
    The splits.

  Raises:
    UserError: where the file cannot be read or lacks an array.
  """
  options = section["options"]
  lookup.check_names(
    options, ("test", "label_names"), "npz", "config.data.options"
  )
  arrays = npz.read(section["path"], "config.data.path")
  field = f"config.data.path ({section['path']!r})"
  if "image" in arrays and "train_image" not in arrays:
    arrays = _divided(arrays, options.get("test", 0.2), seed, field)
  return splits(arrays, field, tuple(options.get("label_names", ())))


def _divided(
  arrays: Mapping[str, np.ndarray], share: float, seed: int, field: str
) -> dict[str, np.ndarray]:
  """A seeded share of the records becomes the test records."""
  if not isinstance(share, float) or not 0 < share < 1:
    raise UserError(
      f"config.data.options.test is {share!r}, expected a share in (0, 1)."
    )
  if "label" not in arrays:
    raise UserError(f"{field} has no array 'label'.")
  image, label = arrays["image"], arrays["label"]
  _check_lengths("image", image, "label", label, field)
  count = len(label)
  shuffled = permute(np.arange(count), count, seed, _SPLIT)
  cut = max(1, round(share * count))
  test, train = np.sort(shuffled[:cut]), np.sort(shuffled[cut:])
  return {
    f"{split}_{name}": arrays[name][ids]
    for split, ids in (("train", train), ("test", test))
    for name in ("image", "label")
  }


def splits(
  arrays: Mapping[str, np.ndarray], field: str, names: tuple[str, ...] = ()
) -> Splits:
  """Splits from arrays by name, checked.

  Args:
    arrays: `train_image`, `train_label`, `test_image`, `test_label`, or
      `x_train`, `y_train`, `x_test`, `y_test`.
    field: what they come from, for messages.
    names: names of the classes, numbers where not given.

  Raises:
    UserError: for a missing array, lengths that differ, labels out of range.
  """
  found = {}
  for name, spellings in _SPELLINGS.items():
    present = [s for s in spellings if s in arrays]
    if not present:
      raise UserError(
        f"{field} has no array {name!r}; it has {', '.join(arrays) or 'none'}."
      )
    found[name] = np.asarray(arrays[present[0]])
  for split in ("train", "test"):
    image, label = found[f"{split}_image"], found[f"{split}_label"]
    _check_lengths(f"{split}_image", image, f"{split}_label", label, field)
    whole = np.issubdtype(label.dtype, np.integer)
    if not whole or label.min() < 0:
      least = f" from {label.min()}" if whole else ""
      raise UserError(
        f"{field}: {split}_label holds {label.dtype}{least}, expected whole"
        " numbers from 0."
      )
    if image.dtype != np.uint8:
      if image.dtype.kind not in "biuf":
        raise UserError(
          f"{field}: {split}_image holds {image.dtype}, expected real numbers."
        )
      image = image.astype(np.float32)
      if not np.isfinite(image).all():
        raise UserError(f"{field}: {split}_image holds NaN or infinity.")
    if image.ndim == 3:  # grey images without an axis for their channel
      image = image[..., None]
    found[f"{split}_image"] = image
    found[f"{split}_label"] = label.astype(np.int64)
  train, test = found["train_image"].shape[1:], found["test_image"].shape[1:]
  if train != test:
    raise UserError(
      f"{field}: train_image holds inputs of shape {train} and test_image"
      f" {test}."
    )
  if found["train_image"].dtype != found["test_image"].dtype:
    raise UserError(
      f"{field}: train_image holds {found['train_image'].dtype} and test_image"
      f" {found['test_image'].dtype}, expected the same of both (uint8 is"
      " divided by 255, others are not)."
    )
  top = max(found["train_label"].max(), found["test_label"].max())
  names = names or tuple(str(c) for c in range(int(top) + 1))
  if top >= len(names):
    raise UserError(
      f"{field} has the label {top}, but there are only {len(names)} names of"
      " classes (config.data.options.label_names)."
    )
  return Splits(
    ArraySource(found["train_image"], found["train_label"]),
    ArraySource(found["test_image"], found["test_label"]),
    names,
    train,
  )


def _check_lengths(
  image_name: str,
  image: np.ndarray,
  label_name: str,
  label: np.ndarray,
  field: str,
) -> None:
  lengths = image.shape[:1], label.shape
  if lengths[0] != lengths[1] or len(label.shape) != 1 or len(label) == 0:
    raise UserError(
      f"{field}: {image_name} has shape {image.shape} and {label_name}"
      f" {label.shape}, expected one label for each of at least one record."
    )
