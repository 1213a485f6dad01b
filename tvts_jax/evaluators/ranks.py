"""Numbers out of scores. What scores alike is taken in random order, so what tells nothing apart scores chance.

For every query, `places` counts what stands before its first right answer and what stands level with it. Out of these
come the expected rank (1 + those before + those level / 2, where there is one right answer) and the chance of a hit
among the first k, over all orders of equal scores. Without ties both are the usual numbers.

Shapes: Q queries, G things to find, D features, C classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tvts_jax.errors import UserError

CHUNK = 512  # Queries whose scores exist at a time.


class Places(NamedTuple):
  """Of queries, each [Q]. A query without a right answer (right_Q is 0) is never hit and ranks behind the last."""

  before_Q: np.ndarray  # Wrong answers with a higher score than the best right one.
  level_Q: np.ndarray  # Wrong answers with the same score.
  right_Q: np.ndarray  # Right answers with that score.
  size: int  # Answers to choose from.

  @property
  def ranks(self) -> np.ndarray:
    """The expected rank of the first right answer, from 1; one behind the last if there is none."""
    expected_Q = 1 + self.before_Q + self.level_Q / (self.right_Q + 1)
    return np.where(self.right_Q > 0, expected_Q, self.size + 1.0)

  def hits(self, k: int) -> np.ndarray:
    """The chance that a right answer is among the first k, in [0, 1]."""
    missed_Q = np.ones(len(self.before_Q))
    for nth in range(k):
      # All of the places that are left to the level ones went to wrong ones so far: so may this one.
      wrong_Q = np.maximum(self.level_Q - nth, 0) / np.maximum(self.level_Q + self.right_Q - nth, 1)
      missed_Q *= np.where(nth < k - self.before_Q, wrong_Q, 1.0)
    return np.where(self.right_Q > 0, 1 - missed_Q, 0.0)

  def with_missing(self, count: int) -> 'Places':
    """The same and `count` queries that could not be asked: they count as never hit."""
    more = lambda x_Q: np.concatenate([x_Q, np.zeros(count, x_Q.dtype)])
    return Places(more(self.before_Q), more(self.level_Q), more(self.right_Q), self.size)


def places(scores_QxG: np.ndarray, right_QxG: np.ndarray, left_out_QxG: np.ndarray | None = None) -> Places:
  """`left_out_QxG` marks what is no answer, such as the query itself."""
  if np.isnan(scores_QxG).any():
    raise UserError(
      f'{int(np.isnan(scores_QxG).any(axis=1).sum())} of {len(scores_QxG)} queries have scores that are no number, so '
      'nothing can be ranked; look at the parameters that were evaluated'
    )
  asked_QxG = np.ones_like(right_QxG) if left_out_QxG is None else ~left_out_QxG
  right_QxG = right_QxG & asked_QxG
  wrong_QxG = asked_QxG & ~right_QxG
  best_Qx1 = np.max(scores_QxG, axis=1, keepdims=True, initial=-np.inf, where=right_QxG)
  count = lambda picked_QxG: picked_QxG.sum(axis=1).astype(np.int64)
  level_QxG = scores_QxG == best_Qx1
  right_Q = count(level_QxG & right_QxG)
  before_Q = np.where(right_Q > 0, count((scores_QxG > best_Qx1) & wrong_QxG), 0)
  return Places(before_Q, np.where(right_Q > 0, count(level_QxG & wrong_QxG), 0), right_Q, int(asked_QxG.sum(1).max()))


def of_features(queries_QxD, found_GxD, query_Q, found_G, *, itself: bool = False, chunk: int = CHUNK) -> Places:
  """Ranks by cosine. An answer is right if its number in `found_G` is that of the query in `query_Q`.

  Args:
    queries_QxD, found_GxD: features of any length.
    query_Q, found_G: whole numbers: of a class, or of the video that a text belongs to.
    itself: the queries are the things to find, and none may find itself.
    chunk: queries to score at a time; changes no number.
  """
  parts = []
  for first, scores_QxG in similarities(queries_QxD, found_GxD, chunk):
    rows_Q = np.arange(first, first + len(scores_QxG))
    right_QxG = np.asarray(query_Q)[rows_Q][:, None] == np.asarray(found_G)[None]
    parts.append(places(scores_QxG, right_QxG, rows_Q[:, None] == np.arange(len(found_G))[None] if itself else None))
  return Places(*(np.concatenate(column) for column in list(zip(*parts))[:3]), parts[0].size)


def similarities(queries_QxD, found_GxD, chunk: int = CHUNK) -> Iterator[tuple[int, np.ndarray]]:
  """(number of the first query, its cosines and those of the next ones, float32 [≤chunk, G]), chunk by chunk.

  They are taken in float64 and rounded: pairs that are equal must score equally wherever they lie in a chunk, which
  sums of float32, that a library takes in whatever order, do not.
  """
  queries_QxD, found_GxD = unit(queries_QxD), unit(found_GxD)
  for first in range(0, len(queries_QxD), chunk):
    yield first, (queries_QxD[first : first + chunk] @ found_GxD.T).astype(np.float32)


def unit(features: np.ndarray) -> np.ndarray:
  """Of length one along the last axis, float64; zeros stay zeros."""
  features = np.asarray(features, np.float64)
  if not np.isfinite(features).all():
    rows = (~np.isfinite(features).all(axis=-1)).sum()
    raise UserError(
      f'{rows} of {features[..., 0].size} features are no finite number, so nothing can be compared; look at the '
      'parameters that were evaluated'
    )
  return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-30)


def of_classes(scores_QxC: np.ndarray, label_Q: np.ndarray) -> Places:
  """Ranks of the right class among all classes."""
  return places(scores_QxC, np.asarray(label_Q)[:, None] == np.arange(scores_QxC.shape[1])[None])


def recalls(found: Places) -> dict[str, float]:
  """R@k, and the median and mean of the ranks."""
  numbers = {f'r{k}': float(found.hits(k).mean()) for k in (1, 5, 10)}
  return numbers | {'median_rank': float(np.median(found.ranks)), 'mean_rank': float(found.ranks.mean())}


def accuracies(found: Places, label_Q: np.ndarray) -> dict[str, float]:
  """Top-k accuracy, and the mean over classes of their top-1 accuracy."""
  numbers = {f'top{k}': float(found.hits(k).mean()) for k in (1, 5)}
  _, class_Q, count_C = np.unique(label_Q, return_inverse=True, return_counts=True)  # Of the classes that there are.
  return numbers | {'per_class': float((np.bincount(class_Q, found.hits(1)) / count_C).mean())}
