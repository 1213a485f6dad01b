"""The narrated world: short videos and their narration out of a seed, for demos, tests and probes.

  python -m data.world --out DIR
  python -m data.build DIR/index.jsonl --out SHARDS --window-s 12 --seconds 2 --fps 1.5 --short-side 32

Each clip is 12 s: four events of 3 s, in each a flock of one coloured shape does one of eight motions on a
dark texture, while a narrator says so: see data/world/scene.py for why a model can learn order from it, and from
nothing but what it sees. Clips are H.264 in mp4 with transcripts in the formats of common tools in turn.
DIR/index.jsonl lists them for data.build; DIR/labels.jsonl says what is in each, for
probes and for sentences that are true of one clip and not of another (pairs_of in data/world/scene.py).

Frames are 64x64: a frame is 2x2 copies of one 32x32 torus, large enough that the halved colour planes of
H.264 and JPEG keep the colours apart. Shards take half of that side: a model with 8x8 patches then gets a
quarter of the bytes and of the patch-embedding work, and the reduction averages the codec's noise away.
Transcripts of 2 s with gaps of 1 s span 11 of the 12 s, so wherever they begin, each hears one event. At 1.5
frames/s, each of the 16 segments of that span holds one frame: motions look as fast in one draw as in another.

The command is restartable (finished clips are kept) and its bytes do not depend on the number of workers.
"""

import argparse
import signal
import sys

from data.outcomes import ERRORS, EXITS
from data.world.scene import SPLITS, WORLDS
from data.world.write import VERSION, claim, write_world
from tvts_jax import command
from tvts_jax.machine import cores


def main(argv: list[str] | None = None) -> int:
  args, counts = parse(argv)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  return command.ending(lambda: make(args, counts), ERRORS)


def make(args: argparse.Namespace, counts: dict[str, int]) -> None:
  settings = {'version': VERSION, 'seed': args.seed, 'clips': counts, 'world': args.world}
  with claim(args.out, settings):
    write_world(args.out, args.seed, WORLDS[args.world], counts, args.workers)
  print(f'{sum(counts.values())} clips in {args.out}: {", ".join(f"{v} {k}" for k, v in counts.items() if v)}')


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, dict[str, int]]:
  codes = '  '.join(f'{number} {end}' for end, number in EXITS.items())
  parser = command.parser('data.world', f'{__doc__}\nexit codes: {codes}')
  parser.add_argument(
    '--out', type=command.local_place, required=True, help='folder to write: index.jsonl, labels.jsonl and clips'
  )
  parser.add_argument('--clips', type=int, default=SPLITS['train'][1], help='narrated clips to train on (%(default)s)')
  parser.add_argument('--val', type=int, default=SPLITS['val'][1], help='narrated clips held out (%(default)s)')
  for part, split in (('train', 'motion_train'), ('test', 'motion_test')):
    text = f'{part} clips of each probe, `motion` and `order` (%(default)s; 0: none)'
    parser.add_argument(f'--probe-{part}', type=int, default=SPLITS[split][1], help=text)
  parser.add_argument('--seed', type=int, default=0, help='another seed, another world (%(default)s)')
  parser.add_argument(
    '--world', choices=WORLDS, default='plain', help='the variant, see data/world/scene.py (%(default)s)'
  )
  parser.add_argument('--workers', type=int, default=cores(), help='processes (%(default)s)')
  args = parser.parse_args(argv)
  counts = {'train': args.clips, 'val': args.val}
  counts |= {f'{kind}_train': args.probe_train for kind in ('motion', 'order')}
  counts |= {f'{kind}_test': args.probe_test for kind in ('motion', 'order')}
  if min(counts.values()) < 0 or not sum(counts.values()) or args.seed < 0 or args.workers < 1:
    parser.error('give at least one clip and one worker, and no negative number')
  return args, counts


if __name__ == '__main__':
  sys.exit(main())
