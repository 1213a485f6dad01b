"""What became of a run: a work directory as one HTML page that needs nothing but itself.

  python -m tvts_jax.report runs/demo

It reads what the trainer leaves there (metrics.jsonl, config.txt, clock.json, eval/) and says what is missing, so it
can be asked of a run at any time. Exit codes: 0 the page is written, 1 that is no work directory or the page cannot be
written, 2 the command line is wrong.
"""

import re
import sys
import time

from tvts_jax import command, objectives
from tvts_jax.errors import UserError
from tvts_jax.files import write_whole
from tvts_jax.human import duration, number, percent
from tvts_jax.pages import charts, kit, sorting
from tvts_jax.pages.charts import Curve
from tvts_jax.pages.kit import missing, text
from tvts_jax.run import changes as changes_lib
from tvts_jax.run import clock
from tvts_jax.run.history import Run, read
from tvts_jax.shards import storage

FILE = 'report.html'
SHOWN = 50  # Damaged records.

# Metrics by the last part of their name.
MEANINGS = {
  'loss': 'loss',
  'item': 'transcripts placed right',
  'exact': 'exact order',
  'assigned': 'exact order, each place given once',
  'pairs': 'pairs in the right order',
  'v2t_r1': 'video to text R@1',
  't2v_r1': 'text to video R@1',
}
# Metrics that are shares, by the end of their name.
SHARE = re.compile('(^|[/_])(item|exact|assigned|pairs|r[0-9]+|top[0-9]+|per_class)$')
LOOKS = {
  'step': 'own',
  'input': 'bad',
  'compile': 'blank',
  'evaluate': 'calm',
  'save': 'sand',
  'restart': 'other',
  'start': 'plain',
  'other': 'faint',
}


def build(run: Run) -> str:
  end = max(run.setting('steps') or 0, run.step, 1)
  sorters = [points for points in run.evals.values() if sorting.score_of(points[max(points)])]
  parts = [header(run), *(missing(note) for note in run.notes)]
  if sorters:
    parts.append(sorting.hero(sorters[0], run.setting('model.transcripts'), end))
  else:
    parts.append(missing('No sorting was evaluated: eval/ has no results with own/exact or own/assigned.'))
  parts += [*evaluations(run, end), *training(run, end), time_split(run), *damage(run), *clips(run), *texts(run)]
  return kit.document(f'{run.name} report', charts.STYLE + sorting.STYLE, '\n'.join(parts))


def header(run: Run) -> str:
  total, batch = run.setting('steps'), run.setting('input.batch')
  facts = {'steps': f'{run.step:,}' + (f' of {total:,}' if total and total != run.step else '')}
  if batch:
    facts |= {'clips a batch': number(batch), 'clips seen': number(run.step * batch)}
  if run.clock:
    facts['in'] = duration(sum(run.clock['seconds'].values()))
  model = [run.config[key] for key in ('model.video.width', 'model.video.depth') if key in run.config]
  if len(model) == 2:
    facts['video encoder'] = f'{model[0]} wide, {model[1]} blocks'
  written = max([row['time'] for row in run.rows if 0 < row.get('time', 0) < 1e11], default=None)
  when = '' if written is None else time.strftime('last heard of on %Y-%m-%d at %H:%M UTC', time.gmtime(written))
  return kit.header(run.name, when, facts)


def title(name: str) -> str:
  """A metric of training for people."""
  objective, _, score = name.rpartition('/')
  return f'{objective}: {MEANINGS[score]}' if objective and score in MEANINGS else name.replace('_', ' ')


def evaluations(run: Run, end: int):
  """Numbers and curves of every evaluator."""
  transcripts = run.setting('model.transcripts')
  for name, points in run.evals.items():
    scores = points[max(points)]
    clips = f', {scores["clips"]:,.0f} clips' if 'clips' in scores else ''
    clips += f', {scores["missing"]:,.0f} missing' if scores.get('missing') else ''
    yield f'<h2>Evaluation: {text(name)} <span class="soft">step {max(points):,}{clips}</span></h2>'
    if sorting.score_of(scores):
      plots = {
        (title, meaning): sorting.curves(points, score, transcripts, end)
        for score, (title, meaning) in sorting.SCORES.items()
        if f'own/{score}' in scores and score != sorting.score_of(scores)
      }
    else:
      names = sorted({name for row in points.values() for name in row} - {'step', 'clips', 'missing'})
      plots = {(name, ''): plot([row for _, row in sorted(points.items())], name, end) for name in names}
    yield cards(plots)


