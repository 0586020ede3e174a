"""Views that change over a stage, and pictures that get their detail late."""

import dataclasses
import hashlib

import numpy as np
import pytest
from PIL import Image

from kdcl_jax import augment, dataset, pipeline, resampling, stages, train
from kdcl_jax import config as kdcl
from kdcl_jax import parallel as devices
from kdcl_jax.errors import UserError

CONSTANT = (
  {"name": "pad_crop", "pad": 2},
  {"name": "flip", "probability": 0.3},
  {"name": "cutout", "size": 3},
)
PACED = (
  {"name": "resolution", "size": {"start": 3, "end": 8, "curve": "root"}},
  {"name": "pad_crop", "pad": {"start": 0, "end": 3}},
  {"name": "flip", "probability": {"start": 0.0, "end": 1.0, "reach": 0.5}},
  {"name": "cutout", "size": {"start": 4, "end": 0, "begin": 0.5}},
)


def batch(ids, visits, images=None):
  ids = np.asarray(ids)
  if images is None:
    images = np.random.default_rng(0).integers(1, 256, (50, 8, 6, 2))
    images = images.astype(np.uint8)[ids]
  return {
    "image": images,
    "label": ids.astype(np.int32) % 3,
    "id": ids,
    "visit": np.asarray(visits),
    "weight": np.ones(len(ids), np.float32),
  }


def many():
  return batch(np.arange(40), np.arange(40) % 7)


def smoothed(size, method="bilinear", images=None):
  rows = many() if images is None else batch([0] * len(images), 0, images)
  return augment.resolution(size=size, method=method)(rows, 0)["image"]


def matrix(many, few, method):
  """Down and up along one axis as a matrix, entry by entry from its meaning."""
  down, up = np.zeros((few, many)), np.zeros((many, few))
  for i in range(few):
    low, high = i * many / few, (i + 1) * many / few
    for j in range(many):
      down[i, j] = max(min(high, j + 1) - max(low, j), 0) / (high - low)
  for i in range(many):
    centre = (i + 0.5) * few / many - 0.5
    for j in range(few):
      up[i, j] = max(1 - abs(min(max(centre, 0), few - 1) - j), 0)
    if method == "nearest":
      up[i] = np.arange(few) == int((i + 0.5) * few / many)
  return up @ down


def test_constant_numbers_give_the_views_that_they_gave_before_schedules():
  digests = []
  for section in (*CONSTANT, {"name": "flip"}):
    for progress in (0.0, 0.7):
      out = augment.build((section,))(many(), 11, progress)
      content = b"".join(
        np.ascontiguousarray(out[key]).tobytes() for key in sorted(out)
      )
      digests.append(hashlib.sha256(content).hexdigest()[:16])
  assert digests[::2] == digests[1::2]
  assert digests[::2] == [
    "f37198a4841e6f77",
    "b14c6348041a90f1",
    "fe0a554fe3dd5d9b",
    "b73ec193c063cfc0",
  ]


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_a_schedule_gives_at_each_moment_what_that_number_gives(progress):
  numbers = {
    "resolution": {"size": 3 + 5 * progress**0.5},
    "pad_crop": {"pad": int(3 * progress + 0.5)},
    "flip": {"probability": min(2 * progress, 1.0)},
    "cutout": {"size": int(4 - 4 * max(2 * progress - 1, 0) + 0.5)},
  }
  for section in PACED:
    name = section["name"]
    got = augment.build((section,))(many(), 5, progress)["image"]
    if 0 in numbers[name].values() and name != "flip":
      want = many()["image"]  # left out
    else:
      op = augment.AUGMENTATIONS[name](**numbers[name])
      want = op(many(), 5)["image"]
    np.testing.assert_array_equal(got, want)


def test_values_one_after_the_other_hold_for_equal_parts():
  view = augment.build(
    ({"name": "resolution", "size": {"values": (2, 4, 6), "reach": 0.6}},)
  )
  for progress, size in ((0.0, 2), (0.15, 2), (0.2, 4), (0.5, 6), (0.9, 6)):
    np.testing.assert_array_equal(
      view(many(), 0, progress)["image"], smoothed(size)
    )


