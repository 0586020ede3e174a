"""A step whose loss or gradient is not finite stops a run, or is skipped."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from kdcl_jax import config as kdcl
from kdcl_jax import models, parallel, run, state, step
from kdcl_jax import terms as objectives
from kdcl_jax.difficulty import STREAMS
from kdcl_jax.errors import UserError
from kdcl_jax.models.batch_norm import BatchNorm

RECORDS, CLASSES, MOST = 40, 3, 2
OPTIMIZER = optax.adam(0.1, eps=1e-3)  # else rounding alone moves a bias
TERMS = objectives.build({"cross_entropy": {}}, ())
STREAM = {"aum": STREAMS["aum"]()}


class Net(nn.Module):
  """BatchNorm, so that there are statistics to spoil."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    x = nn.Dense(8)(x.reshape(x.shape[0], -1))
    x = BatchNorm(axis_name=self.axis_name)(x, train=train, mask=mask)
    return {"logits": nn.Dense(CLASSES)(nn.relu(x)), "taps": {}}


def batch_of(seed, spoiled=False):
  chance = np.random.default_rng(seed)
  image = chance.normal(size=(16, 4, 4, 1)).astype(np.float32)
  if spoiled:
    image[5] = np.nan
  return {
    "image": image,
    "label": chance.integers(0, CLASSES, 16).astype(np.int32),
    "weight": np.ones(16, np.float32),
    "id": np.arange(16, dtype=np.int32),
  }


def stepper(mode="jit", devices=1, skip=MOST, lanes=False):
  place = parallel.create(mode, devices)
  forward = step.forward_of(Net(axis_name=place.axis_name), "image", (), ())
  body = step.train_body(
    forward,
    TERMS,
    OPTIMIZER,
    optax.constant_schedule(0.1),
    streams=STREAM,
    total_steps=10,
    ema=0.9,
    skip_not_finite=skip,
    axis_name=place.axis_name,
  )
  return place, place.partition(body, constants=2, lanes=lanes)


def beginning(place):
  variables = models.init(
    Net(), jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32)
  )
  return place.put(
    state.create(
      variables,
      OPTIMIZER,
      step.metric_names(TERMS),
      seed=0,
      ema=True,
      dynamics={name: one.init(RECORDS) for name, one in STREAM.items()},
    )
  )


def after(place, body, spoiled):
  now = beginning(place)
  for number, bad in enumerate(spoiled):
    now, _ = body(now, (), place.put_batch(batch_of(number, bad)))
  return jax.device_get(now)


def assert_same(one, other, but=()):
  for field in dataclasses.fields(one):
    if field.name not in but:
      jax.tree.map(
        np.testing.assert_array_equal,
        getattr(one, field.name),
        getattr(other, field.name),
      )


def assert_close(one, other):
  """Up to rounding, since another program is compiled."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    one,
    other,
  )


@pytest.mark.parametrize(
  ("mode", "devices"), [("jit", 1), ("jit", 4), ("shard_map", 4)]
)
def test_a_skipped_step_changes_nothing_but_what_counts_it(mode, devices):
  place, body = stepper(mode, devices)
  before = after(place, body, [False, False])
  now = after(place, body, [False, False, True])
  assert_same(now, before, but=("step", "skips"))
  assert (int(now.step), now.skips.tolist()) == (3, [1, 1])
  assert int(now.bad_step) == -1
  # And it goes on from there, with the count in a row begun anew.
  later = after(place, body, [False, False, True, False])
  assert later.skips.tolist() == [1, 0]
  for leaf in jax.tree.leaves(later):
    assert np.isfinite(leaf).all()


def test_where_all_is_finite_skipping_changes_nothing():
  place, body = stepper(skip=MOST)
  _, plain = stepper(skip=0)
  clean = [False] * 3
  assert_close(after(place, body, clean), after(place, plain, clean))


def test_more_in_a_row_than_allowed_are_bad():
  place, body = stepper()
  now = after(place, body, [True] * MOST + [False] + [True] * MOST)
  assert int(now.bad_step) == -1 and now.skips.tolist() == [2 * MOST, MOST]
  now = after(place, body, [False] + [True] * (MOST + 2))
  assert int(now.bad_step) == 1 + MOST  # the first too many


def test_without_skipping_the_first_is_bad_and_spoils_the_parameters():
  place, body = stepper(skip=0)
  now = after(place, body, [False, True, True])
  assert int(now.bad_step) == 1 and now.skips.tolist() == [0, 0]
  assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(now.params))


def test_an_update_that_is_not_finite_is_skipped_too():
  place, body = stepper()
  now = beginning(place)
  nu = jax.tree.map(lambda v: jnp.full_like(v, -1.0), now.opt_state[0].nu)
  spoiled = now.replace(
    opt_state=(now.opt_state[0]._replace(nu=nu), *now.opt_state[1:])
  )
  new, loss = body(spoiled, (), place.put_batch(batch_of(0)))
  assert np.isfinite(loss) and new.skips.tolist() == [1, 1]
  assert_same(*jax.device_get((new, spoiled)), but=("step", "skips"))


def test_a_lane_skips_without_the_others():
  place, body = stepper(lanes=True)
  _, alone = stepper()
  stack = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), beginning(place))
  batches = [batch_of(0, True), batch_of(0)]
  both = {k: np.stack([b[k] for b in batches]) for k in batches[0]}
  new, _ = body(stack, (), place.put_batch(both, lanes=True))
  assert new.skips.tolist() == [[1, 1], [0, 0]]
  first = jax.tree.map(lambda leaf: leaf[0], new)
  assert_same(*jax.device_get((first, beginning(place))), but=("step", "skips"))
  second = jax.tree.map(lambda leaf: leaf[1], new)
  want = after(place, alone, [False])
  assert_close(jax.device_get(second), want)


def config(bad, **fields):
  return kdcl.resolve(
    kdcl.run(
      stages=("teacher",),
      export="",
      log_steps=5,
      tensorboard=False,
      checkpoint_steps=10,
      data=dict(source="faulty.not_a_number", options=dict(bad=bad)),
      teacher=kdcl.stage(
        steps=40,
        batch_size=16,
        model=dict(name="mlp", widths=(8,)),
        optimizer=dict(name="sgd", learning_rate=0.1),
        **fields,
      ),
    )
  )


def test_a_run_counts_what_it_skips_and_says_so(tmp_path, caplog):
  found = run.execute(config(bad=(3, 50), skip_not_finite=3), tmp_path)
  skipped = found["stages"]["teacher"]["skipped_steps"]["mean"]
  assert 2 <= skipped <= 40
  result = json.loads((tmp_path / "teacher/seed_0/result.json").read_text())
  assert result["skipped_steps"] == skipped
  assert f"{skipped:.0f} so far" in caplog.text
  report = (tmp_path / "report.md").read_text()
  assert f"not finite: teacher: {skipped:g}." in report


def test_a_run_that_may_not_skip_stops_in_a_sentence(tmp_path):
  with pytest.raises(UserError) as stopped:
    run.execute(config(bad=(3,)), tmp_path, reported=False)
  said = str(stopped.value)
  assert "became NaN or infinite in stage 'teacher' at step" in said
  assert "config.teacher.skip_not_finite" in said


def test_a_run_with_too_many_in_a_row_stops(tmp_path):
  # Either its steps or what it is validated with comes first.
  with pytest.raises(UserError, match="NaN or infinite"):
    run.execute(
      config(bad=tuple(range(300)), skip_not_finite=3), tmp_path, reported=False
    )
