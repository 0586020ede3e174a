"""Pacing from a function of the step, such as an optax schedule."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kdcl_jax.pacing.progress import Pacing, check, floored, in_kind


def from_schedule(
  schedule: Callable[[Any], Any],
  total_steps: int,
  *,
  start: float = 0.0,
  end: float = 1.0,
) -> Pacing:
  """The pacing of a schedule over training steps: `schedule(floor(u S))`.

  Args:
    schedule: step -> fraction, an optax schedule or any function. Under jit it
      is given a traced step. A function of one number is called once for each
      element of a NumPy array.
    total_steps: S, the length of the stage, at least 1.
    start: the smallest fraction that comes out, in [0, 1].
    end: the largest, in [start, 1].

  Returns:
    progress -> fraction. Unlike the other pacing functions it computes where
    the schedule does, which for optax's is on the device.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> import optax
    >>> pace = from_schedule(optax.linear_schedule(0.5, 1.0, 50), 100)
    >>> pace(0.25), pace(0.9)
    (0.75, 1.0)
  """
  check("total_steps", total_steps, lambda v: v >= 1, "at least 1 step")
  check("start", start, lambda v: 0 <= v <= 1, "a fraction in [0, 1]")
  check("end", end, lambda v: start <= v <= 1, f"a fraction in [{start}, 1]")

  def pace(progress: Any, xp: Any) -> Any:
    step = floored(progress * total_steps, xp)
    value = _called(schedule, step, xp)
    value = xp.broadcast_to(xp.asarray(value, progress.dtype), step.shape)
    return xp.clip(value, start, end)

  return in_kind(pace)


def _called(schedule: Callable[[Any], Any], step: Any, xp: Any) -> Any:
  if xp is not np:
    return schedule(step.astype("int32"))
  if step.size == 1:
    return schedule(int(step.item()))
  step = step.astype(np.int64)
  try:
    return schedule(step)
  except (TypeError, ValueError):  # it takes one number at a time
    values = [schedule(int(s)) for s in step.ravel()]
    return np.asarray(values, float).reshape(step.shape)
