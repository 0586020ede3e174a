"""Pacing functions: the active fraction of the order as training goes on.

A factory such as `linear(start=0.2, reach=0.8)` returns a function of progress
in [0, 1] (share of the stage that is done). It gives the same number for a
Python float, a NumPy array and a traced value, without touching a device for
the first two, and is clamped to [start, end]. `start` is the fraction at the
beginning (b in the literature), `reach` the progress at which everything is
active (a), above 1 for a course that never gets there; `reach=0` or `start=1`
is training on everything.
"""

# ruff: noqa: F401, I001 (re-exports, by kind)

from collections.abc import Callable

from kdcl_jax.pacing.progress import Pacing, Window

# Growing at every step.
from kdcl_jax.pacing.curves import competence
from kdcl_jax.pacing.curves import constant
from kdcl_jax.pacing.curves import exponential
from kdcl_jax.pacing.curves import geometric
from kdcl_jax.pacing.curves import linear
from kdcl_jax.pacing.curves import log
from kdcl_jax.pacing.curves import quadratic
from kdcl_jax.pacing.curves import root

# Growing at certain moments.
from kdcl_jax.pacing.moments import baby_steps
from kdcl_jax.pacing.moments import fixed_exponential
from kdcl_jax.pacing.moments import grow
from kdcl_jax.pacing.moments import single_step
from kdcl_jax.pacing.moments import stairs
from kdcl_jax.pacing.moments import step
from kdcl_jax.pacing.moments import varied_exponential

# DeepSpeed's, which grow by whole steps of a difficulty.
from kdcl_jax.pacing.difficulties import deepspeed_difficulty
from kdcl_jax.pacing.difficulties import fixed_discrete
from kdcl_jax.pacing.difficulties import fixed_linear
from kdcl_jax.pacing.difficulties import fixed_root

# Any function of the step, and windows that leave the easiest behind.
from kdcl_jax.pacing.schedules import from_schedule
from kdcl_jax.pacing.windows import one_pass_window

# The factories that a config can name: they take plain numbers and tuples.
PACINGS: dict[str, Callable[..., Pacing]] = {
  "baby_steps": baby_steps,
  "competence": competence,
  "constant": constant,
  "exponential": exponential,
  "fixed_discrete": fixed_discrete,
  "fixed_exponential": fixed_exponential,
  "fixed_linear": fixed_linear,
  "fixed_root": fixed_root,
  "geometric": geometric,
  "grow": grow,
  "linear": linear,
  "log": log,
  "quadratic": quadratic,
  "root": root,
  "single_step": single_step,
  "stairs": stairs,
  "step": step,
  "varied_exponential": varied_exponential,
}

# Of the same kind, for functions that return the lowest rank as well.
WINDOWS: dict[str, Callable[..., Window]] = {"one_pass": one_pass_window}
