"""Ranks, recalls and accuracies against random orders counted one by one, and against closed forms."""

import itertools
import math

import numpy as np
import pytest

from tvts_jax.errors import UserError
from tvts_jax.evaluators import ranks


def by_hand(scores, right, left_out=(), ks=(1, 2, 5)):
  """(mean rank of the first right answer, chance of a hit for each k), over all orders of what scores alike."""
  answers = [g for g in range(len(scores)) if g not in left_out]
  levels = sorted({scores[g] for g in answers}, reverse=True)
  groups = [[g for g in answers if scores[g] == level] for level in levels]
  orders = [sum(map(list, order), []) for order in itertools.product(*(itertools.permutations(g) for g in groups))]
  firsts = [next(i for i, g in enumerate(order, 1) if g in right) for order in orders]
  return np.mean(firsts), [np.mean([first <= k for first in firsts]) for k in ks]


@pytest.mark.parametrize('seed', range(20))
def test_all_orders_of_equal_scores_count_alike(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 4, (3, 7)).astype(np.float32)
  right = rng.random((3, 7)) < 0.4
  left_out = rng.random((3, 7)) < 0.2
  right[:, 0], left_out[:, 0] = True, False
  found = ranks.places(scores, right, left_out)
  for q in range(3):
    rank, hits = by_hand(scores[q], set(np.flatnonzero(right[q] & ~left_out[q])), set(np.flatnonzero(left_out[q])))
    assert found.ranks[q] == pytest.approx(rank)
    assert [found.hits(k)[q] for k in (1, 2, 5)] == pytest.approx(hits)


def test_one_right_answer_ranks_behind_the_better_and_half_of_the_equal():
  scores = np.array([[0.5, 0.9, 0.5, 0.5, 0.1]], np.float32)
  assert ranks.places(scores, np.array([[1, 0, 0, 0, 0]], bool)).ranks == 1 + 1 + 2 / 2


@pytest.mark.parametrize('chunk', [1, 7, 64, 512])
def test_chunks_change_nothing(chunk):
  """Self retrieval with classes against sorting the whole matrix; features of few values, so that many are equal."""
  rng = np.random.default_rng(1)
  features, labels = rng.integers(-1, 2, (90, 3)) + np.array([[0.0, 0.0, 0.5]]), rng.integers(0, 6, 90)
  found = ranks.of_features(features, features, labels, labels, itself=True, chunk=chunk)
  direction = features / np.linalg.norm(features, axis=1, keepdims=True)
  cosine = (direction[:, None] * direction[None]).sum(-1).round(6)
  for q in range(90):
    others = np.arange(90) != q
    best = cosine[q][others & (labels == labels[q])].max()
    wrong = cosine[q][others & (labels != labels[q])]
    level = ((cosine[q] == best) & others & (labels == labels[q])).sum()
    assert found.before_Q[q] == (wrong > best).sum() and found.level_Q[q] == (wrong == best).sum()
    assert found.right_Q[q] == level and found.size == 89


def test_a_constant_embedding_scores_chance():
  """Of 60 clips in 5 classes, 11 of the 59 others are right: hypergeometric, whatever the chunk makes of the sums."""
  labels = np.arange(60) % 5
  constant = np.tile(np.random.default_rng(0).standard_normal(37).astype(np.float32), (60, 1))
  found = ranks.recalls(ranks.of_features(constant, constant, labels, labels, itself=True, chunk=13))
  for k in (1, 5, 10):
    assert found[f'r{k}'] == pytest.approx(1 - math.comb(48, k) / math.comb(59, k))
  assert found['mean_rank'] == pytest.approx(1 + 48 / 12)
  single = ranks.of_features(constant, constant, np.arange(60), np.arange(60))
  assert (single.ranks == 30.5).all() and single.hits(6) == pytest.approx(0.1)
  assert ranks.recalls(ranks.of_features(np.zeros((9, 3)), np.zeros((9, 3)), np.arange(9), np.arange(9)))['r1'] == (
    pytest.approx(1 / 9)
  )


def test_a_random_embedding_scores_chance_and_a_perfect_one_all():
  rng = np.random.default_rng(0)
  a, b = rng.standard_normal((2, 400, 8))
  found = ranks.recalls(ranks.of_features(a, b, np.arange(400), np.arange(400)))
  assert found['median_rank'] == pytest.approx(200.5, abs=30) and found['r10'] == pytest.approx(10 / 400, abs=0.025)
  labels = np.arange(40) % 8
  found = ranks.recalls(ranks.of_features(np.eye(8)[labels], np.eye(8)[labels], labels, labels, itself=True))
  assert found == {'r1': 1, 'r5': 1, 'r10': 1, 'median_rank': 1, 'mean_rank': 1}


def test_what_nothing_answers_is_wrong():
  features = np.eye(4)
  alone = ranks.of_features(features, features, np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2]), itself=True)
  assert alone.ranks.tolist()[2:] == [4, 4] and alone.hits(10).tolist() == [1, 1, 0, 0]
  found = ranks.of_features(features, features, np.arange(4), np.arange(4)).with_missing(4)
  assert ranks.recalls(found) == {'r1': 0.5, 'r5': 0.5, 'r10': 0.5, 'median_rank': 3, 'mean_rank': 3}


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_no_number_is_an_error(bad):
  features = np.ones((5, 3))
  features[2, 1] = bad
  with pytest.raises(UserError, match='1 of 5 features'):
    ranks.of_features(features, np.ones((4, 3)), np.arange(5), np.arange(4))
  with pytest.raises(UserError, match='1 of 5 queries'):
    ranks.of_classes(np.where(np.isinf(features), np.nan, features), np.zeros(5, int))


def test_accuracies_are_those_of_argsort():
  rng = np.random.default_rng(2)
  scores, labels = rng.standard_normal((200, 11)).astype(np.float32), rng.integers(0, 11, 200)
  order = np.argsort(-scores, axis=1)
  found = ranks.accuracies(ranks.of_classes(scores, labels), labels)
  hit = order[:, 0] == labels
  assert found['top1'] == pytest.approx(hit.mean())
  assert found['top5'] == pytest.approx((order[:, :5] == labels[:, None]).any(1).mean())
  assert found['per_class'] == pytest.approx(np.mean([hit[labels == k].mean() for k in set(labels.tolist())]))
  tied = ranks.accuracies(ranks.of_classes(np.zeros((200, 11), np.float32), labels), labels)
  assert tied == pytest.approx({'top1': 1 / 11, 'top5': 5 / 11, 'per_class': 1 / 11})
