"""Options of a loss that go from the easiest to the hardest record.

Temperatures of each example have been proposed as learned (CTKD, Li et al.,
2022, arXiv:2211.16231) and from the logits (TextBrewer's FLSW and CWSM, Yang et
al., 2020, arXiv:2002.12620), which are projectors here; POCL (Liu and Zhang,
2025, arXiv:2506.05695) raises one with the share of hard records, which is a
schedule. None is shown to beat the best fixed temperature: CTKD's gains are
within what reproductions differ by, POCL's are mixed up with its other changes.
So compare with a fixed one that is tuned.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdcl_jax import schedules
from kdcl_jax.errors import UserError, did_you_mean

FIELDS = ("easy", "hard", "curve")


@dataclasses.dataclass(frozen=True)
class Slope:
  """A number for each example, by its rank in the order; see `build`.

  Attributes:
    easy, hard: progress -> the number at rank 0 and at rank 1.
    curve: a name in `kdcl_jax.schedules.CURVES`.
  """

  easy: Callable[[Any], Any]
  hard: Callable[[Any], Any]
  curve: str = "linear"

  def __call__(self, progress: Any, rank: jax.Array) -> jax.Array:
    """The numbers [B] of examples of these ranks [B]."""
    share = schedules.CURVES[self.curve](rank, jnp)
    easy, hard = self.easy(progress), self.hard(progress)
    return easy + (hard - easy) * share


def is_slope(spec: Any) -> bool:
  """Whether an option is one of these, and not a schedule or a plain value."""
  return isinstance(spec, Mapping) and ("easy" in spec or "hard" in spec)


def build(spec: Mapping[str, Any], path: str) -> Slope:
  """An option that depends on each example's rank.

  `value = easy + (hard - easy) * curve(rank)`, where the rank is 0 for the
  easiest record of the stage's present order and 1 for the hardest.

  Args:
    spec: `easy` and `hard`, numbers or schedules, see `kdcl_jax.schedules`; and
      `curve` (linear, cosine, quadratic, root, step).
    path: the field's name in messages.

  Returns:
    The slope.

  Raises:
    UserError: where the mapping is not of that form.

  Example:
    >>> temperature = build({"easy": 1.0, "hard": 4.0}, "temperature")
    >>> print(temperature(0.0, jnp.array([0.0, 0.5, 1.0])))
    [1.  2.5 4. ]
  """
  for key in spec:
    if key not in FIELDS:
      raise UserError(
        f"{path}.{key} is no field of what goes from easy to hard"
        f"{did_you_mean(key, FIELDS)}; valid are {', '.join(FIELDS)}."
      )
  curve = spec.get("curve", "linear")
  if curve not in schedules.CURVES:
    raise UserError(
      f"{path}.curve is {curve!r}{did_you_mean(curve, schedules.CURVES)}; valid"
      f" are {', '.join(schedules.CURVES)}."
    )
  ends = {}
  for end in ("easy", "hard"):
    value = spec.get(end)
    if not isinstance(value, Mapping) and not schedules.is_number(value):
      raise UserError(
        f"{path}.{end} is {value!r}, expected a number or a schedule like"
        " dict(start=1.0, end=4.0)."
      )
    ends[end] = schedules.build(value, f"{path}.{end}")
  return Slope(**ends, curve=curve)
