"""Look at built records in a browser: one self-contained HTML page.

  python -m data.inspect DIR                                a few records and the quality of the data
  python -m data.inspect DIR --id ID                        the windows of one video
  python -m data.inspect DIR --seed 0 --step 1200 --batch 256      what that training step was given

Each record is shown as frames on a time line with the words under them, and with the K transcripts and M
frames that training draws from it: those of --seed and the epoch of --step, or of epoch 0. A step names its
records only together with the size of the global batch, and for a run that reads this folder alone.
Exit codes: 0 done, 1 the data can not be read, 2 wrong arguments.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from data import quality, timeline
from data.shards import publish
from tvts_jax import page
from tvts_jax.input import index, records
from tvts_jax.input.errors import InputError
from tvts_jax.input.order import Order
from tvts_jax.input.rng import example_rng
from tvts_jax.input.sampling import Draw, SamplingConfig, draw

MAX_RECORDS = 64  # on one page: browsers get slow, and nobody looks at more


def choose(manifest: index.Manifest, ids: index.Index, args) -> tuple[list[int], list[int]]:
  """-> the records to show, by place in the index, and the epoch each one is drawn in."""
  order = args.step is not None and Order(ids.video, args.batch, args.seed)
  if args.id is not None:
    found = np.flatnonzero(ids.video == np.uint64(index.video_hash(args.id)))[: args.records]
    if not len(found):
      raise InputError(f'no video {args.id!r} in split {manifest.split!r} of {manifest.folder}.')
    epoch = args.step * args.batch // len(ids) if order else 0
    return found.tolist(), [epoch] * len(found)
  if order:
    return order.ids(args.step)[: args.records].tolist(), order.epochs(args.step)[: args.records].tolist()
  return spread(len(ids), args.records), [0] * min(len(ids), args.records)


def spread(size: int, count: int) -> list[int]:
  """At most `count` of `size` places, evenly apart."""
  count = min(size, count)
  return [(2 * i + 1) * size // (2 * count) for i in range(count)]


def drawn(record: records.Record, example_id: int, epoch: int, seed: int, config: SamplingConfig) -> Draw | str:
  """What training draws from the record, or why it can't."""
  if record.transcript_timing == 'caption':
    config = dataclasses.replace(config, transcripts=1)
  try:
    return draw(record, config, example_rng(seed, epoch, example_id))
  except InputError as e:
    return str(e)


def build_page(manifest: index.Manifest, ids: index.Index, args, config: SamplingConfig) -> str:
  read = lambda i: records.decode(index.read_record(manifest, ids, i))
  chosen, epochs = choose(manifest, ids, args)
  sampled = spread(len(ids), args.sample)
  facts = [
    f'split <b>{page.text(manifest.split)}</b>',
    f'{len(ids)} records, {sum(s.bytes for s in manifest.shards) / 1e6:.1f} MB',
    f'manifest {manifest.sha256[:12]}',
    f'draws of seed {args.seed}' + (f', step {args.step} with batches of {args.batch}' if args.batch else ''),
  ]
  parts = [
    f'<h1>{page.text(manifest.folder.name or manifest.folder)}</h1>',
    '<p class="soft">' + ' \u00b7 '.join(facts) + '</p>',
    f'<h2>Quality <span class="soft">of {len(sampled)} records, evenly spread</span></h2>',
    quality.report([quality.measure(read(i), config) for i in sampled], manifest, config),
    f'<h2>Records <span class="soft">{len(chosen)} of {len(ids)}</span></h2>',
  ]
  for i, epoch in zip(chosen, epochs):
    record, example_id = read(i), int(ids.example_id[i])
    sample = drawn(record, example_id, epoch, args.seed, config)
    parts.append(timeline.card(record, sample, f'example {example_id:016x} \u00b7 drawn in epoch {epoch}'))
  return page.document(f'{manifest.folder.name} {manifest.split}', timeline.STYLE, '\n'.join(parts))


def sampling_config(manifest: index.Manifest, changes: list[str]) -> SamplingConfig:
  """What the records were built to serve, with KEY=VALUE changes as training may have made them."""
  fields = {f.name for f in dataclasses.fields(SamplingConfig)}
  values = {k: v for k, v in manifest.sampling.items() if k in fields}
  for change in changes:
    key, _, value = change.partition('=')
    if key not in fields:
      raise ValueError(f'{key!r} is no setting of sampling; known: {", ".join(sorted(fields))}')
    try:
      values[key] = json.loads(value)
    except json.JSONDecodeError:
      values[key] = value  # a word, as in pick=center
  try:
    return SamplingConfig(**values)
  except (InputError, TypeError) as e:
    raise ValueError(f'--sampling {" ".join(changes)}: {e}') from e


def parse_args(argv: list[str] | None) -> argparse.Namespace:
  about, _, rest = __doc__.partition('\n\n')
  parser = argparse.ArgumentParser(
    prog='python -m data.inspect',
    description=about,
    epilog=rest,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('folder', metavar='DIR', help='folder that data.build made')
  add('--split', help='which split (the first one)')
  add('--records', type=int, default=8, help=f'how many to show, at most {MAX_RECORDS} (%(default)s)')
  add('--id', help='show the windows of this video')
  add('--seed', type=int, default=0, help='of the training run (%(default)s)')
  add('--step', type=int, help='training step whose batch and draws to show')
  add('--batch', type=int, help='size of the global batch, which --step needs')
  add('--sampling', nargs='*', default=[], metavar='KEY=VALUE', help='where training differs, as in frames=8')
  add('--sample', type=int, default=256, help='records that the quality report reads (%(default)s)')
  add('--out', type=Path, default=Path('inspect.html'), help='the page (%(default)s)')
  args = parser.parse_args(argv)
  if not 1 <= args.records <= MAX_RECORDS or args.sample < 1:
    parser.error(f'--records must be 1 to {MAX_RECORDS} and --sample at least 1')
  if (args.step is None) != (args.batch is None):
    parser.error('--step and --batch go together: which records a step holds depends on the global batch')
  if args.step is not None and (args.step < 0 or args.batch < 1):
    parser.error('--step must be at least 0 and --batch at least 1')
  return args


def main(argv: list[str] | None = None) -> int:
  args = parse_args(argv)
  try:
    manifest = index.load(args.folder, args.split or index.splits(args.folder)[0])
    config = sampling_config(manifest, args.sampling)
    html = build_page(manifest, index.load_index(manifest), args, config)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with publish(args.out) as f:
      f.write(html.encode())
  except ValueError as e:
    print(f'data.inspect: {e}', file=sys.stderr)
    return 2
  except (InputError, OSError) as e:
    print(f'data.inspect: {e}', file=sys.stderr)
    return 1
  print(f'{args.out}: {len(html) / 1e6:.1f} MB, open it in a browser')
  return 0


if __name__ == '__main__':
  sys.exit(main())
