"""Orders that follow the learner: what moves, by what, and what never does."""

import functools

import jax
import numpy as np
import pytest
from courses import (
  DATA,
  DIFFICULTY,
  NET,
  RECORDS,
  batches_seen,
  fit,
  model,
  training,
)
from hypothesis import given
from hypothesis import strategies as st

from kdcl_jax import difficulty, evaluate, parallel, state, step
from kdcl_jax.curriculum import reranked
from kdcl_jax.difficulty import STREAMS
from kdcl_jax.reranking import Reranking

IDS = np.sort(DATA.train.ids)


@st.composite
def orders(draw):
  """An order, difficulties with many ties, and how many ranks stay."""
  size = draw(st.integers(1, 40))
  order = draw(st.permutations(range(3, 3 + size)))
  values = draw(
    st.lists(
      st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf]),
      min_size=size,
      max_size=size,
    )
  )
  return np.array(order), np.array(values), draw(st.integers(0, size))


@given(orders(), st.booleans())
def test_the_first_ranks_stay_and_the_rest_is_sorted_with_ties_in_place(
  made, anti
):
  order, values, first = made
  new = reranked(order, first, values, anti=anti)
  assert sorted(new) == sorted(order)
  np.testing.assert_array_equal(new[:first], order[:first])
  by_id = dict(zip(order, values, strict=True))
  place = {record: i for i, record in enumerate(order)}
  for one, next_one in zip(new[first:], new[first + 1 :], strict=False):
    a, b = by_id[one], by_id[next_one]
    assert (a >= b) if anti else (a <= b)
    if a == b:
      assert place[one] < place[next_one]


@given(orders())
def test_an_anti_order_stays_the_reverse_of_the_curriculum(made):
  order, values, _ = made
  forth = reranked(order, 0, values)
  back = reranked(order[::-1], 0, values[::-1], anti=True)
  np.testing.assert_array_equal(back, forth[::-1])


def rankings(monkeypatch):
  """Fills a list with what each ranking had and made."""
  seen = []
  apply, difficulties = Reranking.apply, Reranking.difficulties

  def spy(self, curriculum, active, values):
    new, correlation = apply(self, curriculum, active, values)
    seen[-1] |= dict(
      before=curriculum.order,
      after=new.order,
      active=active,
      values=dict(zip(self.order, values, strict=True)),
      correlation=correlation,
    )
    return new, correlation

  def asked(self, dynamics, evaluator, variables, split):
    seen.append(
      dict(
        dynamics=jax.device_get(dynamics), variables=jax.device_get(variables)
      )
    )
    return difficulties(self, dynamics, evaluator, variables, split)

  monkeypatch.setattr(Reranking, "apply", spy)
  monkeypatch.setattr(Reranking, "difficulties", asked)
  return seen


GROWING = dict(name="linear", start=0.3, reach=1.0)


def course(order="curriculum", pacing=GROWING, **rerank):
  return dict(
    order=order, lessons=4, pacing=pacing, rerank=dict(on=True) | rerank
  )


