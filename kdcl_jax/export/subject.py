"""What is exported: a trained model as one function of raw pictures."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdcl_jax import parallel, sources, stages
from kdcl_jax.curriculum import stage_seed
from kdcl_jax.dataset import Dataset
from kdcl_jax.train import Model


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model of a finished stage.

  Attributes:
    name: the stage.
    model: its forward pass and its variables on the host.
    shape: of one input.
    dtype: of the inputs as the data have them, uint8 for pictures.
  """

  name: str
  model: Model
  shape: tuple[int, ...]
  dtype: np.dtype

  def logits(self, images: jax.Array) -> jax.Array:
    """Raw pictures [B, ...] -> logits [B, K]; the preprocessing is inside."""
    batch = {"image": images, "weight": jnp.ones(images.shape[:1])}
    return self.model.forward(self.model.variables, batch)[0]["logits"]

  def compiled(self, rows: int) -> Any:
    """`logits` of NumPy arrays by JAX, compiled for one size of batch."""
    function = jax.jit(self.logits)

    def logits(images: np.ndarray) -> np.ndarray:
      lacking = rows - len(images)
      padding = ((0, lacking), *((0, 0) for _ in self.shape))
      return np.asarray(function(np.pad(images, padding)))[: len(images)]

    return logits


def load(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  stage: str,
  seed: int,
  *,
  precision: str = "float32",
) -> Subject:
  """Opens a model of a finished run.

  Args:
    workdir: the run's directory.
    config: its resolved config.
    dataset: its data.
    stage: whose model.
    seed: of which seed.
    precision: of the computation, whatever it was trained in; with 'bfloat16'
      its variables are rounded too.

  Returns:
    The model.

  Raises:
    UserError: where its weights cannot be read.
  """
  path = workdir / stage / f"seed_{seed}" / "weights.safetensors"
  section = config[stage] | {"weights": str(path), "precision": precision}
  model = stages.model_of(
    stage,
    section,
    config["data"],
    dataset,
    parallel.create(devices=1),
    stage_seed(seed, stage),
  )
  rounded = lambda a: np.asarray(a).astype(jnp.dtype(precision))
  variables = jax.tree.map(rounded, jax.device_get(model.variables))
  some = sources.first_readable(dataset.test.source) or {"image": np.uint8()}
  return Subject(
    name=stage,
    model=dataclasses.replace(model, variables=variables),
    shape=dataset.shape,
    dtype=np.dtype(some["image"].dtype),
  )
