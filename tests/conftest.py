"""Eight CPU devices for every test; no flag is set anywhere in the package."""

import os
import pathlib
import tempfile

import jax
from absl import flags

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags

# Most of the tests' time is compiling, and what is tested is what the programs
# mean. JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests them as users run them.
_QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
jax.config.update("jax_disable_most_optimizations", _QUICK != "0")

# What several tests compile is compiled once: the first process makes the
# cache; its workers, and what tests start, inherit it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _CACHE = tempfile.TemporaryDirectory(prefix="kdcl_jax_tests_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
jax.config.update(
  "jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"]
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# Files whose tests take longest, so that no worker is left alone with one.
_LONG = (
  "hosts/test_runs",
  "test_imagenet",
  "faults/test_signals",
  "test_resume",
  "experiments/test_experiment_command",
  "projectors/test_training",
  "test_pipeline_runs",
  "test_model_scores",
  "faults/test_storage",
  "course/test_resume_course",
  "course/test_lanes",
  "test_docs",
)


def pytest_collection_modifyitems(items):
  """Begins with the files that take longest."""
  here = pathlib.Path(__file__).parent

  def place(item):
    name = item.path.relative_to(here).with_suffix("").as_posix()
    return _LONG.index(name) if name in _LONG else len(_LONG)

  items.sort(key=place)
