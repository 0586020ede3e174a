"""Scoring from the command line, and every mistake that one can make."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from surveys import FEW, SMALL, configured, no_training, table

from kdcl_jax import config as kdcl
from kdcl_jax import (
  metrics,
  parallel,
  scoring,
  survey,
  validation,
)
from kdcl_jax.errors import UserError
from kdcl_jax.writers import read_json

ROOT = pathlib.Path(__file__).parents[1]


def test_auc_is_the_area_under_the_roc_curve_with_ties():
  rng = np.random.default_rng(0)
  values, positive = rng.integers(0, 5, 200), rng.random(200) < 0.3
  want = roc_auc_score(positive, values)
  assert metrics.auc(values, positive) == pytest.approx(want)
  assert metrics.auc(-values, positive) == pytest.approx(1 - want)


def test_what_cannot_be_read_ranks_last_and_is_not_suspicious(tmp_path):
  rng = np.random.default_rng(0)
  for split, count in (("train", 30), ("test", 6)):
    for label, name in enumerate(("dark", "light")):
      folder = tmp_path / "data" / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        pixels = rng.integers(0, 60, (8, 8, 3)) + 190 * label
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
  (tmp_path / "data/train/dark/zz.jpg").write_bytes(b"\xff\xd8\xff broken")
  config = configured(
    stages=(),
    data=dict(source="folder", path=str(tmp_path / "data"), validation=4),
    scorer=kdcl.scorer(**(SMALL | dict(batch_size=8)), **FEW),
  )
  found = survey.execute(config, tmp_path / "out")
  assert found["unreadable"]["mean"] == 1
  last = {
    table(tmp_path / "out", name).record_id[
      np.argmax(table(tmp_path / "out", name).difficulty)
    ]
    for name in found["tables"]
  }
  assert len(last) == 1
  assert not last & {row["record_id"] for row in found["suspicious"]}
  assert "could not be read" in (tmp_path / "out" / "score.md").read_text()


def wrong(**fields):
  return configured(scorer=kdcl.scorer(**(SMALL | fields)))


@pytest.mark.parametrize(
  ("config", "words"),
  [
    (wrong(scores=("los",)), ["config.scorer.scores", "'los'", "'loss'"]),
    (wrong(streams=("amu",)), ["config.scorer.streams", "'amu'", "'aum'"]),
    (wrong(folds=1001), ["config.scorer.folds is 1001", "1000"]),
    (wrong(batch_size=600), ["config.scorer.batch_size is 600", "500", "fold"]),
    (wrong(model=dict(name="mpl")), ["config.scorer.model", "'mlp'"]),
    (wrong(steps=0), ["config.scorer.steps is 0"]),
    (wrong(teachers=("losses",)), ["config.scorer.teachers", "'losses'"]),
    (wrong(objective=dict(dkd={})), ["config.scorer.objective", "teacher"]),
    (wrong(snapshots=(0.5,)), ["config.scorer.snapshots is (0.5,)", "()"]),
    (
      wrong(curriculum=dict(order="curriculum", rerank=dict(on=True))),
      ["config.scorer.curriculum.rerank.on is True", "False"],
    ),
  ],
  ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_a_sentence(config, words, tmp_path, monkeypatch):
  monkeypatch.setattr(parallel, "create", no_training)  # before any device work
  with pytest.raises(UserError) as error:
    survey.execute(config, tmp_path)
  for word in words:
    assert word in str(error.value)
  assert "\n" not in str(error.value)


def test_a_stage_with_a_mistake_does_not_keep_a_data_set_from_being_scored():
  config = configured(losses=kdcl.stage(**SMALL, teachers=("nobody",)))
  with pytest.raises(UserError):
    validation.check(config)
  validation.check_scorer(config)


def test_a_pretrained_scorer_has_no_streams(tmp_path):
  scorer = kdcl.scorer(**(SMALL | dict(steps=0)), weights=str(tmp_path))
  config = configured(scorer=scorer)
  assert scoring.streams_of(config) == {}
  assert not any(n.startswith("stream") for n in survey.names(config))


OWN = """
import jax
import jax.numpy as jnp
from kdcl_jax import config as kdcl


def brier(logits, labels):
  gap = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])
  return jnp.sum(gap**2, axis=-1)


def get_config():
  return kdcl.run(
    stages=(),
    data=dict(
      source="npz",
      path="own.npz",
      label_noise=dict(kind="symmetric", rate=0.2),
    ),
    scorer=kdcl.scorer(
      model=dict(name="mlp", widths=(16,)),
      epochs=10.0,
      batch_size=16,
      optimizer=dict(name="adam", learning_rate=0.01),
      scores=("loss", "own.brier"),
      streams=("aum",),
    ),
  )
"""


def command(*arguments, cwd=ROOT):
  return subprocess.run(
    [sys.executable, "-m", "kdcl_jax.score", *arguments],
    capture_output=True,
    text=True,
    cwd=cwd,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    timeout=120,
  )


def test_own_data_and_an_own_score_from_the_command_line(tmp_path):
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(3, 5)).astype(np.float32) * 3
  label = rng.integers(0, 3, 300)
  image = centres[label] + rng.normal(size=(300, 5)).astype(np.float32)
  np.savez(
    tmp_path / "own.npz",
    train_image=image[:240],
    train_label=label[:240],
    test_image=image[240:],
    test_label=label[240:],
  )
  (tmp_path / "own.py").write_text(OWN)
  done = command("--config=own.py", "--workdir=out", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip().endswith("out/score.html.")
  assert "seed 0: fold 2 of 2" in done.stderr
  found = read_json(tmp_path / "out" / "scores.json")
  names = ["scorer_loss", "scorer_own.brier", "stream_aum", "fused"]
  assert list(found["tables"]) == names
  for facts in found["tables"].values():
    assert facts["auc"]["mean"] > 0.9
  text = (tmp_path / "out" / "score.md").read_text()
  assert "![Suspicious labels]" not in text  # vectors are no pictures
  row = found["suspicious"][0]
  line = f"| {row['record_id']} | {row['label']} | {row['prediction']} |"
  assert line in text


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--workdir=WORKDIR"], ["--config is missing"]),
    (
      [
        "--config=configs/digits.py",
        "--workdir=WORKDIR",
        "--config.scorer.scores=('los',)",
      ],
      ["config.scorer.scores", "'los'", "'loss'"],
    ),
  ],
)
def test_wrong_usage_is_told_in_one_line_and_exits_with_2(
  arguments, words, tmp_path
):
  arguments = [a.replace("WORKDIR", str(tmp_path / "out")) for a in arguments]
  done = command(*arguments)
  assert done.returncode == 2, done.stderr
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  for word in words:
    assert word in done.stderr