def losses_of(made, variables, ids):
  """The cross-entropy of records in evaluation mode, in plain NumPy."""
  records, _ = DATA.train.fetch(ids)
  batch = {"image": records["image"], "weight": np.ones(len(ids))}
  logits = made.model.forward(variables, batch)[0]["logits"]
  logits = np.asarray(logits, np.float64)
  labels = DATA.train.labels[ids]
  shifted = logits - logits.max(1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  return -log_p[np.arange(len(ids)), labels]


def pearson(one, two):
  return np.corrcoef(one, two)[0, 1]


@pytest.mark.parametrize("order", ["curriculum", "anti"])
def test_what_was_never_active_is_ranked_by_the_learners_own_losses(
  monkeypatch, order
):
  ranked, seen = rankings(monkeypatch), batches_seen(monkeypatch)
  fields = dict(curriculum=course(order), model=NET)
  outcome = fit(**fields)
  made = training(**fields)
  # The fourth lesson is the last: nothing is left to be ranked.
  assert len(ranked) == 3 and outcome.totals.rescored == 3 * RECORDS
  now = made.curriculum.order
  for lesson, ranking in enumerate(ranked, 1):
    np.testing.assert_array_equal(ranking["before"], now)
    now, active = ranking["after"], ranking["active"]
    assert active == np.ceil((0.3 + 0.7 * lesson / 4) * RECORDS)
    np.testing.assert_array_equal(now[:active], ranking["before"][:active])
    assert (now != ranking["before"]).any()
    expected = losses_of(made, ranking["variables"], IDS)
    got = np.array([ranking["values"][record] for record in IDS])
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)
    late = [ranking["values"][record] for record in now[active:]]
    assert late == sorted(late, reverse=order == "anti")
    # Spearman's correlation with the difficulties of the first order.
    first = {r: i for i, r in enumerate(made.curriculum.order)}
    place = np.array([first[r] for r in IDS]) * (1 if order != "anti" else -1)
    ranks = np.argsort(np.argsort(got))
    assert ranking["correlation"] == pytest.approx(
      pearson(ranks, np.argsort(np.argsort(place))), abs=1e-3
    )
    # What the next lesson shows comes from the new order.
    for t in range(6 * lesson, 6 * (lesson + 1)):
      n = np.ceil(min(0.3 + 0.7 * t / 24, 1.0) * RECORDS * (1 - 1e-12))
      assert set(seen[t]) <= set(now[: int(n)])
  assert outcome.traces == 1


def test_anti_is_the_exact_reverse_with_the_hardest_first():
  forth = training(curriculum=dict(order="curriculum")).curriculum.order
  back = training(curriculum=dict(order="anti")).curriculum.order
  np.testing.assert_array_equal(back, forth[::-1])
  hard = dict(zip(DATA.train.ids, DIFFICULTY, strict=True))
  values = [hard[record] for record in back]
  assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_a_stage_on_the_anti_order_sees_the_hardest_first(monkeypatch):
  seen = batches_seen(monkeypatch)
  fit(curriculum=dict(order="anti", pacing=dict(name="constant", fraction=0.2)))
  hard = dict(zip(DATA.train.ids, DIFFICULTY, strict=True))
  shown = np.unique(np.concatenate(list(seen.values())))
  hidden = np.setdiff1d(IDS, shown)
  assert min(hard[r] for r in shown) >= max(hard[r] for r in hidden)


