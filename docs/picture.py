"""A clip that a run was evaluated on, as a picture: frames, shuffled transcripts, and where the model puts them.

  python docs/picture.py runs/demo/run --out sorting.svg

The clip is one of those at the end of the run's report, and --example says which. The picture is a drawing, frames and
all, with nothing in it that is fetched: it shows in any document, and in any browser.

Exit codes: 0 the picture is written, 1 an error that one sentence names, 2 the command line is wrong.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from tvts_jax import command
from tvts_jax import config as config_lib
from tvts_jax.errors import UserError
from tvts_jax.files import write_whole
from tvts_jax.media.uniform import spread
from tvts_jax.objectives import orders
from tvts_jax.pages import kit, sorting
from tvts_jax.predictions import found
from tvts_jax.shards.records import Record

WIDTH, SIDE, GAP = 880, 103, 8  # Of the picture, of a frame, and between two.
PIXELS = 32  # Of a frame's height that are drawn.
ROW, BOX = 44, 375  # Height of a transcript with what is below it, and width.
WORDS = 48  # Characters of a transcript.
RIGHT, WRONG = '#2a9d8f', '#d64550'

STYLE = """
text { font: 14px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1c2330; }
.soft { fill: #667085; font-size: 12px; } .end { text-anchor: end; } .middle { text-anchor: middle; font-weight: 700; }
.box { fill: #f4f6fa; stroke: #d8dee8; } .way { fill: none; stroke-width: 2.5; }
"""


def pixels(jpeg: bytes, x: float, y: float) -> tuple[str, float]:
  """A frame as a drawing, SIDE high, and its width."""
  image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
  if image is None:
    raise UserError('a frame of the clip cannot be decoded; choose another one by --example')
  wide = round(PIXELS * image.shape[1] / image.shape[0])
  # Few colours, so that neighbours are often of one.
  image = cv2.resize(image, (wide, PIXELS), interpolation=cv2.INTER_AREA) // 16 * 17
  runs, scale = defaultdict(list), SIDE / PIXELS
  for row, line in enumerate(image):
    starts = [0, *(1 + np.flatnonzero((line[1:] != line[:-1]).any(axis=1))).tolist(), wide]
    for start, stop in zip(starts, starts[1:]):
      runs['#' + bytes(line[start] // 17).hex()[1::2]].append(f'M{start} {row}h{stop - start}v1h{start - stop}z')
  paths = ''.join(f'<path fill="{colour}" d="{"".join(parts)}"/>' for colour, parts in runs.items())
  return (
    f'<g transform="translate({x:g} {y:g}) scale({scale:g})" shape-rendering="crispEdges">{paths}</g>',
    wide * scale,
  )


def strip(record: Record) -> str:
  """As many frames as fit, evenly spread over the clip, with their times."""
  across = (WIDTH + GAP) // (SIDE * record.width / record.height + GAP)
  count = max(1, min(len(record.frames), int(across)))
  parts, x = [], 0.0
  for i in spread(len(record.frames), count):
    drawn, wide = pixels(record.frames[i], x, 24)
    seconds = (record.frame_times_ms[i] - record.start_ms) / 1000
    parts.append(f'{drawn}<text class="soft" x="{x:g}" y="{24 + SIDE + 16}">{seconds:.1f} s</text>')
    x += wide + GAP
  return ''.join(parts)


def box(words: str, place: int, x: float, y: float, mark: str) -> str:
  return (
    f'<rect class="box" x="{x:g}" y="{y:g}" width="{BOX}" height="{ROW - 12}" rx="8"/>'
    f'<text x="{x + 12:g}" y="{y + 21:g}">{kit.text(words, WORDS)}</text>{mark}'
  )


def draw(record: Record, example: dict) -> str:
  """example: an entry of eval/examples.json, of this record."""
  logits_KxK, order_K = np.array(example['logits']), example['order']
  places_K = np.asarray(orders.assign(logits_KxK[None]))[0].tolist()
  top, far = 24 + SIDE + 60, WIDTH - BOX - 1
  parts = [
    '<text class="soft" x="0" y="14">A clip</text>',
    strip(record),
    f'<text class="soft" x="1" y="{top - 10}">What is said in it, shuffled</text>',
    f'<text class="soft" x="{far}" y="{top - 10}">In the order that the model gives them</text>',
  ]
  for i, (words, place, true) in enumerate(zip(example['transcripts'], places_K, order_K)):
    colour = RIGHT if place == true else WRONG
    y, there = top + i * ROW, top + place * ROW
    middle = (ROW - 12) / 2
    parts.append(
      f'<path class="way" stroke="{colour}" d="M{BOX + 4} {y + middle:g}C{BOX + 64} {y + middle:g} {far - 64} '
      f'{there + middle:g} {far - 8} {there + middle:g}"/>'
    )
    tick = f'<text class="middle" x="{WIDTH - 16}" y="{there + 21:g}" style="fill: {colour}">'
    tick += f'{"✓" if place == true else "✗"}</text>'
    parts += [box(words, i, 1, y, ''), box(words, place, far, there, tick)]
  height = top + len(order_K) * ROW
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 -12 {WIDTH + 32} {height + 16}" width="{WIDTH + 32}">'
    f'<style>{STYLE}</style><rect x="-15" y="-11" width="{WIDTH + 30}" height="{height + 14}" rx="14" fill="#fff" '
    f'stroke="#d8dee8"/>{"".join(parts)}</svg>\n'
  )


def of_run(workdir: Path, nth: int) -> str:
  """The nth example of a run, from 1."""
  path = workdir / 'eval' / 'examples.json'
  if not path.exists():
    raise UserError(f'{path} is not there; a run with a sorting evaluator writes it when it comes to its end')
  examples = [e for e in json.loads(path.read_text()) if sorting.fault(e) is None]
  if not 1 <= nth <= len(examples):
    raise UserError(f'{path} has {len(examples)} examples, and none is number {nth}; choose one of them by --example')
  example = examples[nth - 1]
  video, _, window = example['id'].rpartition(' #')
  folder = config_lib.read_input(workdir).folder
  record = next((r for r in found(folder, {video}) if str(r.window_index) == window), None)
  if record is None:
    raise UserError(f'{folder} has no clip {example["id"]!r}; bring the shards back that {workdir} was evaluated on')
  return draw(record, example)


def write(args) -> None:
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_whole(args.out, of_run(args.workdir, args.example))
  print(f'{args.out}: {args.out.stat().st_size / 1000:.0f} kB')


def main(argv: list[str] | None = None) -> int:
  parser = command.parser('docs/picture.py', __doc__)
  parser.add_argument('workdir', type=Path, metavar='WORKDIR', help='work directory of a run')
  parser.add_argument('--example', type=int, default=1, metavar='N', help='which clip of its report (%(default)s)')
  parser.add_argument('--out', type=Path, default=Path('sorting.svg'), metavar='FILE', help='(%(default)s)')
  args = parser.parse_args(argv)
  return command.ending(lambda: write(args))


if __name__ == '__main__':
  sys.exit(main())
