"""Eight CPU devices for every test; no flag is set anywhere in the package."""

import tempfile

import jax
from absl import flags

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags

# What several tests compile is compiled once for each worker.
_CACHE = tempfile.TemporaryDirectory(prefix="kdcl_jax_tests_")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
