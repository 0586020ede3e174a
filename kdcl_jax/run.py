"""A run: its stages for each seed, the comparison, the report, the export."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdcl_jax import dataset as datasets
from kdcl_jax import (
  environment,
  export,
  hosts,
  parallel,
  results,
  scoring,
  train,
  validation,
)
from kdcl_jax.seed_run import SeedRun


def execute(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  *,
  reported: bool = True,
  interrupted: Callable[[], bool] | None = None,
) -> dict:
  """Does, or goes on with, the run that a config describes.

  Args:
    config: a resolved config; see `kdcl_jax.config.resolve`.
    workdir: where everything goes; the same config and directory resume.
    reported: whether to write the report.
    interrupted: whether to save and end; None asks for a SIGTERM.

  Returns:
    What `results.json` holds.

  Raises:
    UserError: for a mistake in the config, before any device work.
    train.Interrupted: after saving, when the process was asked to end.
  """
  validation.check(config)
  parallel.check(config)
  seeds = range(config["seed"], config["seed"] + config["seeds"])
  data = {seed: datasets.load(config["data"], seed=seed) for seed in seeds[:1]}
  validation.check_data(config, data[seeds[0]])
  with environment.only_process(workdir):
    environment.record(config, workdir, data[seeds[0]])
    interrupted = interrupted or hosts.interruption()
    devices = parallel.create(**config["parallel"])
    validation.check_devices(config, devices.devices)
    together = config["vmap_seeds"]
    for start in range(0, len(seeds), together):
      group = seeds[start : start + together]
      data = {
        seed: data.get(seed) or datasets.load(config["data"], seed=seed)
        for seed in group
      }
      _train(
        config,
        [SeedRun(config, workdir, data[seed], devices, seed) for seed in group],
        interrupted,
      )
    compared = results.write(workdir, config["stages"], list(seeds))
    if config["export"] and hosts.is_lead():
      export.student(workdir, config, data[seeds[-1]], compared)
    if reported and hosts.is_lead():
      from kdcl_jax import report  # matplotlib is slow to import

      report.write(
        workdir,
        config,
        datasets.load(config["data"], seed=seeds[0]),
        config["stages"],
        list(seeds),
      )
  return compared


def _train(
  config: Mapping[str, Any],
  runs: Sequence[SeedRun],
  interrupted: Callable[[], bool],
) -> None:
  """Trains the stages of some seeds, each stage of all of them together."""
  for run in runs:
    run.screen()
  scoreless = {run.seed: run for run in runs if not run.is_scored()}
  if scoreless:
    scored = scoring.cross_fitted(
      config,
      {seed: run.dataset for seed, run in scoreless.items()},
      runs[0].parallel,
      outlets=lambda seed, fold: scoreless[seed].scorer_outlet(
        fold, interrupted, quiet=seed != min(scoreless)
      ),
      width=len(runs),
    )
    for seed, run in scoreless.items():
      run.take_scores(scored[seed])
  for name in config["stages"]:
    due = [run for run in runs if not run.is_done(name)]
    prepared = [run.prepare(name) for run in due]
    outcomes: Sequence[train.Outcome | None] = [None] * len(due)
    if prepared and prepared[0].training.total_steps:
      outcomes = train.fit_together(
        [one.training for one in prepared],
        runs[0].parallel,
        [run.outlet(name, interrupted, quiet=run is not due[0]) for run in due],
        width=len(runs),
      )
    for run, one, outcome in zip(due, prepared, outcomes, strict=True):
      run.conclude(name, one, outcome)
    if interrupted():
      raise train.Interrupted
