"""Look at built records in a browser: one self-contained HTML page.

  python -m data.inspect DIR                                a few records and the quality of the data
  python -m data.inspect DIR --id ID                        the windows of one video
  python -m data.inspect DIR --seed 0 --step 1200 --batch 256      what that step of a training would be given
  python -m data.inspect --run WORKDIR --step 1200          what that step of a run was given

Each record is shown as frames on a time line with the words under them, and with the K transcripts and M
frames that training draws from it: those of --seed and the epoch of --step, or of epoch 0. A step names its
records only together with the size of the global batch; a run knows that, and all else about its input.
Exit codes: 0 done, 1 an error that one sentence names, 2 wrong arguments.
"""

import argparse
import dataclasses
import json
import sys

import numpy as np

from data.builder import quality
from data.inspect import quality_page, record_page
from tvts_jax import command
from tvts_jax.errors import UserError
from tvts_jax.files import write_whole
from tvts_jax.input.order import Order
from tvts_jax.media.uniform import spread
from tvts_jax.pages import kit
from tvts_jax.shards import index, records
from tvts_jax.shards.rng import generator
from tvts_jax.shards.sampling import Draw, SamplingConfig, draw

MAX_RECORDS = 64  # On one page: browsers get slow, and nobody looks at more.


def choose(manifest: index.Manifest, ids: index.Index, args) -> tuple[list[int], list[int]]:
  """-> the records to show, by place in the index, and the epoch each one is drawn in."""
  order = args.step is not None and Order(ids.video, args.batch, args.seed)
  if args.id is not None:
    found = np.flatnonzero(ids.video == np.uint64(index.video_hash(args.id)))[: args.records]
    if not len(found):
      raise UserError(f'no video {args.id!r} in split {manifest.split!r} of {manifest.folder}.')
    epoch = args.step * args.batch // len(ids) if order else 0
    return found.tolist(), [epoch] * len(found)
  if order:
    return order.ids(args.step)[: args.records].tolist(), order.epochs(args.step)[: args.records].tolist()
  return spread(len(ids), min(len(ids), args.records)), [0] * min(len(ids), args.records)


def drawn(record: records.Record, example_id: int, epoch: int, seed: int, config: SamplingConfig) -> Draw | str:
  """What training draws from the record, or why it cannot."""
  if record.transcript_timing == 'caption':
    config = dataclasses.replace(config, transcripts=1)
  try:
    return draw(record, config, generator(seed, epoch=epoch, example=example_id))
  except UserError as e:
    return str(e)


def card(manifest: index.Manifest, ids: index.Index, row: int, epoch: int, seed: int, config, note: str = '') -> str:
  record, example_id = records.decode(index.read_record(manifest, ids, row)), int(ids.example_id[row])
  sample = drawn(record, example_id, epoch, seed, config)
  return record_page.card(record, sample, f'example {example_id:016x} \u00b7 drawn in epoch {epoch}{note}')


def page_of_run(args) -> str:
  """The batch of a step, made as the run made it."""
  from tvts_jax import config as config_lib
  from tvts_jax.input import pipeline

  config = config_lib.read_input(args.run)
  source = pipeline.open(config)
  source.batch(args.step)  # Whatever is damaged is found now, and has the same stand-ins as in the run.
  clips = source.clips(args.step)
  names = [part.name(row) for part, row, _ in clips]
  shown = [clip for clip, (video, _) in zip(clips, names) if args.id in (None, video)][: args.records]
  if not shown:
    raise UserError(f'no video {args.id!r} in the batch of step {args.step}.')
  listed = ' \u00b7 '.join(f'<bdi>{kit.text(video, 120)}</bdi> #{window}' for video, window in names)
  parts = [
    f'<h1>{kit.text(args.run)} step {args.step}</h1>',
    f'<h2>Batch <span class="soft">of {len(clips)}, by place</span></h2><p class="soft">{listed}</p>',
    f'<h2>Records <span class="soft">{len(shown)} of {len(clips)}</span></h2>',
  ]
  hidden = [what for what, there in (
    ('mirroring, RandAugment and erasing', config.augmented), ('captions that were drawn', config.caption == 'drawn')
  ) if there]  # fmt: skip
  parts += [f'<p class="soft">Not shown: {what}.</p>' for what in hidden]
  for part, row, epoch in shown:
    note = f' \u00b7 {kit.text(part.manifest.folder)} {kit.text(part.manifest.split)}'
    parts.append(card(part.manifest, part.index, row, epoch, config.seed, part.config, note))
  return kit.document(f'{args.run} step {args.step}', record_page.STYLE, '\n'.join(parts))


