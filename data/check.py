"""Is a benchmark whole? Reads its annotations as they are published and looks for the video of every clip.

  python -m data.check NAME PATH --media DIR
  python -m data.check NAME PATH --media DIR --out READY
  python -m data.build READY/index.jsonl --out SHARDS --caption-frames 32

PATH is the folder of the annotations, or the one file there is; DIR the folder of the videos, in the layouts that
people have: in folders of their classes or not, with blanks or underscores, with the ending that is listed or another
one. It says for each split how many clips are listed, how many are expected, by the paper or where it rounds by the
published lists, and how many are there, missing or broken, and which. Broken is what is empty, a web page, or no video
by its header; with --decode every picture is decoded.

--out writes READY/index.jsonl, which data.build makes shards of, with the clips that are there, described by their
caption or else the name of their class; and READY/annotations.jsonl, which evaluators read, with all of them. Nothing
takes the place of a clip that is missing: evaluators count it as wrong.
"""

import json
import os
import signal
import sys
import textwrap
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

from data import benchmarks
from data.benchmarks import BENCHMARKS, media_files
from data.benchmarks.clips import Benchmark, Clip
from data.builder.manifest import describe
from data.builder.workers import Limits, Pool, held_back
from data.outcomes import ENDS, ERRORS, EXITS
from data.sources.items import SourceError, printable
from tvts_jax import command
from tvts_jax.files import write_whole
from tvts_jax.human import Progress
from tvts_jax.machine import cores
from tvts_jax.shards import annotations

INDEX, ANNOTATIONS = 'index.jsonl', 'annotations.jsonl'
SHOWN = 5  # Names of each kind.
WRONG = 1
LIMITS = Limits(seconds=600, memory_mb=4096)  # Of one video.


def main(argv=None) -> int:
  args = parse(argv)
  # One process a core: libraries that start threads of their own only get in each other's way.
  os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  code = command.ending(lambda: WRONG if not check(args) and args.strict else 0, ERRORS)
  return WRONG if code == EXITS['request'] else code


def check(args) -> bool:
  """Says what is there; whether all of it is."""
  benchmark = BENCHMARKS[args.name]
  path = os.path.abspath(args.path)
  media = os.path.abspath(args.media) if args.media else path if os.path.isdir(path) else os.path.dirname(path)
  if not os.path.isdir(media):
    raise SourceError('no_source', f'{media} is no folder')
  if args.out:
    claim(args.out, path, media)
  clips = benchmarks.read(args.name, path, media, args.split_number)
  found = media_files.locate(clips, benchmark, media)
  broken = find_broken(found.paths, benchmark, args.decode, args.workers)
  there = {id: at for id, at in found.paths.items() if id not in broken}
  print(printable(f'{args.name}: annotations of {path}, {media_of(benchmark)} of {media}'))
  tell(clips, benchmark.sizes[args.split_number - 1], found.paths, broken)
  tell_more(clips, benchmark, found.several, there)
  if args.out:
    write(args.out, clips, there)
  return verdict(clips, benchmark.sizes[args.split_number - 1], found.paths, broken, media)


def find_broken(paths: dict[str, str], benchmark: Benchmark, decode: bool, workers: int) -> dict[str, str]:
  """Id → what is wrong with the file, for those with something wrong."""
  waiting = [(id, media_files.Look(path, media_of(benchmark) == 'images', decode)) for id, path in paths.items()]
  waiting.reverse()
  broken, running = {}, {}
  progress, counts = Progress('files', len(paths), live=True), Counter()
  show = lambda: progress.tell(counts.total(), lambda: describe(counts) or 'none left out')
  with held_back(signal.SIGINT, signal.SIGTERM) as check_signals, Pool(workers, media_files.look, LIMITS) as pool:
    while waiting or running:
      check_signals()
      while waiting and len(running) < 8 * workers:  # So that nobody idles.
        id, job = waiting.pop()
        running[pool.submit(job)] = id
      show()
      for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
        id, answer = running.pop(future), future.result()
        counts[answer.code] += 1
        if answer.code != 'ok':
          broken[id] = f'{answer.code}: {answer.detail.strip().splitlines()[-1]}'
  if paths:
    show()
  return broken


def tell(clips: list[Clip], sizes: dict[str, int], paths, broken) -> None:
  print(f'{"split":<8}{"listed":>9}{"expected":>9}{"there":>9}{"missing":>9}{"broken":>9}')
  for split in splits(clips, sizes):
    ids = [clip.id for clip in clips if clip.split == split]
    missing, bad = [id for id in ids if id not in paths], [id for id in ids if id in broken]
    there = len(ids) - len(missing) - len(bad)
    print(f'{split:<8}{len(ids):>9}{sizes.get(split, "-"):>9}{there:>9}{len(missing):>9}{len(bad):>9}')
    if missing:
      print(f'  missing: {some([repr(id) for id in missing], ", ")}')
    for id in bad[:SHOWN]:
      print(printable(f'  broken: {paths[id]}: {broken[id]}'))
    if len(bad) > SHOWN:
      print(f'  broken: {len(bad) - SHOWN} more')


