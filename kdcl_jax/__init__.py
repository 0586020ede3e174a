"""Curriculum learning and knowledge distillation in one JAX pipeline.

The pure core takes and returns arrays and imports neither flax nor any data
library: `kdcl_jax.losses`, `kdcl_jax.difficulty`, `kdcl_jax.pacing` and
`kdcl_jax.weighting`. Everything else is the pipeline around it, started with
`python -m kdcl_jax.main --config=FILE --workdir=DIR`.
"""

__version__ = "0.1.0"