@pytest.mark.parametrize("order", ["curriculum", "anti"])
def test_all_records_are_ranked_by_any_score_where_that_is_asked_for(
  monkeypatch, order
):
  ranked = rankings(monkeypatch)
  fields = dict(
    curriculum=course(order, records="all", every=2, score="entropy")
  )
  fit(**fields)
  (ranking,) = ranked  # after lessons 2 and 4, of which the last counts not
  values = [ranking["values"][record] for record in ranking["after"]]
  assert values == sorted(values, reverse=order == "anti")
  first = ranking["after"][: ranking["active"]]
  assert (first != ranking["before"][: ranking["active"]]).any()
  records, _ = DATA.train.fetch(IDS)
  batch = {"image": records["image"], "weight": np.ones(len(IDS))}
  forward = training(**fields).model.forward
  logits = forward(ranking["variables"], batch)[0]["logits"]
  np.testing.assert_allclose(
    [ranking["values"][record] for record in IDS],
    difficulty.entropy(logits, DATA.train.labels[IDS]),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize("name", ["aum", "forgetting"])
def test_a_stream_ranks_all_records_by_what_the_steps_have_seen(
  monkeypatch, name
):
  ranked = rankings(monkeypatch)
  fields = dict(curriculum=course(records="all", stream=name))
  outcome = fit(**fields)
  assert len(ranked) == 3 and outcome.traces == 1
  # No forward pass beside the training's own.
  assert outcome.totals.rescored == 0
  stream = BUILT[name]
  for ranking in ranked:
    score = np.asarray(stream.score(ranking["dynamics"]))
    values = [ranking["values"][record] for record in ranking["after"]]
    np.testing.assert_array_equal(values, score[ranking["after"]])
    assert values == sorted(values)
    unseen = np.isinf(values)
    # What was never in a batch comes last, in the sequence that it had.
    assert unseen.any() and not unseen[: -unseen.sum()].any()
    late = ranking["after"][unseen]
    before = [r for r in ranking["before"] if r in set(late)]
    np.testing.assert_array_equal(late, before)
    assert -1 <= ranking["correlation"] <= 1


def test_a_record_that_cannot_be_read_is_the_hardest():
  made = training(curriculum=course(records="all"))
  order = made.curriculum.order

  class Evaluator:
    def records(self, variables, split, ids):
      return {"rerank": np.sin(ids), "readable": ~np.isin(ids, order[3:5])}

  values = made.reranking.difficulties(None, Evaluator(), None, DATA.train)
  expected = np.sin(order)
  expected[3:5] = np.inf
  np.testing.assert_array_equal(values, expected)
  new, correlation = made.reranking.apply(made.curriculum, 9, values)
  assert set(new.order[-2:]) == set(order[3:5])
  # The correlation is over those that have a value.
  kept = np.delete(np.arange(RECORDS), [3, 4])
  ranks = np.argsort(np.argsort(np.sin(order[kept])))
  assert correlation == pytest.approx(
    pearson(ranks, np.argsort(kept)), abs=1e-6
  )


EPOCHS, PER_EPOCH, BATCH = 3, 3, 16
SHOWN = 40  # records: the last batch of an epoch has 8 rows of padding
BUILT = {name: factory() for name, factory in STREAMS.items()}


def epochs(garbage):
  """The batches of three shuffled epochs, padding filled with anything."""
  rng = np.random.default_rng(2)
  for _ in range(EPOCHS):
    ids = rng.permutation(IDS[:SHOWN])
    for start in range(0, SHOWN, BATCH):
      part = ids[start : start + BATCH]
      rows = np.resize(part, BATCH)
      records, _ = DATA.train.fetch(rows)
      weight = (np.arange(BATCH) < len(part)).astype(np.float32)
      image, label = records["image"].copy(), records["label"].copy()
      image[len(part) :] = garbage
      label[len(part) :] = garbage % 10
      rows[len(part) :] = IDS[garbage]
      yield dict(image=image, label=label, weight=weight, id=rows)


@functools.cache
def stepping(mode, devices):
  """A compiled step that carries all streams along, and its first state."""
  place = parallel.create(mode, devices)
  made = training(place, model=NET)
  body = step.train_body(
    made.model.forward,
    made.terms,
    made.optimizer,
    made.schedule,
    streams=BUILT,
    total_steps=EPOCHS * PER_EPOCH,
    axis_name=place.axis_name,
  )
  first = state.create(
    made.model.variables,
    made.optimizer,
    step.metric_names(made.terms),
    seed=0,
    ema=False,
    parts=made.parts,
    dynamics={n: s.init(int(IDS.max()) + 1) for n, s in BUILT.items()},
  )
  return place, place.partition(body, constants=2), place.put(first)


@functools.cache
def stepped(mode="jit", devices=1, garbage=0):
  """The states before each step and after the last."""
  place, run, first = stepping(mode, devices)
  states = [first]
  for batch in epochs(garbage):
    states.append(run(states[-1], (), place.put_batch(batch))[0])
  return jax.device_get(states)


@functools.cache
def outputs():
  """The logits of each record in each epoch, as the steps have seen them."""
  made = training(model=NET)
  forward = jax.jit(
    lambda params, stats, batch: made.model.forward(
      {"params": params, "batch_stats": stats}, batch, train=True
    )[0]["logits"]
  )
  logits = np.zeros((EPOCHS, SHOWN, 10), np.float32)
  for number, (now, batch) in enumerate(
    zip(stepped(), epochs(0), strict=False)
  ):
    seen = np.asarray(forward(now.params, now.batch_stats, batch))
    here = batch["weight"] > 0
    places = np.searchsorted(IDS, batch["id"][here])
    logits[number // PER_EPOCH, places] = seen[here]
  return logits


def stacked(name, logits, labels):
  """The score of whole epochs from stored outputs."""
  correct = logits.argmax(-1) == labels
  if name == "forgetting":
    return difficulty.forgetting(correct)
  if name == "learned_epoch":
    return difficulty.learned_epoch(correct)
  if name == "data_map":
    return difficulty.variability(logits, labels)
  if name == "dih":
    p = jax.nn.log_softmax(logits)
    losses = -np.take_along_axis(np.asarray(p), labels[None, :, None], 2)
    weights = 0.9 * 0.1 ** np.arange(len(logits))[::-1]
    return weights @ losses[..., 0]
  return getattr(difficulty, name)(logits, labels)


@pytest.mark.parametrize("name", STREAMS)
def test_the_steps_own_stream_is_the_formula_on_its_outputs(name):
  logits = outputs()
  score = np.asarray(BUILT[name].score(stepped()[-1].dynamics[name]))
  labels = DATA.train.labels[IDS[:SHOWN]]
  expected = stacked(name, logits, labels)
  np.testing.assert_allclose(score[IDS[:SHOWN]], expected, rtol=2e-4, atol=2e-5)
  others = np.setdiff1d(np.arange(len(score)), IDS[:SHOWN])
  assert np.isinf(score[others]).all()
  assert len(set(np.asarray(expected).round(3))) > 1


def test_padding_leaves_no_trace_in_a_stream():
  plain, filled = (stepped(garbage=g)[-1].dynamics for g in (0, 77))
  jax.tree.map(np.testing.assert_array_equal, plain, filled)
  assert plain["aum"].presentations[IDS[:SHOWN]].tolist() == [EPOCHS] * SHOWN


@pytest.mark.parametrize(
  ("mode", "devices"),
  [
    ("jit", 8),
    ("shard_map", 1),
    ("shard_map", 2),
    ("shard_map", 8),
  ],
)
def test_streams_do_not_depend_on_the_devices(mode, devices):
  got, want = stepped(mode, devices)[-1], stepped()[-1]
  got, want = got.dynamics, want.dynamics
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got,
    want,
  )
  for name in STREAMS:
    np.testing.assert_array_equal(
      got[name].presentations, want[name].presentations
    )


def test_a_stream_changes_nothing_of_the_training():
  fields = dict(curriculum=dict(order="curriculum", pacing=GROWING))
  plain = fit(**fields)
  # Of one lesson, so that nothing is ranked before the end.
  options = dict(on=True, records="all", stream="aum")
  lessons = dict(lessons=1, rerank=options)
  ranked = fit(curriculum=fields["curriculum"] | lessons)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    jax.device_get(plain.variables),
    jax.device_get(ranked.variables),
  )


