"""Float32 gives what float64 gives, also far from where losses are tame."""

import feature_inputs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import NAMES, arrays

from kdcl_jax.losses import LOSSES

CASES = {
  "1,000 classes": dict(batch=3, classes=1000),
  "huge logits": dict(scale=1000.0),
  "one example": dict(batch=1),
}


def agree(value_and_gradient, student, tolerance=2e-4):
  """Value and gradient of both precisions, relative to the largest entry."""
  results = {}
  for dtype in ("float32", "float64"):
    with jax.enable_x64(dtype == "float64"):
      results[dtype] = jax.device_get(
        value_and_gradient(jnp.asarray(np.asarray(student), dtype), dtype)
      )
  for got, want in zip(results["float32"], results["float64"], strict=True):
    size = max(np.max(np.abs(want)), 1e-2)
    assert np.all(np.isfinite(got))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64_on_logits(name, case):
  options = dict(CASES[case])
  scale = options.pop("scale", 1.0)
  student, *others = (np.asarray(a) for a in arrays(name, **options))
  scaled = [o * np.float32(scale) if o.dtype.kind == "f" else o for o in others]

  def value_and_gradient(s, dtype):
    rest = [o.astype(dtype) if o.dtype.kind == "f" else o for o in scaled]
    total = lambda s: jnp.mean(LOSSES[name](s, *rest))
    return jax.jit(jax.value_and_grad(total))(s)

  agree(value_and_gradient, student * np.float32(scale))


@pytest.mark.parametrize("batch", [1, 5])
# The memory of crd is drawn anew, and differently, in float64.
@pytest.mark.parametrize(
  "name", [n for n in feature_inputs.NAMES if n != "crd"]
)
def test_float32_agrees_with_float64_on_features(name, batch):
  student, teacher = feature_inputs.features(name, batch)

  def value_and_gradient(s, dtype):
    t = jnp.asarray(np.asarray(teacher), dtype)
    loss = feature_inputs.loss_of(name, batch, dtype)
    total = lambda s: jnp.mean(loss(s, t))
    return jax.jit(jax.value_and_grad(total))(s)

  agree(value_and_gradient, student)


def test_the_centred_derivative_of_a_reverse_divergence_is_its_derivative():
  student, teacher = arrays("reverse_kl")

  def plain(s):
    log_q, log_p = jax.nn.log_softmax(s), jax.nn.log_softmax(teacher)
    return jnp.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1))

  mean = lambda s: jnp.mean(LOSSES["reverse_kl"](s, teacher))
  for derivative in (jax.grad, jax.hessian):
    np.testing.assert_allclose(
      derivative(mean)(student), derivative(plain)(student), atol=1e-6
    )
