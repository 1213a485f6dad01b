"""How fast one core turns shards into batches, where its time goes, and what of it the training process spends.

python -m tvts_jax.bench.input [--folder DIR --tokenizer NAME] [--workers N] [--from-mp4 FILE ...] [--out FILE.json]

At the paper's setting (16 frames, crops of 224, 4 transcripts, 75 % masked), or with --folder at the sampling that its
records were built for, beside (a) decoding the same JPEGs and nothing else, whole and cropped, and (b) decoding as many
frames of as long a span from mp4 by one seek a frame, as the reference code does. Without --folder it makes shards of
textured, moving pictures, 456x256 at quality 75.

All processes that take part run on one core, as an input worker does beside others, and numbers are their CPU time.
Contestants take turns in the order A B B A and the median round counts. What the training process itself spends on a
clip cannot be spread over cores: its inverse is the most clips a second that one process can be fed, however many
workers it has. A machine that is busy otherwise slows every core: the report says so, and such numbers are void.
Exit code 0: measured; 2: a bad request, with one sentence on stderr.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

from tvts_jax import command, machine
from tvts_jax.bench import turns
from tvts_jax.errors import UserError
from tvts_jax.human import Progress
from tvts_jax.pages import charts, measurements

COPIES = 8  # Of each record: an order of few records costs more than one of many.


@contextlib.contextmanager
def one_core() -> Iterator[None]:
  """What starts within runs on one core, where the system can see to it."""
  if not hasattr(os, 'sched_setaffinity'):
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {max(before)})
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


def cpu_s(pids=()) -> float:
  """Of this process and of others that live."""
  total = time.process_time()
  for pid in pids:
    with open(f'/proc/{pid}/stat') as f:
      user, system = map(int, f.read().rpartition(')')[2].split()[11:13])
    total += (user + system) / os.sysconf('SC_CLK_TCK')
  return total


def seconds_a_clip(iterator, clips_an_item: int, pids=lambda: (), ahead=lambda: 0) -> tuple[float, float]:
  """CPU seconds for each clip of an iterator, of all processes that take part and of this one.

  The first item is left out, since the iterator is still being built for it, and so are those that are made `ahead`.
  """
  next(iterator)
  made = ahead()
  before, own, items = cpu_s(pids()), cpu_s(), 0
  for _ in iterator:
    items += 1
  clips = (items - made) * clips_an_item
  return (cpu_s(pids()) - before) / clips, (cpu_s() - own) / clips


def stages(source, clips: int) -> dict[str, float]:
  """CPU seconds a clip of each thing that is done to one example on its own."""
  import numpy as np

  from tvts_jax.input import decoders

  (part,), config = source.parts, source.config
  decode = decoders.DECODERS[decoders.resolve(config.decoder)]
  made = [part.load(row, 0) for row in range(min(len(part), 8))]
  texts = [source.decode_tokens(e.tokens, e.token_mask) for e in made]
  patches = np.zeros(*source.row_spec['patches'])
  rows = [i % len(part) for i in range(clips)]
  some = [i % len(made) for i in range(clips)]
  spent = {}

  def timed(name, function, items):
    """Forgets each result at once, as workers do: keeping them would measure the memory instead."""
    function(items[0])
    began = time.process_time()
    for item in items:
      function(item)
    spent[name] = (time.process_time() - began) / len(items)

  timed('read and draw', lambda row: part.load(row, 0), rows)
  timed('tokenise', lambda i: part.tokenizer(texts[i]), some)
  spent['read and draw'] -= spent['tokenise']
  timed('decode', lambda i: decode(made[i].jpegs, made[i].crop, config, [(made[i].positions, patches)]), some)
  return spent


def contestants(source, batches: int, workers: int, videos: list[str]) -> dict:
  """Name → a function that measures CPU seconds a clip once: (of all processes, of this one)."""
  from tvts_jax.input import pipeline
  from tvts_jax.input.host_tf import tensorflow

  tf, config = tensorflow(), source.config
  (part,) = source.parts
  made = [part.load(row % len(part), 0) for row in range(batches * config.batch)]

  def batches_of(workers: int):
    asked = pipeline.open(dataclasses.replace(config, workers=workers, prefetch_bytes=0))  # LEAST are made ahead.
    with asked.batches(0, stop_step=batches) as iterator:
      return seconds_a_clip(iterator, config.batch, lambda: iterator.pids, iterator.finish)

  def plain(function):
    """One thread of tf.data."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    pixel = lambda j, c: tf.stack([function(j[m], c)[0, 0, 0] for m in range(config.frames)])
    clips = tf.data.Dataset.from_tensor_slices(([e.jpegs for e in made], [e.crop for e in made]))
    clips = clips.map(pixel).with_options(options)
    return lambda: seconds_a_clip(clips.as_numpy_iterator(), 1)

  how = dict(channels=3, dct_method='INTEGER_ACCURATE')
  return {
    'shards to batches': lambda: batches_of(0),
    f'the same, {workers} worker{"s" * (workers > 1)}': lambda: batches_of(workers),
    'plain decode, whole': plain(lambda j, _: tf.io.decode_jpeg(j, **how)),
    'plain decode, cropped': plain(lambda j, c: tf.io.decode_and_crop_jpeg(j, c, **how)),
    'mp4, one seek a frame': lambda: (statistics.mean(seek_a_clip(v, config) for v in videos),) * 2,
  }


