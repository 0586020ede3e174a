"""Mistakes in what a course can do end in one sentence each."""

import pytest
from test_wrong_configs import base, checked, put

from kdcl_jax.errors import UserError

COURSE = "student.curriculum"
WEIGHTING = "student.weighting"


def weighting(**fields):
  return (WEIGHTING, fields)


def pacing(**fields):
  return (f"{COURSE}.pacing", fields)


def bandit(**fields):
  return (f"{COURSE}.bandit", dict(on=True) | fields)


def rerank(order="curriculum", **fields):
  return (f"{COURSE}.order", order), (
    f"{COURSE}.rerank",
    dict(on=True) | fields,
  )


def slope(loss, **fields):
  return ("student.objective", {loss: fields})


SNAPSHOTS = ("teacher.snapshots", (0.25, 0.5))
HARD = dict(name="spl_hard", threshold=1.0)
ADVANCE = (f"{COURSE}.advance_teacher", dict(on=True))
RANDOM = (f"{COURSE}.order", "random")
EASY = dict(easy=1.0, hard=4.0)

# what is wrong -> (the change, what the sentence must contain)
WRONG = {
  "unknown weighting": (
    put(weighting(name="spl_hart", threshold=1.0)),
    ["config.student.weighting.name is 'spl_hart'", "'spl_hard'"],
  ),
  "a weighting by a path that does not exist": (
    put(weighting(name="nowhere.weights")),
    ["config.student.weighting.name is 'nowhere.weights'", "imported"],
  ),
  "a threshold that is missing": (
    put(weighting(name="spl_hard")),
    ["config.student.weighting.threshold is missing", "or quantile"],
  ),
  "a second threshold that is missing": (
    put(weighting(name="spl_mixture", quantile=0.5)),
    ["config.student.weighting.low_threshold is missing", "'spl_mixture'"],
  ),
  "an expected loss that is missing": (
    put(weighting(name="superloss_weights")),
    ["config.student.weighting.tau is missing"],
  ),
  "a quantile of nothing": (
    put(weighting(name="spl_hard", quantile=0.0)),
    ["config.student.weighting.quantile is 0", "a share in (0, 1]"],
  ),
  "a quantile that ends above one": (
    put(weighting(name="spl_hard", quantile=dict(start=0.5, end=1.2))),
    ["config.student.weighting.quantile is 1.2", "a share in (0, 1]"],
  ),
  "a quantile that is above one for a while": (
    put(weighting(name="spl_hard", quantile=dict(values=(0.5, 1.5, 1.0)))),
    ["config.student.weighting.quantile is 1.5", "a share in (0, 1]"],
  ),
  "a threshold of nothing for a while": (
    put(weighting(name="spl_hard", threshold=dict(values=(0.5, 0.0, 1.0)))),
    ["config.student.weighting", "threshold is 0.0", "> 0"],
  ),
  "a quantile that is a text": (
    put(weighting(name="spl_hard", quantile="half")),
    ["config.student.weighting.quantile is 'half'", "a share in (0, 1]"],
  ),
  "a quantile that is a tuple": (
    put(weighting(name="spl_hard", quantile=(0.5, 1.0))),
    ["config.student.weighting.quantile is (0.5, 1.0)", "a share"],
  ),
  "a quantile that is true": (
    put(weighting(name="spl_hard", quantile=True)),
    ["config.student.weighting.quantile is True", "a share in (0, 1]"],
  ),
  "a quantile for a function without a threshold": (
    put(weighting(name="focal", quantile=0.5)),
    ["config.student.weighting.quantile", "'focal'", "does not take"],
  ),
  "a quantile beside a threshold": (
    put(weighting(quantile=0.5, **HARD)),
    ["config.student.weighting.quantile", "given too"],
  ),
  "a threshold of nothing": (
    put(weighting(name="spl_hard", threshold=0.0)),
    ["config.student.weighting", "threshold is 0.0", "> 0"],
  ),
  "a threshold that falls to nothing": (
    put(weighting(name="spl_hard", threshold=dict(start=1.0, end=0.0))),
    ["config.student.weighting", "threshold is 0.0", "> 0"],
  ),
  "a threshold that is a text": (
    put(weighting(name="spl_hard", threshold="low")),
    ["config.student.weighting", "threshold is 'low'", "a number"],
  ),
  "a threshold that is a tuple": (
    put(weighting(name="spl_hard", threshold=(0.5, 1.0))),
    ["config.student.weighting", "threshold is (0.5, 1.0)", "a number"],
  ),
  "unknown field of a weighting": (
    put(weighting(treshold=1.0, **HARD)),
    ["config.student.weighting.treshold", "'threshold'"],
  ),
  "unknown field of a weighting's schedule": (
    put(weighting(name="spl_hard", quantile=dict(start=0.5, stop=1.0))),
    ["config.student.weighting.quantile.stop", "start, end"],
  ),
  "an unknown term that is weighted": (
    put(weighting(terms=("cross_entropi",), **HARD)),
    ["config.student.weighting.terms", "'cross_entropi'", "cross_entropy, kd"],
  ),
  "a term that is weighted and no tuple": (
    put(weighting(terms=3, **HARD)),
    ["config.student.weighting.terms is 3", "a tuple of names"],
  ),
  "an unknown term that decides": (
    put(weighting(loss="kdd", **HARD)),
    ["config.student.weighting.loss", "'kdd'", "'kd'"],
  ),
  "a relation between examples that decides": (
    put(weighting(loss="dist", **HARD), ("student.objective.dist", dict())),
    ["config.student.weighting.loss", "'dist'", "one value per example"],
  ),
  "no term to weight": (
    put(weighting(**HARD), ("student.objective", dict(dist=dict()))),
    ["config.student.weighting.name is 'spl_hard'", "cross_entropy"],
  ),
  "weighting as a text": (
    put(("student.weighting", "spl_hard")),
    ["config.student.weighting is 'spl_hard'", "a section"],
  ),
  "ranking an order of no difficulty": (
    put(*rerank("none")),
    ["config.student.curriculum.rerank.on is True", "'none'", "'anti'"],
  ),
  "ranking a random order": (
    put(*rerank("random")),
    ["config.student.curriculum.rerank.on is True", "'random'", "'anti'"],
  ),
  "a stream for what was never active": (
    put(*rerank(stream="aum")),
    ["config.student.curriculum.rerank.records is 'rest'", "'aum'", "'all'"],
  ),
  "unknown stream": (
    put(*rerank(stream="aun", records="all")),
    ["config.student.curriculum.rerank.stream is 'aun'", "'aum'"],
  ),
  "unknown records to rank": (
    put(*rerank(records="some")),
    ["config.student.curriculum.rerank.records is 'some'", "'rest', 'all'"],
  ),
  "unknown score to rank by": (
    put(*rerank(score="los")),
    ["config.student.curriculum.rerank.score is 'los'", "'loss'"],
  ),
  "ranking at every zeroth lesson": (
    put(*rerank(every=0)),
    ["config.student.curriculum.rerank.every is 0", ">= 1"],
  ),
  "unknown field of a ranking": (
    put(*rerank(evry=2)),
    ["config.student.curriculum.rerank.evry", "'every'"],
  ),
  "a bandit with one arm": (
    put(bandit(buckets=1)),
    ["config.student.curriculum.bandit.buckets is 1", ">= 2"],
  ),
  "unknown policy": (
    put(bandit(policy="ucb")),
    ["config.student.curriculum.bandit.policy is 'ucb'", "'thompson'"],
  ),
  "unknown reward": (
    put(bandit(reward="money")),
    ["config.student.curriculum.bandit.reward is 'money'", "'hardness'"],
  ),
  "a bandit that learns nothing": (
    put(bandit(rate=0.0)),
    ["config.student.curriculum.bandit.rate is 0.0", "(0, 1]"],
  ),
  "a slope of one reward": (
    put(bandit(window=1)),
    ["config.student.curriculum.bandit.window is 1", ">= 2"],
  ),
  "a bandit that explores too much": (
    put(bandit(epsilon=1.5)),
    ["config.student.curriculum.bandit.epsilon is 1.5", "[0, 1]"],
  ),
  "a negative temperature of a bandit": (
    put(bandit(temperature=-1.0)),
    ["config.student.curriculum.bandit.temperature is -1.0", ">= 0"],
  ),
  "one pass over no bucket": (
    put(pacing(name="one_pass", buckets=0)),
    ["config.student.curriculum.pacing", "buckets is 0", "at least 1"],
  ),
  "one pass over shares that are not one": (
    put(pacing(name="one_pass", buckets=(0.5, 0.3))),
    ["config.student.curriculum.pacing", "(0.5, 0.3)", "1 together"],
  ),
  "unknown field of one pass": (
    put(pacing(name="one_pass", start=0.2)),
    ["config.student.curriculum.pacing.start", "buckets"],
  ),
  "one pass over buckets smaller than a batch": (
    put(pacing(name="one_pass", buckets=100)),
    ["config.student.curriculum.pacing never reaches a batch", "0.01"],
  ),
  "unknown pacing": (
    put(pacing(name="onepass")),
    ["config.student.curriculum.pacing.name is 'onepass'", "'one_pass'"],
  ),
  "snapshots at the start": (
    put(("teacher.snapshots", (0.0, 0.5))),
    ["config.teacher.snapshots is (0.0, 0.5)", "increasing", "(0, 1)"],
  ),
  "snapshots at the end": (
    put(("teacher.snapshots", (0.5, 1.0))),
    ["config.teacher.snapshots is (0.5, 1.0)", "increasing", "(0, 1)"],
  ),
  "snapshots that do not increase": (
    put(("teacher.snapshots", (0.5, 0.25))),
    ["config.teacher.snapshots is (0.5, 0.25)", "increasing"],
  ),
  "a snapshot twice": (
    put(("teacher.snapshots", (0.5, 0.5))),
    ["config.teacher.snapshots is (0.5, 0.5)", "increasing"],
  ),
  "snapshots that are no numbers": (
    put(("teacher.snapshots", ("half",))),
    ["config.teacher.snapshots is ('half',)", "increasing"],
  ),
  "snapshots of a stage that is not trained": (
    put(SNAPSHOTS, ("teacher.steps", 0), ("teacher.weights", "x")),
    ["config.teacher.snapshots is (0.25, 0.5)", "not trained"],
  ),
  "a pacing of no teachers": (
    put(SNAPSHOTS, ("baseline.teacher_pacing", dict(name="linear"))),
    ["config.baseline.teacher_pacing.name is 'linear'", "`teachers`"],
  ),
  "unknown pacing of the teachers": (
    put(SNAPSHOTS, ("student.teacher_pacing", dict(name="lineer"))),
    ["config.student.teacher_pacing.name is 'lineer'", "'linear'"],
  ),
  "a window for the teachers": (
    put(SNAPSHOTS, ("student.teacher_pacing", dict(name="one_pass"))),
    ["config.student.teacher_pacing.name is 'one_pass'", "linear"],
  ),
  "unknown field of the teachers' pacing": (
    put(SNAPSHOTS, ("student.teacher_pacing", dict(name="linear", stat=0.2))),
    ["config.student.teacher_pacing.stat", "'start'"],
  ),
  "the teachers' pacing from nothing": (
    put(SNAPSHOTS, ("student.teacher_pacing", dict(name="linear", start=0.0))),
    ["config.student.teacher_pacing", "start is 0.0", "(0, 1]"],
  ),
  "more buckets than make a batch": (
    put(bandit(buckets=100)),
    ["config.student.curriculum.bandit.buckets is 100", "32"],
  ),
  "a pacing of teachers that keep no snapshots": (
    put(("student.teacher_pacing", dict(name="linear"))),
    ["config.student.teacher_pacing.name is 'linear'", "snapshots"],
  ),
  "teachers without snapshots to go on to": (
    put(ADVANCE),
    [f"config.{COURSE}.advance_teacher.on is True", "config.teacher.snapshots"],
  ),
  "no teacher to go on with": (
    put(SNAPSHOTS, ("baseline.curriculum.advance_teacher", dict(on=True))),
    ["config.baseline.curriculum.advance_teacher.on is True", "no teacher"],
  ),
  "a pacing of teachers that go on by themselves": (
    put(SNAPSHOTS, ADVANCE, ("student.teacher_pacing", dict(name="linear"))),
    [
      f"config.{COURSE}.advance_teacher.on is True",
      "config.student.teacher_pacing.name is 'linear'",
      "take one of them out",
    ],
  ),
  "no patience with a teacher": (
    put(SNAPSHOTS, (f"{COURSE}.advance_teacher", dict(on=True, patience=0))),
    [f"config.{COURSE}.advance_teacher.patience is 0", ">= 1"],
  ),
  "a scorer whose teacher goes on": (
    put(
      (f"{COURSE}.order", "curriculum"),
      ("scorer.curriculum.advance_teacher", dict(on=True)),
    ),
    ["config.scorer.curriculum.advance_teacher.on is True"],
  ),
  "from easy to hard in no order": (
    put(slope("kd", temperature=EASY)),
    ["config.student.objective.kd.temperature", "order is 'none'", "'anti'"],
  ),
  "from easy to hard with a temperature of nothing": (
    put(slope("kd", temperature=dict(easy=0.0, hard=4.0)), RANDOM),
    ["config.student.objective.kd.temperature.easy is 0.0", "> 0"],
  ),
  "from easy to hard down to a temperature of nothing": (
    put(
      slope("kd", temperature=dict(easy=1.0, hard=dict(start=4.0, end=0.0))),
      RANDOM,
    ),
    ["config.student.objective.kd.temperature.hard is 0.0", "> 0"],
  ),
  "from easy to hard out of range": (
    put(slope("dkd", beta=dict(easy=1.0, hard=-1.0)), RANDOM),
    ["config.student.objective.dkd", "beta is -1.0", ">= 0"],
  ),
  "from easy to hard where examples are related": (
    put(slope("dist", temperature=EASY), RANDOM),
    ["config.student.objective.dist.temperature", "relates the examples"],
  ),
  "from easy to hard in what is a number for all": (
    put(slope("js", student_weight=dict(easy=0.2, hard=0.8)), RANDOM),
    ["config.student.objective.js.student_weight", "not written for"],
  ),
  "from easy to nowhere": (
    put(slope("kd", temperature=dict(easy=1.0)), RANDOM),
    ["config.student.objective.kd.temperature.hard is None", "a number"],
  ),
  "from easy to hard where a projector decides": (
    put(slope("kd", temperature=EASY, projector=dict(name="ctkd")), RANDOM),
    ["config.student.objective.kd.temperature", "'ctkd' provides it"],
  ),
  "two snapshots after the same step": (
    put(("teacher.snapshots", (0.5, 0.501))),
    ["config.teacher.snapshots is (0.5, 0.501)", "step"],
  ),
  "a bandit that is held": (
    put(bandit(), (f"{COURSE}.hold", dict(on=True))),
    ["config.student.curriculum.hold.on is True", "bandit.on"],
  ),
  "a bandit with a pacing": (
    put(bandit(), pacing(name="linear", start=0.3)),
    ["config.student.curriculum.pacing is", "'linear'", "bandit.on", "lessons"],
  ),
  "a term with the name of the mean weight": (
    put(
      (
        "student.objective",
        dict(weighting=dict(loss="cross_entropy"), kd=dict()),
      )
    ),
    ["config.student.objective has a term 'weighting'", "another"],
  ),
  "a weighting that is no function": (
    put(weighting(name="math.pi")),
    ["config.student.weighting.name is 'math.pi'"],
  ),
}