def tell_more(clips: list[Clip], benchmark: Benchmark, several: dict[str, list[str]], there: dict[str, str]) -> None:
  classes = len({clip.label for clip in clips} - {None})
  if classes or benchmark.classes:
    print(f'{classes} classes{f", {benchmark.classes} expected" if benchmark.classes else ""}')
  if pairs := [(clip.id, pair['negative']) for clip in clips for pair in clip.pairs]:
    both = sum(positive in there and negative in there for positive, negative in pairs)
    print(f'{len(pairs)} sentences with two images, {both} of them with both images there')
  if several:
    taken, other, *_ = next(iter(several.values()))
    chosen = printable(f'{taken} was taken and {other} was not')
    print(f'{len(several)} clips have several files that could be theirs: {chosen}')


def verdict(clips: list[Clip], sizes: dict[str, int], paths, broken, media) -> bool:
  missing = len(clips) - len(paths)
  if not paths:
    said = f'not one of the {len(clips)} clips is below {media}: --media says where they are'
  elif missing or broken:
    said = f'{missing + len(broken)} of {len(clips)} clips are missing or broken, and evaluators count them as wrong'
  else:
    said = f'all {len(clips)} clips are there'
  listed = Counter(clip.split for clip in clips)
  if others := [split for split, size in sizes.items() if listed[split] not in (0, size)]:
    said += f'; the lists have another number of clips than expected in {" and ".join(others)}'
  if absent := [split for split in sizes if not listed[split]]:
    said += f'; there is no list of {" and ".join(absent)}'
  print(printable(said))
  return not missing and not broken


def write(out: Path, clips: list[Clip], there: dict[str, str]) -> None:
  described = [clip for clip in clips if clip.id in there and clip.caption]
  index = [{'id': clip.id, 'video': there[clip.id], 'caption': clip.caption, 'split': clip.split} for clip in described]
  write_whole(out / ANNOTATIONS, ''.join(json.dumps(annotations.row_of(clip)) + '\n' for clip in clips))
  write_whole(out / INDEX, ''.join(json.dumps(row) + '\n' for row in index))
  bare = len(there) - len(described)
  left = f'; {bare} have neither caption nor class, so no shard can hold them' if bare else ''
  print(printable(f'{out / INDEX}: {len(index)} clips for data.build{left}'))
  print(printable(f'{out / ANNOTATIONS}: {len(clips)} clips for evaluators'))


def claim(out: Path, path: str, media: str) -> None:
  """Only a folder that is new, empty or written before: not one of somebody's annotations or videos."""
  if out.exists() and not out.is_dir():
    raise SourceError('no_source', f'{out} is no folder; name a new or an empty one')
  known = {INDEX, ANNOTATIONS}
  foreign = sorted(p.name for p in out.iterdir() if p.name not in known) if out.exists() else []
  if foreign or os.path.abspath(out) in (path, os.path.dirname(path), media):
    held = f' ({foreign[0]})' if foreign else ''
    raise SourceError('no_source', f'{out} holds other things{held}; name a new or an empty folder')
  out.mkdir(parents=True, exist_ok=True)


def splits(clips, sizes) -> list[str]:
  order = ['train', 'val', 'test']
  names = {clip.split for clip in clips} | sizes.keys()
  return sorted(names, key=lambda split: (order.index(split) if split in order else len(order), split))


def some(names: list[str], between: str) -> str:
  more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
  return between.join(names[:SHOWN]) + more


def media_of(benchmark: Benchmark) -> str:
  return 'videos' if '.mp4' in benchmark.endings else 'images'


def parse(argv):
  layouts = '\n'.join(
    textwrap.fill(f'  {name:<8} {benchmark.layout}', 110, subsequent_indent=11 * ' ', break_on_hyphens=False)
    for name, benchmark in BENCHMARKS.items()
  )
  exits = {
    EXITS['done']: 'every clip is there, or --strict is not given',
    WRONG: 'an annotation file is missing or wrong, or with --strict a clip is missing or broken',
    2: 'the command makes no sense',
    **{EXITS[end]: ENDS[end][1] for end in ('output', 'worker')},
    EXITS['interrupted']: 'SIGINT or SIGTERM',
  }
  codes = '\n'.join(f'  {code:<3} {what}' for code, what in exits.items())
  lists = f'NAME, and the annotation files in PATH or in folders below it:\n{layouts}\n\nexit codes:\n{codes}'
  parser = command.parser('data.check', f'{__doc__}\n{lists}')
  add = parser.add_argument
  add('name', metavar='NAME', choices=list(BENCHMARKS), help=', '.join(BENCHMARKS))
  add('path', metavar='PATH')
  add('--media', metavar='DIR', help='the folder of the videos (default: PATH)')
  add('--split-number', type=int, default=1, metavar='N', help='which of the three of ucf101 and hmdb51 (%(default)s)')
  add('--decode', action='store_true', help='decode every picture: the only way to see damage within a video')
  add('--strict', action='store_true', help='exit code 1 if a clip is missing or broken')
  add('--out', type=command.local_place, metavar='READY', help='folder to write index.jsonl and annotations.jsonl to')
  add('--workers', type=int, default=cores(), help='processes (default: as many as cores, %(default)s)')
  args = parser.parse_args(argv)
  if args.workers < 1:
    parser.error('--workers must be at least 1')
  if not 1 <= args.split_number <= (count := len(BENCHMARKS[args.name].sizes)):
    parser.error(f'{args.name} has {count} {"splits" if count > 1 else "split"}: --split-number {args.split_number}')
  return args


if __name__ == '__main__':
  sys.exit(main())
