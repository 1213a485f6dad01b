"""What a model takes texts for: a page with the five nearest videos of each, as pictures.

  python -m tvts_jax.nearest WEIGHTS SHARDS --texts queries.txt --out nearest.html

WEIGHTS is a folder of python -m tvts_jax.convert or the work directory of a run, SHARDS a folder of data.build, and
queries.txt has one text a line. Near is what has a large cosine in the space that videos and texts share; its numbers
mean nothing by themselves, so below each text stands how all videos of the split score, too.

Exit codes: 0 the page is written, 1 an error that one sentence names, 2 the command line is wrong.
"""

import sys
from collections.abc import Iterator

import numpy as np

from tvts_jax import command
from tvts_jax.embed import Embedder, lines_of
from tvts_jax.errors import UserError
from tvts_jax.evaluators.ranks import similarities
from tvts_jax.files import write_whole
from tvts_jax.human import Progress
from tvts_jax.pages import kit
from tvts_jax.shards import index, records

NEAREST = 5
HEIGHT = 160  # Of a picture, in pixels.
QUERIES = 200  # On one page.

STYLE = """
.five { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); margin: 12px 0; }
.five figure { margin: 0; font-size: 13px; overflow-wrap: anywhere; }
.five img { width: 100%; border-radius: 6px; background: var(--line); display: block; }
.five .level { height: 6px; border-radius: 3px; background: var(--bar); margin: 6px 0 4px; }
"""


class Split:
  """The records of a split, in storage order."""

  def __init__(self, folder, split: str | None):
    self.manifest = index.load(folder, split or index.splits(folder)[0])
    self.index = index.load_index(self.manifest)
    self.rows: list[int] = []  # Those that `clips` has given.
    self.left_out: list[str] = []

  def read(self, row: int) -> records.Record:
    return records.decode(index.read_record(self.manifest, self.index, row))

  def clips(self, model: Embedder) -> Iterator[np.ndarray]:
    """What the model looks at, of each record that can be read."""
    for row in Progress.over(range(len(self.index)), 'videos'):
      try:
        record = self.read(row)
        frames = model.frames(record, f'video {record.video_id!r}')
      except UserError as e:
        self.left_out.append(str(e))
        print(f'left out: {e}', file=sys.stderr)
        continue
      self.rows.append(row)
      yield frames


def document(weights, split: Split, texts: list[str], scores_QxG: np.ndarray) -> str:
  manifest = split.manifest
  facts = [f'{len(split.rows):,} records of {manifest.split!r} in {manifest.folder}', f'weights {weights}']
  facts += [f'{len(split.left_out):,} records could not be read'] if split.left_out else []
  parts = ['<h1>Nearest videos</h1>', *(f'<p class="soft">{kit.text(fact)}</p>' for fact in facts)]
  for text, scores_G in zip(texts, scores_QxG):
    # Of equal scores the first in storage order.
    best = np.argsort(-scores_G, kind='stable')[:NEAREST].tolist()
    figures = ''.join(figure(split.read(split.rows[n]), float(scores_G[n]), scores_G) for n in best)
    parts.append(
      f'<section class="card"><h3><bdi>{kit.text(text, 500)}</bdi></h3><div class="five">{figures}</div>'
      f'{kit.histogram(scores_G, "cosine")}</section>'
    )
  return kit.document('Nearest videos', STYLE, '\n'.join(parts))


def figure(record: records.Record, score: float, scores_G: np.ndarray) -> str:
  """The frame in the middle, how near, and what is said; the bar is full for the nearest of all videos."""
  low, high = float(scores_G.min()), float(scores_G.max())
  level = (score - low) / (high - low) if high > low else 1.0
  picture = kit.picture(record.frames[len(record.frames) // 2], record.height * record.width, 2 * HEIGHT)
  return (
    f'<figure><img src="{picture or ""}" alt=""><div class="level" style="width: {100 * level:.1f}%"></div>'
    f'<b>{score:.3f}</b> <bdi>{kit.text(record.video_id, 60)}</bdi> #{record.window_index}'
    f'<p class="soft"><bdi>{kit.text(" ".join(record.words), 160)}</bdi></p></figure>'
  )


def write(args) -> None:
  texts = lines_of(args.texts)
  if len(texts) > QUERIES:
    raise UserError(f'{args.texts} holds {len(texts)} texts; one page shows at most {QUERIES}')
  split = Split(args.shards, args.split)
  model = Embedder(args.weights)
  queries_QxC = np.stack([*model.texts(texts)])
  found = [clip['embed'] for clip in model.videos(split.clips(model))]
  if not found:
    raise UserError(f'not one record of {args.shards} could be read')
  scores_QxG = np.concatenate([scores for _, scores in similarities(queries_QxC, np.stack(found))])
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_whole(args.out, document(args.weights, split, texts, scores_QxG))
  print(f'{len(texts)} texts in {args.out}, each with the nearest of {len(found)} videos')


def main(argv: list[str] | None = None) -> int:
  parser = command.parser('tvts_jax.nearest', __doc__)
  add = parser.add_argument
  add('weights', metavar='WEIGHTS', help='a folder of weights or a work directory')
  add('shards', metavar='SHARDS', help='a folder that data.build made')
  add('--texts', type=command.place, required=True, metavar='FILE', help='one text a line')
  add('--split', help='which split (the first one)')
  add('--out', type=command.place, default='nearest.html', metavar='PAGE', help='the page (%(default)s)')
  args = parser.parse_args(argv)
  return command.ending(lambda: write(args))


if __name__ == '__main__':
  sys.exit(main())
