"""Whether the claims of a paper hold in a study: means, spreads, and rules that decide without a person.

Numbers are {variant: {seed: {metric: value}}}. Runs of one seed see the same clips in the same order, so two variants
are compared seed by seed.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from tvts_jax.errors import UserError
from tvts_jax.human import percent

SEEDS = 3  # Fewer decide nothing.
ERRORS = 3.0  # Standard errors of a share above chance that count as chance.


class Mean(NamedTuple):
  """Of one metric of one variant over its seeds."""

  mean: float
  spread: float  # The standard deviation over seeds, n - 1 below; 0 of a single one.
  count: int

  def __str__(self):
    spread = f' ± {100 * self.spread:.1f}' if self.count > 1 else ''
    return f'{100 * self.mean:.1f}{spread} %'


@dataclasses.dataclass(frozen=True)
class Claim:
  says: str  # A sentence of the paper's content, in our words.
  paper: str  # Where, and its numbers.
  rule: str  # One of RULES.
  metric: str = ''
  of: tuple[str, ...] = ()  # The variants that it is about, in the order that the rule asks for.
  level: float = 0.0  # What chance gives.
  clips: int = 0  # That the metric is a share of.
  why: str = ''  # For what cannot be tested here.


class Verdict(NamedTuple):
  holds: str  # One of VERDICTS.
  sentence: str


VERDICTS = {
  'reproduced': 'reproduced',
  'not reproduced': 'not reproduced',
  'reversed': 'not reproduced: it is the other way round',
  'not testable': 'not testable here',
  'unfinished': 'not finished',
}


def mean(numbers: Mapping, variant: str, metric: str) -> Mean | None:
  """None if no run of the variant has the metric."""
  values = [found[metric] for found in numbers.get(variant, {}).values() if metric in found]
  if not values:
    return None
  return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def decide(claim: Claim, numbers: Mapping) -> Verdict:
  if claim.rule not in RULES:
    raise UserError(f'the claim {claim.says!r} has no rule {claim.rule!r}; known: {", ".join(RULES)}')
  rule = RULES[claim.rule]
  if rule.decide is None:
    return Verdict('not testable', claim.why)
  lacking = [
    f'{variant} has {count}' for variant in claim.of if (count := len(both(numbers, [variant], claim.metric))) < SEEDS
  ]
  if lacking:
    return Verdict('unfinished', f'it takes {SEEDS} seeds of each, and {", ".join(lacking)} that are finished')
  return rule.decide(claim, numbers)


def both(numbers: Mapping, variants: Sequence[str], metric: str) -> list[tuple[float, ...]]:
  """The metric of some variants, for each seed that all of them have."""
  runs = [numbers.get(variant, {}) for variant in variants]
  seeds = sorted(set.intersection(*(set(found) for found in runs)))
  return [values for seed in seeds if None not in (values := tuple(found[seed].get(metric) for found in runs))]


def compare(numbers: Mapping, higher: str, lower: str, metric: str) -> Verdict:
  """Is one variant above another by more than seeds differ, and in every seed?"""
  means = {variant: mean(numbers, variant, metric) for variant in (higher, lower)}
  pooled = math.sqrt(statistics.fmean(found.spread**2 for found in means.values()))
  pairs = both(numbers, (higher, lower), metric)
  gaps = [a - b for a, b in pairs]
  gap = statistics.fmean(gaps) if gaps else math.nan
  agree = sum(each > 0 for each in gaps)
  said = (
    f'{higher} {means[higher]}, {lower} {means[lower]}; the difference is {100 * gap:+.1f} points beside a pooled '
    f'spread of {100 * pooled:.1f}, and {higher} is ahead in {agree} of {len(gaps)} seeds'
  )
  if len(gaps) < SEEDS:
    return Verdict('unfinished', f'{said}, and it takes {SEEDS} seeds that both have')
  if gap > pooled and agree == len(gaps):
    return Verdict('reproduced', said)
  if gap < -pooled and all(each < 0 for each in gaps):
    return Verdict('reversed', said)
  return Verdict('not reproduced', said)


def above(claim: Claim, numbers: Mapping) -> Verdict:
  """Of several lower ones, all must be below; it is the other way round if all are above."""
  found = [compare(numbers, claim.of[0], lower, claim.metric) for lower in claim.of[1:]]
  kinds = {verdict.holds for verdict in found}
  holds = kinds.pop() if len(kinds) == 1 else 'unfinished' if 'unfinished' in kinds else 'not reproduced'
  return Verdict(holds, '. '.join(verdict.sentence for verdict in found))


def limit(claim: Claim) -> float:
  """The highest share that still counts as chance."""
  return claim.level + ERRORS * math.sqrt(claim.level * (1 - claim.level) / claim.clips)


def beside_chance(claim: Claim, numbers: Mapping, over: bool) -> Verdict:
  (variant,) = claim.of
  right = [(value > limit(claim)) == over for (value,) in both(numbers, [variant], claim.metric)]
  said = (
    f'{variant} {mean(numbers, variant, claim.metric)}; chance is {percent(claim.level)}, and up to '
    f'{percent(limit(claim))} of {claim.clips} clips count as chance; so in {sum(right)} of {len(right)} seeds'
  )
  return Verdict('reproduced' if all(right) else 'not reproduced', said)


class Rule(NamedTuple):
  """How a claim is decided, in words for the page and as a function (claim, numbers) → Verdict."""

  says: str
  decide: Callable | None


CHANCE_ENDS = f'{ERRORS:g} standard errors above chance'
RULES = {
  'above': Rule(
    f'the first variant is above each of the others: over at least {SEEDS} seeds, the mean difference is larger than '
    'the pooled spread (the root of the mean of the two variances over seeds) and it is ahead in every seed; behind by '
    'as much in every seed is "the other way round"',
    above,
  ),
  'chance': Rule(f'in every seed, the share is at most {CHANCE_ENDS}', partial(beside_chance, over=False)),
  'over chance': Rule(f'in every seed, the share is more than {CHANCE_ENDS}', partial(beside_chance, over=True)),
  'none': Rule('a study of this size cannot ask it', None),
}
