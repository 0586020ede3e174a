"""Times of compiled programs, each compared with a reference beside it.

Other work slows a machine down for seconds at a time, and everything that is
measured then. So a program is never timed alone: the reference runs before and
after each of its samples, and what is reported is the ratio.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

LEAST = 5e-3  # seconds that a sample lasts, or more
LONG = 0.1  # seconds after which a call is a sample
MOST_CALLS = 1024


class Comparison(NamedTuple):
  """A program's time and its ratios to the reference's.

  Attributes:
    seconds: median time of a call.
    ratio: median over the rounds of the program's time over the reference's.
    low: their first quartile.
    high: their third quartile.
    rounds: how many there are.
  """

  seconds: float
  ratio: float
  low: float
  high: float
  rounds: int


class Program:
  """A function compiled for its arguments, warm.

  Attributes:
    temporary: bytes that it needs beside arguments and results, or None where
      the backend does not say.
    first: seconds of the first call.
    calls: how many calls make a sample.
  """

  def __init__(
    self, function: Callable[..., Any], arguments: Sequence[Any]
  ) -> None:
    self.arguments = arguments
    self.compiled = jax.jit(function).lower(*arguments).compile()
    self.temporary = temporary_bytes(self.compiled)
    self.calls = 1
    self.first = self.sample()
    while self.first < LONG and self.calls < MOST_CALLS:
      if self.calls * min(self.sample(), self.sample()) >= LEAST:
        break
      self.calls *= 2

  def sample(self) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(self.calls):
      results = self.compiled(*self.arguments)
    # A device runs its programs in order: the last is done when all are.
    jax.block_until_ready(results)
    return (time.perf_counter() - start) / self.calls


def temporary_bytes(compiled: jax.stages.Compiled) -> int | None:
  """What a compiled function needs beside arguments and results."""
  analysis = compiled.memory_analysis()
  return None if analysis is None else analysis.temp_size_in_bytes


def compare(
  program: Program, reference: Program, *, rounds: int, budget: float
) -> Comparison:
  """Times a program between calls of the reference.

  Args:
    program: what is measured.
    reference: what it is compared with.
    rounds: at most so many samples.
    budget: seconds after which no further sample is taken. A program whose
      first call took twice as long is not called again.

  Returns:
    The comparison, of one round at least.
  """
  start = time.perf_counter()
  before, seconds, ratios = reference.sample(), [], []
  slow = program.first > 2 * budget
  while len(ratios) < (1 if slow else rounds):
    seconds.append(program.first if slow else program.sample())
    after = reference.sample()
    ratios.append(2 * seconds[-1] / (before + after))
    before = after
    if time.perf_counter() - start > budget:
      break
  low, high = ratios[0], ratios[0]
  if len(ratios) > 1:
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
  return Comparison(
    statistics.median(seconds),
    statistics.median(ratios),
    low,
    high,
    len(ratios),
  )
