"""Does a run resume late as fast as it starts, and does its input's memory grow with the data?

python -m tvts_jax.bench.resume [--out FILE.json]

Each measurement is a process of its own, as a resume is: it opens the shards, makes the batches from one step on, and
says how long it took until the first one was there, and the most memory that it held. At steps 0 and --step such
processes take turns in the order A B B A; then folders of more and more records are read at the late step. The shards
are made up and small, since what is measured is finding a place in them and not decoding.

Times are wall-clock and void where the machine was busy otherwise; memory is not.
Exit code 0: measured; 2: a bad request, with one sentence on stderr.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from tvts_jax import command
from tvts_jax.bench import turns as turns_lib
from tvts_jax.errors import UserError
from tvts_jax.human import duration, size
from tvts_jax.pages import charts, results
from tvts_jax.pages.charts import Curve

SIDE = 64  # pixels of a frame
BATCHES = 8  # that a process makes after the first one
DISTINCT = 4  # records; all others are copies under names of their own


def make_folder(folder: str, count: int):
  from tvts_jax.bench import synthetic

  made = [synthetic.make_record(number, size=(SIDE, SIDE)) for number in range(min(count, DISTINCT))]
  copies = (dataclasses.replace(made[i % len(made)], video_id=f'bench {i}') for i in range(count))
  synthetic.write_folder(folder, count, copies)


def read(folder: str, tokenizer: str, step: int, batch: int) -> dict[str, float]:
  """What one process finds: seconds to open and to the first batch, and the bytes that it held at most."""
  from tvts_jax.input import pipeline
  from tvts_jax.input.settings import InputConfig

  config = InputConfig(folder=folder, tokenizer=tokenizer, batch=batch, image_size=SIDE, min_words=1, threads=1)
  began = time.perf_counter()
  source = pipeline.open(config)
  opened = time.perf_counter()
  with source.batches(step) as batches:
    next(batches)
    first = time.perf_counter()
    for _ in range(BATCHES):
      next(batches)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
  return {'open_s': opened - began, 'first_batch_s': first - opened, 'peak_bytes': peak}


def apart(folder: str, tokenizer: str, step: int, batch: int) -> dict[str, float]:
  """`read` in a process of its own."""
  call = (
    f'import json; from tvts_jax.bench.resume import read; print(json.dumps(read{(folder, tokenizer, step, batch)}))'
  )
  done = subprocess.run([sys.executable, '-c', call], capture_output=True, text=True)
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ['it said nothing'])[-1]
    raise UserError(f'reading {folder} from step {step} on failed: {last}')
  return json.loads(done.stdout.splitlines()[-1])


def measure(args, temp: str) -> dict:
  from data import vocab

  folders = {}
  for count in sorted({args.records, *(args.records * 4**k for k in range(args.sizes))}):
    folders[count] = f'{temp}/{count}'
    print(f'making {count} records ...', file=sys.stderr)
    make_folder(folders[count], count)
  tokenizer = f'{temp}/tokenizer'
  vocab.save(vocab.train(vocab.words(folders[args.records], 'train'), 1000), tokenizer)
  load = turns_lib.Load()
  run = lambda step, count=args.records: apart(folders[count], tokenizer, step, args.batch)
  turns = turns_lib.take_turns({'start': lambda: run(0), 'late': lambda: run(args.step)}, args.rounds)
  peaks = {count: run(args.step, count)['peak_bytes'] for count in folders}
  quiet = turns_lib.quiet(load)
  seconds = {name: [one['open_s'] + one['first_batch_s'] for one in taken] for name, taken in turns.items()}
  least, most = min(peaks), max(peaks)
  return {
    'step': args.step,
    'seconds_to_first_batch': seconds,
    'late_in_times_of_start': turns_lib.paired(seconds['late'], seconds['start']),
    'peak_bytes': peaks,
    'bytes_a_record': (peaks[most] - peaks[least]) / (most - least) if most > least else None,
    **quiet,
    'rounds': args.rounds,
    'batch': args.batch,
    'host': turns_lib.host(),
    'versions': turns_lib.versions('tensorflow', 'tokenizers'),
  }


def lines(found: dict):
  """For people."""
  ratio, seconds = found['late_in_times_of_start'], found['seconds_to_first_batch']
  took = {name: duration(statistics.median(values)) for name, values in seconds.items()}
  yield f'to the first batch: {took["start"]} from step 0, {took["late"]} from step {found["step"]:,}'
  yield f'{ratio["median"]:.2f} times as long [{ratio["min"]:.2f} to {ratio["max"]:.2f}]'
  for count, peak in found['peak_bytes'].items():
    yield f'{count:,} records: {size(peak)} at most'
  if found['bytes_a_record'] is not None:
    yield f'each further record adds {found["bytes_a_record"]:,.0f} bytes'
  if found['void']:
    yield turns_lib.void_sentence(found['other_load_cores'])


def parts(found: dict) -> list[str]:
  """Of the page."""
  curves = [
    Curve(name, list(enumerate(found['seconds_to_first_batch'][who], 1)), look)
    for who, name, look in (('late', f'from step {found["step"]:,}', 'own'), ('start', 'from step 0', 'other'))
  ]
  turns = len(found['seconds_to_first_batch']['late'])
  memory = [Curve('memory', [(count, float(peak)) for count, peak in found['peak_bytes'].items()])]
  return [
    *(f'<p>{results.text(line, 500)}</p>' for line in lines(found)),
    results.card(
      'seconds to the first batch', 'Each turn is a process of its own.', charts.curves(curves, turns, unit='turn')
    ),
    results.card(
      'the most memory held',
      'By the size of the data.',
      charts.curves(memory, max(found['peak_bytes']), form=size, level=0.0, level_name='nothing', unit='record'),
    ),
  ]


def main(argv=None) -> int:
  parser = command.parser('tvts_jax.bench.resume', __doc__)
  parser.add_argument('--step', type=int, default=1_000_000, help='the late one (default: %(default)s)')
  parser.add_argument('--records', type=int, default=64, help='of the smallest folder (default: %(default)s)')
  parser.add_argument('--sizes', type=int, default=3, help='folders, each four times the last (default: %(default)s)')
  parser.add_argument('--batch', type=int, default=8, help='(default: %(default)s)')
  parser.add_argument('--rounds', type=int, default=5, help='of two turns each (default: %(default)s)')
  parser.add_argument('--out', help='write all numbers to this file as JSON, and a page beside it')
  args = parser.parse_args(argv)
  try:
    if min(args.step, args.records, args.sizes, args.batch, args.rounds) < 1:
      raise UserError('--step, --records, --sizes, --batch and --rounds must be at least 1')
    with tempfile.TemporaryDirectory(prefix='bench_resume.') as temp:
      found = measure(args, temp)
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  print('\n'.join(lines(found)))
  if args.out:
    print(f'the page is {results.save(args.out, "Resuming late", found, parts(found))}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
