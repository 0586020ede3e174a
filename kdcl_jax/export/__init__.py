"""The student as files for use, and what each of them is worth.

A run ends with `student`. `python -m kdcl_jax.export` then makes a graph of it
for a phone or a server and evaluates that graph; see docs/export.md. What is
exported is the model alone: no projectors, no teacher, no optimizer.
"""

from kdcl_jax.export.handover import student

__all__ = ["student"]
