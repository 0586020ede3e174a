"""Scoring a data set: the tables, and what a person sees of them."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from scipy import stats
from sklearn.metrics import roc_auc_score
from surveys import COURSE, FEW, SMALL, configured, files_of, no_training, table

from kdcl_jax import config as kdcl
from kdcl_jax import (
  dataset,
  difficulty,
  parallel,
  run,
  scoring,
  stages,
  survey,
  train,
)

BESIDE_LABELS = ("scorer_entropy", "stream_data_map")


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
  """What is compiled is kept for the next training, as the command keeps it."""
  options = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
  """A survey of noisy digits: its directory and what it returned."""
  workdir = tmp_path_factory.mktemp("noisy")
  return workdir, survey.execute(configured(), workdir)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
  """A survey of digits with true labels, with two seeds."""
  workdir = tmp_path_factory.mktemp("clean")
  config = configured(rate=0.0, seeds=2, scorer=kdcl.scorer(**SMALL, **FEW))
  return workdir, survey.execute(config, workdir)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
  """A short survey of noisy digits: its directory, config, what it returned."""
  workdir = tmp_path_factory.mktemp("short")
  scorer = kdcl.scorer(**(SMALL | dict(steps=10)), **FEW)
  config = configured(stages=(), scorer=scorer)
  return workdir, config, survey.execute(config, workdir)


def test_a_survey_has_the_tables_of_a_run_to_the_last_byte(noisy, tmp_path):
  run.execute(configured(stages=("losses",)), tmp_path)
  made = files_of(tmp_path / "difficulty" / "seed_0")
  made = {p: content for p, content in made.items() if len(p.parts) == 1}
  names = ("scorer_loss", "scorer_loss_test")
  assert {path.stem for path in made} == set(names) and len(made) == 4
  surveyed = files_of(noisy[0] / "difficulty" / "seed_0")
  for path, content in made.items():
    assert surveyed[path] == content, path


def trainings(monkeypatch):
  """A list of the trainings that are done from here on."""
  fit, found = train.fit_together, []

  def spied(made, *args, **fields):
    found.extend(made)
    return fit(made, *args, **fields)

  monkeypatch.setattr(train, "fit_together", spied)
  return found


def test_stages_that_need_other_scores_share_their_trainings(
  tmp_path, monkeypatch
):
  trained = trainings(monkeypatch)
  scorer = kdcl.scorer(**(SMALL | dict(steps=10)), **FEW)
  run.execute(configured(scorer=scorer), tmp_path)
  names = [training.model.name for training in trained]
  assert names == ["scorer", "scorer", "losses", "margins"]
  values = [
    table(tmp_path, f"scorer_{n}").difficulty for n in ("loss", "margin")
  ]
  assert not np.array_equal(*values)


def test_a_run_in_the_directory_of_a_survey_takes_its_tables(
  noisy, monkeypatch
):
  workdir, _ = noisy
  monkeypatch.setattr(scoring, "cross_fitted", no_training)
  run.execute(configured(), workdir)
  assert "by `scorer_loss`" in (workdir / "report.md").read_text()
  assert (workdir / "score.md").exists()


def test_every_score_and_every_stream_has_a_table(noisy):
  workdir, found = noisy
  names = [f"scorer_{name}" for name in difficulty.SCORES]
  names += [f"stream_{name}" for name in difficulty.STREAMS]
  assert list(found["tables"]) == [*names, "fused"]
  ids = table(workdir, "fused").record_id
  assert len(ids) == 1000
  for name in found["tables"]:
    one = table(workdir, name)
    np.testing.assert_array_equal(one.record_id, ids)
    assert np.isfinite(one.difficulty).all()
    assert len(one.provenance["fingerprint"]) == 16
    assert one.provenance["model"]["name"] == "mlp"
    assert one.provenance["steps"] == 100
    assert one.provenance["ledger"]["scoring_backwards"] > 0
    assert one.provenance.get("in_fold", False) == name.startswith("stream_")


def test_wrong_labels_are_found_by_every_score_that_looks_at_the_label(noisy):
  workdir, found = noisy
  data = dataset.load(configured()["data"], seed=0)
  wrong = (data.train.labels != data.train.true_labels)[data.train.ids]
  for name, facts in found["tables"].items():
    auc = roc_auc_score(wrong, table(workdir, name).difficulty)
    assert facts["auc"]["mean"] == pytest.approx(auc)
    if name not in BESIDE_LABELS:
      assert auc > 0.9, name
  assert found["wrong_labels"]["mean"] == pytest.approx(wrong.mean())
  for row in found["suspicious"]:
    assert row["label"] == data.train.labels[row["record_id"]]
    assert row["true_label"] == data.train.true_labels[row["record_id"]]
    assert row["prediction"] != row["label"]
  share = [row["true_label"] != row["label"] for row in found["suspicious"]]
  assert len(share) == 100 and np.mean(share) > 0.9
  hard = [row["difficulty"] for row in found["suspicious"]]
  assert hard == sorted(hard, reverse=True)


def test_correlations_are_spearmans_and_fused_sums_reciprocal_ranks(noisy):
  workdir, found = noisy
  names = list(found["tables"])
  values = np.stack([table(workdir, name).difficulty for name in names])
  want = stats.spearmanr(values, axis=1).statistic
  have = [[found["spearman"][a][b] for b in names] for a in names]
  np.testing.assert_allclose(have, want, atol=1e-9)
  ranks = stats.rankdata(values, axis=1)
  together = [n not in (*BESIDE_LABELS, "fused") for n in names]
  fused = -np.sum(1 / (60 + ranks[together]), axis=0)
  np.testing.assert_allclose(values[names.index("fused")], fused, rtol=1e-12)


def test_the_map_agrees_with_the_streams_and_the_ledger(noisy):
  workdir, found = noisy
  with np.load(workdir / "difficulty" / "seed_0" / "map.npz") as place:
    place = dict(place)
  ids = table(workdir, "fused").record_id
  np.testing.assert_array_equal(place["record_id"], ids)
  for name, want in (
    ("stream_cumulative_confidence", 1 - place["confidence"]),
    ("stream_data_map", place["variability"]),
  ):
    have = table(workdir, name).difficulty
    np.testing.assert_allclose(have, want, atol=1e-5)
  times = place["presentations"]
  assert times.min() == 6 and times.max() == 7  # 100 steps, 16 an epoch
  assert times.sum() == found["ledger"]["training_forwards"]["mean"]
  assert found["ledger"]["scoring_forwards"]["mean"] == 1000
  assert found["ledger"]["test_forwards"]["mean"] == 2 * 597
  assert np.all((place["correctness"] >= 0) & (place["correctness"] <= 1))


def test_no_model_has_seen_what_it_scores(noisy):
  config = configured()
  data = dataset.load(config["data"], seed=0)
  devices = parallel.create("jit", 1)
  ids, left_out = data.train.ids, scoring.folds(data.train.ids, 2, 0) == 1
  split = dataclasses.replace(data.train, ids=ids[~left_out])
  training = stages.scorer_trainings(config, data, devices, 0)(split, 1)
  params = train.fit(training, devices).variables["params"]
  x = data.train.fetch(ids[left_out])[0]["image"].reshape(-1, 64) / 255.0
  layers = {x.shape: np.asarray(x) for x in jax.tree.leaves(params)}
  x = np.maximum(x @ layers[64, 32] + layers[32,][None], 0)
  x = x @ layers[32, 10] + layers[10,][None]
  log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
  label = data.train.labels[ids[left_out]]
  np.testing.assert_allclose(
    table(noisy[0], "scorer_loss").difficulty[left_out],
    -log_p[np.arange(len(label)), label],
    rtol=1e-4,
    atol=1e-5,
  )


def test_streams_change_nothing_of_a_training_and_do_not_mix():
  config = configured(scorer=kdcl.scorer(**(SMALL | dict(steps=30))))
  data = dataset.load(config["data"], seed=0)
  devices = parallel.create("jit", 1)
  training = stages.scorer_trainings(config, data, devices, 0)(data.train, 0)

  def outcome(*names):
    streams = {name: difficulty.STREAMS[name]() for name in names}
    return train.fit(dataclasses.replace(training, streams=streams), devices)

  without, both = outcome(), outcome("aum", "forgetting")
  jax.tree.map(np.testing.assert_array_equal, without.variables, both.variables)
  assert without.dynamics == {}
  jax.tree.map(
    np.testing.assert_array_equal,
    both.dynamics["aum"],
    outcome("aum").dynamics["aum"],
  )


def test_shard_map_and_jit_agree(noisy):
  config = configured()
  data = dataset.load(config["data"], seed=0)
  names = ("aum", "data_map", "learned_epoch")
  streams = {name: difficulty.STREAMS[name]() for name in names}
  devices = parallel.create("shard_map", 4)
  made = scoring.cross_fitted(config, {0: data}, devices, streams=streams)[0]
  for name in ("scorer_loss", "stream_aum", "stream_data_map"):
    one, two = table(noisy[0], name).difficulty, made.tables[name].difficulty
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)
  one = table(noisy[0], "stream_learned_epoch").difficulty
  two = made.tables["stream_learned_epoch"].difficulty
  assert np.mean(one == two) > 0.95


def test_a_seed_that_is_done_is_not_computed_again(short, monkeypatch):
  workdir, config, found = short
  before = files_of(workdir / "difficulty")
  monkeypatch.setattr(train, "fit_together", no_training)
  assert survey.execute(config, workdir) == found
  assert files_of(workdir / "difficulty") == before


@pytest.mark.parametrize("name", ["facts.json", "stream_aum.npz"])
def test_a_seed_that_was_cut_off_is_done_again_with_the_same_bytes(short, name):
  workdir, config, _ = short
  folder = workdir / "difficulty" / "seed_0"
  before = files_of(folder)
  (folder / name).unlink()
  survey.execute(config, workdir)
  after = files_of(folder)
  assert before.keys() == after.keys()
  for path in before.keys() - {pathlib.Path("facts.json")}:  # it has the time
    assert before[path] == after[path], path


def test_another_seed_is_added_and_has_other_labels_so_there_is_no_mean(
  short, monkeypatch
):
  workdir, config, first = short
  before = files_of(workdir / "difficulty" / "seed_0")
  trained = trainings(monkeypatch)
  found = survey.execute(config | {"seeds": 2}, workdir)
  assert len(trained) == 2  # the folds of the second seed
  assert files_of(workdir / "difficulty" / "seed_0") == before
  one, two = (r["tables"]["fused"]["auc"]["values"] for r in (first, found))
  assert len(two) == 2 and two[:1] == one
  assert found["mean"] is None
  assert not (workdir / "difficulty" / "mean").exists()
  text = (workdir / "score.md").read_text()
  assert "There are no means over the seeds" in text


def test_means_over_seeds_know_the_records_of_every_seed(clean):
  workdir, found = clean
  for name in ("scorer_loss", "fused"):
    parts = [table(workdir, name, f"seed_{seed}") for seed in (0, 1)]
    mean = table(workdir, name, "mean")
    values = [
      dict(zip(part.record_id, part.difficulty, strict=True)) for part in parts
    ]
    assert set(mean.record_id) == set(values[0]) | set(values[1])
    assert found["mean"]["records"] == len(mean.record_id) > 1000
    for record, value in zip(mean.record_id, mean.difficulty, strict=True):
      known = [part[record] for part in values if record in part]
      assert value == pytest.approx(np.mean(known))
  config = configured(rate=0.0)
  for seed in (0, 1):  # a run with either seed can be ordered by it
    data = dataset.load(config["data"], seed=seed)
    assert len(mean.of(data.train.ids, "order")) == 1000
    np.testing.assert_array_equal(
      mean.label[np.isin(mean.record_id, data.train.ids)],
      data.train.labels[data.train.ids],
    )


def test_a_later_run_takes_its_order_from_a_table(clean, tmp_path, monkeypatch):
  path = clean[0] / "difficulty" / "mean" / "fused.npz"
  course = COURSE | dict(difficulty=dict(source="file", path=str(path)))
  config = configured(
    rate=0.0,
    seed=1,
    stages=("student",),
    student=kdcl.stage(**(SMALL | dict(steps=10)), curriculum=course),
  )
  trained = trainings(monkeypatch)
  run.execute(config, tmp_path)
  (training,) = trained  # no scorer
  order = training.curriculum.order
  hard = table(clean[0], "fused", "mean").of(order, "order")
  assert len(order) == 1000 and np.all(np.diff(hard) >= 0) and np.ptp(hard) > 0


def test_the_page_shows_everything_in_one_file(noisy):
  workdir, _ = noisy
  text = (workdir / "score.md").read_text()
  for heading in (
    "## Suspicious labels",
    "## Finding the wrong labels",
    "## Data map",
    "## Difficulty in each class",
    "## How the scores agree",
    "## The tables",
    "## Compute",
    "## How it was made",
  ):
    assert heading in text
  pictures = re.findall(r"\]\((score/[^)]+\.png)\)", text)
  assert len(pictures) == 5
  for name in pictures:
    with Image.open(workdir / name) as picture:
      assert min(picture.size) > 300
  page = (workdir / "score.html").read_text()
  sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
  assert len(sources) == 5
  assert all(s.startswith("data:image/png;base64") for s in sources)
  assert page.count("<details>") == page.count("</details>") == 1


def test_nothing_is_said_of_wrong_labels_where_none_was_made(clean):
  workdir, found = clean
  text = (workdir / "score.md").read_text()
  assert "wrong labels" not in text.replace("wrong labels are to be", "")
  assert found["wrong_labels"] is None
  assert all(facts["auc"] is None for facts in found["tables"].values())
  assert len(found["suspicious"]) > 5
  for row in found["suspicious"]:
    assert "true_label" not in row and row["prediction"] != row["label"]
  assert "± " in text and "difficulty/mean/fused.npz" in text