def sentence_of(change):
  config = base()
  change(config)
  with pytest.raises(UserError) as error:
    checked(config)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_course_ends_in_a_sentence_that_names_it(case):
  change, words = WRONG[case]
  sentence = sentence_of(change)
  for word in words:
    assert word in sentence, sentence


def test_what_goes_from_easy_to_hard_or_on_to_the_next_is_no_mistake():
  config = base()
  slopes = dict(
    kd=dict(temperature=EASY | dict(hard=dict(start=4.0, end=2.0))),
    cross_entropy=dict(label_smoothing=dict(easy=0, hard=0.2, curve="root")),
  )
  put(SNAPSHOTS, ADVANCE, RANDOM, ("student.objective", slopes))(config)
  assert checked(config)["student"]["curriculum"]["advance_teacher"]["on"]


def test_what_a_course_can_do_is_no_mistake():
  config = base()
  put(
    SNAPSHOTS,
    weighting(
      name="spl_linear",
      loss="kd",
      terms=("kd",),
      quantile=dict(start=0.5, end=1.0),
    ),
    *rerank(records="all", stream="aum"),
    bandit(buckets=3, policy="exp3s"),
    (
      "student.teacher_pacing",
      dict(name="stairs", ends=(0.5,), fractions=(0.25, 1.0)),
    ),
    ("baseline.curriculum.pacing", dict(name="one_pass", buckets=(0.5, 0.5))),
  )(config)
  assert checked(config)["student"]["weighting"]["loss"] == "kd"
