"""Projectors in the step: trained, sharded, apart from the student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainings import (
  DATA,
  PAIR,
  POOLED,
  assert_close,
  changed,
  fit,
  training,
)

from kdcl_jax import losses, objective, parallel, stages, step, train

# Everything that could depend on how rows are spread over devices: BatchNorm,
# a memory, random masks, measured margins, relations, a peer network.
MANY = {
  "cross_entropy": {},
  "crd": POOLED | {"projector": {"name": "memory", "negatives": 6}},
  "ctkd": {"loss": "kd", "projector": {"name": "ctkd", "theta": -3.0}},
  "dml": {
    "projector": {
      "name": "peer",
      "model": "mlp",
      "options": (("widths", (8,)),),
    }
  },
  "fitnet": PAIR | {"projector": {"name": "conv"}},
  "flsw": {
    "loss": "kd",
    "coefficient": 0.1,
    "projector": {"name": "flsw", "gamma": 2.0},
  },
  "ft": PAIR | {"projector": {"name": "factors"}},
  "mgd": {
    "student_tap": "f1_pre",
    "teacher_tap": "f1_pre",
    "alpha": 1e-3,
    "projector": {"name": "generator", "mask_ratio": 0.5},
  },
  "ofd": {
    "student_tap": "f1_pre",
    "teacher_tap": "f1_pre",
    "coefficient": 1e-3,
    "projector": {"name": "ofd"},
  },
  "reviewkd": {
    "student_tap": ("f0_pre", "f1_pre", "f2"),
    "teacher_tap": ("f0_pre", "f1_pre", "f2"),
    "projector": {"name": "fusion"},
  },
  "rkd": POOLED | {"coefficient": 0.1},
  "sp": PAIR,
  "srrl": POOLED | {"coefficient": 0.1, "projector": {"name": "srrl"}},
  "vid": {
    "student_tap": ("f0", "f1"),
    "teacher_tap": ("f0", "f1"),
    "coefficient": 0.1,
    "projector": {"name": "vid"},
  },
}
WITH_PARAMETERS = [
  "crd.0",
  "ctkd.0",
  "dml",
  "fitnet.0",
  "ft.0",
  "mgd.0",
  "ofd.0",
  "reviewkd.0",
  "srrl.0",
  "vid.f0.0",
  "vid.f1.0",
]


@pytest.fixture(scope="module")
def on_one_device():
  return fit(MANY)


@pytest.mark.parametrize(
  ("mode", "devices"), [("jit", 8), ("shard_map", 2), ("shard_map", 8)]
)
def test_student_and_projectors_do_not_depend_on_the_devices(
  on_one_device, mode, devices
):
  assert_close(fit(MANY, mode, devices), on_one_device)


def test_every_projector_is_trained_and_keeps_its_state(on_one_device):
  _, parts = on_one_device
  start = jax.device_get(training(MANY).parts)
  trained = [name for name, tree in parts["params"].items() if tree]
  assert trained == WITH_PARAMETERS
  for name in trained:
    moved = changed(start["params"][name], parts["params"][name])
    # A bias in front of BatchNorm, and one of two embeddings' last rows, stay.
    assert np.mean(moved) > 0.5, name
  for name in ("crd.0", "ofd.0", "fitnet.0", "reviewkd.0"):
    assert all(changed(start["state"][name], parts["state"][name])), name


def test_the_memory_moves_in_the_rows_of_the_batch_and_nowhere_else():
  objective_ = {"cross_entropy": {}, "crd": MANY["crd"]}
  made = training(objective_, steps=1)
  start = jax.device_get(made.parts["state"]["crd.0"]["memory"]["bank"])
  _, parts = fit(objective_, steps=1)
  bank = parts["state"]["crd.0"]["memory"]["bank"]
  ids, _, present = made.curriculum.batch(
    made.curriculum.controller.init(), 0, slice(0, 16)
  )
  rows = np.searchsorted(np.sort(DATA.train.ids), ids[present])
  for side in ("student", "teacher"):
    moved = np.any(start[side] != bank[side], axis=1)
    assert set(np.flatnonzero(moved)) == set(rows)
    np.testing.assert_allclose(
      np.linalg.norm(bank[side][rows], axis=1), 1, rtol=1e-5
    )
  assert bank["student_z"] > 0 and bank["teacher_z"] > 0


def test_measured_margins_are_the_means_of_the_teachers_negative_responses():
  objective_ = {"cross_entropy": {}, "ofd": MANY["ofd"]}
  made = training(objective_, steps=3)
  _, parts = fit(objective_, steps=3)
  total, count = parts["state"]["ofd.0"]["responses"]["negative"]
  teacher = made.teachers[0]
  negative = []
  for t in range(3):
    ids, _, present = made.curriculum.batch(
      made.curriculum.controller.init(), t, slice(0, 16)
    )
    records, _ = DATA.train.fetch(ids[present])
    batch = {"image": records["image"], "weight": np.ones(len(ids[present]))}
    maps = teacher.forward(teacher.variables, batch)[0]["taps"]["f1_pre"]
    negative.append(np.asarray(maps).reshape(-1, 10))
  values = np.concatenate(negative)
  want = [c[c < 0].mean() if np.any(c < 0) else 0.0 for c in values.T]
  np.testing.assert_allclose(total / np.maximum(count, 1), want, rtol=1e-5)


def evaluation(made, variables=None):
  """The objective of a training as a function of parameters and parts."""
  batch = {
    "image": DATA.train.fetch(DATA.train.ids[:16])[0]["image"],
    "label": DATA.train.labels[DATA.train.ids[:16]].astype(np.int32),
    "weight": np.ones(16, np.float32),
    "id": DATA.train.ids[:16].astype(np.int32),
  }
  taught = [
    teacher.forward(teacher.variables, batch)[0]
    | {"variables": teacher.variables}
    for teacher in made.teachers
  ]

  def found(params, parts):
    outputs, _ = made.model.forward(
      made.model.variables | {"params": params}, batch, train=True
    )
    return objective.evaluate(
      made.terms,
      outputs,
      taught,
      batch,
      0.25,
      parts=made.parts | {"params": parts},
      key=jax.random.key(3),
    )

  return found


@pytest.mark.parametrize("name", ["dml", "ft"])
def test_a_projectors_own_loss_trains_nothing_of_the_student(name):
  made = training({"cross_entropy": {}, "kd": {}, name: MANY[name]})
  found = evaluation(made)
  params, parts = made.model.variables["params"], made.parts["params"]
  own = lambda p, q: found(p, q).values[f"{name}.auxiliary"]
  gradients = jax.grad(own, (0, 1))(params, parts)
  assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients[0]))
  assert any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(gradients[1]))


def test_ctkd_trains_its_temperature_against_the_student():
  terms = {
    "kd": {"projector": {"name": "ctkd", "reach": 0.5}},
  }
  made = training(terms)
  found = evaluation(made)
  params, parts = made.model.variables["params"], made.parts["params"]
  gradient = jax.grad(lambda q: found(params, q).values["kd"])(parts)
  outputs = made.model.forward(
    made.model.variables,
    {
      "image": DATA.train.fetch(DATA.train.ids[:16])[0]["image"],
      "weight": np.ones(16, np.float32),
    },
    train=True,
  )[0]["logits"]
  teacher = made.teachers[0]
  taught = teacher.forward(
    teacher.variables,
    {
      "image": DATA.train.fetch(DATA.train.ids[:16])[0]["image"],
      "weight": np.ones(16, np.float32),
    },
  )[0]["logits"]

  def value(theta):
    t = 1 + 20 * jax.nn.sigmoid(theta)
    return jnp.mean(losses.kd(outputs, taught, temperature=t))

  # At half of the reach the factor is -1/2.
  np.testing.assert_allclose(
    gradient["kd.0"]["theta"], -0.5 * jax.grad(value)(1.0), rtol=1e-4
  )


def test_two_teachers_have_a_projector_each_and_the_mean_is_taken():
  place = parallel.create("jit", 1)
  made = training({"cross_entropy": {}, "fitnet": MANY["fitnet"]}, place)
  section = dict(name="cnn", widths=(4, 8), hidden=6)
  from trainings import CONFIG, stage

  other = stages.model_of(
    "teacher",
    stage({"cross_entropy": {}}, model=section, teachers=()),
    CONFIG["data"],
    DATA,
    place,
    2,
  )
  both = stages.training_of(
    "student",
    stage(
      {"cross_entropy": {}, "fitnet": MANY["fitnet"]},
      teachers=("teacher", "second"),
    ),
    CONFIG,
    DATA,
    place,
    seed=0,
    teachers=[*made.teachers, other],
    validation=False,
  )
  widths = {
    name: part["Conv_0"]["bias"].shape
    for name, part in both.parts["params"].items()
  }
  assert widths == {"fitnet.0": (10,), "fitnet.1": (8,)}
  assert train.fit(both, place).steps == 4


def test_the_names_of_metrics_are_those_that_the_step_fills():
  made = training(MANY)
  names = step.metric_names(made.terms)
  found = jax.eval_shape(
    evaluation(made), made.model.variables["params"], made.parts["params"]
  )
  assert {f"terms/{k}" for k in found.values} == {
    n for n in names if n.startswith("terms/")
  }
