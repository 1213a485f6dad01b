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
import concurrent.futures
import contextlib
import fcntl
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np

from data.outcomes import EXITS, BuildError, ending
from data.transcripts.dialects import WRITERS
from data.world.scene import DURATION_MS, FPS, SPLITS, WORLDS, World, labels_of, pairs_of, render, write_script
from tvts_jax.machine import cores

VERSION = 2  # part of a folder's settings: raise it when the same seed gives other clips


def encode_mp4(frames: np.ndarray, *, fps: int = FPS) -> bytes:
  """H.264 in mp4, one thread and no dates or muxer versions: the same frames give the same bytes."""
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4', options={'fflags': '+bitexact'}) as container:
    stream = container.add_stream('libx264', rate=fps, options={'preset': 'superfast', 'crf': '26'})
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], 'yuv420p'
    stream.codec_context.thread_count = 1
    for frame in frames:
      # OpenCV's conversion is the faster one and keeps small bright shapes a little purer.
      planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format='yuv420p')))
    container.mux(stream.encode())
  return buffer.getvalue()


def clip_files(split: str, index: int) -> tuple[str, str, str]:
  """-> (id, video, transcript), the two as paths below the world's folder."""
  name = f'{split}-{index:06d}'
  return name, f'{split}/{name}.mp4', f'{split}/{name}.{list(WRITERS)[index % len(WRITERS)]}'


def write_clip(folder: Path, seed: int, split: str, index: int, world: World = WORLDS['plain']) -> None:
  _, video, transcript = (Path(folder, name) for name in clip_files(split, index))
  if all(path.is_file() and path.stat().st_size for path in (video, transcript)):
    return
  frames, words, labels = render(seed, index, split, world=world)
  ends = np.cumsum([0] + [len(text.split()) for text in labels['narration']])
  utterances = [list(words[a:b]) for a, b in zip(ends, ends[1:])]
  writer = list(WRITERS.values())[index % len(WRITERS)]
  _replace(transcript, writer(utterances, DURATION_MS).encode())
  _replace(video, encode_mp4(frames))


def _write_clips(folder: Path, seed: int, world: World, split: str, indices: range) -> int:
  for index in indices:
    write_clip(folder, seed, split, index, world)
  return len(indices)


def _replace(path: Path, content: bytes) -> None:
  """Whole or not at all."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  temporary.write_bytes(content)
  os.replace(temporary, path)


def _begin_worker() -> None:
  """One core a worker, and none that outlives the run it works for."""
  cv2.setNumThreads(1)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def write_world(folder: Path, seed: int, world: World, counts: dict[str, int], workers: int) -> None:
  """Writes what is missing, the index last. The folder is claimed: see `claim`."""
  for rest in folder.glob('*/.*.tmp'):
    rest.unlink()
  chunks = []
  for split, count in counts.items():
    if count:
      (folder / split).mkdir(exist_ok=True)
    chunks += [(split, range(i, min(i + 32, count))) for i in range(0, count, 32)]
  total, done, began = sum(counts.values()), 0, time.monotonic()
  said = began
  context = multiprocessing.get_context('spawn')  # a fork would keep the lock of a killed run
  with concurrent.futures.ProcessPoolExecutor(workers, context, _begin_worker) as pool:
    waiting = [pool.submit(_write_clips, folder, seed, world, *chunk) for chunk in chunks]
    try:
      for future in concurrent.futures.as_completed(waiting):
        done += future.result()
        if (now := time.monotonic()) - said > 2 or done == total:
          rate, said = done / (now - began), now
          print(f'world: {done}/{total} clips, {rate:.0f}/s, {(total - done) / rate:.0f} s to go', file=sys.stderr)
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise

  index, labels = [], []
  for split, count in counts.items():
    scripts = {}
    for i in range(count):
      name, video, transcript = clip_files(split, i)
      scripts[name] = write_script(seed, i, split, world)
      index.append({'id': name, 'video': video, 'transcript': transcript, 'lang': 'en', 'split': split})
    pairs = pairs_of(scripts) if SPLITS[split][0] == 'motion' else {}
    for name, script in scripts.items():
      row = {'id': name, 'split': split} | labels_of(script)
      labels.append(row | {'pairs': pairs[name]} if pairs else row)
  for name, rows in (('labels.jsonl', labels), ('index.jsonl', index)):
    _replace(folder / name, ''.join(json.dumps(row) + '\n' for row in rows).encode())


@contextlib.contextmanager
def claim(folder: Path, settings: dict):
  """Holds a folder that is new or has the beginnings of the same world. BuildError for any other."""
  if folder.exists() and not folder.is_dir():
    raise BuildError(f'{folder} is no folder: name a new or an empty one', 'request')
  folder.mkdir(parents=True, exist_ok=True)
  known = folder / 'world.json'
  if not known.exists() and any(not path.name.startswith('.') for path in folder.iterdir()):
    raise BuildError(f'{folder} holds other files and no world.json: name a new or an empty folder', 'request')
  with open(folder / '.lock', 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise BuildError(f'another process is writing {folder}: wait for it, or name another folder', 'busy') from e
    if not known.exists():
      _replace(known, (json.dumps(settings, indent=2) + '\n').encode())
    try:
      there = {'world': 'plain'} | json.loads(known.read_text())  # Which those from before there were others don't say.
      changed = [f'{k} was {there[k]}, is {v}' for k, v in settings.items() if there[k] != v]
    except (ValueError, KeyError, TypeError) as e:
      raise BuildError(f'{known} can not be read ({e!r}): name another folder', 'plan') from e
    if changed:
      raise BuildError(f'{folder} holds another world: {"; ".join(changed)}: name another folder', 'plan')
    yield


def main(argv: list[str] | None = None) -> int:
  args, counts = _parse(argv)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  return ending(lambda: make(args, counts))


def make(args: argparse.Namespace, counts: dict[str, int]) -> None:
  settings = {'version': VERSION, 'seed': args.seed, 'clips': counts, 'world': args.world}
  with claim(args.out, settings):
    write_world(args.out, args.seed, WORLDS[args.world], counts, args.workers)
  print(f'{sum(counts.values())} clips in {args.out}: {", ".join(f"{v} {k}" for k, v in counts.items() if v)}')


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, dict[str, int]]:
  parser = argparse.ArgumentParser(
    prog='python -m data.world',
    description=__doc__,
    epilog=f'exit codes: {"  ".join(f"{number} {end}" for end, number in EXITS.items())}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--out', type=Path, required=True, help='folder to write: index.jsonl, labels.jsonl and clips')
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
