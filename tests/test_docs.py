"""The code in the docs runs as it stands, and does what the text says."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import losses

DOCS = pathlib.Path(__file__).parents[1] / "docs"
WITH_CODE = ("borrowing.md", "experiments.md")
ELSEWHERE = ("export.md",)  # tests/export/test_predict.py


@functools.cache
def run(name):
  """Runs the Python blocks of a page in order, in one namespace."""
  text = (DOCS / name).read_text()
  namespace = {"__name__": name}
  blocks = list(re.finditer(r"```python\n(.*?)```", text, flags=re.DOTALL))
  assert blocks
  for block in blocks:
    above = text[: block.start(1)].count("\n")  # so that errors name the line
    code = compile("\n" * above + block[1], str(DOCS / name), "exec")
    exec(code, namespace)
  return namespace


@pytest.fixture
def borrowed():
  return run("borrowing.md")


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_blocks_of_a_page_run_in_order(name):
  assert run(name)


def test_every_page_with_code_is_tested():
  found = {p.name for p in DOCS.glob("*.md") if "```python" in p.read_text()}
  assert found <= {*WITH_CODE, *ELSEWHERE}


@pytest.mark.parametrize("name", WITH_CODE)
def test_links_lead_somewhere(name):
  for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / name).read_text()):
    if not target.startswith("http"):
      assert (DOCS / target).exists(), target


@pytest.mark.parametrize("name", ["history", "nnx_history", "eqx_history"])
def test_the_trainings_as_shown_learn(borrowed, name):
  history = borrowed[name]
  assert len(history) == 30 and history[-1] < 0.7 * history[0]


def test_the_masks_as_shown_give_the_smaller_batch(borrowed):
  real = slice(0, 50)
  student, teacher = (borrowed[x][real] for x in ("logits", "teacher_logits"))
  np.testing.assert_allclose(
    borrowed["masked_kd"], losses.kd(student, teacher).mean(), rtol=1e-5
  )
  pair = [borrowed[x][real] for x in ("features", "teacher_features")]
  np.testing.assert_allclose(
    borrowed["masked_rkd"], losses.rkd(*pair), rtol=1e-4
  )


def test_the_mask_of_classes_as_shown_takes_them_out(borrowed):
  kept = np.array([0, 1, 3, 4])
  pair = [borrowed[x][:, kept] for x in ("logits", "teacher_logits")]
  np.testing.assert_allclose(borrowed["without"], losses.kd(*pair), rtol=1e-4)


def test_the_chunks_as_shown_change_no_value_and_no_gradient(borrowed):
  real = borrowed["real"]

  def whole(head, hidden):
    teacher = borrowed["teacher_hidden"] @ borrowed["teacher_head"]
    each = losses.kd(hidden @ head, teacher, temperature=2.0, where=real)
    return each.sum() / real.sum()

  value, gradients = jax.jit(jax.value_and_grad(whole, (0, 1)))(
    borrowed["head"], borrowed["hidden"]
  )
  per_token = borrowed["per_token"]
  assert per_token.shape == (2, 64) and not np.any(per_token[1, 40:])
  np.testing.assert_allclose(per_token.sum() / real.sum(), value, rtol=1e-5)
  np.testing.assert_allclose(borrowed["token_value"], value, rtol=1e-5)
  shown = borrowed["head_gradient"], borrowed["hidden_gradient"]
  for found, wanted in zip(shown, gradients, strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_many_devices_as_shown_give_what_one_device_gives(borrowed):
  assert jax.device_count() > 1
  real = borrowed["present"]

  def on_one(student):
    features, logits = borrowed["network"](student, borrowed["x"])
    teacher = borrowed["network"](borrowed["teacher"], borrowed["x"])
    each = losses.kd(logits, teacher[1], where=real)
    kd = jnp.sum(each) / jnp.sum(real)
    return kd + losses.rkd(features, teacher[0], where=real)

  value, gradients = jax.jit(jax.value_and_grad(on_one))(borrowed["student"])
  np.testing.assert_allclose(borrowed["global_value"], value, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
    borrowed["global_gradients"],
    gradients,
  )
