"""How fast one core turns shards into batches, and where its time goes.

python -m tvts_jax.bench.input [--folder DIR --tokenizer NAME] [--from-mp4 FILE ...] [--out FILE.json]

At the paper's setting (16 frames, crops of 224, 4 transcripts, 75 % masked), beside (a) decoding the same JPEGs and
nothing else, whole and cropped, and (b) decoding as many frames of as long a span from mp4 by one seek a frame, as
the reference code does. Without --folder it makes shards of textured, moving pictures, 456x256 at quality 75, and the
same once more with restart markers, from which input.splice decodes visible blocks alone.

All numbers are CPU time of one thread, so they hold for one core whatever else it waits for; contestants take turns
in the order A B B A and the median round counts. A machine that is busy otherwise slows every core: the report says
so, and such numbers are void.
Exit code 0: measured; 2: a bad request, with one sentence on stderr.
"""

import dataclasses
import statistics
import sys
import tempfile
import time

from tvts_jax import command, machine
from tvts_jax.bench import turns
from tvts_jax.errors import UserError
from tvts_jax.human import Progress
from tvts_jax.pages import charts, measurements


def seconds_a_clip(iterator, clips_an_item: int) -> float:
  """CPU seconds for each clip of an iterator, less its first item, for which it is still being built."""
  next(iterator)
  began, items = time.process_time(), 0
  for _ in iterator:
    items += 1
  return (time.process_time() - began) / (items * clips_an_item)


def stages(source, part, clips: int) -> dict[str, float]:
  """CPU seconds a clip of each thing that is done to one example on its own."""
  from tvts_jax.input import graph
  from tvts_jax.input.host_tf import tensorflow

  tf, rows = tensorflow(), [i % len(part) for i in range(clips)]
  spent = {}

  def timed(name, function, arguments):
    """Forgets each result at once, as the pipeline does: keeping them would measure the memory instead."""
    function(*arguments[0])
    began = time.process_time()
    for a in arguments:
      function(*a)
    spent[name] = (time.process_time() - began) / len(arguments)

  timed('read', part.read, [(row,) for row in rows])
  few = range(min(len(part), 8))
  stored = [part.parse(part.read(row), row) for row in few]
  drawn = [part.sample(s, row, 0)[0] for row, s in zip(few, stored)]
  again = clips // len(few) + 1
  timed('parse', part.parse, [(part.read(row), row) for row in few] * again)
  timed('sample', part.sample, [(s, row, 0) for row, s in zip(few, stored)] * again)
  timed('take frames', part.frames, [(row, s, d.frames) for row, s, d in zip(few, stored, drawn)] * again)
  timed('tokenise', part.tokenizer, [(d.texts,) for d in drawn] * again)
  made = [part.load(row, 0) for row in rows]
  jpegs, crops, positions = (tf.constant([getattr(e, name) for e in made]) for name in ('jpegs', 'crop', 'positions'))
  shape = source.config
  decode = lambda j, c, _: tf.stack([graph.decode(j[m], c, shape)[0, 0, 0] for m in range(shape.frames)])
  gather = lambda j, c, p: graph.visible(j, c, [p], shape)[0]
  for name, function in (('decode', decode), ('patchify', gather)):
    spent[name] = seconds_to_map(tf, (jpegs, crops, positions), function)
  spent['patchify'] -= spent['decode']
  return spent


def seconds_to_map(tf, clips: tuple, function) -> float:
  """CPU seconds for each clip that tf.data maps on one thread."""
  options = tf.data.Options()
  options.threading.private_threadpool_size = 1
  elements = tf.data.Dataset.from_tensor_slices(clips).map(function).with_options(options)
  return seconds_a_clip(elements.as_numpy_iterator(), 1)


