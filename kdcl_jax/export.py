"""The student as files for use: weights, and what one must know about them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from kdcl_jax import weights
from kdcl_jax.dataset import Dataset
from kdcl_jax.environment import plain
from kdcl_jax.writers import read_json, write_json


def student(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  compared: Mapping[str, Any],
) -> pathlib.Path:
  """Writes `export/student.safetensors` and `export/student.json`.

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
  flat = load_file(directory / "weights.safetensors")
  result = read_json(directory / "result.json")
  section = config[stage]
  path = workdir / "export" / "student.safetensors"
  facts = {"stage": stage, "model": section["model"]["name"]}
  weights.save(path, flat, facts)
  write_json(
    path.with_suffix(".json"),
    {
      "format": "kdcl_jax student 1",
      "model": plain(section["model"]) | {"num_classes": dataset.num_classes},
      "weights": path.name,
      "preprocessing": {
        "input": "image",
        "shape": list(dataset.shape),
        "scale": "integer inputs are divided by 255",
        "mean": list(config["data"]["mean"]),
        "std": list(config["data"]["std"]),
      },
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
  return path
