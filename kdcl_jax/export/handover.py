"""What a run hands over: the weights, what one must know, the model card."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import pretrained, sources, weights
from kdcl_jax.dataset import Dataset
from kdcl_jax.environment import plain
from kdcl_jax.export import card
from kdcl_jax.inputs import Input
from kdcl_jax.writers import read_sealed, write_json


def student(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  compared: Mapping[str, Any],
) -> pathlib.Path:
  """Writes `export/student.safetensors`, `student.json` and `README.md`.

  Of several seeds the one with the best validation accuracy is exported, the
  lowest of equals. The same run gives the same bytes, however often it was
  interrupted.

  Args:
    workdir: the run's directory.
    config: the resolved config; `export` names the stage.
    dataset: the data.
    compared: what `results.json` holds.

  Returns:
    The path of the weights.
  """
  stage = config["export"]
  accuracies = compared["stages"][stage]["validation"]["accuracy"]["values"]
  seed = compared["seeds"][int(np.argmax(accuracies))]
  directory = workdir / stage / f"seed_{seed}"
  flat = weights.read(directory / "weights.safetensors", "the export")
  result = read_sealed(directory / "result.json")
  section = config[stage]
  path = workdir / "export" / "student.safetensors"
  own = section | {"weights": str(directory / "weights.safetensors")}
  view = pretrained.input_of(own, config["data"], f"config.{stage}")
  facts = {"stage": stage} | pretrained.header(section, view, dataset.shape)
  weights.save(path, flat, facts)
  write_json(
    path.with_suffix(".json"),
    {
      "format": "kdcl_jax student 1",
      "model": plain(section["model"]) | {"num_classes": dataset.num_classes},
      "weights": path.name,
      "preprocessing": _preprocessing(config["data"], dataset, view),
      "labels": list(dataset.label_names),
      "parameters": result["parameters"],
      "test": {k: result["test"][k] for k in ("accuracy", "loss")},
      "provenance": {
        "run": config["name"],
        "stage": stage,
        "seed": seed,
        "teachers": result["teachers"],
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
      },
    },
  )
  card.write(workdir, config, compared)
  return path


def _preprocessing(
  data: Mapping[str, Any], dataset: Dataset, view: Input
) -> dict[str, Any]:
  """How a picture becomes an input; the graphs of `kdcl_jax.export` take it.

  `image_size`, `crop` and `shape` are of the picture's reading, before the
  graph; what follows is in it.
  """
  some = sources.first_readable(dataset.test.source) or {"image": np.uint8()}
  return {
    "input": "image",
    "shape": list(dataset.shape),
    "dtype": str(some["image"].dtype),
    "image_size": data["image_size"],
    "crop": data.get("crop", 0.0),
    "scale": "integer inputs are divided by 255",
    **view.facts(dataset.shape),
  }
