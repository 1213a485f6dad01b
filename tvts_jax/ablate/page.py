"""The page of a study: what became of each claim, tables beside the paper's, curves, and every number of every run."""

from collections.abc import Mapping, Sequence

from tvts_jax.ablate import claims
from tvts_jax.human import duration, percent
from tvts_jax.pages import charts, kit
from tvts_jax.pages.charts import Curve
from tvts_jax.pages.kit import text

LOOKS = ('own', 'other', 'calm', 'blank', 'bad', 'plain')
BADGES = {'reproduced': 'good', 'not reproduced': 'mixed'}  # Any other verdict: none.

STYLE = """
.claim { display: grid; grid-template-columns: 1fr max-content; gap: 4px 16px; padding: 12px 0;
  border-top: 1px solid var(--line); } .claim p { margin: 0; grid-column: 1 / 3; }
.claim:first-child { border-top: 0; padding-top: 0; } .claim b { font-weight: 600; }
th { white-space: normal; vertical-align: bottom; min-width: 5.5em; }
"""


def build(study, results: Mapping, numbers: Mapping, verdicts: Sequence[claims.Verdict]) -> str:
  parts = [
    header(results),
    *(kit.missing(f'{job} failed: {error}') for job, error in results['failed'].items()),
    verdict_cards(study, verdicts),
    *(table(study, one, numbers) for one in study.tables),
    *curves(study, results['runs']),
    every_number(results['runs']),
  ]
  return kit.document(study.title, charts.STYLE + STYLE, '\n'.join(parts))


def header(results: Mapping) -> str:
  runs, planned = results['runs'], results['planned']
  spent = sum(run['seconds'] or 0 for run in runs)
  facts = {'runs': f'{len(runs)} of {planned}', 'in all': duration(spent), 'written': results['date']}
  facts |= results['versions']
  return kit.header(results['title'], results['command'], facts)


def verdict_cards(study, verdicts: Sequence[claims.Verdict]) -> str:
  counts = {kind: sum(verdict.holds == kind for verdict in verdicts) for kind in claims.VERDICTS}
  said = ', '.join(f'{count} {claims.VERDICTS[kind]}' for kind, count in counts.items() if count)
  measured = {metric: f'{name}: ' for metric, (name, _) in study.metrics.items()}
  cards = ''.join(
    f'<div class="claim"><b>{text(claim.says, 500)}</b>'
    f'<span class="badge {BADGES.get(verdict.holds, "none")}">{claims.VERDICTS[verdict.holds]}</span>'
    f'<p class="soft">The paper: {text(claim.paper, 500)}</p><p>{text(measured.get(claim.metric, ""))}'
    f'{text(verdict.sentence, 2000)}.</p></div>'
    for claim, verdict in zip(study.claims, verdicts)
  )
  used = dict.fromkeys(claim.rule for claim in study.claims)
  rules = ''.join(f'<p class="soft"><b>{text(rule)}</b>: {text(claims.RULES[rule].says, 1000)}.</p>' for rule in used)
  return (
    f'<h2>What the paper says, and what is found here</h2><p class="soft">{text(said)}. No person decides: the rules '
    f'stand below, and what a claim is measured by was fixed before.</p><section class="card">{cards}</section>{rules}'
  )


def table(study, one, numbers: Mapping) -> str:
  """Variants as rows, metrics as columns, each a mean and its spread over seeds."""
  rows = [['', f'the paper: {one.paper}', 'seeds', *(name for name, _ in study.metrics.values())]]
  for variant, there in one.rows.items():
    means = [claims.mean(numbers, variant, metric) or '' for metric in study.metrics]
    rows.append([variant, there, len(numbers.get(variant, {})), *means])
  chance = ['' if level is None else percent(level) for _, level in study.metrics.values()]
  rows.append(['knowing nothing', '', '', *chance])
  return f'<h2>{text(one.title)}</h2><div class="card scroll">{kit.table(*rows)}</div>'


def curves(study, runs: Sequence[Mapping]):
  """Means over seeds, at the steps that all of them have."""
  if study.curves:
    yield '<h2>While they learn</h2><div class="grid wide">'
  for metric in study.curves:
    lines = []
    for variant, look in zip(study.drawn, LOOKS):
      found = [dict(run['curves'][metric]) for run in runs if run['variant'] == variant and metric in run['curves']]
      steps = sorted(set.intersection(*map(set, found))) if found else []
      if steps:
        lines.append(Curve(variant, [(step, sum(one[step] for one in found) / len(found)) for step in steps], look))
    if lines:
      end = max(step for line in lines for step, _ in line.points)
      name, level = study.metrics.get(metric, (metric, None))
      drawn = charts.curves(lines, max(end, 1), form=percent, level=level)
      yield f'<section class="card tall"><h4>{text(name)}</h4>{drawn}</section>'
  if study.curves:
    yield '</div>'


def every_number(runs: Sequence[Mapping]) -> str:
  parts = ['<h2>Every number</h2>']
  for variant in dict.fromkeys(run['variant'] for run in runs):
    own = [run for run in runs if run['variant'] == variant]
    metrics = dict.fromkeys(metric for run in own for metric in run['metrics'])
    facts = {'seconds': [run['seconds'] for run in own], 'steps': [run['steps'] for run in own]}
    facts |= {metric: [run['metrics'].get(metric) for run in own] for metric in metrics}
    head = ['', *(f'seed {run["seed"]}' for run in own)]
    rows = [[name, *('' if value is None else f'{value:.6g}' for value in values)] for name, values in facts.items()]
    parts.append(
      f'<details class="card"><summary>{text(variant)}, world {text(own[0]["world"])}</summary>'
      f'<div class="scroll">{kit.table(head, *rows)}</div></details>'
    )
  return '\n'.join(parts)
