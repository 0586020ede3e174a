"""The rule by which an arm wins, and how what came of it is told."""

import numpy as np
import pytest
from grids import grid
from scipy import stats

from kdcl_jax import config as kdcl
from kdcl_jax.experiments import chapters, summary, verdicts

CLAIM = dict(against=("ce", "kd"), twin="random")
CHANCE = np.array([0.010, -0.012, 0.004, -0.006, 0.002, 0.001])
BASE = np.linspace(0.70, 0.75, 6)


def judged(ce, kd, random, claim=CLAIM):
  """The judgement of an arm that is so many points above each, with noise."""
  values = dict(
    arm=BASE,
    ce=BASE - ce / 100 + CHANCE,
    kd=BASE - kd / 100 - CHANCE,
    random=BASE - random / 100 + CHANCE[::-1],
  )
  return verdicts.judge("arm", claim, values)


def test_an_arm_wins_that_is_above_every_rival_and_its_twin():
  found = judged(5, 3, 4)
  assert found["wins"] and not found["failed"] and not found["worse"]
  text = verdicts.sentence("arm", found)
  assert text.startswith(
    "**arm** wins: it is above ce (+5.0, +4.2 to +5.8), kd"
  )
  assert "and its twin random (+4.0" in text
  assert verdicts.short(found) == "wins"


def test_an_arm_that_does_not_beat_its_twin_does_not_win():
  found = judged(5, 3, 0.3)
  assert not found["wins"] and found["failed"] == ["random"]
  text = verdicts.sentence("arm", found)
  assert text.startswith(
    "**arm** does not win: no difference to its twin random (+0.3"
  )
  assert text.endswith(").") and "it is above ce (+5.0" in text
  assert verdicts.short(found) == "no: not above random"


def test_one_rival_is_enough_to_keep_an_arm_from_winning():
  assert judged(5, 0.3, 4)["failed"] == ["kd"]
  assert judged(0.3, 5, 4)["failed"] == ["ce"]


def test_an_arm_that_is_worse_is_said_to_be():
  found = judged(5, -2, 4)
  assert not found["wins"] and found["worse"] == ["kd"] == found["failed"]
  text = verdicts.sentence("arm", found)
  assert "does not win: it is below kd (-2.0, -2.8 to -1.2)" in text
  assert verdicts.short(found) == "no: below kd"


def test_a_tie_is_no_win():
  values = dict(arm=BASE, ce=BASE, kd=BASE, random=BASE)
  found = verdicts.judge("arm", CLAIM, values)
  assert found["failed"] == ["ce", "kd", "random"] and not found["worse"]
  for comparison in found["comparisons"].values():
    assert comparison["interval_95"] == [0.0, 0.0]


def test_without_a_twin_the_rivals_decide():
  found = judged(5, 3, -9, dict(against=("ce", "kd"), twin=""))
  assert found["wins"] and list(found["comparisons"]) == ["ce", "kd"]
  assert "twin" not in verdicts.sentence("arm", found)


def test_one_seed_shows_nothing():
  values = {name: [0.5 + i / 10] for i, name in enumerate(("ce", "kd", "arm"))}
  found = verdicts.judge("arm", dict(against=("ce", "kd"), twin=""), values)
  assert not found["wins"] and found["failed"] == ["ce", "kd"]
  assert found["comparisons"]["ce"]["interval_95"] is None
  text = verdicts.sentence("arm", found)
  assert "one seed says nothing of ce (+20.0) and kd (+10.0)" in text


def test_intervals_are_paired_t_intervals_and_errors_those_of_the_mean():
  rng = np.random.default_rng(0)
  arm, rival = rng.normal(0.8, 0.05, 9), rng.normal(0.7, 0.05, 9)
  found = verdicts.compare(arm, rival)
  want = stats.ttest_rel(arm, rival).confidence_interval(0.95)
  np.testing.assert_allclose(found["interval_95"], [want.low, want.high])
  error = stats.sem(arm - rival)
  assert found["difference"]["standard_error"] == pytest.approx(error)


def test_pairing_takes_out_what_the_seeds_have_in_common():
  common = np.linspace(0.2, 0.9, 6)
  found = verdicts.compare(common + 0.01 + CHANCE / 10, common)
  assert found["verdict"] == "better"


def test_all_cells_in_a_sentence():
  cells = dict(a=judged(5, 3, 4), b=judged(5, -2, 4), c=judged(5, 3, -4))
  text = chapters.overall("arm", cells)
  assert text == (
    "**arm** wins in 1 of 3 cells: a. It does not in b, c. It is worse than kd"
    " in b."
  )
  assert "in none of 2 cells" in chapters.overall(
    "arm", {k: cells[k] for k in "bc"}
  )
  both = dict(a=cells["a"], b=cells["a"])
  assert chapters.overall("arm", both) == "**arm** wins in all of 2 cells."


def stage(**ledger):
  names = (
    "example_forwards",
    "example_backwards",
    "teacher_forwards",
    "validation_forwards",
    "rescoring_forwards",
    "scoring_forwards",
    "scoring_backwards",
  )
  full = dict.fromkeys(names, 0) | ledger
  return {"ledger": {k: {"values": [v, 2 * v]} for k, v in full.items()}}


def test_the_compute_of_an_arm_includes_its_teachers_and_the_scorer_once():
  course = dict(order="curriculum")
  config = grid(
    student=kdcl.stage(steps=1, teachers=("teacher",), curriculum=course)
  ).to_dict()
  scored = dict(scoring_forwards=100, scoring_backwards=7000)
  stages = dict(
    teacher=stage(
      example_forwards=20, example_backwards=20, validation_forwards=5, **scored
    ),
    teacher_random=stage(example_forwards=10**6, example_backwards=10**6),
    baseline=stage(example_forwards=10**6, example_backwards=10**6),
    student=stage(
      example_forwards=8,
      example_backwards=4,
      teacher_forwards=4,
      rescoring_forwards=3,
      **scored,
    ),
  )
  assert summary.above(config, "student") == ["teacher", "student"]
  own = summary.spent(config, ["student"], stages)
  whole = summary.spent(config, summary.above(config, "student"), stages)
  value = lambda cost, key: cost[key]["values"]
  assert value(own, "gradient_examples") == [7004, 14008]
  assert value(own, "forwards") == [7000 + 100 + 15, 2 * 7115]
  assert value(whole, "gradient_examples") == [7024, 14048]
  assert value(whole, "forwards") == [7000 + 100 + 40, 2 * 7140]


def test_scorings_by_other_models_are_counted_for_each_stage():
  course = dict(order="curriculum", difficulty=dict(source="teacher"))
  config = grid(
    teacher=kdcl.stage(steps=1, curriculum=dict(order="curriculum")),
    student=kdcl.stage(steps=1, teachers=("teacher",), curriculum=course),
  ).to_dict()
  stages = dict(
    teacher=stage(scoring_forwards=100, scoring_backwards=7000),
    student=stage(scoring_forwards=30),
  )
  whole = summary.spent(config, ["teacher", "student"], stages)
  assert whole["forwards"]["values"][0] == 7000 + 100 + 30
  assert whole["gradient_examples"]["values"][0] == 7000
