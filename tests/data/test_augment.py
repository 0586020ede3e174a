"""Views are functions of (seed, record id, visit), whatever is around them."""

import numpy as np
import pytest

from kdcl_jax import augment
from kdcl_jax.errors import UserError

ALL = (
  {"name": "pad_crop", "pad": 2},
  {"name": "flip"},
  {"name": "cutout", "size": 3},
)


def batch(ids, visits, images=None):
  ids = np.asarray(ids)
  rng = np.random.default_rng(0)
  store = rng.integers(1, 256, (50, 8, 6, 2)).astype(np.uint8)
  return {
    "image": store[ids] if images is None else images,
    "label": ids.astype(np.int32) % 3,
    "id": ids,
    "visit": np.asarray(visits),
    "weight": np.ones(len(ids), np.float32),
  }


def test_a_view_is_the_same_alone_and_in_any_batch_at_any_place():
  view = augment.build(ALL)
  whole = view(batch([4, 9, 4, 30], [0, 0, 1, 2]), 7)["image"]
  for row, (record, visit) in enumerate([(4, 0), (9, 0), (4, 1), (30, 2)]):
    alone = view(batch([record], [visit]), 7)["image"][0]
    np.testing.assert_array_equal(alone, whole[row])
  assert (whole[0] != whole[2]).any()  # another visit, another view
  other = view(batch([4], [0]), 8)["image"][0]
  assert (other != whole[0]).any()  # another seed, another view


def test_pad_crop_is_one_of_the_windows_of_the_padded_picture():
  rows = batch(np.arange(50), np.arange(50))
  out = augment.pad_crop(pad=2)(rows, 0)["image"]
  seen = set()
  for before, after in zip(rows["image"], out, strict=True):
    padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
    found = [
      (y, x)
      for y in range(5)
      for x in range(5)
      if (padded[y : y + 8, x : x + 6] == after).all()
    ]
    assert len(found) == 1
    seen.update(found)
  assert len(seen) > 15  # of 25


def test_flip_mirrors_about_half_of_the_pictures():
  rows = batch(np.arange(50), np.zeros(50, int))
  out = augment.flip()(rows, 0)["image"]
  same = np.array(
    [(a == b).all() for a, b in zip(rows["image"], out, strict=True)]
  )
  mirrored = (rows["image"][:, :, ::-1] == out).all((1, 2, 3))
  assert (same ^ mirrored).all() and 15 < mirrored.sum() < 35


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_zeroes_one_square_cut_off_at_the_border(size):
  rows = batch(np.arange(50), np.zeros(50, int))
  out = augment.cutout(size=size)(rows, 0)["image"]
  widest = 0
  for before, after in zip(rows["image"], out, strict=True):
    cut = (after == 0).all(-1)  # no pixel was 0 before
    y, x = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
    assert cut.sum() == len(y) * len(x)
    assert (np.diff(y) == 1).all() and (np.diff(x) == 1).all()
    assert size // 2 <= len(y) <= size and size // 2 <= len(x) <= size
    widest = max(widest, min(len(y), len(x)))
    np.testing.assert_array_equal(before[~cut], after[~cut])
  assert widest == size


def test_mixup_mixes_pairs_by_a_beta_distributed_share():
  rows = batch(np.arange(50), np.arange(50))
  out = augment.mixup(alpha=0.4)(rows, 0)
  image = rows["image"].astype(np.float32) / 255
  partner = np.arange(50) ^ 1
  share = out["mix"][:, None, None, None]
  want = share * image + (1 - share) * image[partner]
  np.testing.assert_allclose(out["image"], want, rtol=1e-6)
  np.testing.assert_array_equal(out["mix_label"], rows["label"][partner])
  many = batch(np.zeros(20_000, int), np.arange(20_000), np.zeros((20_000, 1)))
  mix = augment.mixup(alpha=0.4)(many, 0)["mix"]
  assert mix.mean() == pytest.approx(0.5, abs=0.01)
  assert mix.var() == pytest.approx(0.25 / 1.8, abs=0.003)  # Beta's variance


def test_a_row_whose_partner_is_not_there_stays_as_it_is():
  rows = batch([1, 2, 3], [0, 0, 0])
  rows["weight"][1] = 0.0
  out = augment.mixup(alpha=0.4)(rows, 0)
  np.testing.assert_allclose(out["image"][0], rows["image"][0] / 255, rtol=1e-6)
  # The last row of an odd batch is its own partner.
  np.testing.assert_allclose(out["image"][2], rows["image"][2] / 255, rtol=1e-5)


@pytest.mark.parametrize(
  ("section", "words"),
  [
    ({"name": "flop"}, "did you mean 'flip'"),
    ({"name": "pad_crop", "pads": 3}, "'pad'"),
    ({"name": "pad_crop", "pad": 0}, "pad is 0"),
    ({"name": "mixup", "alpha": -1.0}, "alpha is -1.0"),
    ("flip", "expected a dictionary"),
  ],
)
def test_a_wrong_augmentation_is_named(section, words):
  with pytest.raises(UserError, match=words):
    augment.build((section,))
