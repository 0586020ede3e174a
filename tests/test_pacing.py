"""Every pacing function: bounds, growth, and one number in three kinds."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcl_jax import pacing

starts = st.floats(1e-3, 1.0)
reaches = st.floats(1e-3, 1.5)
powers = st.floats(0.2, 8.0)
grid = np.linspace(0.0, 1.6, 641)


def shares(least, most):
  """Increasing moments in (0, 1)."""
  return st.lists(
    st.integers(1, 9999), min_size=least, max_size=most, unique=True
  ).map(lambda numbers: tuple(n / 10_000 for n in sorted(numbers)))


@st.composite
def stairs(draw):
  ends = draw(shares(0, 5))
  count = len(ends) + 1
  levels = draw(st.lists(starts, min_size=count, max_size=count))
  return {"ends": ends, "fractions": tuple(sorted(levels))}


@st.composite
def discrete(draw):
  ends = draw(shares(0, 5))
  count = len(ends) + 1
  levels = st.lists(st.integers(1, 4096), min_size=count, max_size=count)
  return {"ends": ends, "difficulty": tuple(sorted(draw(levels)))}


@st.composite
def difficulties(draw, **more):
  low = draw(st.integers(1, 500))
  return {
    "min_difficulty": low,
    "max_difficulty": low + draw(st.integers(0, 2000)),
    "difficulty_step": draw(st.integers(1, 64)),
    "reach": draw(reaches),
  } | {k: draw(v) for k, v in more.items()}


def options(**more):
  return st.fixed_dictionaries({"start": starts} | more)


# Random arguments of each factory; those of start and end are added below.
ARGUMENTS = {
  "baby_steps": st.fixed_dictionaries(
    {
      "buckets": st.integers(1, 12)
      | st.just((0.1, 0.2, 0.7))
      | st.just((0.5, 0.5)),
      "reach": reaches,
    }
  ),
  "competence": options(p=powers, reach=reaches),
  "constant": st.fixed_dictionaries({"fraction": starts}),
  "exponential": options(reach=reaches),
  "fixed_discrete": discrete(),
  "fixed_exponential": options(
    factor=st.floats(1.01, 10.0), interval=st.floats(1e-3, 1.5)
  ),
  "fixed_linear": difficulties(),
  "fixed_root": difficulties(root_degree=powers),
  "geometric": options(reach=reaches),
  "grow": st.fixed_dictionaries(
    {
      "start": st.floats(0.0, 0.9),
      "by": st.floats(0.01, 0.5),
      "interval": st.floats(1e-3, 1.5),
    }
  ),
  "linear": options(reach=reaches),
  "log": options(reach=reaches),
  "quadratic": options(reach=reaches),
  "root": options(p=powers, reach=reaches),
  "single_step": options(at=reaches),
  "stairs": stairs(),
  "step": options(reach=reaches),
  "varied_exponential": options(
    factor=st.floats(1.01, 10.0), moments=shares(0, 5)
  ),
}


@st.composite
def courses(draw):
  """A name, its arguments and the largest fraction that was asked for."""
  name = draw(st.sampled_from(sorted(ARGUMENTS)))
  arguments = draw(ARGUMENTS[name])
  end = 1.0
  if "end" in inspect.signature(pacing.PACINGS[name]).parameters:
    least = arguments.get("start", 0.0) or 0.01
    end = draw(st.floats(least, 1.0) | st.just(1.0))
    arguments["end"] = end
  return name, arguments, end


def first(name, arguments, end):
  """The fraction that the arguments ask for at progress 0."""
  if name == "grow":
    value = arguments["start"] + arguments["by"]
    return value if value < end - 1e-9 else end
  if name == "baby_steps":
    buckets = arguments["buckets"]
    size = 1 / buckets if isinstance(buckets, int) else buckets[0]
    return min(size, end)
  if name.startswith("fixed_") and "min_difficulty" in arguments:
    return arguments["min_difficulty"] / arguments["max_difficulty"]
  if name == "fixed_discrete":
    return arguments["difficulty"][0] / arguments["difficulty"][-1]
  if name == "stairs":
    return arguments["fractions"][0]
  return arguments.get("start", arguments.get("fraction"))


def test_every_factory_of_the_table_is_drawn():
  assert set(ARGUMENTS) == set(pacing.PACINGS)
  assert all(pacing.PACINGS[n].__name__ == n for n in ARGUMENTS)


@settings(max_examples=300, deadline=None)
@given(course=courses())
def test_a_pacing_starts_at_its_start_and_never_falls_or_leaves_its_bounds(
  course,
):
  name, arguments, end = course
  pace = pacing.PACINGS[name](**arguments)
  fractions = pace(grid)
  start = first(name, arguments, end)
  assert pace(0.0) == start == fractions[0]
  assert pace(-0.5) == start
  assert np.all(fractions >= start) and np.all(fractions <= end)
  # A rounding step of the curve may go back.
  assert np.all(np.diff(fractions) >= -1e-15)


@settings(max_examples=200, deadline=None)
@given(course=courses())
def test_the_end_is_really_reached_and_kept(course):
  name, arguments, end = course
  pace = pacing.PACINGS[name](**arguments)
  reach = arguments.get("reach", arguments.get("at"))
  if name == "constant":
    reach, end = 0.0, arguments["fraction"]
  elif name == "stairs":
    reach, end = max((0.0, *arguments["ends"])), arguments["fractions"][-1]
  elif name == "fixed_discrete":
    reach = max((0.0, *arguments["ends"])) * 1.001
  elif name == "grow":
    steps = np.ceil((end - arguments["start"]) / arguments["by"])
    reach = arguments["interval"] * steps
  elif name == "fixed_exponential":
    times = np.log(end / arguments["start"]) / np.log(arguments["factor"])
    reach = arguments["interval"] * np.ceil(times)
  elif name == "varied_exponential":
    times = len(arguments["moments"])
    reach = max((0.0, *arguments["moments"]))
    end = min(arguments["start"] * arguments["factor"] ** times, end)
    np.testing.assert_allclose(pace(reach), end, rtol=1e-12)
    end = pace(reach)
  assert pace(float(reach)) == end
  assert pace(reach + 1.0) == end


@settings(max_examples=40, deadline=None)
@given(course=courses(), total=st.integers(1, 2000))
def test_number_array_and_device_agree_at_every_step_of_a_training(
  course, total
):
  name, arguments, _ = course
  pace = pacing.PACINGS[name](**arguments)
  steps = np.linspace(0, total, 50).astype(int)
  array = pace(steps / total)
  assert isinstance(array, np.ndarray) and array.shape == steps.shape
  numbers = [pace(float(s / total)) for s in steps]
  assert all(type(n) is float for n in numbers)
  assert numbers == array.tolist()
  # As a training step has it: a float32 quotient of whole numbers.
  device = pace(jnp.asarray(steps, jnp.float32) / total)
  assert isinstance(device, jax.Array) and device.dtype == jnp.float32
  np.testing.assert_allclose(device, array, rtol=1e-5, atol=3e-7)


EXAMPLES = {
  "fixed_discrete": {"difficulty": (1, 2, 3), "ends": (0.1, 0.3)},
  "fixed_linear": {"min_difficulty": 8, "max_difficulty": 99, "reach": 0.3},
  "fixed_root": {"min_difficulty": 8, "max_difficulty": 99, "reach": 0.3},
  "stairs": {"ends": (0.1, 0.3), "fractions": (0.2, 0.5, 1.0)},
  "varied_exponential": {"moments": (0.1, 0.3)},
  "fixed_exponential": {"interval": 0.1},
  "grow": {"interval": 0.1},
}


@pytest.mark.parametrize("name", sorted(pacing.PACINGS))
def test_a_traced_progress_gives_the_number_of_the_host(name):
  pace = pacing.PACINGS[name](**EXAMPLES.get(name, {}))
  traced = jax.jit(lambda step, total: pace(step / total))
  for total in (10, 70, 1000):
    steps = np.arange(0, total + 1, total // 10)
    got = [traced(jnp.float32(s), jnp.float32(total)) for s in steps]
    np.testing.assert_allclose(
      got, pace(steps / total), rtol=2e-6, atol=2e-7, err_msg=f"{total}"
    )
  inside = jax.jit(jax.vmap(pace))(jnp.arange(1001) / 1000)
  want = pace(np.arange(1001) / 1000)
  np.testing.assert_allclose(inside, want, rtol=2e-5, atol=3e-7)
  assert pace(jnp.asarray(1)) == pace(1)  # whole numbers are progress too
  assert pace(jnp.asarray(0.5, jnp.bfloat16)).dtype == jnp.float32
  with jax.enable_x64(True):
    wide = pace(jnp.asarray(np.arange(101) / 100))
    assert wide.dtype == jnp.float64
    np.testing.assert_allclose(wide, pace(np.arange(101) / 100), rtol=1e-12)


@pytest.mark.parametrize("total", [70, 12_345])
def test_a_pacing_jumps_at_the_same_step_on_host_and_device(total):
  # 0.3 / 0.1 and 0.7 * 10 are rounding steps away from whole numbers.
  for pace in (
    pacing.fixed_exponential(start=0.01, factor=1.5, interval=0.1),
    pacing.grow(by=0.1, interval=0.1),
    pacing.baby_steps(11, reach=1.0),
    pacing.step(reach=0.7),
    pacing.stairs(ends=(0.1, 0.3, 0.7), fractions=(0.1, 0.2, 0.3, 1.0)),
  ):
    steps = np.arange(total + 1)
    host = pace(steps / total)
    device = np.asarray(jax.jit(lambda s, pace=pace: pace(s / total))(steps))
    jumps = np.flatnonzero(np.diff(host))
    assert len(jumps)
    np.testing.assert_array_equal(jumps, np.flatnonzero(np.diff(device)))


@pytest.mark.parametrize("reach", [0.21, 0.77, 0.99])
def test_the_end_is_exact_on_a_device_too(reach):
  # XLA multiplies by 1 / reach, which leaves p / reach below 1 for p = reach.
  for name in ("linear", "quadratic", "root", "log", "geometric"):
    pace = pacing.PACINGS[name](start=0.2, reach=reach, end=0.7)
    assert jax.jit(pace)(jnp.float32(reach)) == np.float32(0.7)
    pace = pacing.PACINGS[name](start=0.2, reach=reach)
    assert jax.jit(pace)(jnp.float32(reach)) == 1


def test_sums_and_products_that_miss_the_end_by_rounding_reach_it():
  assert 1 / 49 * 49 < 1 and np.cumsum([0.1] * 10)[-1] < 1
  pace = pacing.fixed_exponential(start=1 / 49, factor=7, interval=0.1)
  assert pace(0.2) == 1
  assert pacing.baby_steps((0.1,) * 10)(1.0) == 1
  assert pacing.one_pass_window((0.1,) * 10)(1.0)[1] == 1
  assert pacing.grow(by=0.1, interval=0.1)(0.9) == 1


def test_growth_at_tenths_happens_at_tenths():
  pace = pacing.grow(by=0.1, interval=0.1)
  for tenth in range(10):
    assert pace(tenth / 10) == pytest.approx((tenth + 1) / 10)
    assert pace(tenth / 10 - 0.001) < (tenth + 1) / 10 - 0.01 or tenth == 0


@pytest.mark.parametrize(
  "name", ["linear", "quadratic", "root", "exponential", "log", "step"]
)
def test_a_reach_beyond_the_training_never_reaches_everything(name):
  pace = pacing.PACINGS[name](start=0.2, reach=1.6)
  assert 0.2 <= pace(1.0) < 1.0
  assert pacing.PACINGS[name](start=0.2, reach=0.5, end=0.7)(1.0) == 0.7


@pytest.mark.parametrize(
  "pace",
  [
    pacing.linear(reach=0),
    pacing.geometric(reach=0),
    pacing.step(reach=0),
    pacing.baby_steps(4, reach=0),
    pacing.fixed_linear(min_difficulty=1, max_difficulty=9, reach=0),
    pacing.linear(start=1.0),
    pacing.competence(start=1.0),
    pacing.fixed_exponential(start=1.0),
  ],
)
def test_no_reach_and_a_full_start_are_training_on_everything(pace):
  np.testing.assert_array_equal(pace(grid), np.ones_like(grid))


def test_a_root_is_the_root_it_says():
  assert pacing.root(start=0.1, reach=1.0, p=3)(0.125) == pytest.approx(0.55)
  c = pacing.competence(start=0.1, p=3)(0.5)
  assert c == pytest.approx((0.5 * (1 - 1e-3) + 1e-3) ** (1 / 3))


def test_baby_steps_add_the_next_bucket_at_equal_intervals():
  pace = pacing.baby_steps(5, reach=0.8)
  np.testing.assert_allclose(
    pace(np.array([0, 0.19, 0.2, 0.4, 0.6, 0.79, 0.8, 1])),
    [0.2, 0.2, 0.4, 0.6, 0.8, 0.8, 1, 1],
  )
  shares = pacing.baby_steps((0.5, 0.3, 0.2), reach=1.0, end=0.9)
  np.testing.assert_allclose(shares(np.array([0, 0.5, 1])), [0.5, 0.8, 0.9])


@settings(max_examples=40, deadline=None)
@given(
  buckets=st.integers(1, 12) | st.just((0.5, 0.25, 0.25)),
  steps=st.integers(1, 500),
)
def test_one_pass_visits_each_bucket_once_and_alone(buckets, steps):
  window = pacing.one_pass_window(buckets)
  sizes = [1 / buckets] * buckets if isinstance(buckets, int) else buckets
  edges = np.cumsum([0, *sizes])
  count = len(sizes)
  moments = (np.arange(count) + 0.5) / count
  low, high = window(moments)
  np.testing.assert_allclose(low, edges[:-1], atol=1e-12)
  np.testing.assert_allclose(high, edges[1:], atol=1e-12)
  assert window(0.0)[0] == 0.0 and window(1.0)[1] == 1.0
  progress = np.arange(steps + 1) / steps
  low, high = window(progress)
  assert np.all(low < high) and np.all(np.diff(low) >= 0)
  # A window is the last one, or begins where that ended.
  moved = np.flatnonzero(np.diff(low))
  if steps >= count:
    np.testing.assert_array_equal(low[moved + 1], high[moved])
  assert pacing.WINDOWS["one_pass"] is pacing.one_pass_window


@pytest.mark.parametrize("buckets", [1, 5, (0.5, 0.25, 0.25)])
def test_a_window_is_the_same_in_all_three_kinds(buckets):
  window = pacing.one_pass_window(buckets)
  progress = np.arange(61) / 60
  low, high = window(progress)
  assert [window(float(p)) for p in progress] == list(zip(low, high))
  device = jax.jit(window)(jnp.arange(61) / jnp.float32(60))
  np.testing.assert_allclose(device, (low, high), rtol=1e-6)


def test_deepspeeds_minimum_and_maximum_are_really_reached():
  config = {"total_curriculum_step": 50, "difficulty_step": 8}
  length = pacing.deepspeed_difficulty(
    schedule_type="fixed_linear",
    schedule_config=config,
    min_difficulty=10,
    max_difficulty=100,
  )
  values = length(np.arange(80))
  assert values[0] == 10  # DeepSpeed rounds it down to 8
  assert np.all(values[50:] == 100)  # and stays at 96 at step 50
  inner = values[(values > 10) & (values < 100)]
  assert np.all(inner % 8 == 0) and np.all(np.diff(values) >= 0)
  assert type(length(7)) is int and values.dtype == np.int64
  traced = jax.jit(length)(jnp.arange(80))
  assert traced.dtype == jnp.int32
  np.testing.assert_array_equal(traced, values)


@settings(max_examples=100, deadline=None)
@given(arguments=difficulties(root_degree=powers), total=st.integers(1, 500))
def test_a_difficulty_is_a_multiple_between_its_ends(arguments, total):
  low, high = arguments["min_difficulty"], arguments["max_difficulty"]
  length = pacing.deepspeed_difficulty(
    schedule_type="fixed_root",
    schedule_config={
      "total_curriculum_step": total,
      "difficulty_step": arguments["difficulty_step"],
      "root_degree": arguments["root_degree"],
    },
    min_difficulty=low,
    max_difficulty=high,
  )
  values = length(np.arange(total + 3))
  assert values[0] == low
  assert np.all(values[total:] == high)
  inner = values[(values > low) & (values < high)]
  assert np.all(inner % arguments["difficulty_step"] == 0)
  assert np.all(np.diff(values) >= 0)
