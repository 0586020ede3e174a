"""A newcomer's own data, model, loss and pacing, from outside the package."""

import json
import os
import subprocess
import sys

import numpy as np

OWN = """
import jax.numpy as jnp
from flax import linen as nn


class Net(nn.Module):
  num_classes: int
  width: int = 8

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(nn.relu(nn.Dense(self.width)(x)))


def sawtooth(teeth=2, low=0.5):
  return lambda progress: low + (1 - low) * ((progress * teeth) % 1.0)


def squared(student_logits, teacher_logits, *, scale=1.0):
  return scale * jnp.mean((student_logits - teacher_logits) ** 2, axis=-1)
"""

CONFIG = """
from kdcl_jax import config as kdcl


def get_config():
  common = dict(
    model=dict(name="own.Net", width=16),
    steps=120,
    batch_size=20,
    optimizer=dict(name="adam", learning_rate=0.01),
  )
  return kdcl.run(
    data=dict(source="npz", path="own.npz"),
    teacher=kdcl.stage(
      curriculum=dict(
        order="random", pacing=dict(name="own.sawtooth", teeth=3)
      ),
      **common,
    ),
    baseline=kdcl.stage(**common),
    student=kdcl.stage(
      teachers=("teacher",),
      objective=dict(match=dict(loss="own.squared", scale=0.5)),
      **common,
    ),
    tensorboard=False,
  )
"""


def test_own_arrays_model_pacing_and_loss_by_dotted_path(tmp_path):
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(3, 5)).astype(np.float32) * 3
  label = rng.integers(0, 3, 400)
  image = centres[label] + rng.normal(size=(400, 5)).astype(np.float32)
  np.savez(
    tmp_path / "own.npz",
    train_image=image[:300],
    train_label=label[:300],
    test_image=image[300:],
    test_label=label[300:],
  )
  (tmp_path / "own.py").write_text(OWN)
  (tmp_path / "config.py").write_text(CONFIG)
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "kdcl_jax.main",
      "--config=config.py",
      "--workdir=run",
      "--config.log_steps=25",
    ],
    cwd=tmp_path,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  for stage in ("teacher", "baseline", "student"):
    assert results["stages"][stage]["test"]["accuracy"]["mean"] > 0.8
    assert results["stages"][stage]["parameters"] == 5 * 16 + 16 + 16 * 3 + 3
  agreement = results["stages"]["student"]["test"]["agreement"]["teacher"]
  assert agreement["mean"] > 0.8
  lines = (tmp_path / "run/teacher/seed_0/metrics.jsonl").read_text()
  active = {
    line["active"]
    for line in map(json.loads, lines.splitlines())
    if line["kind"] == "train"
  }
  assert len(active) > 1  # the own pacing was at work
  assert (tmp_path / "run" / "report.html").exists()
  assert (tmp_path / "run" / "export" / "student.safetensors").exists()
