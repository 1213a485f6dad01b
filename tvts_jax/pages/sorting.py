"""How well a model sorts, as parts of a page: a verdict, bars and curves beside chance, and example clips.

Scores are the sorting evaluator's, '<video>/<score>' by name, with 'clips', the number of clips they are a mean of.
"""

import base64
import math
from collections.abc import Mapping

from scipy import special

from tvts_jax.human import percent
from tvts_jax.objectives.orders import CHANCE
from tvts_jax.pages import charts, kit
from tvts_jax.pages.charts import Curve
from tvts_jax.pages.kit import text
from tvts_jax.shards.records import RecordError, jpeg_size

# What the model was shown: the clip's own video, and the controls.
VIDEOS = {'own': 'its own video', 'blank': 'video blanked', 'other': "another clip's video"}
CONTROLS = {'blank': 'the video blanked', 'other': VIDEOS['other']}
SHORT = {'own': 'own', 'blank': 'blanked', 'other': "another's"}
SCORES = {  # Score: (name, what it is).
  'item': ('Placed right', 'transcripts whose likeliest place is the true one'),
  'exact': ('Exact order', 'clips whose transcripts are all placed right, each by itself'),
  'assigned': ('Permutation', 'clips whose likeliest permutation, every place given once, is the true order'),
  'kendall_tau': ('Kendall tau', 'rank correlation of the likeliest permutation with the true order, from -1 to 1'),
}
CLIPS, FRAMES, FRAME_HEIGHT = 24, 32, 96  # At most so many clips, frames of each, and pixels.

STYLE = """
.verdict { border-left: 7px solid var(--c); } .verdict h2 { margin: 0 0 4px; font-size: 25px; line-height: 1.25; }
.verdict p { margin: 0 0 18px; max-width: 74ch; } .verdict h4 { margin-top: 6px; }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); gap: 20px 38px; }
.verdict table { margin-top: 22px; width: 100%; }
@media (max-width: 520px) { .verdict th .key { display: none; } .verdict table { font-size: 13px; }
  .verdict th, .verdict td { padding-left: 5px; } .verdict th { font-size: 12px; } }
.clip { padding-bottom: 10px; } .clip header { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; }
.frames { display: flex; gap: 5px; overflow-x: auto; margin: 10px 0 6px; }
.frames img { height: 84px; border-radius: 4px; background: var(--line); }
.frames .small { image-rendering: pixelated; }
.said { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; padding: 9px 0;
  border-top: 1px solid var(--line); }
.said .words { flex: 1 1 300px; overflow-wrap: anywhere; }
.said .mark { display: inline-block; width: 1.5em; font-weight: 700; color: var(--c); }
.said .answer { flex: none; font-size: 13px; color: var(--soft); }
.chip { display: inline-block; min-width: 24px; text-align: center; border-radius: 999px; padding: 0 8px;
  font-size: 13px; font-weight: 600; color: #fff; }
.odds { flex: none; display: grid; grid-auto-flow: column; gap: 3px; }
.odds span { position: relative; min-width: 56px; padding: 2px 4px; text-align: center; font-size: 12px;
  border-radius: 5px; border: 1.5px solid transparent; font-variant-numeric: tabular-nums;
  isolation: isolate; overflow: hidden; }
.odds span::before { content: ''; position: absolute; inset: 0; z-index: -1; background: var(--own);
  opacity: var(--p); }
.odds .true { border-color: var(--ink); }
"""


def score_of(scores: Mapping[str, float]) -> str | None:
  """The score that asks for the whole order: where only permutations are told, theirs; None where nothing is sorted."""
  return next((score for score in ('exact', 'assigned') if f'own/{score}' in scores), None)


def verdict(scores: Mapping[str, float], transcripts: int) -> tuple[str, str, str]:
  """(look, headline, sentence): does the model sort, and by what it sees?

  What guessing would give once in a thousand times is evidence. A model that is sure of itself orders the wrong video
  as well, so the controls may score as blind permutations do.
  """
  score = score_of(scores)
  own, clips = scores[f'own/{score}'], scores['clips']
  chance, blind = CHANCE[score](transcripts), CHANCE['assigned'](transcripts)
  above = lambda share, level: special.bdtrc(round(share * clips) - 1, round(clips), level) < 1e-3
  controls = {video: scores[f'{video}/{score}'] for video in CONTROLS if f'{video}/{score}' in scores}
  rates = ', '.join(f'{percent(share)} with {CONTROLS[video]}' for video, share in controls.items())
  found = (
    f'It puts all {transcripts} shuffled transcripts of a clip in order for {percent(own)} of {clips:,.0f} evaluation '
    f'clips; chance is {percent(chance)}'
  )
  found += '' if score == 'assigned' else f', and {percent(blind)} for a blind permutation'
  found += f'. The same model gets {rates}.' if rates else '.'
  if not above(own, chance):
    return 'none', 'The model has not learned to sort', found
  leaks = [CONTROLS[video] for video, share in controls.items() if above(share, blind)]
  if leaks:
    why = f' What it gets with {" and with ".join(leaks)} it reads from the words, or from a leak in the data.'
    return 'mixed', 'The model sorts, but not only by what it sees', found + why
  if not controls:
    return 'good', 'The model has learned to sort', found + ' No control says by what.'
  return 'good', f'The model has {"begun" if own < 0.5 else "learned"} to sort by what it sees', found


def curves(points: Mapping[int, Mapping], score: str, transcripts: int | None, end: int) -> str:
  """A score over the steps under each video."""
  lines = [
    Curve(label, [(step, row[key]) for step, row in sorted(points.items()) if key in row], video)
    for video, label in VIDEOS.items()
    if any((key := f'{video}/{score}') in row for row in points.values())
  ]
  level = None if transcripts is None else CHANCE[score](transcripts)
  form = {} if score == 'kendall_tau' else {'form': percent}
  return charts.curves(lines, end, level=level, **form)


