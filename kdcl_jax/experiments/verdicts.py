"""The rule by which an experiment's claims are judged, on paired numbers.

An arm wins only if the 95 % interval of its paired differences lies above 0
against every rival and against its twin. All must hold, so that the chance of a
false win is at most that of one of them (Berger, "Multiparameter hypothesis
testing and acceptance sampling", Technometrics 24, 1982).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdcl_jax import statistics

OPEN = "one seed, no interval"


def measured(values: Sequence[float]) -> dict[str, Any]:
  """Mean, standard deviation, standard error of the mean, and the values.

  Example:
    >>> measured([1.0, 3.0])["standard_error"]
    1.0
  """
  found = statistics.summary(values)
  error = found["std"] / math.sqrt(len(found["values"]))
  return found | {"standard_error": error}


def compare(arm: Sequence[float], rival: Sequence[float]) -> dict[str, Any]:
  """Paired differences of two arms, and what their interval says.

  Args:
    arm: a number for each seed.
    rival: those of the same seeds.

  Returns:
    `difference` (see `measured`), `interval_95`, None for one seed, and
    `verdict`: 'better', 'worse', 'no difference shown', or `OPEN`.

  Example:
    >>> compare([3.0, 4.0, 5.0], [1.0, 2.1, 2.9])["verdict"]
    'better'
  """
  differences = [a - b for a, b in zip(arm, rival, strict=True)]
  interval = None
  if len(differences) > 1:
    interval = statistics.paired_t_interval(differences)
  return {
    "difference": measured(differences),
    "interval_95": interval and list(interval),
    "verdict": statistics.verdict(interval) if interval else OPEN,
  }


def judge(
  arm: str,
  claim: Mapping[str, Any],
  values: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
  """Judges a claim.

  Args:
    arm: the stage that is judged.
    claim: names of its rivals in `against`, and of its `twin` or ''.
    values: stage -> test accuracy with each seed, the same seeds for all.

  Returns:
    `comparisons` (see `compare`) by rival, the twin last; `twin`; `wins`;
    `failed`, the names against which it is not shown to be better; `worse`,
    those of them against which it is worse.
  """
  names = [*claim["against"], *([claim["twin"]] if claim["twin"] else [])]
  found = {name: compare(values[arm], values[name]) for name in names}
  failed = [n for n in names if found[n]["verdict"] != "better"]
  return {
    "twin": claim["twin"],
    "comparisons": found,
    "wins": not failed,
    "failed": failed,
    "worse": [n for n in names if found[n]["verdict"] == "worse"],
  }


def sentence(arm: str, judged: Mapping[str, Any]) -> str:
  """What a judgement says, in words; the comparisons that fail come first."""
  comparisons = judged["comparisons"]

  def listed(verdict: str) -> str:
    names = [
      f"{'its twin ' if name == judged['twin'] else ''}{name}"
      f" ({points(comparison)})"
      for name, comparison in comparisons.items()
      if comparison["verdict"] == verdict
    ]
    head = ", ".join(names[:-1])
    return f"{head} and {names[-1]}" if head else "".join(names)

  better, worse, unshown, unknown = map(
    listed, ("better", "worse", "no difference shown", OPEN)
  )
  if judged["wins"]:
    return f"**{arm}** wins: it is above {better}."
  parts = [
    worse and f"it is below {worse}",
    unshown and f"no difference to {unshown} is shown",
    unknown and f"one seed says nothing of {unknown}",
    better and f"it is above {better}",
  ]
  return f"**{arm}** does not win: {'; '.join(filter(None, parts))}."


def points(comparison: Mapping[str, Any]) -> str:
  """A difference in points with its interval, such as '+2.0, +1.1 to +2.9'."""
  text = f"{100 * comparison['difference']['mean']:+.1f}"
  if comparison["interval_95"] is None:
    return text
  low, high = (100 * end for end in comparison["interval_95"])
  return f"{text}, {low:+.1f} to {high:+.1f}"


def short(judged: Mapping[str, Any]) -> str:
  """A judgement in a few words, for a table."""
  if judged["wins"]:
    return "wins"
  parts = [
    f"below {name}" if name in judged["worse"] else f"not above {name}"
    for name in judged["failed"]
  ]
  return "no: " + ", ".join(parts)