def seek_a_clip(video: str, config) -> float:
  """CPU seconds for the frames of one clip: a seek, a decode and a change to RGB each."""
  import cv2

  began = time.process_time()
  capture = cv2.VideoCapture(video)
  total, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
  if total < 1:
    raise UserError(f'{video} is no video that OpenCV can read')
  span = min(total, int(config.span_ms(config.lengths_ms[len(config.seconds) // 2]) / 1000 * fps))
  first = (total - span) // 2
  for m in range(config.frames):
    capture.set(cv2.CAP_PROP_POS_FRAMES, first + (2 * m + 1) * span // (2 * config.frames))
    found, image = capture.read()
    if not found:
      raise UserError(f'{video} breaks off at frame {m} of {config.frames}')
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  capture.release()
  return time.process_time() - began


def measure(args, folder: str, tokenizer: str, videos: list[str]) -> dict:
  """Everything there is to report, as plain values."""
  from tvts_jax.input import pipeline
  from tvts_jax.input.settings import InputConfig
  from tvts_jax.shards import index

  sampling = {**index.load(folder, args.split).sampling}
  config = InputConfig(folder=folder, split=args.split, tokenizer=tokenizer, batch=args.batch, **sampling)
  source = pipeline.open(config)
  runs = contestants(source, args.batches, args.workers, videos)
  for video in videos:
    seek_a_clip(video, config)  # Before the long part, in case it cannot be read.
  load, taken, spent = turns.Load(), {name: [] for name in runs}, {}
  for _ in Progress.over(range(args.rounds), 'rounds'):
    for name, seconds in turns.take_turns(runs, 1).items():
      taken[name] += seconds
    for name, seconds in stages(source, args.batch * args.batches).items():
      spent.setdefault(name, []).append(seconds)
  quiet = turns.quiet(load)
  everywhere = {name: [whole for whole, _ in seconds] for name, seconds in taken.items()}
  ours, by_workers, *_ = everywhere
  speeds = {name: turns.spread([1 / s for s in seconds]) for name, seconds in everywhere.items()}
  each = {name: statistics.median(values) for name, values in spent.items()}
  total = 1 / speeds[ours]['median']
  each['hand over and batch'] = total - sum(each.values())
  serial = statistics.median(own for _, own in taken[by_workers])
  (part,) = source.parts
  jpegs = [len(j) for row in range(min(len(part), 4)) for j in part.load(row, 0).jpegs]
  return {
    **quiet,
    'clips_per_core_s': speeds,
    'share_of': {name: turns.paired(everywhere[name], everywhere[ours])['median'] for name in runs if name != ours},
    'ms_a_clip': {name: 1000 * seconds for name, seconds in each.items()},
    'share_of_time': {name: seconds / total for name, seconds in each.items()},
    'serial_ms_a_clip': 1000 * serial,
    'most_clips_s': 1 / serial,
    'mean_jpeg_bytes': statistics.mean(jpegs),
    'record_bytes': int(part.index.offset[-1]) // len(part),
    'rounds': args.rounds,
    'clips_a_turn': args.batches * args.batch,
    'setting': {n: getattr(config, n) for n in ('frames', 'image_size', 'transcripts', 'mask_ratio', 'max_tokens')},
    'host': machine.host(),
    'versions': machine.versions(),
  }


def table(result: dict) -> str:
  lines = [f'{"clips per core and second":<28}{"median":>9}{"min":>9}{"max":>9}   ours is']
  for name, speed in result['clips_per_core_s'].items():
    share = ''
    if name in result['share_of']:
      ratio = result['share_of'][name]
      share = f'{ratio:8.0%} of it' if ratio < 10 else f'{ratio:8.0f} times it'
    lines.append(f'{name:<28}{speed["median"]:>9.1f}{speed["min"]:>9.1f}{speed["max"]:>9.1f}{share}')
  lines += ['', f'{"where our time goes":<28}{"ms/clip":>9}{"share":>9}']
  for name, ms in result['ms_a_clip'].items():
    lines.append(f'{name:<28}{ms:>9.3f}{result["share_of_time"][name]:>9.1%}')
  lines += ['', serial(result)]
  lines += ['', f'{result["host"]["cpu"]}; JPEGs of {result["mean_jpeg_bytes"]:.0f} bytes, {result["rounds"]} rounds']
  if result['void']:
    lines.append(turns.void_sentence(result['other_load_cores']))
  return '\n'.join(lines)


def serial(result: dict) -> str:
  return (
    f'the training process spends {result["serial_ms_a_clip"]:.3f} ms on a clip that workers make, '
    f'so it takes {result["most_clips_s"]:,.0f} clips/s at most'
  )


def parts(result: dict) -> list[str]:
  """Of the page."""
  head = ('clips per core and second', 'median', 'min', 'max')
  rows = [(name, *(f'{speed[key]:.1f}' for key in head[1:])) for name, speed in result['clips_per_core_s'].items()]
  shares = {f'{name}, {ms:.2f} ms': (result['share_of_time'][name], 'own') for name, ms in result['ms_a_clip'].items()}
  return [
    measurements.table(head, rows),
    measurements.card('where our time goes', f'Of a clip, on one core; {serial(result)}.', charts.bars(shares, None)),
  ]


def main(argv=None) -> int:
  parser = command.parser('tvts_jax.bench.input', __doc__)
  parser.add_argument('--folder', help='shards to read (default: made up)')
  parser.add_argument('--split', default='train', help='(default: %(default)s)')
  parser.add_argument('--tokenizer', help='a folder or hub name (default: trained on the transcripts)')
  parser.add_argument('--from-mp4', nargs='+', default=[], metavar='FILE', help='videos for (b) (default: made up)')
  parser.add_argument('--workers', type=int, default=1, help='processes that make rows (default: %(default)s)')
  parser.add_argument('--batch', type=int, default=32, help='(default: %(default)s)')
  parser.add_argument('--batches', type=int, default=8, help='of one turn, three not timed (default: %(default)s)')
  parser.add_argument('--rounds', type=int, default=5, help='of two turns each (default: %(default)s)')
  parser.add_argument('--records', type=int, default=16, help='to make up (default: %(default)s)')
  parser.add_argument('--out', help='a JSON file for all numbers, beside which a page is written')
  args = parser.parse_args(argv)
  return command.ending(lambda: bench(args), {UserError: (2, 'error: {}')})


def bench(args) -> None:
  if args.batches < 4 or args.rounds < 1 or args.workers < 1:
    raise UserError('--batches must be at least 4, --rounds and --workers at least 1')
  with tempfile.TemporaryDirectory(prefix='bench_input.') as temp:
    files = media(args, temp)
    with one_core():
      result = measure(args, *files)
  print(table(result))
  if args.out:
    print(f'the page is {measurements.save(args.out, "The input", result, parts(result))}')


def media(args, temp: str) -> tuple[str, str, list[str]]:
  """Folder, tokenizer and videos, made up where they are not given."""
  from tvts_jax.bench import synthetic
  from tvts_jax.input import vocab

  folder, tokenizer, videos = args.folder, args.tokenizer, args.from_mp4
  if not folder:
    folder = f'{temp}/shards'
    print(f'making {args.records} records ...', file=sys.stderr)
    synthetic.make_folder(folder, args.records, COPIES)
  if not tokenizer:
    tokenizer = f'{temp}/tokenizer'
    vocab.save(vocab.train(vocab.words(folder, args.split), 30522), tokenizer)
  if not videos:
    videos = [f'{temp}/video.mp4']
    print('making a video ...', file=sys.stderr)
    synthetic.make_mp4(videos[0], seconds=24)
  return folder, tokenizer, videos


if __name__ == '__main__':
  sys.exit(main())