def test_a_paced_view_is_the_same_alone_and_in_any_batch_at_any_place():
  view = augment.build(PACED)
  for images in (None, np.random.default_rng(1).normal(size=(4, 8, 6, 2))):
    rows = batch([4, 9, 4, 30], [0, 0, 1, 2], images)
    whole = view(rows, 7, 0.6)["image"]
    for row in range(4):
      one = {key: value[row : row + 1] for key, value in rows.items()}
      np.testing.assert_array_equal(view(one, 7, 0.6)["image"][0], whole[row])
    later = view(rows, 7, 0.9)["image"]
    assert later.shape == whole.shape and later.dtype == whole.dtype
    assert (later != whole).any()


@pytest.mark.parametrize("method", resampling.METHODS)
@pytest.mark.parametrize("size", [1.4, 2, 4, 5, 0.3, 0.5, 0.9])
def test_resolution_averages_areas_and_comes_back_as_its_matrix_says(
  size, method
):
  image = np.random.default_rng(0).normal(size=(5, 8, 6, 2))
  share = size if size <= 1 else size / 6
  high, wide = (max(int(share * side + 0.5), 1) for side in (8, 6))
  want = np.einsum(
    "ij,bjkc,lk->bilc", matrix(8, high, method), image, matrix(6, wide, method)
  )
  got = smoothed(size, method, image)
  np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
  assert got.dtype == np.float64
  single = smoothed(size, method, image.astype(np.float32))
  np.testing.assert_allclose(single, want, rtol=1e-5, atol=1e-6)
  assert single.dtype == np.float32
  pixels = (60 * image + 128).clip(0, 255).astype(np.uint8)
  exact = smoothed(size, method, pixels.astype(np.float64))
  whole = smoothed(size, method, pixels)
  assert whole.dtype == np.uint8 and np.abs(whole - exact).max() <= 0.5


def test_whole_blocks_are_averaged_as_pillow_does():
  image = np.random.default_rng(0).integers(0, 256, (12, 12)).astype(np.uint8)
  small = Image.fromarray(image).resize((4, 4), Image.Resampling.BOX)
  got = resampling.averaged(image[None, :, :, None], (4, 4))[0, :, :, 0]
  np.testing.assert_allclose(got, np.asarray(small), atol=1.0)
  large = small.resize((12, 12), Image.Resampling.BILINEAR)
  got = resampling.enlarged(np.asarray(small)[None, :, :, None], (12, 12))
  np.testing.assert_allclose(got[0, :, :, 0], np.asarray(large), atol=1.0)


def test_resolution_keeps_what_has_no_detail_and_the_type():
  flat = np.full((2, 9, 7, 3), 77, np.uint8)
  for size in (2, 4, 5, 0.4):
    out = smoothed(size, images=flat)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, flat)
  ends = np.where(np.random.default_rng(0).random((2, 9, 7, 1)) < 0.5, 0, 255)
  out = smoothed(0.8, images=ends.astype(np.uint8))
  assert 0 < out.std() < ends.std()  # nothing wraps around


@pytest.mark.parametrize("size", [1.0, 1, 6, 100])
def test_a_size_that_is_not_smaller_changes_no_byte(size):
  np.testing.assert_array_equal(smoothed(size), many()["image"])


def test_large_pictures_are_resampled_block_by_block_to_the_same():
  images = np.random.default_rng(0).integers(0, 256, (3, 400, 400, 1))
  images = images.astype(np.uint8)
  want = resampling.enlarged(
    resampling.averaged(images, (120, 120)), (400, 400)
  )
  np.testing.assert_array_equal(smoothed(0.3, images=images), np.rint(want))


def test_more_pixels_are_nearer_to_the_picture():
  image = many()["image"].astype(float)
  errors = [((smoothed(s) - image) ** 2).mean() for s in range(2, 7)]
  assert errors == sorted(errors, reverse=True) and errors[-1] == 0


def test_the_stream_tells_the_progress_of_each_step():
  data = dataset.load(kdcl.run().data.to_dict(), seed=0)
  plan, _ = pipeline.ordered(data.train.ids[:8], 8)

  def listen(rows, seed, progress):
    return rows | {"heard": np.float64(progress) + 0 * rows["weight"]}

  batches = pipeline.stream(
    data.train, lambda step: plan(0), 3, 6, augment=listen, total_steps=10
  )
  heard = [float(rows["heard"][0]) for rows in batches]
  np.testing.assert_allclose(heard, [0.3, 0.4, 0.5])


