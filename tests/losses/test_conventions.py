"""The tables of docs/losses.md say what the functions do."""

import inspect
import pathlib
import re

import feature_inputs
import jax
import jax.numpy as jnp
import pytest
from loss_inputs import array_names, arrays

from kdcl_jax.losses import LOSSES, top_k_targets

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "losses.md").read_text()


def table(title):
  """The rows of the table below a heading, cells without back-quotes."""
  text = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
  rows = re.findall(r"^\| (`.*) \|$", text, flags=re.MULTILINE)
  return [[cell.strip() for cell in row.split("|")] for row in rows]


ROWS = {
  row[0].strip("`"): row
  for row in table("Reductions and temperatures, side by side")
}


def logits_of(name):
  """The arrays of a loss that takes no features."""
  student, teacher, labels = arrays("dkd")
  store = top_k_targets(teacher, 4)
  known = {
    "student_logits": student,
    "teacher_logits": teacher,
    "teachers_logits": jnp.stack([teacher, -teacher]),
    "labels": labels,
    "teacher_indices": store.indices,
    "teacher_log_probs": store.log_probs,
    "teacher_log_probabilities": store.log_probs,
  }
  return [known[key] for key in array_names(name)]


def student_and_loss(name, temperature=None):
  """A student's array and the loss as a function of it alone."""
  options = {} if temperature is None else {"temperature": temperature}
  if name in feature_inputs.NAMES:
    student, teacher = feature_inputs.features(name)
    loss = feature_inputs.loss_of(name)
    return student, lambda s: loss(s, teacher, **options)
  student, *others = logits_of(name)
  return student, lambda s: LOSSES[name](s, *others, **options)


def test_the_table_has_every_loss_that_a_config_can_name():
  assert set(ROWS) == set(LOSSES)


@pytest.mark.parametrize("name", ROWS)
def test_the_shape_of_what_returns_is_as_stated(name):
  student, loss = student_and_loss(name)
  shape = jax.eval_shape(loss, student).shape
  stated = ROWS[name][1]
  rank = 0 if stated == "scalar" else len(stated.split(","))
  assert len(shape) == rank
  assert not rank or shape[0] == student.shape[0]


WITH_TEMPERATURE = [
  name
  for name in ROWS
  if "temperature" in inspect.signature(LOSSES[name]).parameters
  and ROWS[name][3] in ("yes", "no")
]


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_the_square_of_the_temperature_is_there_where_stated(name):
  with jax.enable_x64(True):

    def size(temperature):
      student, loss = student_and_loss(name, temperature)
      student = jnp.asarray(student, jnp.float64)
      gradient = jax.grad(lambda s: jnp.sum(loss(s)))(student)
      return float(jnp.linalg.norm(gradient.ravel()))

    ratio = size(400.0) / size(200.0)
  # Without T^2 the gradient falls at least as 1 / T, with it never.
  assert ratio > 0.9 if ROWS[name][3] == "yes" else ratio < 0.6


def test_no_temperature_is_stated_only_where_there_is_none():
  for name, row in ROWS.items():
    parameters = inspect.signature(LOSSES[name]).parameters
    if row[3] == "–":
      assert "temperature" not in parameters or name == "crd"
    elif name != "mlkd":
      assert "temperature" in parameters


def test_the_keywords_that_choose_are_parameters_with_these_defaults():
  for functions, keywords, default, _ in table(
    "Where paper and code differ, a keyword chooses"
  ):
    for name in re.findall(r"`(\w+)`", functions):
      names = re.findall(r"`(\w+)`", keywords)
      for keyword in names[:1]:
        parameter = inspect.signature(LOSSES[name]).parameters[keyword]
        assert f"`{parameter.default!r}`".replace("'", '"') in default, name
