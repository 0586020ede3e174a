"""Parts of pictures: chosen before decoding, the same for every reader."""

import io
import math

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from kdcl_jax import augment, dataset, environment, pipeline
from kdcl_jax import config as kdcl
from kdcl_jax.errors import UserError
from kdcl_jax.randomness import uniform
from kdcl_jax.sources import ArraySource, UnreadableRecord, images, windows
from kdcl_jax.sources.memory import DecodedSource
from kdcl_jax.sources.windows import Box

CROP = {"name": "random_resized_crop"}
IDS = np.arange(400)


def section(**data):
  config = kdcl.run(stages=("student",), student=kdcl.stage(steps=1), data=data)
  return kdcl.resolve(config)["data"]


def smooth(height, width, seed=0, detail=8):
  """A picture without detail finer than some pixels."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (height // detail + 2, width // detail + 2, 3))
  picture = Image.fromarray(small.astype(np.uint8))
  return picture.resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture, kind="JPEG", **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def fixed(*box):
  return lambda height, width: Box(*box)


# Windows


def reference(draws, height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
  """The definition of torchvision, with its draws given."""
  for area, shape, down, right in draws:
    target = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = math.exp(low + (high - low) * shape)
    w = int(round(math.sqrt(target * aspect)))
    h = int(round(math.sqrt(target / aspect)))
    if 0 < w <= width and 0 < h <= height:
      return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
  w, h = width, height
  if width / height < min(ratio):
    h = int(round(w / min(ratio)))
  elif width / height > max(ratio):
    w = int(round(h * max(ratio)))
  return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
  "shape", [(375, 500), (500, 333), (30, 400), (900, 31), (1, 1), (2, 3)]
)
def test_a_random_window_is_the_one_that_torchvision_defines(shape):
  visits = IDS * 0 + 7
  made = windows.random_resized_crop()(IDS, visits, 3)
  key = (3, 0xA10, IDS[:, None], visits[:, None], np.arange(40)[None])
  draws = uniform(*key).reshape(400, 10, 4)
  for window, own in zip(made, draws, strict=True):
    assert tuple(window(*shape)) == reference(own, *shape)


def test_areas_ratios_and_places_are_spread_as_they_should_be():
  made = windows.random_resized_crop(largest=0.6)(IDS, IDS * 0, 0)
  boxes = np.array([window(1000, 1000) for window in made])  # all fit
  areas = boxes[:, 2] * boxes[:, 3] / 1e6
  ratios = np.log(boxes[:, 3] / boxes[:, 2])
  assert areas.min() >= 0.079 and abs(areas.mean() - 0.34) < 0.03
  assert np.abs(ratios).max() <= math.log(4 / 3) + 0.01
  assert abs(ratios.mean()) < 0.03
  for place, length in ((0, 2), (1, 3)):
    places = boxes[:, place] / (1000 - boxes[:, length])
    assert places.min() >= 0 and places.max() <= 1
    assert abs(places.mean() - 0.5) < 0.06 and places.std() > 0.25


def test_a_window_depends_on_seed_record_and_visit_alone():
  crop = windows.random_resized_crop()
  boxes = lambda ids, visits, seed: [w(60, 80) for w in crop(ids, visits, seed)]
  whole = boxes(IDS, IDS % 3, 1)
  some = np.array([17, 399, 4])
  assert boxes(some, some % 3, 1) == [whole[i] for i in some]
  for other in (boxes(IDS, IDS % 3 + 1, 1), boxes(IDS, IDS % 3, 2)):
    assert sum(a == b for a, b in zip(whole, other, strict=True)) < 20


def test_the_middle_is_that_of_a_picture_whose_shorter_side_was_resized():
  picture = smooth(375, 500, detail=32)
  resized = picture.resize((341, 256), Image.Resampling.BILINEAR)
  left = (341 - 224) / 2
  want = np.asarray(resized.crop((int(left), 16, int(left) + 224, 240)))
  got = images.view(
    encoded(picture, "PNG"), windows.centre(0.875, (224, 224)), (224, 224)
  )
  # Theirs is rounded to pixels of the smaller picture: half of one beside ours.
  apart = lambda other: np.abs(got.astype(int) - other).mean()
  assert apart(want) < 2.5 < 10 < apart(np.roll(want, 4, axis=1))
  wide = windows.centre(1.0, (10, 20))(100, 100)
  assert tuple(wide) == (25, 0, 50, 100)


# Decoding


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "1"])
def test_a_window_is_the_crop_of_the_whole_picture_resized(kind, mode):
  if (kind, mode) in {("JPEG", m) for m in ("P", "RGBA", "1")} | {
    ("PNG", "CMYK")
  }:
    pytest.skip(f"no {kind} file is {mode}")
  content = encoded(smooth(60, 90).convert(mode), kind)
  for channels in (0, 1, 3):
    whole = images.decode(content, channels=channels)
    flat = whole[..., 0] if whole.shape[2] == 1 else whole
    part = Image.fromarray(flat).crop((20, 11, 65, 50))
    want = np.asarray(part.resize((16, 24), Image.Resampling.BILINEAR))
    box = fixed(11, 20, 39, 45)
    got = images.view(content, box, (24, 16), channels=channels)
    np.testing.assert_array_equal(got, want.reshape(24, 16, -1))
    np.testing.assert_array_equal(images.seen(whole, box, (24, 16)), got)


def test_16_bits_are_scaled_in_a_window_too():
  deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
  content = encoded(Image.fromarray(deep), "PNG")
  got = images.view(content, fixed(2, 2, 4, 4), (4, 4))
  np.testing.assert_array_equal(got, images.decode(content)[2:6, 2:6])


@pytest.mark.parametrize(
  ("box", "size", "by"),
  [
    ((0, 0, 400, 600), (50, 50), 8),
    ((0, 0, 400, 600), (51, 51), 4),
    ((8, 24, 201, 333), (100, 100), 2),
    ((8, 24, 199, 333), (100, 100), 1),
    ((3, 5, 203, 111), (50, 55), 2),
    ((101.5, 77.25, 299.5, 303), (32, 32), 8),
  ],
)
def test_a_jpeg_is_decoded_in_no_more_detail_than_its_window_needs(
  monkeypatch, box, size, by
):
  asked = []
  draft = JpegImagePlugin.JpegImageFile.draft

  def spy(self, mode, wanted):
    before = self.size
    found = draft(self, mode, wanted)
    asked.append(round(before[0] / self.size[0]))
    return found

  monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
  picture = smooth(403, 601, detail=40)
  got = images.view(encoded(picture, quality=95), fixed(*box), size)
  assert asked == ([by] if by > 1 else [])
  want = images.view(encoded(picture, "PNG"), fixed(*box), size)
  assert np.abs(got.astype(int) - want).mean() < 2.5


def test_the_orientation_that_a_camera_noted_is_ignored():
  picture = smooth(40, 60)
  turned = Image.Exif()
  turned[0x0112] = 6
  one, two = encoded(picture), encoded(picture, exif=turned)
  assert one != two
  np.testing.assert_array_equal(images.decode(one), images.decode(two))
  box = fixed(0, 0, 40, 60)
  np.testing.assert_array_equal(
    images.view(one, box, (8, 8)), images.view(two, box, (8, 8))
  )


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"GIF89a",
    b"\xff\xd8\xff broken",
    encoded(smooth(400, 600))[:9000],
    encoded(smooth(400, 600), "PNG")[:9000],
    encoded(Image.new("1", (20_000, 20_000)), "PNG"),
  ],
  ids=["empty", "gif", "header", "half jpeg", "half png", "bomb"],
)
def test_what_cannot_be_decoded_is_unreadable_and_no_fault_of_the_storage(
  content,
):
  for read in (
    lambda: images.decode(content),
    lambda: images.view(content, fixed(0, 0, 300, 300), (10, 10)),
  ):
    with pytest.raises(UnreadableRecord) as error:
      read()
    assert not isinstance(error.value.__cause__, OSError)


@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int16])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_arrays_of_any_channels_have_windows(kind, channels):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 200, (12, 9, channels)).astype(kind)
  got = images.seen(image, fixed(2, 1, 6, 5), (6, 5))
  assert got.dtype == kind
  np.testing.assert_array_equal(got, image[2:8, 1:6])
  half = images.seen(image, fixed(0, 0, 12, 8), (6, 4)).astype(float)
  assert half.shape == (6, 4, channels)
  assert half.std() < image.std()
  exact = images.seen(image.astype(np.float32), fixed(0, 0, 12, 8), (6, 4))
  assert np.abs(half - exact).max() <= (0.51 if kind != np.uint8 else 1.01)


# Reading


def folder(root, *, sizes=((60, 90), (90, 60), (64, 64)), kind="jpg"):
  for split, count in (("train", 12), ("val", 6)):
    for name in ("cat", "dog"):
      path = root / split / name
      path.mkdir(parents=True)
      for i in range(count):
        picture = smooth(*sizes[i % len(sizes)], seed=i)
        content = encoded(picture, "PNG" if kind == "png" else "JPEG")
        (path / f"{i:02}.{kind}").write_bytes(content)
  (root / "train" / "cat" / "03.jpg").write_bytes(b"\xff\xd8\xff broken")
  return dict(source="folder", path=str(root), validation=4)


def batches(data, *, rows=16, steps=3, sections=(CROP, {"name": "flip"})):
  ids = data.train.ids
  plan = lambda step: (
    ids[(step * rows + np.arange(rows)) % len(ids)],
    np.full(rows, step),
    np.ones(rows, bool),
  )
  stream = pipeline.stream(
    data.train,
    plan,
    0,
    steps,
    augment=augment.build(sections) if sections else None,
    seed=5,
    total_steps=steps,
  )
  return list(stream)


def test_batches_are_the_same_for_every_number_of_threads(tmp_path):
  given = folder(tmp_path) | dict(image_size=32)
  found = []
  for threads in (1, 2, 5, 0):
    data = dataset.load(section(**given, threads=threads), seed=0)
    found.append(batches(data))
  broken = 3
  for stream in found:
    for got, want in zip(stream, found[0], strict=True):
      for key in want:
        np.testing.assert_array_equal(got[key], want[key])
      assert got["unreadable"].tolist() == (got["id"] == broken).tolist()
      assert got["image"].shape == (16, 32, 32, 3)


def test_a_batch_has_of_each_record_the_part_that_is_drawn_for_it(tmp_path):
  given = folder(tmp_path) | dict(image_size=32, memory_gb=0.0)
  data = dataset.load(section(**given), seed=0)
  for batch in batches(data, sections=(CROP,)):
    made = windows.random_resized_crop()(batch["id"], batch["visit"], 5)
    for row in np.flatnonzero(~batch["unreadable"]):
      record = int(batch["id"][row])
      want = data.train.source.view(record, made[row], (32, 32))
      np.testing.assert_array_equal(batch["image"][row], want)


@pytest.mark.parametrize("crop", [0.0, 0.875])
@pytest.mark.parametrize(
  "given", [dict(image_size=32), dict(sizes=((40, 56),))]
)
def test_memory_changes_no_view(tmp_path, given, crop):
  sizes = {"sizes": given["sizes"]} if "sizes" in given else {}
  base = folder(tmp_path, **sizes)
  base |= {k: v for k, v in given.items() if k != "sizes"}
  kept = dataset.load(section(**base, crop=crop), seed=0)
  read = dataset.load(section(**base, crop=crop, memory_gb=0.0), seed=0)
  assert isinstance(kept.train.source, DecodedSource)
  assert not isinstance(read.train.source, DecodedSource)
  for _ in range(2):
    for sections in ((CROP,), ({"name": "flip"},)):
      for one, two in zip(
        batches(kept, sections=sections),
        batches(read, sections=sections),
        strict=True,
      ):
        np.testing.assert_array_equal(one["image"], two["image"])
    for split in ("validation", "test"):
      one, two = getattr(kept, split), getattr(read, split)
      for a, b in zip(one.fetch(one.ids), two.fetch(two.ids), strict=True):
        np.testing.assert_array_equal(
          a["image"] if isinstance(a, dict) else a,
          b["image"] if isinstance(b, dict) else b,
        )


def test_whole_pictures_in_memory_give_the_views_of_their_files(tmp_path):
  base = folder(tmp_path, sizes=((40, 56),))
  kept = dataset.load(section(**base), seed=0)
  read = dataset.load(section(**base, memory_gb=0.0), seed=0)
  kept.train.fetch(kept.train.ids)
  opened = []
  kept.train.source._source = type(
    "Closed", (), {"__getitem__": lambda self, i: opened.append(i)}
  )()
  for one, two in zip(batches(kept), batches(read), strict=True):
    np.testing.assert_array_equal(one["image"], two["image"])
  assert not opened


def test_outside_training_the_middle_is_seen_and_nothing_is_random(tmp_path):
  given = folder(tmp_path) | dict(image_size=32, augment=(CROP,))
  data = dataset.load(section(**given, crop=0.75), seed=0)
  plain = dataset.load(section(**given), seed=0)
  source = data.test.source._source
  for split in (data.validation, data.test):
    rows, readable = split.fetch(split.ids)
    where = source if split is data.test else data.train.source._source
    for record, image in zip(split.ids[readable], rows["image"][readable]):
      want = where.view(record, windows.centre(0.75, (32, 32)), (32, 32))
      np.testing.assert_array_equal(image, want)
  squashed, _ = plain.test.fetch(plain.test.ids)
  np.testing.assert_array_equal(squashed["image"][0], source[0]["image"])
  assert data.fingerprint == plain.fingerprint


def test_pictures_in_memory_are_cropped_too():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
  split = dataset.Split(
    "train",
    ArraySource(image, IDS[:40] % 2),
    IDS[:40],
    IDS[:40] % 2,
    IDS[:40] % 2,
    (8, 8, 1),
  )
  made = windows.random_resized_crop(smallest=0.2)(IDS[:40], IDS[:40] * 0, 0)
  rows, readable = split.fetch(split.ids, made)
  assert readable.all() and rows["image"].shape == image.shape
  for i in range(40):
    top, left, height, width = (int(n) for n in made[i](8, 8))
    part = image[i, top : top + height, left : left + width, 0]
    want = Image.fromarray(part).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(rows["image"][i, ..., 0], np.asarray(want))


def test_the_strength_of_a_crop_is_paced_like_every_number():
  smallest = dict(start=1.0, end=0.1)
  views = augment.build(({**CROP, "smallest": smallest, "ratio": 1.0},))
  areas = {}
  for progress in (0.0, 0.5, 1.0):
    made = views.windows(IDS, IDS * 0, 0, progress)
    areas[progress] = [w(100, 100).height * w(100, 100).width for w in made]
  assert set(areas[0.0]) == {10_000}
  assert min(areas[0.5]) >= 5400 > 2000 > min(areas[1.0]) >= 900
  assert augment.build(({"name": "flip"},)).windows(IDS, IDS, 0, 0.0) is None


@pytest.mark.parametrize(
  ("sections", "words"),
  [
    (({"name": "flip"}, CROP), r"augment\[1\].name is 'random_resized_crop'"),
    ((CROP | {"smallest": 0},), "smallest is 0"),
    ((CROP | {"largest": 1.5},), "largest is 1.5"),
    ((CROP | {"smallest": 0.5, "largest": 0.4},), "smallest is 0.5"),
    ((CROP | {"ratio": 0.5},), "ratio is 0.5"),
    ((CROP | {"smallest": dict(start=0.5, end=0)},), "smallest is 0"),
    ((CROP | {"scale": 0.5},), "it takes smallest, largest, ratio"),
  ],
)
def test_a_wrong_crop_ends_in_a_sentence(sections, words):
  with pytest.raises(UserError, match=words):
    augment.build(sections)


def test_vectors_have_no_parts(tmp_path):
  path = tmp_path / "data.npz"
  np.savez(path, image=np.zeros((40, 4), np.float32), label=IDS[:40] % 2)
  given = dict(source="npz", path=str(path), validation=5)
  with pytest.raises(UserError, match=r"config.data.crop is 0.5, which needs"):
    dataset.load(section(**given, crop=0.5), seed=0)
  with pytest.raises(UserError, match="needs pictures"):
    dataset.load(section(**given, augment=(CROP,)), seed=0)


def test_how_records_are_read_may_change_in_a_run_and_what_is_read_not(
  tmp_path,
):
  config = lambda **data: kdcl.resolve(
    kdcl.run(stages=("student",), student=kdcl.stage(steps=1), data=data)
  )
  environment.write_json(
    tmp_path / "config.json", environment.plain(config(threads=2))
  )
  environment.check_unchanged(config(threads=8, memory_gb=0.5), tmp_path)
  with pytest.raises(UserError, match="config.data.crop is 0.5"):
    environment.check_unchanged(config(crop=0.5), tmp_path)
