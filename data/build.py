"""From anyone's videos and transcripts to shards that training reads.

  python -m data.build SOURCE --out DIR
  python -m data.build SOURCE --out gs://bucket/dir --runner DataflowRunner ...    as docs/build_on_a_cluster.md says

SOURCE is an index file (JSONL, CSV, TSV), a folder of videos with transcripts beside them, or one of the
published layouts that `data.sources` lists. A build that was interrupted, by whatever, goes on where it was
when the same command is given again, and ends with the same bytes. To have a shard built again, because its
items failed for a reason that is gone, remove its NAME.shard.json and give the command once more.
"""

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections import Counter

from data.builder import local, manifest, shard, shard_plan, summary
from data.builder.windows import WindowConfig
from data.builder.workers import Limits
from data.outcomes import CODES, ENDS, ERRORS, SKIPS, BuildError
from data.sources import find
from tvts_jax import command, files
from tvts_jax.machine import cores
from tvts_jax.shards import storage

LOCAL = 'local'  # The runner that is no Beam runner.
WINDOW_HELP = {
  'window_s': 'length of a window, seconds',
  'windows_per_video': 'those with the most words; 0: all, overlapping by one sample',
  'fps': 'frames kept per second',
  'short_side': 'pixels of the frames; those of smaller videos are kept as they are',
  'quality': 'of the JPEGs',
  'transcripts': 'training may draw so many from a window',
  'seconds': 'each of one of these lengths',
  'gap_s': 'seconds between two of them',
  'min_words': 'words in each, at least',
  'interpolate': 'accept transcripts that time lines, not words, and mark them',
  'caption_frames': 'frames of a video with a caption instead of a transcript',
}


def main(argv=None) -> int:
  args, beam_options = parse_arguments(argv)
  # One process a core: libraries that start threads of their own only get in each other's way.
  os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  return command.ending(lambda: build(args, beam_options), ERRORS)


def build(args, beam_options: list[str]) -> None:
  folder, limits = storage.path(args.out), Limits(args.item_seconds, args.item_memory_mb)
  config = WindowConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(WindowConfig)})
  if args.runner != LOCAL:
    from data.builder import beam  # Needs an extra that most people don't have.

    pipeline = beam.make_pipeline(args.runner, beam_options)
  items = find.find(args.source, args.kind, media=args.media, lang=args.lang, val_fraction=args.val_fraction)
  planned = shard_plan.make(items, config, args.items_per_shard or shard_plan.items_per_shard(config))
  with lock(folder):
    sweep(folder)
    shard_plan.settle(folder, planned)
    done = shard.read_done(folder, planned.shards, planned.sha256)
    print(f'{len(items)} items in {len(planned.shards)} shards, {len(done)} of them done before', file=sys.stderr)
    tally = local.Tally(len(items), outcomes(done), args.max_failed_fraction, config)
    if args.runner == LOCAL:
      todo = [s for s in planned.shards if s.name not in done]
      done |= local.build(folder, todo, planned.sha256, config, limits, args.workers, tally)
    else:
      if todo := [place for place in shard_plan.places(planned.shards) if place.name not in done]:
        beam.build(pipeline, folder, todo, planned.sha256, config, limits)
      done = shard.read_done(folder, planned.shards, planned.sha256)
      tally.counts = outcomes(done)
    if missing := [s.name for s in planned.shards if s.name not in done]:
      raise BuildError(
        f'{len(missing)} shards ({missing[0]}, ...) are not in {folder} although {args.runner} ended well: '
        'do all its workers see this folder?',
        'output',
      )
    tally.judge()
    manifest.write(folder, planned, done)
    print(summary.write(folder, planned, done))


def outcomes(done: dict[str, dict]) -> Counter:
  return sum((Counter(content['outcomes']) for content in done.values()), Counter())


