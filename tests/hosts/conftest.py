"""What tests of several processes share."""

import os

import pytest


@pytest.fixture
def environ(monkeypatch):
  """An environment that tells of no cluster, to be added to."""
  for name in list(os.environ):
    if name.startswith(
      ("SLURM_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_", "CUDA_", "JAX_L")
    ):
      monkeypatch.delenv(name)
  return lambda values: [
    monkeypatch.setenv(*item) for item in {**values}.items()
  ]
