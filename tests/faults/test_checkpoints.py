"""A checkpoint is whole or absent; damage is found before anything is used."""

import json
import logging
import pathlib
import random
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import checkpoint, digests, weights
from kdcl_jax.checkpoint import Checkpoints
from kdcl_jax.errors import UserError

FACTS = {"step": 0, "course": {"lesson": 3}, "numbers": [1, 2.5, None]}


def tree(step):
  key = jax.random.key(step)
  return {
    "state": {
      "params": {"dense": jax.random.normal(key, (40, 30))},
      "batch_stats": {"mean": jnp.full(3, step, jnp.float32)},
      "ema": {},
      "step": jnp.int32(step),
    },
    "best": {},
  }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Checkpoints of steps 10 and 20."""
  directory = tmp_path_factory.mktemp("saved") / "checkpoints"
  manager = Checkpoints(directory)
  for step in (10, 20):
    manager.save(step, tree(step), FACTS | {"step": step})
  manager.close()
  return directory


@pytest.fixture
def copy(saved, tmp_path):
  return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def restored(directory):
  manager = Checkpoints(directory)
  try:
    return manager.restore(tree(0))
  finally:
    manager.close()


def assert_is(found, step):
  arrays, facts = found
  assert facts == FACTS | {"step": step}
  jax.tree.map(np.testing.assert_array_equal, arrays, tree(step))


def files(folder):
  """What Orbax writes for itself, and reads no array or fact from, left out."""
  return sorted(
    path
    for part in ("arrays", "facts")
    for path in (folder / part).rglob("*")
    if path.is_file()
  )


def test_what_was_saved_comes_back_from_the_latest(saved):
  assert_is(restored(saved), 20)


def test_the_digests_are_those_of_sha256sum(saved):
  done = subprocess.run(
    ["sha256sum", "--check", "--strict", digests.NAME],
    cwd=saved / "20",
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  listed = (saved / "20" / digests.NAME).read_text().splitlines()
  assert len(listed) == len(files(saved / "20")) >= 8


@pytest.mark.parametrize("number", range(10))
def test_a_flipped_bit_anywhere_is_found_named_and_set_aside(
  copy, caplog, number
):
  chance = random.Random(number)
  latest = copy / "20"
  candidates = [*files(latest), latest / digests.NAME]
  path = candidates[number * len(candidates) // 10]
  content = bytearray(path.read_bytes())
  content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
  path.write_bytes(content)
  assert_is(restored(copy), 10)
  (record,) = caplog.records
  said = record.getMessage()
  assert "checkpoint of step 20" in said and "falling back" in said
  if path.name != digests.NAME:
    assert f"{path.relative_to(latest)} is not as it was written" in said
  aside = copy.with_name("checkpoints_damaged") / "20_1"
  assert str(aside) in said and aside.is_dir() and not latest.exists()
  # The step can be saved again, and broken again.
  manager = Checkpoints(copy)
  manager.save(20, tree(20), FACTS | {"step": 20})
  manager.close()
  assert_is(restored(copy), 20)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "gone", "folder"])
def test_files_cut_short_or_missing_are_found(copy, caplog, damage):
  for path in files(copy / "20")[::3]:
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
      path.write_bytes(content[: len(content) // 2])
    elif damage == "emptied":
      path.write_bytes(b"")
    elif damage == "folder":
      path.mkdir()
  assert_is(restored(copy), 10)
  assert "step 20" in caplog.text


def test_a_checkpoint_without_digests_was_not_finished(copy, caplog):
  (copy / "20" / digests.NAME).unlink()
  assert_is(restored(copy), 10)
  assert f"{digests.NAME} is missing" in caplog.text


def test_digests_cannot_name_files_elsewhere(copy, caplog):
  path = copy / "20" / digests.NAME
  path.write_text(path.read_text() + f"{'0' * 64}  ../../secret\n")
  assert_is(restored(copy), 10)
  assert f"{digests.NAME} is damaged" in caplog.text


def test_where_none_is_whole_it_is_refused_and_nothing_is_touched(copy):
  for step in ("10", "20"):
    (copy / step / "facts" / "metadata").write_text("{}")
  before = sorted(copy.rglob("*"))
  with pytest.raises(UserError) as refused:
    restored(copy)
  said = str(refused.value)
  assert "step 20: facts/metadata is not as it was written" in said
  assert "step 10: facts/metadata" in said and "begin the stage anew" in said
  assert sorted(copy.rglob("*")) == before


def test_a_write_that_was_cut_off_leaves_nothing(copy):
  unfinished = copy / "30.orbax-checkpoint-tmp"
  shutil.copytree(copy / "20", unfinished)
  assert_is(restored(copy), 20)
  # It is removed in the background, at the latest before the next write.
  manager = Checkpoints(copy)
  manager.save(30, tree(30), FACTS | {"step": 30})
  manager.close()
  assert not unfinished.exists()
  assert_is(restored(copy), 30)


def test_a_whole_checkpoint_of_another_form_is_kept_and_refused(copy):
  manager = Checkpoints(copy)
  other = tree(0)
  other["state"]["params"] = {"other": jnp.zeros(3)}
  with pytest.raises(UserError, match="is whole, but not of the form"):
    manager.restore(other)
  manager.close()
  assert_is(restored(copy), 20)


def kept(directory, keep, accuracies):
  manager = Checkpoints(directory, keep=keep)
  for step, accuracy in accuracies.items():
    manager.save(step, {"x": jnp.zeros(2)}, {}, accuracy)
  manager.close()
  return checkpoint.steps_in(directory)


def test_the_last_ones_and_the_best_stay(tmp_path):
  rated = {1: 0.5, 2: 0.9, 3: None, 4: 0.7, 5: 0.9, 6: 0.8, 7: None}
  assert kept(tmp_path / "two", 2, rated) == [2, 6, 7]
  assert kept(tmp_path / "one", 1, rated) == [2, 7]
  assert kept(tmp_path / "unrated", 2, dict.fromkeys(range(5))) == [3, 4]


def test_the_best_is_remembered_by_the_next_process(tmp_path):
  kept(tmp_path, 1, {1: 0.5, 2: 0.9, 3: None})
  assert kept(tmp_path, 1, {4: 0.8, 5: None}) == [2, 5]
  assert kept(tmp_path, 1, {6: 0.95, 7: None}) == [6, 7]


def test_weights_come_from_the_latest_checkpoint_that_is_whole(copy, caplog):
  found = weights.load(copy.parent, "config.teacher.weights")
  np.testing.assert_array_equal(
    found["params"]["dense"], tree(20)["state"]["params"]["dense"]
  )
  path = files(copy / "20")[-1]
  path.write_bytes(b"")
  found = weights.load(copy.parent, "config.teacher.weights")
  np.testing.assert_array_equal(
    found["batch_stats"]["mean"], np.full(3, 10, np.float32)
  )
  assert "config.teacher.weights: the checkpoint of step 20" in caplog.text
  assert (copy / "20").exists()  # another run's: it is left alone
  (copy / "10" / digests.NAME).write_text("")
  with pytest.raises(UserError, match="config.teacher.weights: no checkpoint"):
    weights.load(copy.parent, "config.teacher.weights")


def test_reading_weights_writes_nothing(copy):
  before = sorted(copy.parent.rglob("*"))
  weights.load(copy.parent, "config.teacher.weights")
  assert sorted(copy.parent.rglob("*")) == before


def test_an_error_of_the_background_is_told_in_a_sentence(
  tmp_path, monkeypatch, capfd
):
  manager = Checkpoints(tmp_path / "checkpoints")
  manager.save(1, tree(1), FACTS | {"step": 1})

  def full(folder, parts):
    raise OSError(28, "No space left on device")

  manager._manager.wait_until_finished()
  monkeypatch.setattr(digests, "write", full)
  manager.save(2, tree(2), FACTS)
  with pytest.raises(UserError) as refused:
    manager.save(3, tree(3), FACTS)
  said = str(refused.value)
  assert "checkpoint of step 2 cannot be written" in said
  assert "(No space left on device)" in said
  assert "Traceback" not in "".join(capfd.readouterr())
  monkeypatch.undo()
  assert_is(restored(tmp_path / "checkpoints"), 1)


def test_orbax_is_silent_but_not_deaf(caplog):
  checkpoint._hush_orbax()
  logging.getLogger("absl").error("of another package")
  assert "of another package" in caplog.text


def test_the_accuracy_is_no_fact_of_the_loop(saved):
  _, facts = restored(saved)
  assert "accuracy" not in facts
  assert json.loads((saved / "20/facts/metadata").read_text())["step"] == 20
