"""Means, spreads and rules, on made-up numbers whose verdicts are known."""

import math

import numpy as np
import pytest

from tvts_jax.ablate import claims
from tvts_jax.ablate.claims import Claim
from tvts_jax.errors import UserError


def numbers(**values):
  """{variant: {seed: {'m': value}}}; None: that seed is not finished."""
  return {
    name: {seed: {'m': value} for seed, value in enumerate(given) if value is not None}
    for name, given in values.items()
  }


def verdict(of, **values):
  return claims.decide(Claim('a claim', 'a table', 'above', 'm', of), numbers(**values))


def test_means_and_spreads_are_those_of_numpy():
  values = np.random.default_rng(0).random(7)
  found = claims.mean(numbers(a=values.tolist()), 'a', 'm')
  assert found == pytest.approx((values.mean(), values.std(ddof=1), 7))
  assert claims.mean(numbers(a=[0.25]), 'a', 'm') == (0.25, 0.0, 1)
  assert claims.mean(numbers(a=[0.25]), 'a', 'other') is None and claims.mean({}, 'a', 'm') is None
  assert str(claims.mean(numbers(a=[0.5, 0.7]), 'a', 'm')) == '60.0 ± 14.1 %'


@pytest.mark.parametrize(
  'a, b, holds',
  [
    ([0.6, 0.61, 0.62], [0.5, 0.51, 0.52], 'reproduced'),
    ([0.5, 0.51, 0.52], [0.6, 0.61, 0.62], 'reversed'),
    # Ahead in every seed, but by less than seeds differ.
    ([0.4, 0.5, 0.6], [0.39, 0.49, 0.59], 'not reproduced'),
    # Ahead by more than the spread, but not in every seed.
    ([0.9, 0.9, 0.49], [0.3, 0.3, 0.5], 'not reproduced'),
    ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], 'not reproduced'),
    ([0.6, 0.61], [0.5, 0.51], 'unfinished'),
    ([0.6, 0.61, 0.62], [0.5, None, 0.51], 'unfinished'),
    # Three of each, but not three that both have.
    ([0.6, 0.61, 0.62, None], [None, 0.5, 0.51, 0.52], 'unfinished'),
    ([0.6, 0.61, 0.62], [], 'unfinished'),
  ],
)
def test_above(a, b, holds):
  assert verdict(('a', 'b'), a=a, b=b).holds == holds


def test_the_threshold_is_the_pooled_spread():
  """Variances of 0.0004 and 0.0036 pool to a deviation of sqrt(0.002) = 0.0447."""
  base = np.array([-1, 0, 1])
  for gap, holds in ((0.0449, 'reproduced'), (0.0445, 'not reproduced')):
    a, b = 0.5 + gap + 0.02 * base, 0.5 + 0.02 * base * -3
    # Paired so that a is ahead in every seed.
    a, b = np.sort(a), np.sort(b)[[0, 1, 2]]
    pairs = a - b
    assert math.isclose(pairs.mean(), gap, abs_tol=1e-9)
    found = verdict(('a', 'b'), a=a.tolist(), b=b.tolist())
    assert found.holds == (holds if (pairs > 0).all() else 'not reproduced')
    assert (pairs > 0).all() and 'a pooled spread of 4.5' in found.sentence


def test_above_several_takes_all_and_names_each():
  good, mixed, worse = [0.7, 0.71, 0.72], [0.69, 0.71, 0.73], [0.9, 0.91, 0.92]
  low = [0.1, 0.11, 0.12]
  assert verdict(('a', 'b', 'c'), a=good, b=low, c=low).holds == 'reproduced'
  assert verdict(('a', 'b', 'c'), a=good, b=low, c=mixed).holds == 'not reproduced'
  assert verdict(('a', 'b', 'c'), a=good, b=worse, c=low).holds == 'not reproduced'
  assert verdict(('a', 'b', 'c'), a=good, b=worse, c=worse).holds == 'reversed'
  found = verdict(('a', 'b', 'c'), a=good, b=low, c=[0.1])
  assert found.holds == 'unfinished' and found.sentence.endswith('c has 1 that are finished')
  said = verdict(('a', 'b', 'c'), a=good, b=low, c=worse).sentence
  assert (
    'a 71.0 ± 1.0 %, b 11.0 ± 1.0 %; the difference is +60.0 points' in said and 'a is ahead in 0 of 3 seeds' in said
  )


def test_chance():
  """Of 512 clips and a level of 1/24, chance reaches 1/24 + 3 sqrt(1/24 · 23/24 / 512) = 6.82 %."""
  claim = lambda rule: Claim('a claim', 'a table', rule, 'm', ('a',), 1 / 24, 512)
  assert claims.limit(claim('chance')) == pytest.approx(0.06816, abs=1e-5)
  for values, at, over in (
    ([0.03, 0.05, 0.068], 'reproduced', 'not reproduced'),
    ([0.03, 0.05, 0.069], 'not reproduced', 'not reproduced'),
    ([0.07, 0.5, 0.9], 'not reproduced', 'reproduced'),
  ):
    assert claims.decide(claim('chance'), numbers(a=values)).holds == at
    assert claims.decide(claim('over chance'), numbers(a=values)).holds == over
  assert claims.decide(claim('chance'), numbers(a=[0.1])).holds == 'unfinished'


def test_chance_is_seldom_taken_for_more():
  """Of a thousand blind models, in a fair world, few seem to see."""
  rng = np.random.default_rng(0)
  claim = Claim('a claim', 'a table', 'chance', 'm', ('a',), 1 / 24, 512)
  held = [claims.decide(claim, numbers(a=(rng.binomial(512, 1 / 24, 3) / 512).tolist())).holds for _ in range(1000)]
  assert 0.97 < held.count('reproduced') / 1000 < 1


def test_what_cannot_be_asked_says_why():
  claim = Claim('a claim', 'a table', 'none', why='the world is too small')
  assert claims.decide(claim, {}) == ('not testable', 'the world is too small')
  with pytest.raises(UserError, match="no rule 'below'; known: above, chance, over chance, none"):
    claims.decide(Claim('a claim', 'a table', 'below'), {})
