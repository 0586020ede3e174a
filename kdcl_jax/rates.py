"""What the end of a lesson does to the learning rate: reduce it, restart it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdcl_jax.course import REDUCE, CourseState


def reduced(
  new: CourseState, option: Mapping[str, Any], metric: Mapping[str, float]
) -> CourseState:
  """Scales the learning rate when validation loss has stopped improving.

  Args:
    new: the state of the next lesson.
    option: `reduce_learning_rate` of `kdcl_jax.controller.OPTIONS`, with `on`.
    metric: validation `loss`; not looked at where it is off.

  Returns:
    The state of the next lesson.
  """
  if not option["on"]:
    return new
  loss = float(metric["loss"])
  better = loss < new.best_loss
  new = dataclasses.replace(
    new,
    best_loss=min(loss, new.best_loss),
    not_better=0 if better else new.not_better + 1,
  )
  scale = max(new.learning_rate_scale * option["factor"], option["floor"])
  if new.not_better < option["patience"] or scale >= new.learning_rate_scale:
    return new
  return dataclasses.replace(
    new,
    learning_rate_scale=scale,
    not_better=0,
    actions=(*new.actions, REDUCE),
    reasons=(
      *new.reasons,
      f"validation loss {loss:.4f} has not improved on {new.best_loss:.4f}"
      f" for {option['patience']} lessons: learning rate times"
      f" {scale / new.learning_rate_scale:.3g}",
    ),
  )


def restarted(new: CourseState, option: Mapping[str, Any]) -> CourseState:
  """Starts the learning rate's schedule again.

  Args:
    new: the state of the next lesson.
    option: `restart_learning_rate` of `kdcl_jax.controller.OPTIONS`, with `on`.

  Returns:
    The state of the next lesson.
  """
  if not option["on"]:
    return new
  scale = new.learning_rate_scale * option["factor"]
  least = min(option["floor"], new.learning_rate_scale)
  return dataclasses.replace(
    new, schedule_start=new.step, learning_rate_scale=max(scale, least)
  )
