"""Which rows of an oversized batch are trained on: a curriculum in the step.

The pipeline delivers several times the batch; one forward pass in evaluation
mode scores all rows, and the best `batch_size` of the global batch go on. The
shapes are static, and every number of devices keeps the same rows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdcl_jax import difficulty, lookup
from kdcl_jax.errors import UserError
from kdcl_jax.losses.reductions import gather_rows
from kdcl_jax.weighting import selective_backprop_probabilities, top_k_indices

# Those that need more than the model's logits and the labels.
REDUCIBLE = "reducible_loss"
SELECTIVE = "selective_backprop"
NAMES = (REDUCIBLE, SELECTIVE, *difficulty.SCORES)


@dataclasses.dataclass(frozen=True)
class Selection:
  """How rows are chosen.

  Attributes:
    name: `reducible_loss` (that of the model less that of its teachers),
      `selective_backprop` (drawn, hard ones rather than easy ones), or a score
      whose largest values are kept.
    score: (logits, labels) -> [B]; not used by the first two.
    keep: rows of the global batch that are kept.
    candidates: rows of the global batch that they are chosen from, as a
      multiple of `keep`.
  """

  name: str
  score: Callable[..., jax.Array] | None
  keep: int
  candidates: int

  @property
  def asks_teachers(self) -> bool:
    """Whether the teachers see all rows."""
    return self.name == REDUCIBLE

  def choose(
    self,
    logits: jax.Array,
    teachers_logits: Sequence[jax.Array],
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    axis_name: str | None,
  ) -> dict[str, jax.Array]:
    """The chosen rows of a batch.

    Args:
      logits: [b, K] of the model on this device's rows.
      teachers_logits: [b, K] of each teacher; not used but by reducible_loss.
      batch: arrays with b rows each; `weight` is 0 for padding.
      key: of this step, the same on every device.
      axis_name: the mesh axis under `shard_map`.

    Returns:
      The batch with this device's part of the `keep` chosen rows, the first
      choice first; rows of weight 0 where too few are present.
    """
    logits = jax.lax.stop_gradient(logits)
    labels = batch["label"]
    if self.name == REDUCIBLE:
      gaps = [
        difficulty.reducible_loss(logits, teacher, labels)
        for teacher in teachers_logits
      ]
      scores = sum(gaps) / len(gaps)
    elif self.name == SELECTIVE:
      scores = difficulty.loss(logits, labels)
    else:
      scores = self.score(logits, labels)
    rows = {name: gather_rows(a, axis_name) for name, a in batch.items()}
    scores, present = gather_rows(scores, axis_name), rows["weight"] > 0
    if self.name == SELECTIVE:
      # The largest of ln p plus Gumbel noise are drawn without replacement.
      chances = selective_backprop_probabilities(
        scores, keep=1 / self.candidates, where=present
      )
      noise = jax.random.gumbel(key, scores.shape, scores.dtype)
      scores = jnp.log(jnp.maximum(chances, 1e-30)) + noise
    chosen = top_k_indices(scores, self.keep, where=present)
    if axis_name is not None:
      own = chosen.reshape(jax.lax.axis_size(axis_name), -1)
      chosen = own[jax.lax.axis_index(axis_name)]
    return {name: array[chosen] for name, array in rows.items()}


def build(
  section: Mapping[str, Any], batch_size: int, *, path: str = "selection"
) -> Selection | None:
  """The selection that a stage's section names.

  Args:
    section: `name`, '' for none, one of `NAMES` or the dotted path of a
      function (logits, labels) -> [B]; and `candidates`, rows to choose from as
      a multiple of the batch.
    batch_size: rows that are trained on.
    path: name of the section in messages.

  Returns:
    The selection, or None.

  Raises:
    UserError: for an unknown name, or nothing to choose from.
  """
  name = section["name"]
  if not name:
    return None
  score = None
  if name not in (REDUCIBLE, SELECTIVE):
    table = dict.fromkeys(NAMES) | difficulty.SCORES
    score = lookup.find(table, name, f"{path}.name")
  if section["candidates"] < 2:
    raise UserError(
      f"{path}.candidates is {section['candidates']}, which leaves nothing to"
      " choose; expected a whole number >= 2, the rows to choose from as a"
      " multiple of batch_size."
    )
  return Selection(name, score, batch_size, section["candidates"])