def page_of_folder(args) -> str:
  manifest = index.load(args.folder, args.split or index.splits(args.folder)[0])
  config = sampling_config(manifest, args.sampling)
  ids = index.load_index(manifest)
  read = lambda i: records.decode(index.read_record(manifest, ids, i))
  chosen, epochs = choose(manifest, ids, args)
  sampled = spread(len(ids), min(len(ids), args.sample))
  facts = [
    f'split <b>{kit.text(manifest.split)}</b>',
    f'{len(ids)} records, {sum(s.bytes for s in manifest.shards) / 1e6:.1f} MB',
    f'manifest {manifest.sha256[:12]}',
    f'draws of seed {args.seed}' + (f', step {args.step} with batches of {args.batch}' if args.batch else ''),
  ]
  parts = [
    f'<h1>{kit.text(manifest.folder.name or manifest.folder)}</h1>',
    '<p class="soft">' + ' \u00b7 '.join(facts) + '</p>',
    f'<h2>Quality <span class="soft">of {len(sampled)} records, evenly spread</span></h2>',
    quality_page.report([quality.measure(read(i), config) for i in sampled], manifest, config),
    f'<h2>Records <span class="soft">{len(chosen)} of {len(ids)}</span></h2>',
  ]
  parts += [card(manifest, ids, row, epoch, args.seed, config) for row, epoch in zip(chosen, epochs)]
  return kit.document(f'{manifest.folder.name} {manifest.split}', record_page.STYLE, '\n'.join(parts))


def sampling_config(manifest: index.Manifest, changes: list[str]) -> SamplingConfig:
  """What the records were built to serve, with KEY=VALUE changes as training may have made them."""
  fields = {f.name for f in dataclasses.fields(SamplingConfig)}
  values = {k: v for k, v in manifest.sampling.items() if k in fields}
  for change in changes:
    key, _, value = change.partition('=')
    if key not in fields:
      raise UserError(f'{key!r} is no setting of sampling; known: {", ".join(sorted(fields))}')
    try:
      values[key] = json.loads(value)
    except json.JSONDecodeError:
      values[key] = value  # A word, as in pick=center.
  try:
    return SamplingConfig(**values)
  except (UserError, TypeError) as e:
    raise UserError(f'--sampling {" ".join(changes)}: {e}') from e


def parse_args(argv: list[str] | None) -> argparse.Namespace:
  parser = command.parser('data.inspect', __doc__)
  add = parser.add_argument
  add('folder', metavar='DIR', nargs='?', help='folder that data.build made')
  add('--run', metavar='WORKDIR', help='work directory of a training run, for --step')
  add('--split', help='which split (the first one)')
  add('--records', type=int, help=f'how many to show, at most {MAX_RECORDS} (of a run all that may be, otherwise 8)')
  add('--id', help='show the windows of this video')
  add('--seed', type=int, default=0, help='of the training run (%(default)s)')
  add('--step', type=int, help='training step whose batch and draws to show')
  add('--batch', type=int, help='size of the global batch, which --step needs without --run')
  add('--sampling', nargs='*', default=[], metavar='KEY=VALUE', help='where training differs, as in frames=8')
  add('--sample', type=int, default=256, help='records that the quality report reads (%(default)s)')
  add('--out', type=command.place, default='inspect.html', help='the page (%(default)s)')
  args = parser.parse_args(argv)
  if args.records is None:
    args.records = 8 if args.run is None else MAX_RECORDS
  if not 1 <= args.records <= MAX_RECORDS or args.sample < 1:
    parser.error(f'--records must be 1 to {MAX_RECORDS} and --sample at least 1')
  if (args.folder is None) == (args.run is None):
    parser.error('give either DIR or --run WORKDIR')
  if args.run is not None:
    for name in ('split', 'seed', 'batch', 'sampling'):
      if getattr(args, name) != parser.get_default(name):
        parser.error(f'--{name} goes with DIR: a run knows its own')
    if args.step is None or args.step < 0:
      parser.error('--run needs a --step of at least 0')
  elif (args.step is None) != (args.batch is None):
    parser.error('--step and --batch go together: which records a step holds depends on the global batch')
  elif args.step is not None and (args.step < 0 or args.batch < 1):
    parser.error('--step must be at least 0 and --batch at least 1')
  return args


def main(argv: list[str] | None = None) -> int:
  args = parse_args(argv)
  return command.ending(lambda: write(args))


def write(args) -> None:
  html = page_of_folder(args) if args.run is None else page_of_run(args)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_whole(args.out, html)
  print(f'{args.out}: {len(html) / 1e6:.1f} MB, open it in a browser')


if __name__ == '__main__':
  sys.exit(main())