@contextlib.contextmanager
def lock(folder):
  """One builder at a time in a local folder. On a bucket nothing can be locked, but there two builders only
  do each other's work: whatever they write has the same bytes.
  """
  folder.mkdir(parents=True, exist_ok=True)
  if storage.is_local(folder) and not (folder / shard_plan.PLAN).exists():
    known = {files.LOCK, shard_plan.ITEMS}
    foreign = [p.name for p in folder.iterdir() if p.name not in known and not files.HALF.fullmatch(p.name)]
    if foreign:
      raise BuildError(f'{folder} holds other things ({min(foreign)}); give an empty or new folder', 'request')
  with files.locked(folder) as owner:
    if owner:
      raise BuildError(f'{folder} is being built by {owner}; wait for it or stop it', 'busy')
    yield


def sweep(folder) -> None:
  """Removes what a builder that was killed had not finished. Only under the lock."""
  for part in (folder, folder / shard.OUTCOMES):
    files.sweep(part)


def positive(kind):
  def parse(text):
    value = kind(text)
    if not 0 < value < float('inf'):
      raise argparse.ArgumentTypeError(f'{text} is not above 0')
    return value

  parse.__name__ = kind.__name__
  return parse


def fraction(text: str) -> float:
  value = float(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f'{text} is not between 0 and 1')
  return value


def val_fraction(text: str) -> float:
  value = fraction(text)
  if value == 1:
    raise argparse.ArgumentTypeError(f'{text} leaves no item to train on; take less than 1')
  return value


def number(text: str) -> int | float:
  value = float(text)
  return int(value) if value.is_integer() else value


def add_field(parser, field: dataclasses.Field) -> None:
  """An option for one field of WindowConfig, by the type of its default."""
  name, default, what = f'--{field.name.replace("_", "-")}', field.default, WINDOW_HELP[field.name]
  if isinstance(default, bool):
    parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=what)
  elif isinstance(default, tuple):
    shown = ' '.join(str(v) for v in default)
    parser.add_argument(name, nargs='+', type=number, default=default, metavar='N', help=f'{what} (default {shown})')
  else:
    what += ' (default %(default)s)'
    parser.add_argument(name, type=type(default), default=default, metavar='N', help=what)


def parse_arguments(argv):
  codes = '\n'.join(f'  {code:<24} {"(skip) " if code in SKIPS else ""}{what}' for code, what in sorted(CODES.items()))
  exits = '\n'.join(f'  {code:<3} {end:<11} {what}' for end, (code, what) in ENDS.items())
  lists = f'exit codes:\n{exits}\n\nwhat can become of an item, in DIR/outcomes/*.jsonl:\n  ok\n{codes}'
  parser = command.parser('data.build', f'{__doc__}\n{lists}')
  add = parser.add_argument
  add('source', metavar='SOURCE')
  add('--out', metavar='DIR', required=True)
  add('--kind', choices=list(find.KINDS), help='of SOURCE (default: found out)')
  add('--media', metavar='DIR', help='the folder of the videos, where SOURCE lists them but lies elsewhere')
  add('--lang', help='which captions to take where there are several languages')
  add('--val-fraction', type=val_fraction, default=0.0, help='of the items for split val, where SOURCE names no splits')
  add(
    '--runner',
    default=LOCAL,
    help='local or a Beam runner (DirectRunner, DataflowRunner ...), which gets unknown options',
  )
  add('--workers', type=positive(int), default=cores(), help='processes here (default: as many as cores, %(default)s)')
  add('--item-seconds', type=positive(float), default=600.0, help='wall clock for one item (default %(default)g)')
  add('--item-memory-mb', type=positive(int), default=4096, help='memory for one item (default %(default)s)')
  add(
    '--max-failed-fraction',
    type=fraction,
    default=0.5,
    help='stop when more of the items fail, skipped ones aside (default %(default)g)',
  )
  add('--items-per-shard', type=positive(int), help='default: as many as make a shard of about 200 MB')
  windows = parser.add_argument_group('windows', 'fixed for a folder once it is begun')
  for field in dataclasses.fields(WindowConfig):
    add_field(windows, field)
  args, rest = parser.parse_known_args(argv)
  if rest and args.runner == LOCAL:
    parser.error(f'unknown options: {" ".join(rest)} (only a Beam --runner takes options of its own)')
  return args, rest


if __name__ == '__main__':
  sys.exit(main())
