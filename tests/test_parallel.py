"""Devices: what is split over them, and that it changes no result."""

import importlib
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from kdcl_jax import checkpoint, dataset, parallel, run, stages, train
from kdcl_jax import config as kdcl
from kdcl_jax.errors import UserError

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
collectives = importlib.import_module("collectives")

WIDE = dict(name="mlp", widths=(64,))
SGD = dict(name="sgd", learning_rate=0.1, momentum=0.9, ema=0.9)


def config(**fields):
  stage = lambda **more: kdcl.stage(
    model=WIDE, steps=10, batch_size=16, optimizer=SGD, **more
  )
  return kdcl.resolve(
    kdcl.run(
      data=dict(train_size=250, validation=50),
      teacher=stage(keep="best", curriculum=dict(lessons=2)),
      baseline=stage(),
      student=stage(teachers=("teacher",)),
      tensorboard=False,
      **fields,
    )
  )


CONFIG = config()
DATA = dataset.load(CONFIG["data"], seed=0)


def teacher(place):
  return stages.training_of(
    "teacher", CONFIG["teacher"], CONFIG, DATA, place, seed=0
  )


def test_large_arrays_are_split_and_small_ones_are_whole():
  place = parallel.create("jit", 8, fsdp=1000)
  put = place.put(
    {
      "kernel": np.zeros((64, 100)),
      "bias": np.zeros(64),
      "odd": np.zeros((1001, 3)),
      "step": np.int32(0),
    }
  )
  share = {k: v.addressable_shards[0].data.shape for k, v in put.items()}
  assert share == {
    "kernel": (8, 100),  # 100 is longer, but eight devices do not divide it
    "bias": (64,),
    "odd": (1001, 3),
    "step": (),
  }


def test_every_device_holds_its_share_of_state_and_moments_after_a_step():
  place = parallel.create("jit", 8, fsdp=1000)
  outcome = train.fit(teacher(place), place)
  (kernel,) = (
    leaf
    for leaf in jax.tree.leaves(outcome.variables)
    if leaf.shape == (64, 64)
  )
  assert kernel.addressable_shards[0].data.size == 64 * 64 / 8


@pytest.mark.parametrize("devices", [2, 8])
def test_splitting_the_state_changes_nothing_but_rounding(devices):
  one = parallel.create("jit", 1)
  split = parallel.create("jit", devices, fsdp=500)
  alone, spread = (train.fit(teacher(p), p).variables for p in (one, split))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    jax.device_get(alone),
    jax.device_get(spread),
  )


def test_a_whole_run_with_split_states(tmp_path):
  split = dict(parallel=dict(devices=8, fsdp=500))
  found = run.execute(config(**split), tmp_path / "split")["stages"]
  whole = run.execute(config(), tmp_path / "whole")["stages"]
  for name in found:
    np.testing.assert_allclose(
      found[name]["test"]["loss"]["mean"],
      whole[name]["test"]["loss"]["mean"],
      rtol=1e-4,
    )


@pytest.mark.parametrize(
  ("fields", "sentence"),
  [
    (dict(parallel=dict(fsdp=9, mode="shard_map")), "mode is 'shard_map'"),
    (dict(parallel=dict(fsdp=9), vmap_seeds=2), "vmap_seeds is 2"),
    (dict(parallel=dict(fsdp=-1)), r"fsdp is -1, expected"),
  ],
)
def test_what_cannot_be_split_is_refused(fields, sentence, tmp_path):
  with pytest.raises(UserError, match=sentence):
    run.execute(config(**fields), tmp_path)


def measured(mode, devices, fsdp=0):
  place = parallel.create(mode, devices, fsdp)
  return collectives.measure(place, model=dict(name="resnet8"))


def test_one_device_sends_nothing():
  assert measured("jit", 1)[0] == {}


@pytest.mark.parametrize(
  ("mode", "devices"), [("jit", 2), ("jit", 8), ("shard_map", 8)]
)
def test_all_that_is_sent_of_size_is_one_sum_of_the_gradients(mode, devices):
  found, parameters = measured(mode, devices)
  assert set(found) == {"all-reduce"}
  gradients, *others = found["all-reduce"]
  assert 0.97 * parameters < gradients < 1.02 * parameters
  # The statistics of the layers of BatchNorm, and sums for the log.
  assert sum(others) < 0.05 * parameters


def test_split_states_are_gathered_for_use():
  found, parameters = measured("jit", 8, fsdp=1000)
  assert sum(found["all-gather"]) > parameters / 2


def test_a_model_saved_from_eight_devices_is_read_on_one(tmp_path):
  place = parallel.create("jit", 8, fsdp=4)
  saved = checkpoint.Checkpoints(tmp_path)
  state = {"params": place.put({"w": np.arange(8.0)}), "ema": {}}
  saved.save(3, {"state": state, "best": {}}, {"step": 3})
  saved.close()
  script = (
    "import pathlib, sys; from kdcl_jax import checkpoint\n"
    "found = checkpoint.latest_variables(pathlib.Path(sys.argv[1]))\n"
    "print(found['params']['w'].tolist())"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, str(tmp_path)],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip() == str([float(i) for i in range(8)]), done.stderr
