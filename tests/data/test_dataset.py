"""Splits, subsets and noise: seeded, disjoint, and never in the test split."""

import numpy as np
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, label_noise
from kdcl_jax.errors import UserError


def load(seed=0, **data):
  config = kdcl.run(stages=("student",), student=kdcl.stage(steps=1), data=data)
  return dataset.load(kdcl.resolve(config)["data"], seed=seed)


def test_training_and_validation_are_disjoint_and_cover_everything():
  data = load(validation=200)
  assert len(data.validation) == 200 and len(data.train) == 1000
  together = np.concatenate([data.train.ids, data.validation.ids])
  np.testing.assert_array_equal(np.sort(together), np.arange(1200))
  assert len(data.test) == 597 and data.shape == (8, 8, 1)


def test_the_validation_split_has_the_classes_shares():
  data = load(validation=0.25)
  labels = data.train.true_labels
  whole = np.bincount(labels, minlength=10)
  held = np.bincount(labels[data.validation.ids], minlength=10)
  assert np.abs(held - whole / 4).max() <= 1


def test_a_seed_decides_the_split_and_nothing_else_does():
  one, two, other = load(), load(train_size=0), load(seed=1)
  np.testing.assert_array_equal(one.validation.ids, two.validation.ids)
  assert (one.validation.ids != other.validation.ids).any()
  np.testing.assert_array_equal(one.test.ids, other.test.ids)
  assert one.fingerprint == two.fingerprint != other.fingerprint


def test_sizes_limit_the_records():
  data = load(train_size=100, test_size=50, validation=20)
  assert (len(data.train), len(data.validation), len(data.test)) == (80, 20, 50)


@pytest.mark.parametrize("validation", [True, False])
def test_noise_is_in_training_by_rate_in_validation_by_option_never_in_test(
  validation,
):
  noise = dict(kind="symmetric", rate=0.4, validation=validation)
  data = load(label_noise=noise)
  wrong = lambda s: (s.labels != s.true_labels)[s.ids].mean()
  assert wrong(data.train) == pytest.approx(0.4, abs=0.05)
  assert wrong(data.validation) == (
    pytest.approx(0.4, abs=0.1) if validation else 0
  )
  assert wrong(data.test) == 0
  assert data.fingerprint != load().fingerprint
  rows, _ = data.train.fetch(data.train.ids[:7])
  np.testing.assert_array_equal(
    rows["label"], data.train.labels[data.train.ids[:7]]
  )


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(train_size=5000), "config.data.train_size is 5000"),
    (dict(validation=1200), "config.data.validation is 1200"),
    (dict(test_size=598), "config.data.test_size is 598"),
  ],
)
def test_what_the_data_does_not_have_is_said(fields, words):
  with pytest.raises(UserError, match=words):
    load(**fields)


IDS = np.arange(20_000)
LABELS = IDS % 10


def test_symmetric_noise_is_uniform_over_the_wrong_classes():
  noisy = label_noise.symmetric(LABELS, IDS, 0.4, 10, seed=0)
  flipped = noisy != LABELS
  assert flipped.mean() == pytest.approx(0.4, abs=0.01)
  shifts = np.bincount((noisy - LABELS)[flipped] % 10, minlength=10)[1:]
  expected = flipped.sum() / 9
  assert ((shifts - expected) ** 2 / expected).sum() < 30  # 8 degrees


def test_pair_flip_moves_to_the_next_class_only():
  noisy = label_noise.pair_flip(LABELS, IDS, 0.3, 10, seed=0)
  moved = noisy != LABELS
  assert moved.mean() == pytest.approx(0.3, abs=0.01)
  np.testing.assert_array_equal(noisy[moved], (LABELS[moved] + 1) % 10)


def test_a_confusion_table_is_followed_row_by_row():
  table = np.full((10, 10), 0.02)
  np.fill_diagonal(table, 0.82)
  table[3] = 0.0
  table[3, [5, 7]] = 0.25, 0.75
  noisy = label_noise.confusion(LABELS, IDS, table, seed=0)
  for label in (0, 3, 9):
    share = np.bincount(noisy[label == LABELS], minlength=10) / 2000
    np.testing.assert_allclose(share, table[label], atol=0.03)


def test_a_records_noise_does_not_depend_on_the_others():
  whole = label_noise.symmetric(LABELS, IDS, 0.4, 10, seed=3)
  some = np.array([7, 1999, 4])
  part = label_noise.symmetric(LABELS[some], some, 0.4, 10, seed=3)
  np.testing.assert_array_equal(part, whole[some])
  other = label_noise.symmetric(LABELS, IDS, 0.4, 10, seed=4)
  assert (other != whole).any()


def test_a_table_from_a_file_is_checked(tmp_path):
  path = tmp_path / "table.csv"
  np.savetxt(path, np.eye(10)[::-1], delimiter=",")
  section = dict(kind="confusion", rate=0.0, table=str(path))
  flipped = label_noise.apply(LABELS, IDS, section, 10, seed=0)
  np.testing.assert_array_equal(flipped, 9 - LABELS)
  np.savetxt(path, np.eye(10) * 0.9, delimiter=",")
  with pytest.raises(UserError, match="summing to 1"):
    label_noise.apply(LABELS, IDS, section, 10, seed=0)
  with pytest.raises(UserError, match=r"expected \(5, 5\)"):
    label_noise.apply(LABELS % 5, IDS, section, 5, seed=0)


def test_a_class_of_probability_zero_is_never_drawn():
  ids = np.arange(4_000_000)
  table = np.array([[1 - 9e-7, 0.0], [0.0, 1.0]])  # a rounded row
  assert not label_noise.confusion(np.zeros_like(ids), ids, table, 0).any()


def test_the_fingerprint_sees_every_record_in_memory(tmp_path):
  image = np.random.default_rng(0).random((40, 4)).astype(np.float32)
  prints = []
  for record in (None, 1):
    if record is not None:
      image[record] += 1
    label = np.arange(40) % 2
    path = tmp_path / "data.npz"
    np.savez(
      path,
      train_image=image,
      train_label=label,
      test_image=image,
      test_label=label,
    )
    prints.append(load(source="npz", path=str(path)).fingerprint)
  assert prints[0] != prints[1]


@pytest.mark.parametrize("name", ["pad_crop", "flip", "cutout"])
def test_vectors_are_not_augmented_as_pictures(tmp_path, name):
  label = np.arange(40) % 2
  path = tmp_path / "data.npz"
  np.savez(path, image=np.zeros((40, 4), np.float32), label=label)
  given = dict(source="npz", path=str(path), validation=5)
  with pytest.raises(UserError, match="needs pictures"):
    load(**given, augment=({"name": name},))
  assert load(**given, augment=({"name": "mixup"},)).shape == (4,)
