"""DeepSpeed's pacing: a difficulty that grows by whole steps.

A difficulty is a whole number such as the length of a sequence. As a pacing
function it is divided by its maximum; `deepspeed_difficulty` is the number
itself. Two things differ from DeepSpeed, which rounds down to a multiple of
`difficulty_step` and can so fall below `min_difficulty` and stay below
`max_difficulty` (8 and 96 where 10 and 100 are asked for, with steps of 8):
here the minimum holds from the first step and the maximum is reached in time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kdcl_jax.pacing.curves import constant
from kdcl_jax.pacing.progress import (
  NEAR,
  Pacing,
  check,
  check_reach,
  floored,
  has_come,
  in_kind,
)

_CONFIG = {  # the settings of each schedule, as DeepSpeed's config has them
  "fixed_linear": ("total_curriculum_step", "difficulty_step"),
  "fixed_root": ("total_curriculum_step", "difficulty_step", "root_degree"),
  "fixed_discrete": ("difficulty", "max_step"),
}


def fixed_linear(
  *,
  min_difficulty: int,
  max_difficulty: int,
  difficulty_step: int = 8,
  reach: float = 0.8,
) -> Pacing:
  """A difficulty that grows evenly by whole steps; `fixed_root` of degree 1.

  Args:
    min_difficulty: at the beginning, >= 1.
    max_difficulty: from progress `reach` on, >= min_difficulty.
    difficulty_step: in between it is a multiple of this, >= 1.
    reach: DeepSpeed's `total_curriculum_step` as a share of the training.

  Returns:
    progress -> difficulty / max_difficulty.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> pace = fixed_linear(min_difficulty=8, max_difficulty=128, reach=1.0)
    >>> pace(0.0), pace(0.5), pace(1.0)  # 8, 64 and 128
    (0.0625, 0.5, 1.0)

  Reference: Li et al., "The stability-efficiency dilemma: investigating
  sequence length warmup for training GPT models", 2022, arXiv:2108.06084.
  """
  return fixed_root(
    min_difficulty=min_difficulty,
    max_difficulty=max_difficulty,
    difficulty_step=difficulty_step,
    root_degree=1,
    reach=reach,
  )


def fixed_root(
  *,
  min_difficulty: int,
  max_difficulty: int,
  difficulty_step: int = 8,
  root_degree: float = 2,
  reach: float = 0.8,
) -> Pacing:
  """A difficulty that grows by whole steps: `u^(1/r) (max - min) + min`.

  With u = progress / reach; rounded down to a multiple of the step, then
  clamped to [min, max], and exactly max from u = 1 on.

  Args:
    min_difficulty: at the beginning, >= 1.
    max_difficulty: from progress `reach` on, >= min_difficulty.
    difficulty_step: in between it is a multiple of this, >= 1.
    root_degree: r, > 0.
    reach: DeepSpeed's `total_curriculum_step` as a share of the training.

  Returns:
    progress -> difficulty / max_difficulty.

  Raises:
    ValueError: for an argument out of range.

  Example:
    >>> pace = fixed_root(min_difficulty=8, max_difficulty=128, reach=1.0)
    >>> pace(0.25)  # 68, rounded to 64
    0.5

  Reference: as `fixed_linear`; the scheduler of DeepSpeed's data efficiency
  library, Li et al., 2022, arXiv:2212.03597.
  """
  check_reach(reach)
  difficulty = _rooted(
    min_difficulty, max_difficulty, difficulty_step, root_degree, reach
  )
  if reach == 0:
    return constant()
  return in_kind(lambda progress, xp: difficulty(progress, xp) / max_difficulty)


def fixed_discrete(
  *, difficulty: Sequence[int], ends: Sequence[float]
) -> Pacing:
  """Given difficulties, each until a given moment.

  Args:
    difficulty: whole numbers >= 1, easiest first.
    ends: the progress until which each but the last holds, that moment
      included, increasing: DeepSpeed's `max_step` as shares of the training.

  Returns:
    progress -> difficulty / largest difficulty.

  Raises:
    ValueError: where they do not fit together.

  Example:
    >>> pace = fixed_discrete(difficulty=(1, 2, 4), ends=(0.3, 0.6))
    >>> pace(0.3), pace(0.5), pace(0.7)
    (0.25, 0.5, 1.0)

  Reference: as `fixed_root`.
  """
  value = _discrete(difficulty, ends, "ends")
  largest = max(difficulty)
  return in_kind(lambda progress, xp: value(progress, xp) / largest)


def deepspeed_difficulty(
  *,
  schedule_type: str,
  schedule_config: Mapping[str, Any],
  min_difficulty: int = 1,
  max_difficulty: int = 1,
) -> Callable[[Any], Any]:
  """The difficulty at a training step, from DeepSpeed's own settings.

  Args:
    schedule_type: 'fixed_linear', 'fixed_root' or 'fixed_discrete'.
    schedule_config: for the first two `total_curriculum_step`,
      `difficulty_step` and, for a root, `root_degree`; for the last
      `difficulty` and `max_step` (inclusive, one fewer).
    min_difficulty: >= 1; not used by 'fixed_discrete'.
    max_difficulty: >= min_difficulty; not used by 'fixed_discrete'.

  Returns:
    step -> difficulty: an int for a number, int64 for a NumPy array, int32 for
    a traced value.

  Raises:
    ValueError: for an unknown type, or settings that are missing, unknown or
      out of range.

  Example:
    >>> length = deepspeed_difficulty(
    ...   schedule_type="fixed_linear", min_difficulty=8, max_difficulty=128,
    ...   schedule_config={"total_curriculum_step": 100, "difficulty_step": 8})
    >>> length(0), length(50), length(100)
    (8, 64, 128)

  Reference: as `fixed_root`.
  """
  if schedule_type not in _CONFIG:
    raise ValueError(
      f"schedule_type is {schedule_type!r}, expected one of"
      f" {', '.join(_CONFIG)}"
    )
  if set(schedule_config) != set(_CONFIG[schedule_type]):
    raise ValueError(
      f"schedule_config has {', '.join(schedule_config) or 'nothing'}, expected"
      f" {', '.join(_CONFIG[schedule_type])} for {schedule_type!r}"
    )
  config = dict(schedule_config)
  if schedule_type == "fixed_discrete":
    value = _discrete(config["difficulty"], config["max_step"], "max_step")
  else:
    total = config["total_curriculum_step"]
    check("total_curriculum_step", total, lambda v: v >= 1, "at least 1 step")
    value = _rooted(
      min_difficulty,
      max_difficulty,
      config["difficulty_step"],
      config.get("root_degree", 1),
      total,
    )
  difficulty = in_kind(value)

  def at(step: Any) -> Any:
    number = difficulty(step)
    if isinstance(number, jax.Array):
      return number.astype("int32")
    return int(number) if np.ndim(number) == 0 else number.astype(np.int64)

  return at


def _check_whole(name: str, value: Any, low: int) -> None:
  good = lambda v: v >= low and v == int(v)
  check(name, value, good, f"a whole number >= {low}")


def _rooted(
  low: int, high: int, step: int, degree: float, total: float
) -> Callable[[Any, Any], Any]:
  """The difficulty at a moment of `total`, as whole floats."""
  _check_whole("min_difficulty", low, 1)
  _check_whole("max_difficulty", high, low)
  _check_whole("difficulty_step", step, 1)
  check("root_degree", degree, lambda v: v > 0, "a number > 0")

  def difficulty(moment: Any, xp: Any) -> Any:
    u = xp.minimum(moment / total, 1.0)
    number = floored(u ** (1 / degree) * (high - low) + low, xp)
    # Half a unit keeps whole multiples whole where 1 / step is rounded.
    multiple = xp.floor((number + 0.5) / step) * step
    multiple = xp.where(has_come(moment, total), high, multiple)
    return xp.clip(multiple, low, high)

  return difficulty


def _discrete(
  difficulty: Sequence[int], ends: Sequence[float], name: str
) -> Callable[[Any, Any], Any]:
  """The difficulty at a moment; each holds until its end, included."""
  if len(ends) != len(difficulty) - 1:
    raise ValueError(
      f"{name} has {len(ends)} numbers, expected {len(difficulty) - 1}, one"
      " fewer than difficulty"
    )
  for number in difficulty:
    _check_whole("difficulty", number, 1)
  for end in ends:
    check(name, end, lambda v: v >= 0, "numbers >= 0")
  if list(ends) != sorted(set(ends)):
    raise ValueError(f"{name} is {ends!r}, expected increasing numbers")

  def value(moment: Any, xp: Any) -> Any:
    edges = xp.asarray(ends, moment.dtype) * (1 + NEAR)
    place = xp.searchsorted(edges, moment, side="left")
    return xp.asarray(difficulty, moment.dtype)[place]

  return value
