"""What clips were taken for: a page of pictures with the five best classes of each, of one model or of several.

  python -m tvts_jax.predictions data/ssv2 runs/ssv2/evaluate/recognition.json --out predictions.html
  python -m tvts_jax.predictions SHARDS OURS.json THEIRS.json --only differ

Results are what python -m tvts_jax.evaluate writes of recognition, zero_shot, multiple_choice, knn or a probe, all of
the same split. Where the scores of a clip are no negative numbers, its bars show each as a share of the five.

Exit codes: 0 the page is written, 1 an error that one sentence names, 2 the command line is wrong.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tvts_jax import command
from tvts_jax.errors import UserError
from tvts_jax.files import write_whole
from tvts_jax.pages import kit
from tvts_jax.shards import index, records

FRAMES = 4  # Of a clip.
HEIGHT = 120  # Of a picture, in pixels.
ONLY = {
  'all': lambda right: True,
  'wrong': lambda right: not all(right),
  'right': all,
  'differ': lambda right: len(set(right)) > 1,
}

STYLE = """
.strip { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 4px; margin: 10px 0; max-width: 640px; }
.strip img { width: 100%; border-radius: 4px; display: block; }
.of { display: grid; gap: 18px; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }
.row { display: grid; grid-template-columns: minmax(0, 1fr) 90px 52px; gap: 8px; font-size: 13px; align-items: center; }
.row .level { height: 8px; border-radius: 4px; background: var(--bar); }
.row.true { font-weight: 600; } .row.true .level { background: var(--accent); }
.row b { font-weight: inherit; font-variant-numeric: tabular-nums; text-align: right; }
"""


def read(path: Path) -> dict[str, dict]:
  """Items of a result by the id of their clip."""
  try:
    items = json.loads(path.read_text())['items']
    return {item['id']: {name: item[name] for name in ('class', 'right', 'best')} for item in items}
  except FileNotFoundError as error:
    raise UserError(f'{path} is not there; python -m tvts_jax.evaluate makes one') from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{path} is no result of an evaluator that names classes ({error!r}); give that of recognition, zero_shot, '
      'multiple_choice, knn or a probe'
    ) from error


def bars(item: dict) -> str:
  names, scores = zip(*item['best'])
  # Shares of their sum, or of the highest where some are negative.
  signed, whole = min(scores) < 0, max(max(scores) if min(scores) < 0 else sum(scores), 1e-9)
  shares = [max(0.0, score) / whole for score in scores]
  return ''.join(
    f'<div class="row{" true" if name == item["class"] else ""}"><bdi>{kit.text(name, 90)}</bdi>'
    f'<div><div class="level" style="width: {100 * share:.0f}%"></div></div>'
    f'<b>{f"{score:.3f}" if signed else f"{share:.1%}"}</b></div>'
    for name, score, share in zip(names, scores, shares)
  )


def card(record: records.Record, results: dict[str, dict]) -> str:
  """results: {name of a model: its item}"""
  picked = (2 * np.arange(FRAMES) + 1) * len(record.frames) // (2 * FRAMES)
  pictures = (kit.picture(record.frames[i], record.height * record.width, 2 * HEIGHT) for i in picked)
  strip = ''.join(f'<img src="{picture or ""}" alt="">' for picture in pictures)
  columns = ''.join(
    f'<div><h4>{kit.text(name, 60)}: {"right" if item["right"] == 1 else "wrong"}</h4>{bars(item)}</div>'
    for name, item in results.items()
  )
  truth = next(iter(results.values()))['class']
  return (
    f'<section class="card"><h3><bdi>{kit.text(truth)}</bdi></h3><p class="soft"><bdi>{kit.text(record.video_id)}'
    f'</bdi></p><div class="strip">{strip}</div><div class="of">{columns}</div></section>'
  )


def names_of(paths: list[Path]) -> list[str]:
  """As short as tells them apart."""
  for depth in range(1, max(len(path.parts) for path in paths) + 1):
    names = ['/'.join(path.with_suffix('').parts[-depth:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  raise UserError(f'{paths[0]} is given twice; give each result once')


def found(folder, ids: set[str]) -> Iterator[records.Record]:
  """The records of some videos, in storage order."""
  wanted = {index.video_hash(id_) for id_ in ids}
  for split in index.splits(folder):
    manifest = index.load(folder, split)
    rows = index.load_index(manifest)
    for row in np.flatnonzero([video in wanted for video in rows.video.tolist()]).tolist():
      yield records.decode(index.read_record(manifest, rows, row))


def write(args) -> None:
  results = dict(zip(names_of(args.results), map(read, args.results)))
  common = set.intersection(*(set(items) for items in results.values()))
  shown = 0
  parts = ['<h1>Predictions</h1>', f'<p class="soft">{kit.text(args.shards)}; clips: {args.only}</p>']
  for record in found(args.shards, common):
    own = {name: items[record.video_id] for name, items in results.items()}
    if ONLY[args.only]([item['right'] == 1 for item in own.values()]):
      parts.append(card(record, own))
      shown += 1
      if shown == args.count:
        break
  if not shown:
    raise UserError(
      f'not one clip of {args.shards} is in all results and {args.only!r}; give the shards that were evaluated, or ask '
      'for others by --only'
    )
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_whole(args.out, kit.document('Predictions', STYLE, '\n'.join(parts)))
  print(f'{shown} clips in {args.out}')


def main(argv: list[str] | None = None) -> int:
  parser = command.parser('tvts_jax.predictions', __doc__)
  add = parser.add_argument
  add('shards', metavar='SHARDS', help='a folder that data.build made, where the pictures are')
  add('results', nargs='+', type=command.place, metavar='RESULT', help='a JSON of tvts_jax.evaluate')
  add('--only', choices=ONLY, default='all', help='which clips (%(default)s)')
  add('--count', type=int, default=24, metavar='N', help='how many clips at most (%(default)s)')
  add('--out', type=command.place, default='predictions.html', metavar='PAGE', help='(%(default)s)')
  args = parser.parse_args(argv)
  if args.count < 1:
    parser.error('--count must be at least 1')
  return command.ending(lambda: write(args))


if __name__ == '__main__':
  sys.exit(main())
