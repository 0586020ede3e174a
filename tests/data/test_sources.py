"""Sources: stable ids, faults counted, mistakes told."""

import sys

import numpy as np
import pytest
from PIL import Image

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, sources
from kdcl_jax.errors import UserError
from kdcl_jax.sources.memory import DecodedSource


def section(**data):
  config = kdcl.run(stages=("student",), student=kdcl.stage(steps=1), data=data)
  return kdcl.resolve(config)["data"]


def test_digits_are_split_the_same_for_every_seed():
  one = sources.load(section(), 0)
  two = sources.load(section(), 1)
  assert (len(one.train), len(one.test)) == (1200, 597)
  np.testing.assert_array_equal(one.train.image, two.train.image)
  everything = np.concatenate([one.train.label, one.test.label])
  assert np.bincount(everything).tolist() == [
    178,
    182,
    177,
    183,
    181,
    182,
    181,
    179,
    174,
    180,
  ]
  assert one.train.image.max() == 255 and one.train.image.min() == 0
  assert set(np.unique(one.train.image)) == {
    round(v * 255 / 16) for v in range(17)
  }


def arrays(**changes):
  return {
    "train_image": np.arange(40, dtype=np.float32).reshape(10, 4),
    "train_label": np.arange(10) % 2,
    "test_image": np.zeros((4, 4), np.float32),
    "test_label": np.array([0, 1, 0, 1]),
  } | changes


@pytest.mark.parametrize("names", ["own", "keras", "one"])
def test_npz_files_of_three_spellings(tmp_path, names):
  path = tmp_path / "data.npz"
  given = arrays()
  if names == "keras":
    given = {
      f"{axis}_{split}": given[f"{split}_{long}"]
      for split in ("train", "test")
      for axis, long in (("x", "image"), ("y", "label"))
    }
  elif names == "one":
    given = {"image": given["train_image"], "label": given["train_label"]}
  np.savez(path, **given)
  loaded = sources.load(section(source="npz", path=str(path)), 0)
  total = 10 if names == "one" else 14
  assert len(loaded.train) + len(loaded.test) == total
  assert loaded.shape == (4,) and loaded.label_names == ("0", "1")
  record = loaded.train[3]
  assert record["image"].dtype == np.float32


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(train_label=np.arange(9)), "one label for each"),
    (dict(train_label=np.arange(10) - 1), "whole numbers from 0"),
    (dict(train_label=np.arange(10) / 2), "whole numbers from 0"),
    (dict(test_image=np.zeros((4, 5), np.float32)), r"shape \(4,\)"),
    (dict(train_image=np.full((10, 4), np.nan, np.float32)), "NaN"),
    (dict(train_image=np.full((10, 4), "a")), "expected real numbers"),
    (dict(train_image=np.full((10, 4), 1j)), "expected real numbers"),
    (dict(train_image=np.float32(3)), "one label for each"),
    (dict(train_label=np.full(10, "a")), "whole numbers from 0"),
    (dict(train_image=np.zeros((10, 4), np.uint8)), "the same of both"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, words):
  path = tmp_path / "data.npz"
  np.savez(path, **arrays(**changes))
  with pytest.raises(UserError, match=words):
    sources.load(section(source="npz", path=str(path)), 0)


def test_a_file_of_one_part_is_checked_before_it_is_divided(tmp_path):
  path = tmp_path / "data.npz"
  for labels in (9, 11):
    np.savez(path, image=np.zeros((10, 4)), label=np.arange(labels))
    with pytest.raises(UserError, match="one label for each"):
      sources.load(section(source="npz", path=str(path)), 0)


def test_pickles_and_damaged_files_are_refused_and_never_opened(tmp_path):
  path = tmp_path / "data.npz"
  np.savez(path, **arrays(train_label=np.array([print] * 10, object)))
  with pytest.raises(UserError, match="no readable .npz file"):
    sources.load(section(source="npz", path=str(path)), 0)
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(UserError, match="no readable .npz file"):
    sources.load(section(source="npz", path=str(path)), 0)
  np.savez(path, train_image=np.zeros((2, 2)))
  with pytest.raises(UserError, match="has no array 'train_label'"):
    sources.load(section(source="npz", path=str(path)), 0)


def pictures(root, *, sizes=((6, 5),), modes=("RGB",)):
  for split in ("train", "test"):
    for name in ("cat", "dog"):
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(6):
        height, width = sizes[i % len(sizes)]
        picture = Image.new("RGB", (width, height), (10 * i, 200, 30))
        picture = picture.convert(modes[i % len(modes)])
        picture.save(folder / f"{i}.{'png' if i % 2 else 'jpg'}")


def test_a_folder_has_stable_ids_and_a_broken_picture_is_only_counted(tmp_path):
  pictures(tmp_path)
  (tmp_path / "train" / "cat" / "0.jpg").write_bytes(b"\xff\xd8 broken")
  (tmp_path / "train" / ".checkpoints").mkdir()
  given = section(source="folder", path=str(tmp_path), validation=2)
  data = dataset.load(given, seed=0)
  assert data.label_names == ("cat", "dog") and data.shape == (6, 5, 3)
  assert data.train.true_labels.tolist() == [0] * 6 + [1] * 6
  for _ in range(2):  # decoded, and from memory
    rows, readable = data.train.fetch(np.arange(12))
    assert readable.tolist() == [False] + [True] * 11
    assert (rows["image"][0] == 0).all()
    assert rows["image"][5, 0, 0].tolist() == [50, 200, 30]
    assert rows["image"].shape == (12, 6, 5, 3)
  assert isinstance(data.train.source, DecodedSource)
  with pytest.raises(sources.UnreadableRecord):
    data.train.source[0]