def hero(points: Mapping[int, Mapping], transcripts: int | None, end: int) -> str:
  """What a person looks for first."""
  scores = points[max(points)]
  score = score_of(scores)
  look, parts = 'none', []
  if transcripts is not None and scores.get('clips', 0) > 0:
    look, headline, sentence = verdict(scores, transcripts)
    parts.append(f'<h2>{text(headline)}</h2><p>{text(sentence, 1000)}</p>')
  keys = {video: f'{video}/{score}' for video in VIDEOS}
  shares = {label: (scores[keys[video]], video) for video, label in VIDEOS.items() if keys[video] in scores}
  level = None if transcripts is None else CHANCE[score](transcripts)
  said = '' if level is None else f', beside chance ({percent(level)})'
  parts.append(
    f'<div class="halves"><div><h4>Exact order after step {max(points):,}{said}</h4>{charts.bars(shares, level)}'
    f'{table(scores, transcripts)}</div>'
    f'<div class="tall"><h4>Exact order while training</h4>{curves(points, score, transcripts, end)}</div></div>'
  )
  return f'<section class="card verdict {look}">{"".join(parts)}</section>'


def table(scores: Mapping[str, float], transcripts: int | None) -> str:
  """Every score under each video, and its chance level."""
  head = ''.join(f'<th><i class="key {video}"></i>{SHORT[video]}</th>' for video in VIDEOS)
  rows = []
  for score, (name, meaning) in SCORES.items():
    form = (lambda value: f'{value:+.2f}') if score == 'kendall_tau' else percent
    cells = [form(scores[key]) if (key := f'{video}/{score}') in scores else '' for video in VIDEOS]
    cells.append('' if transcripts is None else form(CHANCE[score](transcripts)))
    rows.append(f'<tr title="{meaning}"><td>{name}</td>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>')
  head = f'<tr><th>video</th>{head}<th><i class="key level"></i>chance</th></tr>'
  return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def clip(example) -> str:
  """A card for one of eval/examples.json, or for what is wrong with it."""
  if reason := fault(example):
    return f'<section class="card"><p class="soft">A clip cannot be shown: {text(reason)}.</p></section>'
  places = [row.index(max(row)) for row in example['logits']]
  right = sum(place == true for place, true in zip(places, example['order']))
  whole = right == len(places)
  badge = 'exact order' if whole else f'{right} of {len(places)} right'
  rows = ''.join(map(said, example['transcripts'], example['order'], places, example['logits']))
  return (
    f'<section class="card clip"><header><h3><bdi>{text(example["id"], 120)}</bdi></h3>'
    f'<span class="badge {"good" if whole else "mixed"}">{badge}</span></header>'
    f'<div class="frames">{"".join(map(frame, example["frames"][:FRAMES]))}</div>{rows}</section>'
  )


def said(words: str, true: int, place: int, logits: list[float]) -> str:
  """One transcript: where the model puts it, where it belongs, and what it gives each place."""
  weights = [math.exp(logit - max(logits)) for logit in logits]
  odds = ''.join(
    f'<span{" class=true" if i == true else ""} style="--p: {0.6 * p:.3f}" title="place {i + 1}: {percent(p)}'
    f'{", the true one" if i == true else ""}">{i + 1}: {p:.0%}</span>'
    for i, p in enumerate(weight / sum(weights) for weight in weights)
  )
  look, mark = ('good', '✓') if place == true else ('bad', '✗')
  return (
    f'<div class="said"><span class="words"><span class="mark {look}">{mark}</span>'
    f'<bdi>{text(words, 2000) or "<i>no word</i>"}</bdi></span>'
    f'<span class="answer">put {chip(place)} truly {chip(true)}</span><span class="odds">{odds}</span></div>'
  )


def chip(place: int) -> str:
  """A place's number, in the colour that it has all over the page."""
  return f'<span class="chip" style="background: hsl({(210 + 137 * place) % 360} 60% 42%)">{place + 1}</span>'


def frame(encoded: str) -> str:
  try:
    jpeg = base64.b64decode(encoded, validate=True)
    height, width = jpeg_size(jpeg)
    picture = kit.picture(jpeg, height * width, 2 * FRAME_HEIGHT)
  except (ValueError, RecordError):
    picture = None
  if picture is None:
    return '<span class="soft">a frame that is no picture</span>'
  return f'<img class="{"small" if height < FRAME_HEIGHT else "large"}" src="{picture}" alt="">'


def fault(example) -> str | None:
  """What is wrong with an entry of eval/examples.json."""
  kinds = {'id': str, 'frames': list, 'transcripts': list, 'order': list, 'logits': list}
  if not isinstance(example, dict):
    return 'it is no object'
  for name, kind in kinds.items():
    if not isinstance(example.get(name), kind):
      return f'its {name} is not a {"text" if kind is str else kind.__name__}'
  if not all(isinstance(words, str) for words in example['transcripts'] + example['frames']):
    return 'its transcripts and frames are not texts'
  count = len(example['transcripts'])
  if not all(type(place) is int for place in example['order']) or sorted(example['order']) != list(range(count)):
    return f'its order is not one of {count} transcripts'
  rows = example['logits']
  finite = lambda value: isinstance(value, int | float) and math.isfinite(value)
  if len(rows) != count or not all(isinstance(r, list) and len(r) == count and all(map(finite, r)) for r in rows):
    return f'its logits are not {count} finite numbers for each transcript'
  return None
