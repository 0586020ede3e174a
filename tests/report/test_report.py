"""Results and report from the files that a run leaves."""

import json
import re
import shutil

import numpy as np
import pytest

from kdcl_jax import config as kdcl
from kdcl_jax import dataset, report, results
from kdcl_jax.writers import read_json, write_json

STAGES = ("teacher", "baseline", "student")


def _result(stage, seed, accuracy):
  return {
    "stage": stage,
    "seed": seed,
    "model": {"name": "mlp", "widths": [8 if stage != "teacher" else 64]},
    "teachers": ["teacher"] if stage == "student" else [],
    "parameters": 100,
    "flops_per_example": 200.0,
    "steps": 100,
    "train_seconds": 1.0,
    "total_seconds": 2.0,
    "final_fraction": 1.0,
    "kept": "last",
    "unreadable": 2 if stage == "teacher" else 0,
    "trained": True,
    "traces": 1,
    "ledger": {"example_forwards": 10, "example_backwards": 10},
    "validation": {
      "accuracy": accuracy,
      "loss": 1.0,
      "calibration_error": 0.1,
      "count": 20,
    },
    "test": {
      "accuracy": accuracy,
      "loss": 1.0 + seed,
      "calibration_error": 0.1,
      "count": 20,
      "agreement": {"teacher": 0.9} if stage == "student" else {},
      "accuracy_by_difficulty": [1.0] * 9 + [None],
    },
  }


def make(workdir, seeds):
  config = kdcl.run(
    name="a <run> | with marks",
    seeds=len(seeds),
    teacher=kdcl.stage(steps=100),
    baseline=kdcl.stage(steps=100),
    student=kdcl.stage(steps=100, teachers=("teacher",)),
  )
  resolved = kdcl.resolve(config)
  write_json(workdir / "config.json", resolved)
  rng = np.random.default_rng(0)
  right = {"teacher": 18, "baseline": 12, "student": 16}
  for stage in STAGES:
    for seed in seeds:
      folder = workdir / stage / f"seed_{seed}"
      hits = right[stage] + seed % 2
      write_json(folder / "result.json", _result(stage, seed, hits / 20))
      label = np.zeros(20, int)
      np.savez(
        folder / "test_predictions.npz",
        record_id=rng.permutation(20),
        label=label,
        prediction=np.where(np.arange(20) < hits, 0, 1),
      )
      lines = []
      for step in range(10, 101, 10):
        lines.append(
          {
            "kind": "train",
            "step": step,
            "loss": 1.0 / step,
            "accuracy": 0.5,
            "learning_rate": 0.1,
            "fraction": 0.5,
            "active": 5,
          }
        )
        frozen = stage == "teacher" and step == 60
        lines.append(
          {
            "kind": "lesson",
            "step": step,
            "lesson": step // 10,
            "fraction": step / 100,
            "active": step,
            "learning_rate_scale": 1.0,
            "validation": {"accuracy": 0.5, "loss": 1.0},
            "actions": ["freeze", "roll_back"] if frozen else [],
            "reasons": ["accuracy <fell> | badly"] if frozen else [],
          }
        )
      text = "".join(json.dumps(line) + "\n" for line in lines)
      (folder / "metrics.jsonl").write_text(text)
  return resolved


@pytest.fixture(scope="module")
def data():
  section = kdcl.resolve(
    kdcl.run(stages=("student",), export="student", student=kdcl.stage(steps=1))
  )["data"]
  return dataset.load(section, seed=0)


def test_results_hold_means_deviations_and_values_of_each_stage(tmp_path):
  make(tmp_path, (0, 1, 2))
  written = results.write(tmp_path, STAGES, (0, 1, 2))
  assert written == read_json(tmp_path / "results.json")
  accuracy = written["stages"]["student"]["test"]["accuracy"]
  assert accuracy["values"] == pytest.approx([0.8, 0.85, 0.8])
  assert accuracy["mean"] == pytest.approx(np.mean([0.8, 0.85, 0.8]))
  assert accuracy["std"] == pytest.approx(np.std([0.8, 0.85, 0.8], ddof=1))
  tenths = written["stages"]["student"]["test"]["accuracy_by_difficulty"]
  assert tenths["mean"][0] == 1.0 and tenths["mean"][9] is None
  pairs = {(c["a"], c["b"]): c for c in written["comparisons"]}
  assert set(pairs) == {
    ("teacher", "baseline"),
    ("student", "baseline"),
    ("student", "teacher"),
  }
  gain = pairs["student", "baseline"]
  assert gain["verdict"] == "better"
  assert gain["difference"]["mean"] == pytest.approx(0.2)


def test_one_seed_is_compared_record_by_record(tmp_path):
  make(tmp_path, (0,))
  written = results.write(tmp_path, STAGES, (0,))
  for comparison in written["comparisons"]:
    assert comparison["method"] == "paired over test records"
    low, high = comparison["interval_95"]
    assert low < comparison["difference"]["mean"] < high


def test_the_page_is_one_file_that_opens_without_a_network(tmp_path, data):
  config = make(tmp_path, (0, 1))
  _, page = report.write(tmp_path, config, data, STAGES, (0, 1))
  text = page.read_text()
  sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
  assert sources and all(s.startswith("data:image/png;base64") for s in sources)
  assert "<run>" not in text and "&lt;run&gt;" in text
  assert "<fell>" not in text and "&lt;fell&gt;" in text
  assert text.count("<details>") == text.count("</details>") == 1
  assert text.count('<div class="scroll">') == text.count("<table>")


def test_the_report_tells_what_was_done_and_what_could_not_be_read(
  tmp_path, data
):
  config = make(tmp_path, (0, 1))
  path, _ = report.write(tmp_path, config, data, STAGES, (0, 1))
  text = path.read_text()
  assert "**student** is 20.0 ± 0.0 points above baseline" in text
  assert "freeze, roll back" in text
  assert "teacher: 2" in text  # unreadable records
  for name in re.findall(r"\]\((report/[^)]+)\)", text):
    assert (tmp_path / name).stat().st_size > 5000


def test_a_run_that_is_not_finished_is_reported_as_such(tmp_path, data):
  config = make(tmp_path, (0, 1))
  shutil.rmtree(tmp_path / "student" / "seed_1")
  path, _ = report.write(tmp_path, config, data, STAGES, (0, 1))
  text = path.read_text()
  assert "not finished" in text and "student/seed_1" in text
  assert "| baseline |" in text and "| student |" not in text


def test_the_command_line_makes_the_report_again(tmp_path, capsys):
  make(tmp_path, (0,))
  assert report.main(["--workdir", str(tmp_path)]) == 0
  assert (tmp_path / "report.html").exists()
  assert report.main(["--workdir", str(tmp_path / "nowhere")]) == 2
  assert "holds no run" in capsys.readouterr().err
