"""Mistakes in terms with taps and projectors end in one sentence each."""

import pytest
from trainings import DATA, PAIR, POOLED, STUDENT, TEACHER

from kdcl_jax import config as kdcl
from kdcl_jax import validation
from kdcl_jax.errors import UserError


def mistake(term, name="fitnet", **fields):
  """The sentence that a term of the student's objective ends in."""
  student = dict(
    model=STUDENT,
    steps=4,
    batch_size=16,
    teachers=("teacher",),
    objective={"cross_entropy": {}, "kd": {}, name: term},
  )
  config = kdcl.run(
    data=dict(train_size=300),
    stages=("teacher", "student"),
    teacher=kdcl.stage(model=TEACHER, steps=4, batch_size=16),
    student=kdcl.stage(**(student | fields)),
  )
  with pytest.raises(UserError) as error:
    resolved = kdcl.resolve(config)
    validation.check(resolved)
    validation.check_data(resolved, DATA)
  assert "\n" not in str(error.value)
  return str(error.value)


CASES = {
  "no tap": (dict(teacher_tap="f1"), "fitnet", ["student_tap is missing"]),
  "an unknown tap of the student": (
    PAIR | dict(student_tap="f9"),
    "fitnet",
    ["config.student.objective.fitnet", "'f9'", "f0, f0_pre, f1, f1_pre, f2"],
  ),
  "an unknown tap of the teacher": (
    PAIR | dict(teacher_tap="g1"),
    "fitnet",
    ["teacher's model has no tap 'g1'", "f0, f0_pre, f1, f1_pre, f2"],
  ),
  "maps of other channels": (
    PAIR,
    "fitnet",
    ["student_features (2, 2, 2, 5)", "projector=dict(name='conv')"],
  ),
  "vectors of other widths": (
    POOLED,
    "fitnet",
    ["student_features (2, 7)", "projector=dict(name='linear')"],
  ),
  "lists of different length": (
    dict(student_tap=("f0", "f1"), teacher_tap=("f1",)),
    "fitnet",
    ["student taps ('f0', 'f1')", "as many of both"],
  ),
  "an unknown projector": (
    PAIR | dict(projector=dict(name="convv")),
    "fitnet",
    ["config.student.objective.fitnet.projector.name", "'convv'", "'conv'"],
  ),
  "an unknown field of a projector": (
    PAIR | dict(projector=dict(name="conv", rleu=True)),
    "fitnet",
    ["projector.rleu", "'relu'"],
  ),
  "a field that the pipeline sets": (
    PAIR | dict(projector=dict(name="conv", axis_name="d")),
    "fitnet",
    ["projector.axis_name", "take it out"],
  ),
  "a projector without a name": (
    PAIR | dict(projector=dict(relu=True)),
    "fitnet",
    ["config.student.objective.fitnet.projector", "dict(name='linear')"],
  ),
  "a projector that makes what the loss does not take": (
    PAIR | dict(projector=dict(name="vid")),
    "fitnet",
    ["'vid'", "log_scale", "'fitnet'"],
  ),
  "a loss that needs a projector": (
    POOLED,
    "crd",
    ["'crd' needs the array 'memory'", "projector=dict(name=...)", "'memory'"],
  ),
  "a keyword that the projector provides": (
    dict(loss="kd", temperature=2.0, projector=dict(name="ctkd")),
    "warm",
    ["config.student.objective.warm.temperature is 2.0", "'ctkd' provides it"],
  ),
  "a value out of range": (
    PAIR | dict(projector=dict(name="generator", mask_ratio=1.5)),
    "mgd",
    ["config.student.objective.mgd", "1.5"],
  ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_term_ends_in_a_sentence_that_names_it(case):
  term, name, words = CASES[case]
  sentence = mistake(term, name)
  for word in words:
    assert word in sentence, sentence


def test_dot_does_not_clip_two_gradients():
  optimizer = dict(name="dot", learning_rate=0.1, clip=1.0)
  sentence = mistake({}, "dkd", optimizer=optimizer)
  assert "config.student.optimizer.clip is 1.0" in sentence


def test_a_momentum_of_dot_out_of_range_is_named():
  optimizer = dict(name="dot", learning_rate=0.1, momentum=0.95)
  sentence = mistake({}, "dkd", optimizer=optimizer)
  assert "momentum is 0.95" in sentence and "delta" in sentence
