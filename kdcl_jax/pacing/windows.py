"""Windows of the order: pacing that leaves the easiest behind, too."""

from collections.abc import Sequence

from kdcl_jax.pacing.progress import Window, edges_of, stepwise


def one_pass_window(buckets: int | Sequence[float] = 5) -> Window:
  """One pass: each bucket alone and once, from easy to hard, equally long.

  Bucket j of K, with the records whose rank is from fraction low to fraction
  high of the order, while progress is from j / K to (j + 1) / K.

  Args:
    buckets: how many of equal size, or the share of the records in each.

  Returns:
    progress -> (low, high), 0 <= low < high <= 1: the active records are those
    that a pacing of `high` has and one of `low` has not. Numbers, arrays and
    traced values as for pacing functions.

  Raises:
    ValueError: for no bucket, an empty one, or shares that are not 1 together.

  Example:
    >>> window = one_pass_window(4)
    >>> window(0.0), window(0.3), window(1.0)
    ((0.0, 0.25), (0.25, 0.5), (0.75, 1.0))

  Reference: Bengio, Louradour, Collobert and Weston, "Curriculum learning",
  ICML 2009; Cirik, Hovy and Morency, "Visualizing and understanding curriculum
  learning for long short-term memory networks", 2016, arXiv:1611.06204,
  algorithm 1.
  """
  edges = edges_of(buckets)
  count = len(edges) - 1
  moments = [j / count for j in range(1, count)]
  low, high = stepwise(moments, edges[:-1]), stepwise(moments, edges[1:])
  return lambda progress: (low(progress), high(progress))
