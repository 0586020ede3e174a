"""The learning rate's schedule starts again at the end of each lesson."""

import functools
from unittest import mock

import courses
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdcl_jax import optimizer, stages

CYCLES = dict(
  lessons=3, restart_learning_rate=dict(on=True, factor=0.5, floor=0.3)
)


def rates(monkeypatch, **fields):
  """The learning rate of every step, as the optimizer applies it."""
  seen = []
  update = optax.apply_updates

  def spy(params, updates):
    sizes = [jnp.max(jnp.abs(u)) for u in jax.tree.leaves(updates)]
    largest = functools.reduce(jnp.maximum, sizes)
    jax.debug.callback(lambda u: seen.append(float(u)), largest)
    return update(params, updates)

  monkeypatch.setattr(optax, "apply_updates", spy)
  courses.fit(**fields)
  return np.array(seen)


def test_each_lesson_is_a_cycle_and_its_rates_fall_down_to_the_floor(
  monkeypatch,
):
  fields = dict(
    steps=24,
    # Sign descent: every update is as large as the learning rate.
    optimizer=dict(name="lion", learning_rate=0.01, weight_decay=0.0),
    model=dict(name="mlp", widths=()),
  )
  seen = rates(monkeypatch, curriculum=CYCLES, **fields)
  cosine = (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
  whole = np.concatenate([cosine, 0.5 * cosine, 0.3 * cosine])
  np.testing.assert_allclose(seen, 0.01 * whole, rtol=1e-4)


def test_a_restart_leaves_moments_and_their_counts_alone():
  section = courses.section(optimizer=dict(name="adam", learning_rate=0.1))
  made = optimizer.build(section["optimizer"], 10)
  params = {"model": {"w": np.ones(3)}, "projectors": {}}
  state = made.init(params)
  for _ in range(4):
    _, state = made.update(params, state, params)
  again = optimizer.restarted(state)
  flat = lambda tree: [
    (jax.tree_util.keystr(path), np.asarray(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]
  changed = [
    name
    for (name, a), (_, b) in zip(flat(state), flat(again), strict=True)
    if not np.array_equal(a, b)
  ]
  counts = [name for name, leaf in flat(state) if leaf.shape == ()]
  assert len(changed) < len(counts) and changed
  assert all(np.all(b == 0) for name, b in flat(again) if name in changed)


def order(kind, balanced):
  ids = np.arange(0, 40, 2)
  labels = np.repeat([0, 1], 20)[np.argsort(np.argsort(np.arange(40) % 7))]
  split = mock.Mock(ids=ids, labels=labels)
  values = np.random.default_rng(2).random(20)
  section = dict(curriculum=dict(order=kind, balanced=balanced))
  return stages.order_of(section, split, values, 0), labels, ids, values


@pytest.mark.parametrize("kind", ["curriculum", "anti"])
def test_a_balanced_order_has_both_classes_in_every_part(kind):
  plain, labels, ids, values = order(kind, False)
  balanced, *_ = order(kind, True)
  assert sorted(plain) == sorted(balanced) == ids.tolist()
  fewer = min(np.bincount(labels[ids]))
  for end in range(2, 2 * fewer, 2):
    assert np.ptp(np.bincount(labels[balanced[:end]], minlength=2)) == 0
  for label in (0, 1):  # within a class the order stays
    of = lambda order, label=label: order[labels[order] == label].tolist()
    assert of(plain) == of(balanced)
  hardness = values[np.searchsorted(ids, plain)]
  slope = np.diff(hardness) * (1 if kind == "curriculum" else -1)
  assert np.all(slope >= 0)


def test_an_order_that_does_not_follow_the_difficulties_stops_the_run(
  monkeypatch,
):
  wrong = lambda values, *, kind, ids, seed: np.sort(ids)
  monkeypatch.setattr(stages.difficulty, "order", wrong)
  with pytest.raises(RuntimeError, match="'anti' does not follow"):
    order("anti", False)


@pytest.mark.parametrize(
  "name", ["adamw", "dot", "lion", "lamb", "lars", "nadamw", "novograd"]
)
def test_no_weight_decay_is_none_whatever_optax_has_as_its_default(name):
  section = dict(name=name, learning_rate=0.1)
  made = optimizer.single(courses.section(optimizer=section)["optimizer"], 10)
  params = {"w": jnp.ones((3, 3))}
  zeros = jax.tree.map(jnp.zeros_like, params)
  extra = {"distillation": zeros} if name == "dot" else {}
  updates, _ = made.update(zeros, made.init(params), params, **extra)
  assert np.all(np.asarray(updates["w"]) == 0)
