"""Scores that need more of a model than its logits, in surveys and in runs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from surveys import COURSE, SMALL, configured, table

from kdcl_jax import config as kdcl
from kdcl_jax import (
  dataset,
  difficulty,
  examiner,
  parallel,
  plan,
  run,
  scoring,
  stages,
  survey,
  train,
  validation,
)
from kdcl_jax.errors import UserError
from kdcl_jax.writers import read_json

WIDER = ("grand", "prediction_depth")
DATA = dict(
  train_size=300,
  test_size=60,
  validation=60,
  label_noise=dict(kind="symmetric", rate=0.3),
)
NORMALISED = dict(
  model=dict(name="resnet", depth=8, widths=(4, 4, 6, 8)),
  steps=12,
  batch_size=24,
  optimizer=dict(name="adam", learning_rate=0.01),
  scores=("loss", *WIDER),
  streams=("aum",),
)


def caught(monkeypatch):
  """A list of (training, its final variables) from here on."""
  fit, found = train.fit_together, []

  def spied(trainings, *args, **fields):
    outcomes = fit(trainings, *args, **fields)
    for training, outcome in zip(trainings, outcomes, strict=True):
      found.append((training, outcome.variables))
    return outcomes

  monkeypatch.setattr(train, "fit_together", spied)
  return found


@pytest.fixture(scope="module")
def fitted():
  """The folds of a network with batch normalisation, and what they say."""
  config = configured(stages=(), data=DATA, scorer=kdcl.scorer(**NORMALISED))
  data = dataset.load(config["data"], seed=0)
  with pytest.MonkeyPatch.context() as patch:
    found = caught(patch)
    scored = scoring.cross_fitted(config, {0: data}, parallel.create("jit", 1))
  return data, found, scored[0]


def batch_of(split, ids):
  rows = split.fetch(ids)[0]
  return rows | {"weight": np.ones(len(ids), np.float32)}


def by_hand(split, ids, training, variables, support):
  """Both scores by the functions of `kdcl_jax.difficulty` alone."""
  forward, rest = (
    training.model.forward,
    {"batch_stats": variables["batch_stats"]},
  )

  def loss(params, example):
    one = {name: row[None] for name, row in example.items()}
    logits = forward({"params": params} | rest, one)[0]["logits"]
    return difficulty.loss(logits, one["label"])[0]

  grand = jax.jit(functools.partial(difficulty.grand, loss))
  batch, trained_on = batch_of(split, ids), batch_of(training.train, support)
  names = [f"f{i}" for i in range(5)]

  def layers(batch):
    outputs = forward(variables, batch)[0]
    taps = list(outputs["taps"].values())
    assert set(names) <= set(outputs["taps"])
    return outputs["logits"], [
      np.asarray(x).reshape(len(x), -1)
      for x in (outputs["inputs"], *taps, jax.nn.softmax(outputs["logits"]))
    ]

  logits, queries = layers(batch)
  depth = difficulty.prediction_depth(
    layers(trained_on)[1],
    trained_on["label"],
    queries,
    np.argmax(logits, -1),
    num_classes=10,
  )
  return np.asarray(grand(variables["params"], batch)), np.asarray(depth)


def test_tables_are_what_the_functions_say_of_the_model_of_each_fold(fitted):
  data, found, scored = fitted
  part = scoring.folds(data.train.ids, 2, 0)
  tests = []
  for fold, (training, variables) in enumerate(found):
    left_out, seen = (data.train.ids[part == i] for i in (fold, 1 - fold))
    assert set(training.train.ids) == set(seen)
    grand, depth = by_hand(data.train, left_out, training, variables, seen)
    have = [
      scored.tables[f"scorer_{name}"].difficulty[part == fold] for name in WIDER
    ]
    np.testing.assert_allclose(have[0], grand, rtol=1e-4)
    assert np.mean(have[1] == depth) > 0.97  # but for ties at the last digit
    assert len(np.unique(depth)) > 3
    tests.append(by_hand(data.test, data.test.ids, training, variables, seen))
  for name, values in zip(WIDER, zip(*tests, strict=True), strict=True):
    have = scored.tables[f"scorer_{name}_test"].difficulty
    agree = np.isclose(have, np.mean(values, 0), rtol=1e-4)
    assert np.mean(agree) > 0.95


def test_grand_is_a_loop_of_gradients_over_single_examples(fitted):
  data, found, scored = fitted
  training, variables = found[0]
  part = scoring.folds(data.train.ids, 2, 0)
  ids = data.train.ids[part == 0][:6]
  batch, forward = batch_of(data.train, ids), training.model.forward

  @jax.jit
  @jax.grad
  def gradient(params, one):
    logits = forward(variables | {"params": params}, one)[0]["logits"]
    return -jax.nn.log_softmax(logits)[0, one["label"][0]]

  want = []
  for i in range(6):
    one = {name: row[i : i + 1] for name, row in batch.items()}
    leaves = jax.tree.leaves(gradient(variables["params"], one))
    want.append(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves)))
  have = scored.tables["scorer_grand"].difficulty[part == 0][:6]
  np.testing.assert_allclose(have, want, rtol=1e-4)


def test_devices_that_share_a_batch_do_not_add_up_gradients(fitted):
  data, found, _ = fitted
  training, variables = found[0]
  scores = {name: difficulty.MODEL_SCORES[name] for name in WIDER}
  ids = data.train.ids[:21]  # the last batch is padded
  rows = []
  for place in (
    parallel.create("jit", 1),
    parallel.create("jit", 4),
    parallel.create("jit", 4, fsdp=16),
    parallel.create("shard_map", 4),
  ):
    model = dataclasses.replace(
      training.model, variables=place.put(jax.device_get(variables))
    )
    looking = examiner.Examiner(
      model, scores, place, support=(data.train, data.train.ids)
    )
    rows.append(looking.rows(data.train, ids))
  for other in rows[1:]:
    np.testing.assert_allclose(
      other["score/grand"], rows[0]["score/grand"], rtol=1e-4
    )
    key = "score/prediction_depth"
    assert np.mean(other[key] == rows[0][key]) > 0.9


def test_the_ledger_has_every_pass_and_present_tables_pay_nothing(fitted):
  data, found, scored = fitted
  records = len(data.train.ids)
  trained = scored.ledger["training_backwards"]
  cost = lambda name: scored.tables[f"scorer_{name}"].provenance["ledger"]
  passes = lambda f, b: {
    "scoring_forwards": f,
    "scoring_backwards": trained + b,
  }
  assert cost("loss") == passes(records, 0)
  assert cost("grand") == passes(2 * records, records)
  assert cost("prediction_depth") == passes(2 * records, 0)
  assert scored.ledger == {
    "training_forwards": trained,
    "training_backwards": trained,
    "scoring_forwards": 3 * records,
    "scoring_backwards": records,
    "test_forwards": 2 * 2 * 60,
    "test_backwards": 2 * 60,
  }


def test_a_record_does_not_vote_for_itself_and_ids_of_the_test_are_others(
  fitted,
):
  data, found, _ = fitted
  training, variables = found[0]
  asked = []

  @difficulty.needs("support_index", "support_labels", "logits")
  def index(support_index, support_labels, logits):
    asked.append(support_labels)
    assert len(logits) == len(support_index)
    return support_index

  looking = examiner.Examiner(
    dataclasses.replace(training.model, variables=variables),
    {"index": index},
    parallel.create("jit", 1),
    support=(data.train, data.train.ids),
  )
  have = looking.rows(data.train, data.train.ids[10:20])["score/index"]
  np.testing.assert_array_equal(have, np.arange(10, 20))
  np.testing.assert_array_equal(
    looking.rows(data.validation)["score/index"], -1
  )
  np.testing.assert_array_equal(looking.rows(data.test)["score/index"], -1)
  for labels in asked:
    np.testing.assert_array_equal(labels, data.train.labels[data.train.ids])


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
  """A survey that names them, and what it found."""
  workdir = tmp_path_factory.mktemp("wider")
  scorer = kdcl.scorer(
    **(SMALL | dict(steps=60)),
    scores=("loss", "entropy", *WIDER),
    streams=("aum",),
  )
  config = configured(scorer=scorer, stages=("student",), **student("grand"))
  return config, workdir, survey.execute(config, workdir)


def student(score, **fields):
  course = COURSE | dict(difficulty=dict(score=score))
  made = kdcl.stage(**(SMALL | dict(steps=10)), curriculum=course, **fields)
  return dict(student=made)


def test_the_report_has_them_and_only_the_label_counts_in_fused(surveyed):
  _, workdir, found = surveyed
  page = (workdir / "score.html").read_text()
  names = [f"scorer_{name}" for name in WIDER]
  for name in names:
    assert page.count(name) >= 3  # areas, head and row of the correlations
    assert found["tables"][name]["auc"]["mean"] == pytest.approx(
      found["tables"][name]["auc"]["values"][0]
    )
    assert found["spearman"]["scorer_loss"][name] < 1
  assert found["tables"]["scorer_grand"]["auc"]["mean"] > 0.8
  assert found["spearman"]["scorer_loss"]["scorer_grand"] > 0.5
  of = table(workdir, "fused").provenance["of"]
  assert of == ["scorer_loss", "scorer_grand", "stream_aum"]


def test_a_run_is_ordered_by_them_and_costs_what_was_planned(
  surveyed, tmp_path
):
  config, workdir, _ = surveyed
  run.execute(config, tmp_path)
  name = "difficulty/seed_0/scorer_grand"
  for end in (".npz", ".json", "_test.npz"):
    ours, theirs = tmp_path / (name + end), workdir / (name + end)
    assert ours.read_bytes() == theirs.read_bytes()
  result = read_json(tmp_path / "student" / "seed_0" / "result.json")
  data = dataset.load(config["data"], seed=0)
  planned = plan.make(config, data, seed=0)
  (stage,) = planned.stages
  for kind in ("scoring_forwards", "scoring_backwards"):
    assert stage.compute.ledger[kind] == result["ledger"][kind] > 0


def test_a_teacher_ranks_by_them(fitted):
  data, found, _ = fitted
  training, variables = found[0]
  model = dataclasses.replace(training.model, variables=variables)
  for name in WIDER:
    made = scoring.by_models(
      [model],
      data.train,
      score=name,
      function=stages.score_of(name, "x"),
      parallel=parallel.create("jit", 1),
      provenance={},
    )
    assert np.isfinite(made.difficulty).all() and np.ptp(made.difficulty) > 0


def test_all_scores_by_default_are_those_of_logits_and_labels():
  config = configured(scorer=kdcl.scorer(**SMALL))
  assert list(scoring.scores_of(config)) == list(difficulty.SCORES)


def needy():
  """A score of one's own that asks for what there is not."""


needy.needs = ("hessian",)


def test_a_wrong_need_and_a_new_ranking_by_them_end_in_a_sentence():
  with pytest.raises(UserError) as error:
    stages.score_of("test_model_scores.needy", "config.scorer.scores")
  for word in ("config.scorer.scores", "needy", "'hessian'", "'logits'"[1:-1]):
    assert word in str(error.value)
  with pytest.raises(UserError, match="'prediction_dept'.*'prediction_depth'"):
    stages.score_of("prediction_dept", "config.scorer.scores")
  for name in WIDER:
    course = COURSE | dict(rerank=dict(on=True, score=name))
    made = kdcl.stage(**(SMALL | dict(steps=10)), curriculum=course)
    config = configured(stages=("student",), student=made)
    with pytest.raises(UserError) as error:
      validation.check(config)
    sentence = f"config.student.curriculum.rerank.score is {name!r}"
    assert sentence in str(error.value)