def contestants(source, part, batches: int, videos: list[str], restarts: str) -> dict:
  """Name → a function that measures CPU seconds a clip once."""
  from tvts_jax.input import graph, pipeline
  from tvts_jax.input.host_tf import tensorflow

  tf, config = tensorflow(), source.config
  made = [part.load(row % len(part), 0) for row in range(batches * config.batch)]
  jpegs, crops = tf.constant([e.jpegs for e in made]), tf.constant([e.crop for e in made])

  def batches_of(source):
    with source.batches(0, stop_step=batches) as iterator:
      return seconds_a_clip(iterator, config.batch)

  spliced = pipeline.open(dataclasses.replace(config, folder=restarts, splice=True)) if restarts else None

  def plain(function):
    pixel = lambda j, c: tf.stack([function(j[m], c)[0, 0, 0] for m in range(config.frames)])
    return lambda: seconds_to_map(tf, (jpegs, crops), pixel)

  whole = lambda j, _: tf.io.decode_jpeg(j, channels=3, dct_method='INTEGER_ACCURATE')
  return {
    'shards to batches': lambda: batches_of(source),
    **({'the same, spliced': lambda: batches_of(spliced)} if restarts else {}),
    'plain decode, whole': plain(whole),
    'plain decode, cropped': plain(lambda j, c: graph.decode(j, c, config)),
    'mp4, one seek a frame': lambda: statistics.mean(seek_a_clip(v, config) for v in videos),
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


def measure(args, folder: str, tokenizer: str, videos: list[str], restarts: str) -> dict:
  """Everything there is to report, as plain values."""
  from tvts_jax.input import pipeline
  from tvts_jax.input.examples import Examples
  from tvts_jax.input.settings import InputConfig
  from tvts_jax.input.skipped import Trouble
  from tvts_jax.input.tokens import Tokenizer

  config = InputConfig(folder=folder, split=args.split, tokenizer=tokenizer, batch=args.batch, min_words=1, threads=1)
  source = pipeline.open(config)
  part = Examples(config, Tokenizer(tokenizer, config.max_tokens), Trouble())
  runs = contestants(source, part, args.batches, videos, restarts)
  for video in videos:
    seek_a_clip(video, config)  # Before the long part, in case it cannot be read.
  load, taken = turns.Load(), {name: [] for name in runs}
  spent = {}
  for _ in Progress.over(range(args.rounds), 'rounds'):
    for name, seconds in turns.take_turns(runs, 1).items():
      taken[name] += seconds
    for name, seconds in stages(source, part, args.batch * args.batches).items():
      spent.setdefault(name, []).append(seconds)
  quiet = turns.quiet(load)
  ours = taken['shards to batches']
  speeds = {name: turns.spread([1 / s for s in seconds]) for name, seconds in taken.items()}
  each = {name: statistics.median(values) for name, values in spent.items()}
  total = 1 / speeds['shards to batches']['median']
  each['hand over and batch'] = total - sum(each.values())
  jpegs = [len(j) for row in range(min(len(part), 4)) for j in part.load(row, 0).jpegs]
  return {
    **quiet,
    'clips_per_core_s': speeds,
    'share_of': {name: turns.paired(taken[name], ours)['median'] for name in runs if name != 'shards to batches'},
    'ms_a_clip': {name: 1000 * seconds for name, seconds in each.items()},
    'share_of_time': {name: seconds / total for name, seconds in each.items()},
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
  lines += ['', f'{result["host"]["cpu"]}; JPEGs of {result["mean_jpeg_bytes"]:.0f} bytes, {result["rounds"]} rounds']
  if result['void']:
    lines.append(turns.void_sentence(result['other_load_cores']))
  return '\n'.join(lines)


def parts(result: dict) -> list[str]:
  """Of the page."""
  head = ('clips per core and second', 'median', 'min', 'max')
  rows = [(name, *(f'{speed[key]:.1f}' for key in head[1:])) for name, speed in result['clips_per_core_s'].items()]
  shares = {f'{name}, {ms:.2f} ms': (result['share_of_time'][name], 'own') for name, ms in result['ms_a_clip'].items()}
  return [
    measurements.table(head, rows),
    measurements.card('where our time goes', 'Of a clip, on one core.', charts.bars(shares, None)),
  ]


def main(argv=None) -> int:
  parser = command.parser('tvts_jax.bench.input', __doc__)
  parser.add_argument('--folder', help='shards to read (default: made up)')
  parser.add_argument('--split', default='train', help='(default: %(default)s)')
  parser.add_argument('--tokenizer', help='a folder or hub name (default: trained on the transcripts)')
  parser.add_argument('--from-mp4', nargs='+', default=[], metavar='FILE', help='videos for (b) (default: made up)')
  parser.add_argument('--batch', type=int, default=8, help='(default: %(default)s)')
  parser.add_argument('--batches', type=int, default=9, help='of one turn, the first not timed (default: %(default)s)')
  parser.add_argument('--rounds', type=int, default=5, help='of two turns each (default: %(default)s)')
  parser.add_argument('--records', type=int, default=16, help='to make up (default: %(default)s)')
  parser.add_argument('--out', help='a JSON file for all numbers, beside which a page is written')
  args = parser.parse_args(argv)
  return command.ending(lambda: bench(args), {UserError: (2, 'error: {}')})


def bench(args) -> None:
  if args.batches < 2 or args.rounds < 1:
    raise UserError('--batches must be at least 2 and --rounds at least 1')
  with tempfile.TemporaryDirectory(prefix='bench_input.') as temp:
    result = measure(args, *media(args, temp))
  print(table(result))
  if args.out:
    print(f'the page is {measurements.save(args.out, "The input", result, parts(result))}')


def media(args, temp: str) -> tuple[str, str, list[str], str]:
  """Folder, tokenizer and videos, made up where they are not given; and a folder with restarts, if that is made up."""
  from tvts_jax.bench import synthetic
  from tvts_jax.input import vocab

  folder, tokenizer, videos, restarts = args.folder, args.tokenizer, args.from_mp4, ''
  if not folder:
    folder, restarts = f'{temp}/shards', f'{temp}/restarts'
    print(f'making {args.records} records, twice ...', file=sys.stderr)
    synthetic.make_folder(folder, args.records)
    synthetic.make_folder(restarts, args.records, restarts=True)
  if not tokenizer:
    tokenizer = f'{temp}/tokenizer'
    vocab.save(vocab.train(vocab.words(folder, args.split), 30522), tokenizer)
  if not videos:
    videos = [f'{temp}/video.mp4']
    print('making a video ...', file=sys.stderr)
    synthetic.make_mp4(videos[0], seconds=24)
  return folder, tokenizer, videos, restarts


if __name__ == '__main__':
  sys.exit(main())
