"""Numbers from a closed-form input: no data file, reproducible anywhere.

`z_s[i, c] = 3 sin(0.7 i + 1.3 c + 0.5)`, `z_t[i, c] = 4 cos(0.9 i - 0.8 c +
0.2)`, `y_i = (3 i + 1) mod 10`, six examples of ten classes. The numbers came
out of the published implementations on this input, unless a comment says
otherwise.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from kdcl_jax import losses

ROWS, COLUMNS = np.arange(6)[:, None], np.arange(10)[None]
STUDENT = 3 * np.sin(0.7 * ROWS + 1.3 * COLUMNS + 0.5)
TEACHER = 4 * np.cos(0.9 * ROWS - 0.8 * COLUMNS + 0.2)
LABELS = (3 * np.arange(6) + 1) % 10
PAIR = (STUDENT, TEACHER)


def entropy(temperature):
  p = softmax(TEACHER / temperature, -1)
  return -np.sum(p * np.log(p), -1).mean()


CASES = {
  "kd, T=4": (5.839524315242, lambda: losses.kd(*PAIR)),
  "kd as cross-entropy, alpha=0.5": (  # the teacher's entropy on top
    19.658176215350,
    lambda: 0.5 * (losses.kd(*PAIR) + 16 * entropy(4)),
  ),
  "kd_ce, T=8": (
    2.342073679309,
    lambda: losses.kd_ce(*PAIR, temperature=8.0),
  ),
  "kd_mse, T=8": (
    0.206201166751,
    lambda: losses.logit_mse(*PAIR, temperature=8.0),
  ),
  "deit_soft, T=3": (
    0.544613117043,
    lambda: losses.deit_soft(*PAIR, temperature=3.0),
  ),
  "hard": (4.758180975633, lambda: losses.hard(*PAIR)),
  "logit_mse": (13.196874656752, lambda: losses.logit_mse(*PAIR)),
  "kd, T=2": (4.623658649135, lambda: losses.kd(*PAIR, temperature=2.0)),
  "dkd": (46.445142081712, lambda: losses.dkd(*PAIR, LABELS)),
  "tckd": (0.733020294918, lambda: losses.dkd(*PAIR, LABELS, beta=0.0)),
  "nckd": (
    5.714015223349,
    lambda: losses.dkd(*PAIR, LABELS, alpha=0.0, beta=1.0),
  ),
  "dist, T=1": (2.126260210219, lambda: losses.dist(*PAIR)),
  "dist, T=4": (33.726295912615, lambda: losses.dist(*PAIR, temperature=4.0)),
  "nkd, T=1": (6.616100383066, lambda: losses.nkd(*PAIR, LABELS)),
  "nkd, T=2": (
    17.185624479333,
    lambda: losses.nkd(*PAIR, LABELS, temperature=2.0),
  ),
  "wsld": (43.993834010316, lambda: losses.wsld(*PAIR, LABELS)),
  "lskd": (0.912665050482, lambda: losses.lskd(*PAIR)),
  "dkd, standardised": (
    1.004643187805,
    lambda: losses.dkd(
      *map(losses.standardize_logits, PAIR), LABELS, beta=1.0, temperature=2.0
    ),
  ),
  "mlkd_class": (0.007260866462, lambda: losses.mlkd_class(*PAIR)),
  "mlkd_batch": (0.001427719859, lambda: losses.mlkd_batch(*PAIR)),
  "gkd, beta=0": (
    1.155914662284,
    lambda: losses.gkd(*PAIR, beta=0.0, temperature=2.0),
  ),
  "gkd": (0.239739195742, lambda: losses.gkd(*PAIR, temperature=2.0)),
  "gkd, beta=1": (
    1.267804480887,
    lambda: losses.gkd(*PAIR, beta=1.0, temperature=2.0),
  ),
  "reverse_kl": (3.444481167601, lambda: losses.reverse_kl(*PAIR)),
  "forward, cross-entropy part": (
    4.137824526675,
    lambda: losses.forward_kl(*PAIR) + entropy(1),
  ),
  "forward_kl": (2.898972414504, lambda: losses.forward_kl(*PAIR)),
  "skew forward, cross-entropy part": (
    2.647253295371,
    lambda: losses.skew_forward_kl(*PAIR) + entropy(1),
  ),
  "skew_reverse_kl": (1.433540810249, lambda: losses.skew_reverse_kl(*PAIR)),
  "js": (0.183515064020, lambda: losses.js(*PAIR, student_weight=0.9)),
  "total_variation": (0.744804090507, lambda: losses.total_variation(*PAIR)),
  "adaptive_kl": (3.338446700743, lambda: losses.adaptive_kl(*PAIR)),
  "top 3, tail dropped": (2.799528959358, lambda: of_top_3("zero")),
  "top 3, tail as one class": (2.643764214095, lambda: of_top_3("bucket")),
  "top 3, renormalised": (1.774737041082, lambda: of_top_3("renormalise")),
}


def of_top_3(tail):
  store = losses.top_k_targets(TEACHER, 3)
  return losses.sparse_kl(STUDENT, store.indices, store.log_probs, tail=tail)


@pytest.mark.parametrize("case", CASES)
def test_closed_form_input_gives_the_published_value(case):
  expected, compute = CASES[case]
  with jax.enable_x64(True):
    np.testing.assert_allclose(jnp.mean(compute()), expected, rtol=2e-9)


def test_the_tutorial_form_of_distillation_is_wrong_and_by_how_much():
  """KLDivLoss()(softmax(teacher), softmax(student)), without logarithms.

  PyTorch's KLDivLoss(input, target) is the mean over all elements of
  target (log target - input), and wants log-probabilities of the student as
  its input. The tutorial form gives it probabilities, with the networks
  exchanged, and drops T^2.
  """
  temperature = 4.0
  q, p = (softmax(z / temperature, -1) for z in PAIR)
  tutorial = np.mean(q * (np.log(q) - p))
  with jax.enable_x64(True):
    right = float(jnp.mean(losses.kd(*PAIR, temperature=temperature)))
    np.testing.assert_allclose(right, 5.839524315242, rtol=1e-10)

    # Each mistake by itself accounts for a part of the difference.
    exchanged = np.mean(np.sum(q * (np.log(q) - np.log(p)), -1))
    np.testing.assert_allclose(
      exchanged,
      jnp.mean(losses.reverse_kl(*PAIR, temperature=temperature)),
      rtol=1e-10,
    )
  no_logarithm = np.mean(np.sum(q * (np.log(q) - p), -1))
  np.testing.assert_allclose(tutorial, no_logarithm / 10, rtol=1e-12)
  # A "divergence" below 0, which the student makes smaller by being less sure,
  # and with another sign and 1/26 of the size of the right one.
  assert tutorial < 0 < right
  assert 25 < abs(right / tutorial) < 26
  uniform = np.full_like(q, 0.1)
  assert np.mean(uniform * (np.log(uniform) - p)) < tutorial
  # Agreement is no stationary point of it.
  gradient = jax.grad(
    lambda z: jnp.mean(
      jax.nn.softmax(z) * (jax.nn.log_softmax(z) - jax.nn.softmax(z_teacher))
    )
  )
  z_teacher = jnp.asarray(TEACHER)
  assert np.max(np.abs(gradient(z_teacher))) > 1e-3
