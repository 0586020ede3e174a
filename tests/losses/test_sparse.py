"""Teachers of which only the most probable classes are stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from kdcl_jax import losses

GENERATOR = np.random.default_rng(7)
STUDENT, TEACHER = (
  (2 * GENERATOR.standard_normal((4, 9))).astype(np.float32) for _ in range(2)
)
DIVERGENCES = (
  losses.sparse_kl,
  losses.sparse_jsd,
  losses.sparse_total_variation,
)
TAILS = ("bucket", "zero", "renormalise", "renormalise_teacher")


def test_the_store_gives_the_logits_back():
  store = losses.top_k_targets(TEACHER, 3, temperature=2.0)
  order = np.argsort(-TEACHER, -1)[:, :3]
  np.testing.assert_array_equal(store.indices, order)
  expected = np.take_along_axis(log_softmax(TEACHER / 2, -1), order, -1)
  np.testing.assert_allclose(store.log_probs, expected, rtol=1e-5)
  np.testing.assert_allclose(
    store.log_sum_exp, logsumexp(TEACHER / 2, -1), rtol=1e-5
  )


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_storing_all_classes_is_the_full_loss(tail, temperature):
  store = losses.top_k_targets(TEACHER, 9, temperature=temperature)
  options = {
    "tail": tail,
    "temperature": temperature,
    "teacher_temperature": temperature,
  }
  values = [
    loss(STUDENT, store.indices, store.log_probs, **options)
    for loss in DIVERGENCES
  ]
  square = temperature**2
  pair = (STUDENT, TEACHER)
  full = [
    losses.kd(*pair, temperature=temperature),
    square * losses.gkd(*pair, temperature=temperature),
    square * losses.total_variation(*pair, temperature=temperature),
  ]
  np.testing.assert_allclose(values, full, rtol=1e-4)


def test_the_bucket_never_exceeds_the_full_divergence():
  full = losses.kd(STUDENT, TEACHER, temperature=1.0)
  previous = np.zeros(4)
  for k in (1, 3, 6):
    store = losses.top_k_targets(TEACHER, k)
    value = losses.sparse_kl(STUDENT, store.indices, store.log_probs)
    assert np.all(value >= previous - 1e-6) and np.all(value <= full + 1e-6)
    previous = value


def test_renormalising_both_is_kd_over_the_masked_classes():
  store = losses.top_k_targets(TEACHER, 3)
  where = losses.top_k_mask(TEACHER, 3)
  assert np.all(np.sum(where, -1) == 3)
  np.testing.assert_allclose(
    losses.sparse_kl(
      STUDENT,
      store.indices,
      store.log_probs,
      tail="renormalise",
      temperature=2.0,
    ),
    losses.kd(STUDENT, TEACHER, temperature=2.0, where=where),
    rtol=1e-5,
  )


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("loss", DIVERGENCES)
def test_gradients_are_finite_and_the_store_gets_none(loss, tail):
  gradient = jax.jit(
    jax.grad(lambda s, i, p: jnp.sum(loss(s, i, p, tail=tail)), argnums=(0, 2))
  )
  for scale in (0.0, 1.0, 1e4):
    store = losses.top_k_targets(scale * jnp.sign(TEACHER), 3)
    for sign in (1, -1):
      student = sign * scale * jnp.sign(TEACHER)
      d_student, d_store = gradient(student, store.indices, store.log_probs)
      assert np.all(np.isfinite(d_student))
      assert np.all(np.asarray(d_store) == 0)


@pytest.mark.parametrize(
  "loss", [losses.sparse_hinge_rank, losses.sparse_logistic_rank]
)
def test_rankings_without_a_ranked_pair_cost_nothing(loss):
  indices = jnp.tile(jnp.arange(3), (4, 1))
  tied = jnp.full((4, 3), -1.5)
  value, gradient = jax.value_and_grad(
    lambda s: jnp.sum(loss(s, indices, tied))
  )(jnp.asarray(STUDENT))
  assert value == 0 and np.all(np.asarray(gradient) == 0)


def test_mistakes_are_told_in_one_sentence():
  store = losses.top_k_targets(TEACHER, 3)
  args = (STUDENT, store.indices, store.log_probs)
  with pytest.raises(ValueError, match="expected one of bucket, zero, renorm"):
    losses.sparse_kl(*args, tail="none")
  with pytest.raises(ValueError, match="stored at 1.0"):
    losses.sparse_kl(*args, tail="zero", temperature=2.0)
  with pytest.raises(ValueError, match="k is 10, expected 1 to 9"):
    losses.top_k_targets(TEACHER, 10)
  with pytest.raises(AssertionError, match="teacher_indices"):
    losses.sparse_kl(STUDENT, store.indices[:, :2], store.log_probs)


ALL = (*DIVERGENCES, losses.sparse_hinge_rank, losses.sparse_logistic_rank)


@pytest.mark.parametrize("loss", ALL)
def test_padded_tokens_have_no_loss_and_no_gradient_whatever_they_hold(loss):
  store = losses.top_k_targets(TEACHER, 3)
  where = np.array([True, False, True, False])
  rubbish = lambda x, value: np.where(where[:, None], x, value)
  arguments = (
    rubbish(store.indices, -1),
    rubbish(store.log_probs, np.nan).astype(np.float32),
  )
  student = rubbish(STUDENT, np.nan).astype(np.float32)
  total = lambda s: jnp.sum(loss(s, *arguments, where=where))
  value, gradient = jax.jit(jax.value_and_grad(total))(student)
  expected = loss(STUDENT, store.indices, store.log_probs)[where]
  np.testing.assert_allclose(value, np.sum(expected), rtol=1e-6)
  assert np.all(np.isfinite(gradient))
  assert np.all(gradient[~where] == 0) and np.any(gradient[where] != 0)


@pytest.mark.parametrize("loss", ALL)
def test_the_classes_may_be_on_another_axis(loss):
  store = losses.top_k_targets(TEACHER, 3)
  expected = loss(STUDENT, store.indices, store.log_probs)
  turned = loss(STUDENT.T, store.indices.T, store.log_probs.T, axis=0)
  np.testing.assert_allclose(turned, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", ALL)
def test_a_mask_of_classes_is_refused_with_what_is_wanted(loss):
  store = losses.top_k_targets(TEACHER, 3)
  with pytest.raises(AssertionError, match="where marks tokens"):
    loss(STUDENT, store.indices, store.log_probs, where=STUDENT > 0)
