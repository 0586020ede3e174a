"""Schedules as pacing functions, and arguments that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdcl_jax import pacing

SCHEDULES = {
  "linear": optax.linear_schedule(0.1, 1.0, 60),
  "piecewise": optax.piecewise_constant_schedule(0.1, {29: 2.0, 57: 3.0}),
  "cosine": optax.cosine_decay_schedule(1.0, 100),
  "joined": optax.join_schedules(
    [optax.constant_schedule(0.3), optax.linear_schedule(0.3, 1.0, 20)], [29]
  ),
  "constant": optax.constant_schedule(0.4),
  "a function": lambda step: 0.1 + 0.009 * step,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_asked_for_the_very_step(name):
  schedule = SCHEDULES[name]
  pace = pacing.from_schedule(schedule, 100)
  want = [float(schedule(step)) for step in range(101)]
  progress = np.arange(101) / 100  # 0.29 * 100 is a rounding step below 29
  np.testing.assert_allclose(pace(progress), want, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(
    [pace(float(p)) for p in progress], want, rtol=1e-6, atol=1e-7
  )
  device = jax.jit(pace)(jnp.arange(101) / 100)
  np.testing.assert_allclose(device, want, rtol=1e-6, atol=1e-7)


def test_any_function_of_one_step_is_a_schedule():
  pace = pacing.from_schedule(lambda step: 0.25 if step < 5 else 2.0, 10)
  assert pace(0.4) == 0.25 and pace(0.5) == 1.0  # clamped
  np.testing.assert_array_equal(pace(np.array([[0.0, 0.9]])), [[0.25, 1.0]])
  low = pacing.from_schedule(lambda step: -1.0, 10, start=0.1, end=0.5)
  assert low(0.3) == 0.1
  with pytest.raises(ZeroDivisionError):
    pacing.from_schedule(lambda step: 1 / 0, 10)(np.arange(3) / 3)


BAD = {
  "start of 0": (pacing.linear, {"start": 0.0}, "start"),
  "a word": (pacing.linear, {"start": "x"}, "start"),
  "True": (pacing.constant, {"fraction": True}, "fraction"),
  "NaN": (pacing.linear, {"reach": float("nan")}, "reach"),
  "end below start": (pacing.log, {"start": 0.5, "end": 0.4}, "end"),
  "negative reach": (pacing.root, {"reach": -0.1}, "reach"),
  "no root": (pacing.root, {"p": 0}, "p is"),
  "competence at once": (pacing.competence, {"reach": 0}, "reach"),
  "no growth": (pacing.grow, {"by": 0}, "by"),
  "grown at start": (pacing.grow, {"start": 1.0}, "start"),
  "no interval": (pacing.grow, {"interval": 0}, "interval"),
  "shrinking": (pacing.fixed_exponential, {"factor": 1.0}, "factor"),
  "unsorted": (pacing.varied_exponential, {"moments": (0.5, 0.2)}, "moments"),
  "words": (pacing.varied_exponential, {"moments": ("a",)}, "moments"),
  "no bucket": (pacing.baby_steps, {"buckets": 0}, "buckets"),
  "half the data": (pacing.baby_steps, {"buckets": (0.2, 0.3)}, "buckets"),
  "an empty bucket": (pacing.one_pass_window, {"buckets": (0, 1)}, "buckets"),
  "no number": (pacing.one_pass_window, {"buckets": 2.5}, "buckets"),
  "too many ends": (
    pacing.fixed_discrete,
    {"difficulty": (1, 2), "ends": (0.1, 0.2)},
    "ends",
  ),
  "half a token": (
    pacing.fixed_linear,
    {"min_difficulty": 1.5, "max_difficulty": 8},
    "min_difficulty",
  ),
  "maximum below": (
    pacing.fixed_root,
    {"min_difficulty": 9, "max_difficulty": 8},
    "max_difficulty",
  ),
  "unknown type": (
    pacing.deepspeed_difficulty,
    {"schedule_type": "custom", "schedule_config": {}},
    "fixed_linear",
  ),
  "missing setting": (
    pacing.deepspeed_difficulty,
    {"schedule_type": "fixed_root", "schedule_config": {"difficulty_step": 8}},
    "root_degree",
  ),
  "no steps": (
    pacing.from_schedule,
    {"schedule": abs, "total_steps": 0},
    "total_steps",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named_with_what_would_be_valid(case):
  factory, arguments, words = BAD[case]
  with pytest.raises(ValueError, match=words) as caught:
    factory(**arguments)
  assert "expected" in str(caught.value)