def test_a_step_has_the_same_views_wherever_a_stream_begins_and_who_reads():
  data = dataset.load(kdcl.run().data.to_dict(), seed=0)
  plan, _ = pipeline.ordered(data.train.ids, 16)
  view = augment.build(PACED)

  def images(start, rows=slice(None)):
    own = lambda step: tuple(array[rows] for array in plan(step))
    batches = pipeline.stream(
      data.train, own, start, 8, augment=view, seed=3, total_steps=10
    )
    return [batch["image"] for batch in batches]

  whole = images(0)
  hosts = images(0, slice(0, 8)), images(0, slice(8, 16))
  for step, both in enumerate(zip(*hosts, strict=True)):
    np.testing.assert_array_equal(np.concatenate(both), whole[step])
  np.testing.assert_array_equal(images(5), whole[5:])


def test_a_stage_trains_on_pictures_of_growing_resolution():
  schedule = {"start": 0.25, "end": 1.0}
  config = kdcl.resolve(
    kdcl.run(
      stages=("student",),
      data=dict(augment=({"name": "resolution", "size": schedule},)),
      student=kdcl.stage(
        model=dict(name="mlp", widths=(8,)), steps=9, batch_size=32
      ),
    )
  )
  data = dataset.load(config["data"], seed=0)
  parallel = devices.create("jit", 1)
  training = stages.training_of(
    "student", config["student"], config, data, parallel, seed=0
  )
  seen = []
  augmented = training.augment

  def spy(rows, seed, progress):
    out = augmented(rows, seed, progress)
    rough = np.abs(np.diff(out["image"].astype(float), axis=2)).mean()
    seen.append((progress, rough))
    return out

  spied = dataclasses.replace(training, augment=spy)
  outcome = train.fit(spied, parallel)
  progress, rough = zip(*sorted(seen), strict=True)
  np.testing.assert_allclose(progress, np.arange(9) / 9)
  assert rough[0] < 0.3 * rough[-1]
  assert outcome.traces == 1  # shapes do not change


@pytest.mark.parametrize(
  ("section", "words"),
  [
    ({"name": "pad_crop", "pad": {"start": 1}}, "pad.end is None"),
    ({"name": "pad_crop", "pad": {"start": 1, "stop": 2}}, "pad.stop"),
    ({"name": "pad_crop", "pad": {"start": -1, "end": 2}}, "pad is -1"),
    ({"name": "flip", "probability": {"start": 0, "end": 2}}, "is 2.0"),
    ({"name": "flip", "odds": {"start": 0, "end": 1}}, "it takes probability"),
    ({"name": "mixup", "alpha": {"start": 0, "end": 1}}, "alpha is 0"),
    ({"name": "pad_crop", "pad": {"values": (1, -3, 2)}}, "pad is -3"),
    ({"name": "pad_crop", "pad": {"values": 3}}, "pad.values is 3"),
    ({"name": "resolution", "size": {"values": (0.5, 9, 1)}}, "only shares"),
    ({"name": "resolution"}, "size"),
    ({"name": "resolution", "size": 0}, "size is 0"),
    ({"name": "resolution", "size": float("nan")}, "size is nan"),
    ({"name": "resolution", "size": float("inf")}, "size is inf"),
    ({"name": "resolution", "size": "half"}, "size is 'half'"),
    ({"name": "resolution", "size": 4, "method": "cubic"}, "bilinear, nearest"),
    (
      {"name": "resolution", "size": {"start": 0.5, "end": 8}},
      "size goes from 0.5 to 8, expected only shares",
    ),
    (
      {"name": "resolution", "size": {"start": 8, "end": float("inf")}},
      "size.end is inf",
    ),
    (
      {"name": "resolution", "size": 4, "method": {"start": 0, "end": 1}},
      "method is 0.0",
    ),
  ],
)
def test_a_wrong_schedule_ends_in_a_sentence_that_names_it(section, words):
  with pytest.raises(UserError) as error:
    augment.build(({"name": "flip"}, section))
  assert words in str(error.value)
  assert "config.data.augment[1]" in str(error.value)
  assert "\n" not in str(error.value)


def test_resolution_needs_pictures():
  with pytest.raises(UserError, match="pictures of shape"):
    augment.check(({"name": "resolution", "size": 0.5},), (12,))
