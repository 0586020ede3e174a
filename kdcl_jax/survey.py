"""A survey: a data set scored with each seed, and what a person sees of it.

The scorer's trainings (`kdcl_jax.scoring`) give every score out of fold and
every stream in fold. Each becomes a table under `difficulty/seed_K/`, with
`fused` of them all and, over several seeds, their means.
"""

import itertools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdcl_jax import dataset as datasets
from kdcl_jax import (
  difficulty,
  environment,
  hosts,
  metrics,
  npz,
  parallel,
  scoring,
  statistics,
  survey_chapters,
  tables,
  train,
  validation,
)
from kdcl_jax.writers import read_json, write_json

SCHEMA_VERSION = 1
FUSED = "fused"
_FACTS = "facts.json"  # the last file of a seed that is done
_SUSPICIOUS = 100  # records that scores.json names

# What ranks no record by how well its label fits takes no part in `fused`: the
# entropy and the depth do not look at the label, and the easiest and the
# hardest records of a data map vary alike little.
_APART = ("scorer_entropy", "scorer_prediction_depth", "stream_data_map")


def execute(config: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
  """Scores, or goes on with scoring, the data that a config describes.

  Args:
    config: a resolved config; its stages are left alone.
    workdir: where everything goes, the tables to `difficulty/`.

  Returns:
    What `scores.json` holds, see docs/results.md; of several processes in the
    lead.

  Raises:
    UserError: for a mistake in the config, before any device work.
    train.Interrupted: after saving, when the process was asked to end.
  """
  validation.check_scorer(config)
  parallel.check(config)
  seeds = range(config["seed"], config["seed"] + config["seeds"])
  first = datasets.load(config["data"], seed=seeds[0])
  validation.check_scorer_data(config, first)
  with environment.only_process(workdir):
    environment.record(config, workdir, first)
    interrupted = hosts.interruption()
    devices = parallel.create(**config["parallel"])
    validation.check_devices(config, devices.devices, scorer_only=True)
    for start in range(0, len(seeds), config["vmap_seeds"]):
      group = seeds[start : start + config["vmap_seeds"]]
      done = [_done(_folder(workdir, s), names(config)) for s in group]
      known = zip(group, hosts.told_by_lead(done), strict=True)
      due = [seed for seed, ready in known if not ready]
      _score(config, due, devices, workdir, interrupted, width=len(group))
      if interrupted():
        raise train.Interrupted
    if not hosts.is_lead():
      return {}
    return _report(config, workdir, first, seeds)


def _report(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  first: datasets.Dataset,
  seeds: Sequence[int],
) -> dict[str, Any]:
  """Writes what all seeds say together."""
  averaged = _average(workdir, seeds, names(config))
  found = _collected(config, workdir, first, seeds, averaged)
  write_json(workdir / "scores.json", found)
  survey_chapters.write(workdir, config, first, found)
  return found


def names(config: Mapping[str, Any]) -> list[str]:
  """The names of a survey's tables of training records."""
  scores = [f"scorer_{name}" for name in scoring.scores_of(config)]
  streams = [f"stream_{name}" for name in scoring.streams_of(config)]
  return [*scores, *streams, FUSED]


def _folder(workdir: pathlib.Path, seed: int) -> pathlib.Path:
  return workdir / "difficulty" / f"seed_{seed}"


def _done(folder: pathlib.Path, expected: Sequence[str]) -> bool:
  path = folder / _FACTS
  if not path.exists() or read_json(path)["tables"] != list(expected):
    return False
  return all((folder / f"{name}.npz").exists() for name in expected)


def _score(
  config: Mapping[str, Any],
  seeds: Sequence[int],
  devices: parallel.Parallel,
  workdir: pathlib.Path,
  interrupted: Callable[[], bool],
  *,
  width: int,
) -> None:
  """Trains the scorer with some seeds and writes what it says."""
  started = time.perf_counter()
  data = {s: datasets.load(config["data"], seed=s) for s in seeds}
  streams = scoring.streams_of(config)
  found = scoring.cross_fitted(
    config,
    data,
    devices,
    streams=streams,
    outlets=lambda seed, fold: scoring.outlet(
      config,
      _folder(workdir, seed),
      fold,
      interrupted,
      quiet=seed != seeds[0],
    ),
    width=width,
  )
  seconds = (time.perf_counter() - started) / max(len(seeds), 1)
  for seed, scored in found.items():
    _write(config, data[seed], scored, seed, _folder(workdir, seed), seconds)


def _write(
  config: Mapping[str, Any],
  data: datasets.Dataset,
  scored: scoring.Scored,
  seed: int,
  folder: pathlib.Path,
  seconds: float,
) -> None:
  """Writes what the scorer says with a seed."""
  made = [name for name in names(config) if name != FUSED]
  together = [name for name in made if name not in _APART] or made
  values = np.stack([scored.tables[name].difficulty for name in together])
  about = scored.tables[made[0]].provenance | {"score": FUSED, "of": together}
  scored.tables[FUSED] = tables.of_split(
    data.train, difficulty.fuse_ranks(values), about
  )
  scored.save_all(folder)
  values = {name: scored.tables[name].difficulty for name in [*made, FUSED]}
  ids = data.train.ids
  wrong = (data.train.labels != data.train.true_labels)[ids]
  some = bool(wrong.any()) and not wrong.all()
  right = scored.records["prediction"] == scored.records["label"]
  write_json(
    folder / _FACTS,
    {
      "seed": seed,
      "tables": list(values),
      "fingerprint": data.fingerprint,
      "accuracy": float(np.mean(right[scored.records["readable"]])),
      "unreadable": int(np.sum(~scored.records["readable"])),
      "wrong_labels": float(np.mean(wrong)),
      "auc": {n: metrics.auc(v, wrong) for n, v in values.items() if some},
      "spearman": _correlations(values),
      "ledger": scored.ledger,
      "seconds": seconds,
    },
  )


def _correlations(
  values: Mapping[str, np.ndarray],
) -> dict[str, dict[str, float]]:
  """Spearman's correlation of each pair, both ways."""
  found: dict[str, dict[str, float]] = {name: {} for name in values}
  for a, b in itertools.combinations_with_replacement(values, 2):
    found[a][b] = float(difficulty.spearman(values[a], values[b]))
    found[b][a] = found[a][b]
  return found


def _average(
  workdir: pathlib.Path, seeds: Sequence[int], expected: Sequence[str]
) -> dict[str, Any] | None:
  """Writes the means over the seeds that have each record in training.

  Seeds hold out other records for validation, so the means know more records
  than any of them, and serve a run with any seed. Where noise is injected, a
  record's label differs from seed to seed, and there is no mean to speak of.

  Args:
    workdir: the survey's directory.
    seeds: the seeds.
    expected: names of the tables.

  Returns:
    How many records the means have; None where there are none.
  """
  if len(seeds) < 2:
    return None
  for name in expected:
    parts = [
      tables.load(_folder(workdir, seed) / f"{name}.npz", name)
      for seed in seeds
    ]
    ids = np.unique(np.concatenate([part.record_id for part in parts]))
    values = np.full((len(parts), len(ids)), np.nan)
    labels = np.full((len(parts), len(ids)), -1)
    for row, part in enumerate(parts):
      place = np.searchsorted(ids, part.record_id)
      values[row, place], labels[row, place] = part.difficulty, part.label
    label = labels.max(axis=0)
    if np.any((labels >= 0) & (labels != label)):
      return None
    mean = np.zeros(len(ids))
    patterns, of = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for number, known in enumerate(patterns.T):
      chosen = of.reshape(-1) == number
      mean[chosen] = difficulty.mean_over_seeds(values[known][:, chosen])
    kept = ("fingerprint", "ledger")
    provenance = {
      **{k: v for k, v in parts[0].provenance.items() if k not in kept},
      "seeds": list(seeds),
      "records": len(ids),
      "fingerprints": [part.provenance["fingerprint"] for part in parts],
    }
    target = workdir / "difficulty" / "mean" / f"{name}.npz"
    tables.Table(ids, mean, label, provenance).save(target)
  return {"records": len(ids)}


def _collected(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  data: datasets.Dataset,
  seeds: Sequence[int],
  averaged: dict[str, Any] | None,
) -> dict[str, Any]:
  """The content of `scores.json`."""
  facts = [read_json(_folder(workdir, seed) / _FACTS) for seed in seeds]
  over = lambda key: statistics.summary([fact[key] for fact in facts])
  noisy = all(fact["auc"] for fact in facts)
  spent = lambda key: statistics.summary([f["ledger"][key] for f in facts])
  auc = lambda name: statistics.summary([fact["auc"][name] for fact in facts])
  expected = names(config)
  return {
    "schema_version": SCHEMA_VERSION,
    "name": config["name"],
    "seeds": list(seeds),
    "accuracy": over("accuracy"),
    "unreadable": over("unreadable"),
    "wrong_labels": over("wrong_labels") if noisy else None,
    "tables": {
      name: {
        "in_fold": name.startswith("stream_"),
        "auc": auc(name) if noisy else None,
      }
      for name in expected
    },
    "spearman": {
      a: {
        b: float(np.mean([fact["spearman"][a][b] for fact in facts]))
        for b in expected
      }
      for a in expected
    },
    "mean": averaged,
    "suspicious": _suspicious(_folder(workdir, seeds[0]), data, noisy),
    "ledger": {key: spent(key) for key in facts[0]["ledger"]},
    "seconds": over("seconds"),
  }


def _suspicious(
  folder: pathlib.Path, data: datasets.Dataset, noisy: bool
) -> list[dict[str, Any]]:
  """The hardest by `fused` of the labels that the model does not predict."""
  table = tables.load(folder / f"{FUSED}.npz", FUSED)
  rows = npz.read(folder / "records.npz", "records")
  order = np.lexsort((table.record_id, -table.difficulty))
  other = rows["readable"] & (rows["prediction"] != rows["label"])
  order = order[other[order]][:_SUSPICIOUS]
  found = []
  for place in order:
    record = int(table.record_id[place])
    found.append(
      {
        "record_id": record,
        "label": int(table.label[place]),
        "prediction": int(rows["prediction"][place]),
        "confidence": float(rows["confidence"][place]),
        "difficulty": float(table.difficulty[place]),
      }
    )
    if noisy:
      found[-1]["true_label"] = int(data.train.true_labels[record])
  return found
