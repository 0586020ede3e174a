"""What an experiment found, as data: `experiment.json` and `tuned.json`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcl_jax import environment, results, scoring
from kdcl_jax.experiments import cells, chapters, tuning, verdicts
from kdcl_jax.writers import read_json, write_json

SCHEMA_VERSION = 1

Experiment = Mapping[str, Any]


def write(experiment: Experiment, workdir: pathlib.Path) -> dict[str, Any]:
  """Writes all that is known so far: data, tables and pictures.

  Args:
    experiment: a resolved experiment.
    workdir: its directory.

  Returns:
    What `experiment.json` holds; see docs/experiments.md.
  """
  chosen = {
    cell: cells.choices(experiment, workdir, cell)
    for cell in experiment["runs"]
  }
  write_json(workdir / "tuned.json", _tuned(experiment, chosen))
  found = collect(experiment, workdir, chosen)
  write_json(workdir / "experiment.json", found)
  chapters.write(workdir, found)
  return found


def collect(
  experiment: Experiment,
  workdir: pathlib.Path,
  chosen: Mapping[str, Mapping[str, tuning.Choice] | None],
) -> dict[str, Any]:
  """The content of `experiment.json`.

  Args:
    experiment: a resolved experiment.
    workdir: its directory.
    chosen: cell -> what was chosen for its stages, None where it is not yet.

  Returns:
    Nested dictionaries that JSON can hold.
  """
  found, missing = {}, {}
  for cell, run in experiment["runs"].items():
    if chosen[cell] is None:
      missing[cell] = ["its tuning"]
      continue
    config = cells.final(experiment, cell, chosen[cell])
    place = cells.place_of(workdir, cell)
    if not (place / "config.json").exists():
      missing[cell] = ["its run"]
      continue
    collected = results.collect(place, run["stages"], tuning.seeds_of(run))
    if collected["missing"]:
      missing[cell] = collected["missing"]
    if collected["stages"]:
      found[cell] = _cell(experiment, config, place, collected, chosen[cell])
  everything = {"": tuple(experiment["runs"])}
  return {
    "schema_version": SCHEMA_VERSION,
    "name": experiment["name"],
    "tuning": environment.plain(experiment["tuning"]),
    "claims": environment.plain(experiment["claims"]),
    "groups": environment.plain(experiment["groups"] or everything),
    "missing": missing,
    "cells": found,
  }


def _tuned(
  experiment: Experiment,
  chosen: Mapping[str, Mapping[str, tuning.Choice] | None],
) -> dict[str, Any]:
  at = experiment["tuning"]["at"]
  return {
    cell: {
      "at": at.get(cell, cell),
      "stages": {
        name: choice.to_json()
        for name, choice in choices.items()
        if name in experiment["runs"][cell]["stages"]
      },
    }
    for cell, choices in chosen.items()
    if choices is not None
  }


def _cell(
  experiment: Experiment,
  config: Mapping[str, Any],
  place: pathlib.Path,
  collected: Mapping[str, Any],
  choices: Mapping[str, tuning.Choice],
) -> dict[str, Any]:
  stages = collected["stages"]
  values = {n: s["test"]["accuracy"]["values"] for n, s in stages.items()}
  claims = {}
  for arm, claim in experiment["claims"].items():
    twin = (claim["twin"],) if claim["twin"] else ()
    if {arm, *claim["against"], *twin} <= set(stages):
      claims[arm] = verdicts.judge(arm, claim, values)
  facts = read_json(place / "environment.json")["data"]
  return {
    "seeds": collected["seeds"],
    "data": facts | {"label_noise": config["data"]["label_noise"]},
    "arms": {
      name: _arm(config, name, stages, choices.get(name)) for name in stages
    },
    "claims": claims,
  }


def _arm(
  config: Mapping[str, Any],
  name: str,
  stages: Mapping[str, Mapping[str, Any]],
  choice: tuning.Choice | None,
) -> dict[str, Any]:
  stage = stages[name]
  of = lambda summary: verdicts.measured(summary["values"])
  return {
    "model": stage["model"],
    "teachers": stage["teachers"],
    "trained": stage["trained"],
    "order": config[name]["curriculum"]["order"],
    "tuned": choice and choice.value,
    "at_edge": bool(choice and choice.at_edge),
    "test_accuracy": of(stage["test"]["accuracy"]),
    "validation_accuracy": of(stage["validation"]["accuracy"]),
    "final_fraction": of(stage["final_fraction"]),
    "steps": of(stage["steps"]),
    "cost": spent(config, [name], stages),
    "whole_cost": spent(config, above(config, name), stages),
    "ledger": {key: of(value) for key, value in stage["ledger"].items()},
  }


def above(config: Mapping[str, Any], name: str) -> list[str]:
  """A stage and every stage that it depends on, as teachers of teachers."""
  needed = {name}
  for other in reversed(config["stages"]):
    if other in needed:
      needed |= set(config[other]["teachers"])
  return [other for other in config["stages"] if other in needed]


def spent(
  config: Mapping[str, Any],
  names: Sequence[str],
  stages: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
  """The compute of some stages together, the scorer's counted once.

  Args:
    config: a resolved run.
    names: the stages.
    stages: `stages` of its `results.json`.

  Returns:
    `gradient_examples`, that went forward and backward through a model that
    was trained, and `forwards`, all that went forward, those included.
  """
  gradients: Any = 0.0
  forwards: Any = 0.0
  scored = False
  for name in names:
    ledger = {
      k: np.array(v["values"]) for k, v in stages[name]["ledger"].items()
    }
    if scoring.uses_scorer(config[name]):
      if scored:
        ledger = {
          k: v for k, v in ledger.items() if not k.startswith("scoring_")
        }
      scored = True
    # The scorer's own training is in the ledger by its backward passes alone.
    trained = ledger.get("scoring_backwards", 0.0)
    gradients = gradients + ledger["example_backwards"] + trained
    forwards = forwards + trained
    for key, values in ledger.items():
      if key.endswith("_forwards"):
        forwards = forwards + values
  return {
    "gradient_examples": verdicts.measured(gradients),
    "forwards": verdicts.measured(forwards),
  }
