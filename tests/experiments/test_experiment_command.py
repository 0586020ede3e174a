"""An experiment from end to end: what it computes, says and refuses."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from grids import get_config, grid, perform_all, quick, resolved
from PIL import Image

from kdcl_jax import run, scoring
from kdcl_jax.errors import UserError
from kdcl_jax.experiments import (
  cells,
  chapters,
  definition,
  summary,
  tuning,
  verdicts,
)
from kdcl_jax.writers import read_json

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = HERE / "grids.py"
CONFIGURED = definition.resolve(get_config())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A small experiment that is done: its directory, and what it found."""
  workdir = tmp_path_factory.mktemp("done") / "small"
  perform_all(CONFIGURED, workdir)
  return workdir, summary.write(CONFIGURED, workdir)


def files_of(workdir):
  """What must not depend on how often it was interrupted."""
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in sorted(workdir.rglob("*"))
    if path.suffix in (".npz", ".safetensors") and "/." not in str(path)
  }


def command(*arguments, **options):
  return subprocess.Popen(
    [sys.executable, "-m", "kdcl_jax.experiment", *map(str, arguments)],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def finished(*arguments):
  process = command(*arguments)
  output, errors = process.communicate(timeout=120)
  return process.returncode, output, errors


def test_a_copied_stage_is_what_training_it_again_would_have_made(
  done, tmp_path
):
  place = done[0] / "tuning" / "noisy" / "level_1" / "0.01"
  config = tuning._trial(  # as it was
    CONFIGURED,
    CONFIGURED["runs"]["noisy"],
    cells.choices(CONFIGURED, done[0], "noisy"),
    ["student"],
    0.01,
  )
  run.execute(config, tmp_path, reported=False)
  anew, copied = files_of(tmp_path), files_of(place)
  stages = {name.split("/")[0] for name in anew}
  assert stages == {"difficulty", "teacher", "student"}
  for name in anew:
    assert anew[name] == copied[name], name


def test_a_teacher_is_trained_once_for_all_values_of_its_students(done):
  folder = done[0] / "tuning" / "noisy"
  chosen = cells.choices(CONFIGURED, done[0], "noisy")
  path = tuning.result_of(chosen["teacher"].directory, "teacher", 1000)
  trained = read_json(path)
  assert trained["train_seconds"] > 0  # never twice the same
  for value in ("0.01", "0.03"):
    copy = tuning.result_of(folder / "level_1" / value, "teacher", 1000)
    assert read_json(copy) == trained


def test_the_scorer_is_trained_once_for_all_values(tmp_path, monkeypatch):
  fitted, scored = scoring.cross_fitted, []
  monkeypatch.setattr(
    scoring,
    "cross_fitted",
    lambda config, data, *a, **k: (
      scored.extend(data) or fitted(config, data, *a, **k)
    ),
  )
  only = grid(stages=("teacher", "student"), export="")
  config = resolved(
    cells=("noisy",),
    runs=dict(noisy=only),
    tuning=dict(values=(0.01, 0.03), seeds=2),
    claims={},
  )
  task = cells.tasks(config, tmp_path, ["noisy"])[1]
  assert task.kind == "tune"
  cells.perform(task, config, tmp_path, lambda: False)
  assert scored == [1000, 1001]


def test_the_final_runs_have_the_tuned_values_and_their_own_seeds(done):
  workdir, _ = done
  chosen = read_json(workdir / "tuned.json")
  assert chosen["clean"]["at"] == "noisy"
  tuned = {cell: facts["stages"] for cell, facts in chosen.items()}
  for cell, run_config in CONFIGURED["runs"].items():
    assert set(tuned[cell]) == set(run_config["stages"])
    for name in tuned[cell]:
      assert tuned[cell][name] == tuned["noisy"][name]
  for cell in ("noisy", "clean"):
    config = read_json(workdir / "runs" / cell / "config.json")
    for name, facts in chosen[cell]["stages"].items():
      best = max(facts["tried"], key=lambda one: one["validation_accuracy"])
      assert facts["value"] == best["value"]
      assert config[name]["optimizer"]["learning_rate"] == best["value"]
      made = sorted(p.name for p in (workdir / "runs" / cell / name).iterdir())
      assert made == ["seed_0", "seed_1"]


def test_every_number_is_that_of_the_results(done):
  workdir, found = done
  assert found == read_json(workdir / "experiment.json")
  assert not found["missing"] and list(found["cells"]) == ["noisy", "clean"]
  for cell, facts in found["cells"].items():
    accuracies = {}
    for name, arm in facts["arms"].items():
      rows = [
        read_json(tuning.result_of(workdir / "runs" / cell, name, seed))
        for seed in (0, 1)
      ]
      accuracies[name] = [row["test"]["accuracy"] for row in rows]
      assert arm["test_accuracy"]["values"] == accuracies[name]
      seen = [row["validation"]["accuracy"] for row in rows]
      assert arm["validation_accuracy"]["values"] == seen
      np.testing.assert_allclose(
        arm["test_accuracy"]["standard_error"],
        np.std(accuracies[name], ddof=1) / np.sqrt(2),
      )
    if cell == "clean":  # has not the stages of the claim
      assert facts["claims"] == {}
      continue
    claim = CONFIGURED["claims"]["student"]
    want = verdicts.judge("student", claim, accuracies)
    assert facts["claims"] == {"student": want}
    teacher, student = (facts["arms"][n] for n in ("teacher", "student"))
    spent = lambda arm, key: arm[key]["gradient_examples"]["mean"]
    assert spent(student, "whole_cost") == (
      spent(student, "cost") + spent(teacher, "cost")
    )
    ledger = {key: value["mean"] for key, value in teacher["ledger"].items()}
    assert ledger["scoring_backwards"] > 0
    assert spent(teacher, "cost") == (
      ledger["example_backwards"] + ledger["scoring_backwards"]
    )


def test_the_report_says_it_all_in_one_file(done):
  workdir, found = done
  text = (workdir / "experiment.md").read_text()
  for heading in (
    "## What was done",
    "## What it says",
    "## Side by side",
    "### What student gains",
    "## What was tuned",
    "## Each cell",
    "## How it was made",
  ):
    assert heading in text
  for cell, facts in found["cells"].items():
    for arm, judged in facts["claims"].items():
      said = verdicts.sentence(arm, judged)
      assert text.count(said) == 2 and f"- {cell}: {said}" in text
    for name, arm in facts["arms"].items():
      mean = 100 * arm["test_accuracy"]["mean"]
      assert re.search(rf"\| {name} \| {mean:.1f} ± ", text)
  pictures = re.findall(r"\]\((experiment/[^)]+\.png)\)", text)
  assert len(pictures) == len(set(pictures)) == 3
  for name in pictures:
    with Image.open(workdir / name) as picture:
      assert min(picture.size) > 250
  page = (workdir / "experiment.html").read_text()
  sources = re.findall(r'src="([^"]{0,30})', page)
  assert len(sources) == 3
  assert all(s.startswith("data:image/png;base64") for s in sources)
  for link in re.findall(r'href="([^"]+)"', page):
    assert (workdir / link).exists()


def test_what_is_done_is_only_reported_anew(done):
  workdir, found = done
  (workdir / "experiment.html").unlink()
  before = {p: p.stat().st_mtime_ns for p in workdir.glob("*/*/**/*")}
  code, output, errors = finished(
    f"--config={CONFIG}", f"--workdir={workdir}", "--jobs=2"
  )
  assert code == 0, errors
  assert output.strip() == f"The report is {workdir / 'experiment.html'}."
  assert (workdir / "experiment.html").exists()
  assert before == {p: p.stat().st_mtime_ns for p in workdir.glob("*/*/**/*")}
  assert read_json(workdir / "experiment.json") == found


def test_a_report_names_what_is_missing_and_more_seeds_are_added(done):
  workdir, _ = done
  more = definition.resolve(get_config().to_dict() | {"seeds": 3})
  tasks = cells.tasks(more, workdir, ["clean"])
  assert [str(task) for task in tasks] == ["check clean", "run clean"]
  chosen = {name: cells.choices(more, workdir, name) for name in more["runs"]}
  found = summary.collect(more, workdir, chosen)
  assert "teacher/seed_2" in found["missing"]["noisy"]
  assert found["cells"] == {}  # no stage has all three seeds
  extended = get_config().to_dict()
  extended["runs"]["new"] = quick(0.2).to_dict()
  extended["cells"] += ("new",)
  summary.write(definition.resolve(extended), workdir)
  text = (workdir / "experiment.md").read_text()
  assert "**This experiment is not finished.**" in text
  assert "- new: its tuning" in text and "| noisy |" in text
  summary.write(CONFIGURED, workdir)
  assert "not finished" not in (workdir / "experiment.md").read_text()


def test_groups_have_their_own_tables_and_pictures(done, tmp_path):
  found = done[1] | {"groups": {"by_noise": ["clean", "noisy"], "b": ["noisy"]}}
  chapters.write(tmp_path, found)
  text = (tmp_path / "experiment.md").read_text()
  first, second = text.index("## By noise"), text.index("## B\n")
  both = text[first:second]
  assert both.index("| clean |") < both.index("| noisy |")
  assert "| clean |" not in text[second : text.index("## What was tuned")]
  assert (tmp_path / "experiment" / "by_noise_arms.png").exists()
  assert (tmp_path / "experiment" / "b_gains_of_student.png").exists()


def until(process, condition):
  end = time.monotonic() + 120
  while process.poll() is None and not condition() and time.monotonic() < end:
    time.sleep(0.02)
  assert process.poll() is None, process.communicate()


def test_an_experiment_that_is_ended_or_killed_goes_on_to_the_same_bytes(
  done, tmp_path
):
  workdir = tmp_path / "small"
  results = lambda: len(list(workdir.glob("*/**/result.json")))
  arguments = (f"--config={CONFIG}", f"--workdir={workdir}", "--jobs=2")
  ended = command(*arguments)
  until(ended, lambda: results() >= 2)
  ended.send_signal(signal.SIGTERM)
  output, errors = ended.communicate(timeout=60)
  assert ended.returncode == 0, errors
  assert errors.endswith("Saved; the same command goes on from here.\n")
  assert not output and not (workdir / "experiment.json").exists()
  before = results()
  killed = command(*arguments)
  until(killed, lambda: results() >= before + 4)
  killed.kill()
  killed.communicate()
  for _ in range(60):  # its workers see that they are alone, save and end
    try:
      perform_all(CONFIGURED, workdir)
      break
    except UserError as error:
      assert "another process is at work" in str(error)
      time.sleep(0.5)
  summary.write(CONFIGURED, workdir)
  assert (workdir / "logs" / "worker_1.log").exists()
  want, got = files_of(done[0]), files_of(workdir)
  assert want.keys() == got.keys()
  for name in want:
    assert want[name] == got[name], name
  assert read_json(workdir / "tuned.json") == read_json(done[0] / "tuned.json")


MISSING_DATA = """
import grids
def get_config():
  wrong = grids.grid(data=dict(source="npz", path="nowhere.npz"))
  return grids.experiment(runs=dict(noisy=grids.grid(), clean=wrong))
"""


def test_a_mistake_that_a_worker_finds_ends_the_command(tmp_path):
  (tmp_path / "wrong.py").write_text(
    f"import sys; sys.path.insert(0, {str(HERE)!r})\n{MISSING_DATA}"
  )
  code, _, errors = finished(
    f"--config={tmp_path / 'wrong.py'}",
    f"--workdir={tmp_path / 'out'}",
    "--jobs=2",
  )
  assert code == 2, errors
  last = errors.strip().splitlines()[-1]
  assert last.startswith(
    "kdcl_jax: config.runs.clean.data.path is 'nowhere.npz'"
  )
  assert "Traceback" not in errors
  assert not list((tmp_path / "out").rglob("result.json"))


@pytest.mark.parametrize(
  ("argument", "words"),
  [
    ("--only=noisy,cleen", ["--only", "'cleen'", "'clean'"]),
    ("--jobs=0", ["--jobs is 0"]),
    ("--config.runs.noisy.seeds=1001", ["config.tuning.seed", "0 to 1000"]),
  ],
)
def test_wrong_usage_is_told_in_one_line_and_exits_with_2(
  argument, words, tmp_path
):
  code, _, errors = finished(
    f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}", argument
  )
  assert code == 2, errors
  assert len(errors.strip().splitlines()) == 1, errors
  for word in words:
    assert word in errors
