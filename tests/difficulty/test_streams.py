"""What a train step carries along, against the forms on stored outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdcl_jax import difficulty
from kdcl_jax.difficulty import STREAMS

EPOCHS, RECORDS, CLASSES, BATCH = 6, 11, 3, 4
GENERATOR = np.random.default_rng(5)
LOGITS = (2 * GENERATOR.standard_normal((EPOCHS, RECORDS, CLASSES))).astype(
  np.float32
)
LABELS = GENERATOR.integers(CLASSES, size=RECORDS).astype(np.int32)
LOGITS[:, 3] = -5 * np.eye(CLASSES)[LABELS[3]]  # never right
LOGITS[:, 4] = 5 * np.eye(CLASSES)[LABELS[4]]  # always right
CORRECT = LOGITS.argmax(-1) == LABELS

# Every factory by name, and other settings of them.
FACTORIES = {
  **STREAMS,
  "map_confidence": lambda: STREAMS["data_map"](coordinate="confidence"),
  "map_correctness": lambda: STREAMS["data_map"](coordinate="correctness"),
  "dih_change": lambda: STREAMS["dih"](hardness="change", gamma=0.3),
  "dih_flip": lambda: STREAMS["dih"](hardness="flip", gamma=0.3),
  "dih_even": lambda: STREAMS["dih"](gamma=0.3, debias=True),
}
BUILT = {name: factory() for name, factory in FACTORIES.items()}
UPDATE = {name: jax.jit(stream.update) for name, stream in BUILT.items()}
SCORE = {name: jax.jit(stream.score) for name, stream in BUILT.items()}


def losses_of(visits):
  z = np.stack([LOGITS[t, i] for t, i in visits]).astype(np.float64)
  z -= z.max(-1, keepdims=True)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  return -log_p[:, LABELS[visits[0][1]]]


def of_one_record(name, visits, most):
  """The score of a record from its visits alone, in plain NumPy."""
  losses = losses_of(visits)
  p, right = np.exp(-losses), np.array([CORRECT[t, i] for t, i in visits])
  if name == "forgetting":
    return (right[:-1] & ~right[1:]).sum() if right.any() else most
  if name == "learned_epoch":
    wrong = np.flatnonzero(~right)
    last = wrong[-1] + 1 if wrong.size else 0
    return most if last == len(right) else last
  if name == "aum":
    z = np.stack([LOGITS[t, i] for t, i in visits]).astype(np.float64)
    label = LABELS[visits[0][1]]
    return np.mean(np.delete(z, label, -1).max(-1) - z[:, label])
  if name in ("cumulative_confidence", "map_confidence"):
    return 1 - p.mean()
  if name == "data_map":
    return p.std()
  if name == "map_correctness":
    return 1 - right.mean()
  a = {
    "dih": losses,
    "dih_even": losses,
    "dih_change": np.abs(np.diff(losses)),
    "dih_flip": np.abs(np.diff(right.astype(float))),
  }[name]
  gamma = 0.9 if name == "dih" else 0.3
  if not len(a):
    return np.inf
  weights = gamma * (1 - gamma) ** np.arange(len(a))[::-1]
  return weights @ a / (weights.sum() if name == "dih_even" else 1)


def batches(present, seed=0):
  """The visits of [T, N] in shuffled batches, the last ones padded."""
  generator = np.random.default_rng(seed)
  for epoch, here in enumerate(present):
    ids = generator.permutation(np.flatnonzero(here))
    for start in range(0, len(ids), BATCH):
      part = ids[start : start + BATCH]
      rows = np.resize(part, BATCH)  # padding repeats records
      where = np.arange(BATCH) < len(part)
      logits = np.where(where[:, None], LOGITS[epoch, rows], np.nan)
      labels = np.where(where, LABELS[rows], -1)
      yield rows, logits.astype(np.float32), labels, where


def run(name, present, seed=0):
  state = BUILT[name].init(RECORDS)
  for ids, logits, labels, where in batches(present, seed):
    state = UPDATE[name](state, ids, logits, labels, where=where)
  return state


ALL = np.ones((EPOCHS, RECORDS), bool)
SOME = GENERATOR.random((EPOCHS, RECORDS)) < 0.6
SOME[:, 0] = False  # never presented
SOME[:, 1] = np.arange(EPOCHS) == 2  # presented once


@pytest.mark.parametrize("name", sorted(FACTORIES))
@pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
def test_a_stream_is_the_score_of_each_records_own_visits(name, present):
  score = SCORE[name](run(name, present))
  assert score.dtype == jnp.float32 and score.shape == (RECORDS,)
  visits = [
    [(t, i) for t in range(EPOCHS) if present[t, i]] for i in range(RECORDS)
  ]
  most = max(map(len, visits))
  expected = [of_one_record(name, v, most) if v else np.inf for v in visits]
  np.testing.assert_allclose(score, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
  "name", ["forgetting", "learned_epoch", "aum", "cumulative_confidence"]
)
def test_a_stream_over_whole_epochs_is_the_form_on_stored_outputs(name):
  stored = {
    "forgetting": lambda: difficulty.forgetting(CORRECT),
    "learned_epoch": lambda: difficulty.learned_epoch(CORRECT),
    "aum": lambda: difficulty.aum(LOGITS, LABELS),
    "cumulative_confidence": lambda: difficulty.cumulative_confidence(
      LOGITS, LABELS
    ),
  }[name]()
  score = SCORE[name](run(name, ALL))
  np.testing.assert_allclose(score, stored, rtol=1e-5, atol=1e-6)


def test_the_data_map_can_be_read_off_its_stream():
  place = difficulty.data_map_of(run("data_map", ALL))
  stored = difficulty.data_map(LOGITS, LABELS)
  for value, wanted in zip(place, stored, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    difficulty.variability(LOGITS, LABELS), stored.variability
  )


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_padded_rows_and_unknown_ids_change_nothing(name):
  before = run(name, ALL)
  ids, logits, labels, where = next(batches(ALL, seed=9))
  update = UPDATE[name]
  for rows, mask in (
    (ids, np.zeros(BATCH, bool)),
    (np.full(BATCH, -1), np.ones(BATCH, bool)),
    (RECORDS + np.arange(BATCH), np.ones(BATCH, bool)),
  ):
    after = update(before, rows, logits, labels, where=mask)
    jax.tree.map(np.testing.assert_array_equal, before, after)
  # A row that is there changes its own record, and no other.
  some = update(before, ids, logits, labels, where=np.arange(BATCH) == 1)
  changed = np.flatnonzero(some.presentations != before.presentations)
  assert changed.tolist() == [ids[1]]
  others = np.delete(np.arange(RECORDS), ids[1])
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[others], b[others]),
    before,
    some,
  )


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_neither_the_sequence_of_rows_nor_that_of_batches_matters(name):
  once, again = run(name, SOME, seed=1), run(name, SOME, seed=2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), once, again
  )


def test_numbering_the_records_otherwise_moves_their_scores():
  number = GENERATOR.permutation(RECORDS)
  for name, stream in BUILT.items():
    state, renumbered = stream.init(RECORDS), stream.init(RECORDS)
    for ids, logits, labels, where in batches(SOME):
      args = (logits, labels)
      state = UPDATE[name](state, ids, *args, where=where)
      renumbered = UPDATE[name](renumbered, number[ids], *args, where=where)
    score = SCORE[name]
    np.testing.assert_array_equal(score(renumbered)[number], score(state))


@pytest.mark.filterwarnings("error")  # scatters that lose digits warn
@pytest.mark.parametrize("name", sorted(STREAMS))
def test_the_update_is_traced_once_and_keeps_its_dtypes_in_float64(name):
  traces = []
  stream = BUILT[name]

  def update(*args, **options):
    traces.append(1)
    return stream.update(*args, **options)

  with jax.enable_x64(True):
    step = jax.jit(update)
    state = first = stream.init(RECORDS)
    for ids, logits, labels, where in batches(SOME):
      logits = jnp.asarray(logits, jnp.float64)
      state = step(state, ids, logits, labels, where=where)
    assert len(traces) == 1
    types = jax.tree.map(lambda x: x.dtype, state)
    assert types == jax.tree.map(lambda x: x.dtype, first)
    assert set(jax.tree.leaves(types)) <= {
      jnp.dtype(t) for t in (jnp.int32, jnp.float32, jnp.bool_)
    }


@pytest.mark.parametrize("name", ["data_map", "dih", "forgetting"])
def test_devices_that_share_a_batch_hold_the_same_state(name):
  stream, update = BUILT[name], UPDATE[name]
  mesh = jax.make_mesh(
    (4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  shared = jax.jit(
    jax.shard_map(
      lambda s, i, z, y, w: stream.update(
        s, i, z, y, where=w, axis_name="data"
      ),
      mesh=mesh,
      in_specs=(P(), P("data"), P("data"), P("data"), P("data")),
      out_specs=P(),
    )
  )
  alone = together = run(name, ALL)
  for ids, logits, labels, where in list(batches(SOME, seed=3))[:2]:
    alone = update(alone, ids, logits, labels, where=where)
    together = shared(together, ids, logits, labels, where)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, together
  )


def test_no_gradient_passes_through_a_stream():
  def total(logits):
    state = BUILT["aum"].update(
      BUILT["aum"].init(RECORDS), np.arange(4), logits, LABELS[:4]
    )
    return jnp.sum(state.mean) + jnp.sum(logits)

  np.testing.assert_array_equal(jax.grad(total)(LOGITS[0, :4]), 1)


def test_half_precision_outputs_are_read_in_float32():
  logits = jnp.asarray(LOGITS[0, :4], jnp.bfloat16)
  empty = BUILT["dih"].init(RECORDS)
  half, full = (
    UPDATE["dih"](empty, np.arange(4), z, LABELS[:4])
    for z in (logits, logits.astype(jnp.float32))
  )
  jax.tree.map(np.testing.assert_array_equal, half, full)


def test_flips_are_of_being_right_and_not_of_the_loss():
  # CurML takes the argmax of a scalar loss, which is always 0.
  right, wrong = [[0.0, 3.0, 0.0]], [[3.0, 0.0, 0.0]]
  otherwise_wrong = [[0.0, 0.0, 3.0]]
  stream = STREAMS["dih"](hardness="flip", gamma=1.0)
  update = jax.jit(stream.update)
  state, flips = stream.init(1), []
  for logits in (right, wrong, otherwise_wrong, right):
    state = update(state, np.array([0]), np.array(logits), np.array([1]))
    flips.append(stream.score(state).item())
  assert flips == [np.inf, 1.0, 0.0, 1.0]


def test_what_was_never_learned_is_hardest_also_if_it_was_seen_less():
  stream = STREAMS["forgetting"](unseen=-1.0)
  update = jax.jit(stream.update)
  state = stream.init(3)
  for visit in range(6):
    ids = np.array([0, 1]) if visit == 0 else np.array([0, 2])
    wrong, swinging = [1.0, 0.0], [visit % 2, 0.5]
    state = update(state, ids, np.array([swinging, wrong]), np.array([1, 1]))
  score = stream.score(state)
  assert score.tolist() == [3.0, 6.0, 6.0]
  assert stream.score(stream.init(2)).tolist() == [-1.0, -1.0]


def test_a_diverged_record_is_not_taken_for_an_unseen_one():
  stream = STREAMS["dih"]()
  state = stream.update(
    stream.init(2), np.array([0]), np.full((1, 2), np.nan), np.array([0])
  )
  assert np.isnan(stream.score(state)[0]) and stream.score(state)[1] == np.inf


def test_mistakes_with_streams_are_told_in_one_sentence():
  with pytest.raises(ValueError, match="coordinate is 'mean', expected one of"):
    STREAMS["data_map"](coordinate="mean")
  with pytest.raises(ValueError, match="hardness is 'margin', expected one of"):
    STREAMS["dih"](hardness="margin")
  with pytest.raises(ValueError, match="gamma is 0, expected a finite number"):
    STREAMS["dih"](gamma=0)
  with pytest.raises(ValueError, match="unseen is 'inf', expected a number"):
    STREAMS["aum"](unseen="inf")
  with pytest.raises(ValueError, match="n is 0, expected"):
    STREAMS["aum"]().init(0)
