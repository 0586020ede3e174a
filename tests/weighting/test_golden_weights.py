"""Weights and running thresholds against published code and formulas.

`golden/weights.npz` holds losses and what the reference made of them in
float64. Where published code has a defect the case says so.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdcl_jax import pacing, weighting

FILE = pathlib.Path(__file__).parent / "golden" / "weights.npz"
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


def held(function, want, *arrays):
  """The function under jit against the reference, in both precisions."""
  single = [jnp.asarray(a, jnp.float32) for a in arrays]
  got = jax.jit(function)(*single)
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
  with jax.enable_x64(True):
    double = [jnp.asarray(a, jnp.float64) for a in arrays]
    got = jax.jit(function)(*double)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


SPL = {
  "hard": lambda x, d: weighting.spl_hard(x, threshold=d["lam"]),
  "linear": lambda x, d: weighting.spl_linear(x, threshold=d["lam"]),
  "logarithmic": lambda x, d: weighting.spl_logarithmic(x, threshold=d["lam"]),
  "mixture": lambda x, d: weighting.spl_mixture(
    x, threshold=d["lam"], low_threshold=d["lam2"]
  ),
  "mixture_gamma": lambda x, d: weighting.spl_mixture_gamma(
    x, threshold=d["lam"], gamma=d["gamma"]
  ),
  "polynomial": lambda x, d: weighting.spl_polynomial(
    x, threshold=d["lam"], t=d["t"]
  ),
  "logistic": lambda x, d: weighting.spl_logistic(x, threshold=d["lam"]),
}


@pytest.mark.parametrize("name", SPL)
@cases("spl_weights")
def test_self_paced_weights_are_those_of_their_papers(case, name):
  d = GOLDEN[case]
  held(lambda x: SPL[name](x, d), d[f"w_{name}"], d["losses"])


@cases("spl_weights")
def test_the_polynomial_is_a_power_where_curml_divides(case):
  d = GOLDEN[case]
  got = SPL["polynomial"](jnp.asarray(d["losses"], jnp.float32), d)
  assert np.max(np.abs(got - d["curml_polynomial"])) > 0.3
  assert np.max(d["curml_polynomial"]) <= 1 / (d["t"] - 1)
  assert np.max(got) > 0.9


@cases("curml_self_paced")
def test_a_quantile_that_follows_a_pacing_selects_what_curml_selects(case):
  d = GOLDEN[case]
  pace = pacing.linear(start=d["start_rate"], reach=1.0)
  size = len(d["losses"])
  for epoch, want in enumerate(d["weights"], 1):
    # CurML rounds down, `quantile_threshold` up.
    fraction = int(size * pace(epoch / d["grow_epochs"])) / size

    def weights(losses, fraction=fraction):
      threshold = weighting.quantile_threshold(losses, fraction)
      return getattr(weighting, f"spl_{d['weight_fn']}")(
        losses, threshold=threshold
      )

    held(weights, want, d["losses"])


@cases("superloss")
def test_superloss_and_its_gradient_are_exact(case):
  d = GOLDEN[case]
  options = {"tau": d["tau"], "lam": d["lam"]}
  mean = lambda x: jnp.mean(weighting.superloss(x, **options))
  held(
    lambda x: weighting.superloss(x, **options),
    d["loss_per_example"],
    d["losses"],
  )
  held(mean, d["loss"], d["losses"])
  held(jax.grad(mean), d["grad_losses"], d["losses"])
  held(
    lambda x: weighting.superloss_weights(x, **options), d["sigma"], d["losses"]
  )


@pytest.mark.parametrize(
  "project, word", [("curml", "new"), ("curbench", "old")]
)
@cases("superloss_ema")
def test_the_factor_of_a_running_tau_has_both_published_meanings(
  case, project, word
):
  d = GOLDEN[case]

  def run(losses):
    def step(tau, batch):
      tau = weighting.superloss_tau(tau, batch, factor=d["fac"], factor_of=word)
      value = jnp.mean(weighting.superloss(batch, tau=tau, lam=d["lam"]))
      return tau, jnp.stack([tau, value])

    start = jnp.asarray(d["tau0"], losses.dtype)
    return jax.lax.scan(step, start, losses)[1]

  want = np.stack([d[f"tau_{project}"], d[f"value_{project}"]], -1)
  held(run, want, d["losses"])


@cases("mentornet_weights")
def test_predefined_weights_are_those_of_mentornet(case):
  d = GOLDEN[case]
  gap, progress = d["loss_diff"], d["epoch"] / 100
  pd = lambda x, p: weighting.mentornet_pd(
    x, p, threshold=0.0, gamma=d["gamma"]
  )
  held(pd, d["w_mentornet_pd"], gap, progress)
  held(lambda x: pd(x, 0.5), d["w_self_paced"], gap)
  held(lambda x: pd(x, 0.95), d["w_spcl_linear"], gap)
  flags = d["label"] > 0
  held(
    lambda x: weighting.hard_example_mining(x, threshold=0.0, always=flags),
    d["w_hard_example_mining"],
    gap,
  )
  held(
    lambda x: weighting.focal(x, gamma=d["gamma"]), d["w_focal_loss"], d["loss"]
  )


@cases("mentornet_moving_percentile")
def test_the_moving_percentile_is_that_of_mentornet(case):
  d = GOLDEN[case]

  def run(decay):
    def step(average, batch):
      average = weighting.moving_percentile(
        average, batch, percentile=d["p"], decay=decay
      )
      return average, average

    return lambda losses: jax.lax.scan(
      step, jnp.zeros((), losses.dtype), losses
    )[1]

  held(run(d["decay"]), d["moving_average"], d["losses"])
  held(run(0.0), d["percentile"], d["losses"])
  gap = d["losses"] - d["moving_average"][:, None]
  np.testing.assert_allclose(gap, d["loss_diff"], atol=1e-6)
  # Their burn-in ends an epoch before the one that it is named after.
  epochs = np.arange(len(d["burn_in_all_ones"]))
  last = (d["burn_in_epoch"] - 2) / 100
  for epoch, everything in zip(epochs, d["burn_in_all_ones"], strict=True):
    weights = weighting.mentornet_pd(
      jnp.ones(3), epoch / 100, threshold=0.0, burn_in=last
    )
    assert bool(jnp.all(weights == 1)) == everything
