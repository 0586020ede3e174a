"""Fractions and difficulties against published code and formulas.

`golden/pacing.npz` holds moments and what the reference had there, in float64.
"""

import pathlib

import numpy as np
import pytest

from kdcl_jax import pacing
from kdcl_jax.curriculum import active_count

FILE = pathlib.Path(__file__).parent / "golden" / "pacing.npz"
GOLDEN: dict[str, dict[str, np.ndarray]] = {}
with np.load(FILE, allow_pickle=False) as arrays:
  for key in arrays.files:
    case, name = key.split("/")
    value = arrays[key]
    GOLDEN.setdefault(case, {})[name] = (
      value.item() if not value.ndim else value
    )


def cases(item):
  found = [case for case in GOLDEN if case.split("__")[0] == item]
  assert found
  return pytest.mark.parametrize("case", found)


def held(pace, progress, want):
  """Array and number, each against the reference and against each other."""
  got = pace(progress)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  assert [pace(float(p)) for p in progress] == got.tolist()


WU = {
  "linear": "linear",
  "quadratic": "quad",
  "root": "root",
  "exponential": "exp",
  "log": "log",
  "step": "step",
}


@pytest.mark.parametrize("name", WU)
@cases("pacing_uc")
def test_the_six_curves_of_wu_et_al_are_those_of_their_code(case, name):
  d = GOLDEN[case]
  pace = pacing.PACINGS[name](start=d["b"], reach=d["a"])
  # Their logarithm begins a rounding step below b.
  want = np.maximum(d[f"{WU[name]}_fraction"], d["b"])
  held(pace, d["step"] / d["total_step"], want)


@pytest.mark.parametrize("form", ["linear", "sqrt", "root_p"])
@cases("competence_platanios")
def test_competence_is_that_of_platanios_et_al(case, form):
  d = GOLDEN[case]
  p = {"linear": 1, "sqrt": 2, "root_p": d["p"]}[form]
  held(pacing.competence(start=d["c0"], p=p), d["step"] / d["T"], d[form])


@cases("pacing_hacohen")
def test_fixed_exponential_and_single_step_are_those_of_hacohen(case):
  d = GOLDEN[case]
  total = 10 * d["step_length"]
  if d["kind"] == "single_step":
    pace = pacing.single_step(
      start=d["starting_percent"], at=d["step_length"] / total
    )
  else:
    pace = pacing.fixed_exponential(
      start=d["starting_percent"],
      factor=d["increase"],
      interval=d["step_length"] / total,
    )
  held(pace, d["batch"] / total, d["fraction"])
  counts = [active_count(f, d["total_data"]) for f in pace(d["batch"] / total)]
  np.testing.assert_array_equal(counts, d["n_examples"])


@cases("pacing_varied_exponential")
def test_varied_exponential_is_the_formula_of_hacohen(case):
  d = GOLDEN[case]
  total = int(d["batch"].max()) + 1
  moments = tuple((d["step_starts"] / total).tolist())
  pace = pacing.varied_exponential(
    start=d["starting_percent"], factor=d["increase"], moments=moments
  )
  held(pace, d["batch"] / total, d["fraction"])
  counts = [active_count(f, d["total_data"]) for f in pace(d["batch"] / total)]
  np.testing.assert_array_equal(counts, d["n_examples"])


@cases("deepspeed_curriculum")
def test_difficulties_are_those_of_deepspeeds_scheduler(case):
  d = GOLDEN[case]
  steps, want = d["step"], d["difficulty"]
  if d["kind"] == "fixed_discrete":
    config = {
      "difficulty": d["levels"].tolist(),
      "max_step": d["max_step"].tolist(),
    }
    total = 2 * int(steps.max())
    pace = pacing.fixed_discrete(
      difficulty=config["difficulty"], ends=(d["max_step"] / total).tolist()
    )
  else:
    names = ["total_curriculum_step", "difficulty_step"]
    names += ["root_degree"] * (d["kind"] == "fixed_root")
    config = {name: d[name] for name in names}
    total = 2 * d["total_curriculum_step"]
    options = {k: d[k] for k in names[1:]}
    pace = pacing.PACINGS[d["kind"]](
      min_difficulty=d["min_difficulty"],
      max_difficulty=d["max_difficulty"],
      reach=0.5,
      **options,
    )
  difficulty = pacing.deepspeed_difficulty(
    schedule_type=d["kind"],
    schedule_config=config,
    min_difficulty=d["min_difficulty"],
    max_difficulty=d["max_difficulty"],
  )
  np.testing.assert_array_equal(difficulty(steps), want)
  assert [difficulty(int(s)) for s in steps] == want.tolist()
  held(pace, steps / total, want / d["max_difficulty"])


@cases("curml_babystep")
def test_grow_is_curmls_rate_of_an_epoch(case):
  d = GOLDEN[case]
  epochs = 1.5 * d["epoch"].max()
  pace = pacing.grow(
    start=d["start_rate"],
    by=d["grow_rate"],
    interval=d["grow_interval"] / epochs,
  )
  held(pace, (d["epoch"] - 1) / epochs, d["rate"])


@cases("curml_grow")
def test_curmls_growth_is_linear_geometric_or_the_root_that_it_names(case):
  d = GOLDEN[case]
  kind, start = d["kind"], d["start_rate"]
  reach = d["grow_epochs"] / (2 * d["grow_epochs"])
  progress = d["epoch"] / (2 * d["grow_epochs"])
  if kind == "linear":
    held(pacing.linear(start=start, reach=reach), progress, d["rate"])
  elif kind == "geom":
    held(pacing.geometric(start=start, reach=reach), progress, d["rate"])
  else:
    p = int(kind.removeprefix("root-"))
    pace = pacing.competence(start=start, p=p, reach=reach)
    held(pace, progress, d["rate_correct"])
    # The published code takes the square root whatever p is.
    same = np.allclose(pace(progress), np.minimum(d["rate"], 1))
    assert same == (p == 2)
    assert pace(0.0) == start