def training(run: Run, end: int):
  yield '<h2>Training</h2>'
  if not run.rows:
    yield missing('metrics.jsonl has no numbers of training steps.')
    return
  order = lambda name: (name != 'loss', '/' not in name, name)  # Losses and scores before norms and the like.
  names = sorted({name for row in run.rows for name in row} - {'step', 'time'}, key=order)
  transcripts, batch = run.setting('model.transcripts'), run.setting('input.batch')
  levels = {name: objectives.chance(name, transcripts, batch) for name in names} if transcripts and batch else {}
  plots = {(title(name), ''): plot(run.rows, name, end, noisy=True, level=levels.get(name)) for name in names}
  timed = [(row['step'], row['time']) for row in run.rows if 'time' in row]
  speeds = [(b, (b - a) * (batch or 1) / (t - s)) for (a, s), (b, t) in zip(timed, timed[1:]) if b > a and t > s]
  if speeds:
    unit = 'clips' if batch else 'steps'
    plots[f'{unit} per second', 'all pauses included'] = charts.curves(
      [Curve(f'{unit}/s', speeds, 'calm')], end, noisy=True
    )
  yield cards(plots)


def plot(rows: list[dict], name: str, end: int, **look) -> str:
  line = Curve('last', [(row['step'], row[name]) for row in rows if name in row])
  share = SHARE.search(name) is not None
  return charts.curves([line], end, **({'form': percent} if share else {}), **look)


def cards(plots: dict[tuple[str, str], str]) -> str:
  """Plots by name and by what there is to say about it."""
  made = ''.join(
    f'<div class="card"><h3>{text(name)}</h3><p class="soft">{text(said)}</p>{svg}</div>'
    for (name, said), svg in plots.items()
  )
  return f'<div class="grid wide">{made}</div>'


def time_split(run: Run) -> str:
  head = '<h2>Where the time went</h2>'
  if run.clock is None:
    return head + missing('There is no clock.json, so how the time was spent is not known.')
  seconds = run.clock['seconds']
  parts = {
    clock.PARTS.get(name, name): (seconds[name], LOOKS.get(name, 'faint'))
    for name in [*LOOKS, *seconds]
    if name in seconds
  }
  said = [f'{duration(sum(seconds.values()))} in all']
  if run.clock['restarts']:
    said.append(f'{run.clock["restarts"]} restart{"s" if run.clock["restarts"] > 1 else ""}')
  if run.clock['down'] >= 1:
    said.append(f'nothing ran for {duration(run.clock["down"])} in between, which is not counted')
  said = ', '.join(said)
  return f'{head}<div class="card">{charts.split(parts, duration)}<p class="soft">{said}.</p></div>'


def damage(run: Run):
  """The records that could not be used; after a resume with other processes, two of them may tell of one skip."""
  steps = {}  # By shard and record: when it was skipped, and why.
  for row in run.skipped:
    place, reason = (str(row.get('shard')), str(row.get('record'))), str(row.get('reason'))
    steps.setdefault(place, {})[row['step']] = reason
  if not steps:
    return
  yield '<h2>Damaged records</h2>'
  times = sum(map(len, steps.values()))
  said = f'{len(steps):,} could not be used, so that others stood in for them {times:,} times'
  yield f'<p class="soft">{said}. python -m data.validate --decode FOLDER finds all that there are.</p>'
  lines = [f'step {min(reasons)}: {text(reasons[min(reasons)], 500)}' for reasons in list(steps.values())[:SHOWN]]
  more = [f'and {len(steps) - SHOWN:,} more'] if len(steps) > SHOWN else []
  shown = '\n'.join(lines + more)
  yield f'<details class="card"><summary>Which, when first, and why</summary><pre>{shown}</pre></details>'


def clips(run: Run):
  yield '<h2>Clips and what the model makes of them</h2>'
  if not run.examples:
    yield missing('There is no eval/examples.json with clips to show.')
    return
  yield (
    '<p class="soft">Frames as the model sees them, and the transcripts in the shuffled order that it gets them in. '
    'Each has the place with the highest probability, and beside it the place it was really spoken in; the '
    'probabilities follow, that of the true place framed.</p>'
  )
  yield from map(sorting.clip, run.examples[: sorting.CLIPS])


def texts(run: Run):
  yield '<h2>Settings</h2>'
  if not run.config_text:
    yield missing('There is no config.txt, so neither the settings nor the chance levels are known.')
  changes = '\n'.join(changes_lib.told(row) for row in run.changes)
  pages = {'Changed on the way': changes, 'Config': run.config_text, 'Parameters': run.parameters_text}
  for title, content in pages.items():
    if content:
      lines = '\n'.join(text(line, 1000) for line in content.splitlines())
      yield f'<details class="card"><summary>{title}</summary><pre>{lines}</pre></details>'


def write(workdir, out=None):
  """Writes the page of a work directory and returns its path."""
  out = storage.path(out or storage.path(workdir) / FILE)
  html = build(read(workdir))
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, html)
  except storage.StorageError:
    raise
  except OSError as error:
    raise UserError(f'the report cannot be written to {out} ({error.strerror or error}); name another place') from error
  return out


def main(argv: list[str] | None = None) -> int:
  parser = command.parser('tvts_jax.report', __doc__)
  parser.add_argument('workdir', metavar='WORKDIR', help='work directory of a run')
  parser.add_argument('--out', metavar='FILE', help=f'the page (WORKDIR/{FILE})')
  args = parser.parse_args(argv)
  return command.ending(lambda: print(f'{write(args.workdir, args.out)}; open it in a browser'))


if __name__ == '__main__':
  sys.exit(main())
