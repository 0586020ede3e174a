"""Models that come trained: what a config may ask of them, what they know."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcl_jax import difficulty, lookup, models
from kdcl_jax.errors import UserError
from kdcl_jax.models import called

Section = Mapping[str, Any]

log = logging.getLogger(__name__)

_DEVIATIONS = 3.0  # above chance, to be taken for knowledge


def by_chance(
  predictions: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
  """The accuracy of the same predictions, dealt out to the records at random.

  Of classes of equal size it is 1 / K on average, and of a model that always
  says the same class the share of that class. Over all permutations, with
  `d_ij = c_ij - c_i. - c_.j + c_..` of `c_ij = [prediction_i = label_j]`, the
  variance of the number of hits is `sum_ij d_ij^2 / (N - 1)`.

  Args:
    predictions: [N] classes, N >= 2.
    labels: [N] classes.

  Returns:
    Mean and standard deviation of the accuracy.

  Example:
    >>> mean, deviation = by_chance(np.arange(100) % 10, np.arange(100) // 10)
    >>> f"{mean:.3f} {deviation:.3f}"
    '0.100 0.030'

  Reference: Hoeffding, "A combinatorial central limit theorem", 1951, theorem
  2.
  """
  count = len(labels)
  known, places = np.unique(
    np.concatenate([predictions, labels]), return_inverse=True
  )
  said, true = (
    np.bincount(part, minlength=len(known)) / count
    for part in np.split(places, 2)
  )
  mean = np.sum(said * true)
  # Of classes k said and l true: ([k = l] - true_k - said_l + mean)^2, summed.
  spread = mean + mean**2 - np.sum(said * true * (said + true))
  deviation = np.sqrt(max(spread, 0.0) / max(count - 1, 1))
  return float(mean), float(deviation)


def check_accuracy(
  name: str, section: Section, records: Mapping[str, np.ndarray], seed: int
) -> None:
  """Says what a model that is not trained here knows, and objects to nothing.

  Args:
    name: the stage.
    section: its section of the resolved config.
    records: of the validation split, as `kdcl_jax.evaluate.readable` has them.
    seed: of the run.

  Raises:
    UserError: where it knows no more than chance does, unless the stage's
      `near_chance` is 'warn'.
  """
  hits = records["prediction"] == records["label"]
  accuracy = float(np.mean(hits))
  mean, deviation = by_chance(records["prediction"], records["label"])
  told = (
    f"{accuracy:.4f} on the {len(hits)} validation records of seed {seed}, by"
    f" chance {mean:.4f}"
  )
  if accuracy > mean + _DEVIATIONS * deviation:
    log.info("%s: accuracy %s", name, told)
    return
  source = section["weights"]
  sentence = (
    f"config.{name}.weights is {source!r}, whose accuracy is {told} +-"
    f" {deviation:.4f}, so it knows nothing of these classes: are its classes"
    " others or in another sequence, are mean, std, channels or size of its"
    f" input others (config.{name}.input), is it trained at all? If it is meant"
    f" to be like that, set config.{name}.near_chance to 'warn'."
  )
  if section["near_chance"] == "stop":
    raise UserError(sentence)
  log.warning("%s", sentence)


def is_given(section: Section) -> bool:
  """Whether a stage's model comes trained: from elsewhere, to be used as is."""
  return not section["steps"] and not section["epochs"]


def check(config: Section) -> None:
  """What can be known of models that are only called, without the data.

  Args:
    config: a resolved config.

  Raises:
    UserError: for the first mistake.
  """
  for name in config["stages"]:
    section = config[name]
    if not is_given(section):
      check_trainable(section, f"config.{name}")
    model = section["model"]["name"]
    if model not in models.CALLED:
      if called.kind_of(section["weights"]):
        raise UserError(
          f"config.{name}.weights is {section['weights']!r}, which is a whole"
          f" model, but config.{name}.model.name is {model!r}; take one of them"
          " out."
        )
      continue
    path = section["model"].get("path", "")
    if section["weights"] != path:
      raise UserError(
        f"config.{name}.weights is {section['weights']!r}, but"
        f" config.{name}.model.path is {path!r}, a file which has weights of"
        " its own; take one of them out."
      )
    if config["export"] == name:
      raise UserError(
        f"config.export is {name!r}, whose model is only called, and is a file"
        f" already ({path!r}); expected another stage, or '' for none."
      )
  for name in config["stages"]:
    _check_difficulty(name, config)


def check_trainable(section: Section, path: str) -> None:
  """Checks that a model that shall be trained can be.

  Raises:
    UserError: where it is one that is only called.
  """
  model = section["model"]["name"]
  if model in models.CALLED:
    raise UserError(
      f"{path}.model is {model!r}, which is only called and cannot be trained;"
      " expected steps 0 and epochs 0, and another stage that learns from it."
    )


def _check_difficulty(name: str, config: Section) -> None:
  """Whether the teachers can give what the order asks of them."""
  section = config[name]
  options = section["curriculum"]["difficulty"]
  field = f"config.{name}.curriculum.difficulty"
  ordered = section["curriculum"]["order"] in ("curriculum", "anti")
  if not ordered or options["source"] != "teacher":
    return
  score = lookup.find(
    difficulty.SCORES | difficulty.MODEL_SCORES,
    options["score"],
    f"{field}.score",
  )
  for teacher in section["teachers"]:
    model = config[teacher]["model"]["name"]
    if model in models.CALLED and "variables" in difficulty.needs_of(score):
      raise UserError(
        f"{field}.score is {options['score']!r}, which takes gradients through"
        f" the model, but config.{teacher}.model is {model!r}, which is only"
        f" called; expected one of {', '.join(difficulty.SCORES)}."
      )
