"""Terms whose logits are a tap, as DeiT's distillation head is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import losses, models, objective, terms
from kdcl_jax.errors import UserError
from kdcl_jax.models.vit import VisionTransformer

BATCH = {
  "label": jnp.array([0, 2, 1, 1]),
  "weight": jnp.array([1.0, 1.0, 1.0, 0.0]),
  "id": jnp.arange(4),
}
PRESENT = slice(0, 3)


def network(seed):
  """What a network with a second head says: logits and taps."""
  draw = lambda i: jax.random.normal(jax.random.key(10 * seed + i), (4, 3))
  return {"logits": draw(0), "taps": {"second": draw(1), "pooled": draw(2)}}


def value(section, student, teachers):
  names = [f"teacher_{i}" for i in range(len(teachers))]
  built = terms.build(section, names)
  found = objective.evaluate(built, student, teachers, BATCH, jnp.zeros(()))
  return found.task, found.distillation


@pytest.mark.parametrize("loss", ["hard", "deit_soft", "kd"])
def test_a_term_distils_into_the_head_that_it_names(loss):
  student, teacher = network(1), network(2)
  section = {
    "cross_entropy": {},
    loss: dict(student_logits="second", coefficient=0.5),
  }
  task, distillation = value(section, student, [teacher])
  own = losses.cross_entropy(student["logits"], BATCH["label"])
  taught = losses.LOSSES[loss](student["taps"]["second"], teacher["logits"])
  np.testing.assert_allclose(task, own[PRESENT].mean(), rtol=1e-6)
  np.testing.assert_allclose(
    distillation, 0.5 * taught[PRESENT].mean(), rtol=1e-6
  )


def test_a_teachers_head_is_named_alike_for_one_and_for_all_at_once():
  student, teachers = network(1), [network(2), network(3)]
  _, each = value(
    {"kd": dict(teacher_logits="second", teacher="teacher_1")},
    student,
    teachers,
  )
  want = losses.kd(student["logits"], teachers[1]["taps"]["second"])
  np.testing.assert_allclose(each, want[PRESENT].mean(), rtol=1e-6)
  stacked = jnp.stack([one["taps"]["second"] for one in teachers])
  _, together = value(
    {"kd_teachers": dict(teacher_logits="second")}, student, teachers
  )
  want = losses.kd_teachers(student["logits"], stacked)
  np.testing.assert_allclose(together, want[PRESENT].mean(), rtol=1e-6)


def test_deit_learns_from_labels_by_one_head_and_from_a_teacher_by_the_other():
  module = VisionTransformer(3, width=12, depth=1, heads=3, distilled=True)
  x = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
  variables = jax.eval_shape(
    lambda x: models.init(module, jax.random.key(0), x), x
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32),
    variables["params"],
  )
  built = terms.build(
    {
      "cross_entropy": dict(coefficient=0.5),
      "hard": dict(student_logits="distillation_logits", coefficient=0.5),
    },
    ["teacher"],
  )

  @jax.jit
  def gradients(params):
    def parts(params):
      student, _ = models.forward(module, {"params": params}, x, train=True)
      found = objective.evaluate(
        built, student, [network(2)], BATCH, jnp.zeros(())
      )
      return jnp.stack([found.task, found.distillation])

    return jax.jacrev(parts)(params)

  found = gradients(params)
  for head, own in (("Classifier_0", 0), ("Classifier_1", 1)):
    for gradient in jax.tree.leaves(found[head]):
      assert np.abs(gradient[own]).max() > 0
      np.testing.assert_array_equal(gradient[1 - own], 0.0)
  body = found["Attention_0"]["Dense_1"]["kernel"]
  assert (np.abs(body).max((1, 2)) > 0).all()  # both reach what is below


@pytest.mark.parametrize(
  ("section", "words"),
  [
    ({"kd": dict(student_logits="secnd")}, "no tap 'secnd'; did you mean"),
    ({"kd": dict(student_logits=3)}, "objective.kd.student_logits is 3, exp"),
    (
      {"kd": {}, "cross_entropy": dict(teacher_logits="second")},
      "'cross_entropy' does not take the teacher's logits",
    ),
    (
      {
        "fitnet": dict(
          student_tap="pooled", teacher_tap="pooled", student_logits="second"
        )
      },
      "'fitnet' does not take the student's logits; it takes",
    ),
  ],
)
def test_a_head_that_is_not_there_ends_in_a_sentence(section, words):
  with pytest.raises(UserError, match=words):
    value(section, network(1), [network(2)])