def test_grey_and_colour_become_colour_unless_asked_otherwise(tmp_path):
  pictures(tmp_path, modes=("RGB", "L"))
  assert sources.load(
    section(source="folder", path=str(tmp_path)), 0
  ).shape == (
    6,
    5,
    3,
  )
  grey = section(source="folder", path=str(tmp_path), channels=1, image_size=4)
  loaded = sources.load(grey, 0)
  assert loaded.shape == (4, 4, 1)
  assert loaded.train[1]["image"].shape == (4, 4, 1)


def test_pictures_of_different_sizes_need_a_size(tmp_path):
  pictures(tmp_path, sizes=((6, 5), (7, 7)))
  given = dict(source="folder", path=str(tmp_path))
  with pytest.raises(UserError, match="config.data.image_size is 0"):
    sources.load(section(**given), 0)
  assert sources.load(section(**given, image_size=8), 0).shape == (8, 8, 3)


def test_a_folder_without_a_test_part_is_divided_by_the_seed(tmp_path):
  pictures(tmp_path)
  given = section(
    source="folder", path=str(tmp_path / "train"), options=dict(test=0.25)
  )
  one, two = sources.load(given, 0), sources.load(given, 1)
  assert (len(one.train), len(one.test)) == (9, 3)
  assert set(one.train.paths).isdisjoint(one.test.paths)
  assert one.test.paths != two.test.paths


def test_a_size_is_asked_for_wherever_the_other_one_is(tmp_path):
  for place in ("train/dog", "test/dog"):  # no picture of the first class
    root = tmp_path / place.replace("/", "_")
    pictures(root)
    Image.new("RGB", (9, 9)).save(root / place / "5.png")
    with pytest.raises(UserError, match="config.data.image_size is 0"):
      sources.load(section(source="folder", path=str(root)), 0)


def test_a_class_of_the_test_part_alone_is_told(tmp_path):
  pictures(tmp_path)
  (tmp_path / "test" / "zebra").mkdir()
  with pytest.raises(UserError, match="the class 'zebra'"):
    sources.load(section(source="folder", path=str(tmp_path)), 0)


def test_pictures_of_16_bits_are_scaled_not_clipped(tmp_path):
  from kdcl_jax.sources import images

  path = tmp_path / "deep.png"
  deep = np.array([[0, 257, 32_896, 65_535]], np.uint16)
  Image.fromarray(deep).save(path)
  decoded = images.decode(path.read_bytes())
  assert decoded.ravel().tolist() == [0, 1, 128, 255]


def test_a_bomb_of_pixels_is_not_decoded(tmp_path):
  from kdcl_jax.sources import images

  path = tmp_path / "large.png"
  Image.new("1", (20_000, 20_000)).save(path)
  with pytest.raises(sources.UnreadableRecord, match="bomb"):
    images.decode(path.read_bytes())


OWN = """
import numpy as np
from kdcl_jax.sources import ArraySource, UnreadableRecord

def arrays(count=4):
  label = np.arange(count) % 2
  image = np.ones((count, 3), np.float32)
  return dict(train_image=image, train_label=label,
              test_image=image, test_label=label)

def pair():
  source = ArraySource(np.ones((4, 3), np.float32), np.arange(4) % 2)
  return source, source

def nothing():
  return 3

class Own:
  def __init__(self, bad=(), labels=None):
    self.bad, self.given = bad, labels
  def __len__(self):
    return 6
  def __getitem__(self, record):
    if record in self.bad:
      raise UnreadableRecord("bad")
    return {"image": np.ones(3, np.float32), "label": record % 2}
  def labels(self):
    return np.arange(6) % 2 if self.given is None else self.given

def faulty():
  return Own(bad=(0, 4, 5)), Own()

def unreadable():
  return Own(bad=range(6)), Own()

def listed():
  return Own(labels=[0, 1] * 3), Own()

def short():
  return Own(labels=np.arange(5)), Own()

def bare():
  return [1, 2], [3]

def missing_file():
  raise FileNotFoundError("x.bin")

number = 3
"""


def test_a_users_callable_returns_arrays_or_sources(tmp_path, monkeypatch):
  (tmp_path / "own_source.py").write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  load = lambda name, **options: sources.load(
    section(source=f"own_source.{name}", options=options), 0
  )
  assert len(load("arrays", count=6).train) == 6
  assert load("pair").shape == (3,)
  with pytest.raises(UserError, match="returned int"):
    load("nothing")
  with pytest.raises(UserError, match="did you mean 'count'"):
    load("arrays", cuont=6)
  with pytest.raises(UserError, match="cannot be imported"):
    load("missing")
  for name, words in (
    ("unreadable", "none can be read"),
    ("listed", "are list, expected a NumPy array"),
    ("short", "6 records and labels"),
    ("bare", "list.* has no labels"),
    ("missing_file", "FileNotFoundError: x.bin"),
    ("number", "is int, expected a callable"),
  ):
    with pytest.raises(UserError, match=words):
      load(name)
  faulty = dataset.load(section(source="own_source.faulty"), seed=0)
  rows, readable = faulty.train.fetch(np.array([4, 5]))
  assert not readable.any() and rows["image"].dtype == np.float32
  del sys.modules["own_source"]


@pytest.mark.parametrize("source", ["digits", "npz", "folder"])
def test_an_option_that_a_source_does_not_take_is_told(source):
  with pytest.raises(UserError, match="config.data.options.tset is no field"):
    sources.load(section(source=source, options=dict(tset=0.5)), 0)