def test_nothing_is_ranked_once_the_course_is_frozen(monkeypatch):
  ranked = rankings(monkeypatch)
  monkeypatch.setattr(
    evaluate,
    "measure",
    lambda rows, said=[0.9, 0.1, 0.1, 0.1]: dict(  # noqa: B006
      accuracy=said.pop(0), loss=1.0
    ),
  )
  options = course() | dict(freeze=dict(on=True, patience=1))
  outcome = fit(curriculum=options)
  assert outcome.course.frozen and len(ranked) == 1


def test_everything_at_once_is_traced_once(monkeypatch):
  monkeypatch.setattr(
    evaluate, "measure", lambda rows: dict(accuracy=0.5, loss=1.0)
  )
  teachers = (model(snapshots=(0.25, 0.5)), model("second", 7))
  common = dict(
    teachers=teachers,
    objective=dict(cross_entropy={}, kd={}),
    weighting=dict(
      name="spl_linear",
      loss="cross_entropy",
      quantile=dict(start=0.3, end=1.0),
    ),
    teacher_pacing=dict(name="linear", start=0.1, reach=1.0),
  )
  growing = course(records="all", stream="aum") | dict(
    reduce_learning_rate=dict(on=True, patience=1, factor=0.5)
  )
  outcome = fit(curriculum=growing, **common)
  assert outcome.traces == 1
  assert outcome.course.learning_rate_scale < 1
  passing = course(pacing=dict(name="one_pass", buckets=3))
  assert fit(curriculum=passing, **common).traces == 1
