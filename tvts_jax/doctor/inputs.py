"""Checks of the config and the data that it names, up to the batch."""

import json
import os
import time
from concurrent import futures

from tvts_jax.doctor.examination import Run, within
from tvts_jax.errors import UserError
from tvts_jax.human import number, size
from tvts_jax.shards import storage

HUB = 15  # Seconds that a hub of tokenizers has.
RANGES = 200  # That are read to see how fast storage is.
HALF = 0.5  # Of the peak of a device: what a good run gets.


def read_config(run: Run) -> str:
  from absl import flags
  from ml_collections import config_flags

  from tvts_jax import config as config_lib

  values, argv = flags.FlagValues(), ['doctor', f'--config={run.file}', *run.settings]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv, lock_config=True)
  try:
    values(argv)
    given = values.config.to_dict()
  except UserError:
    raise
  except Exception as e:
    raise UserError(f'{run.file} cannot be loaded: {type(e).__name__}: {str(e).strip().splitlines()[-1]}') from e
  run.config = config_lib.resolve(given)
  length = f'{run.config.epochs:g} epochs' if run.config.steps is None else f'{run.config.steps:,} steps'
  return f'{run.file}, for {length}'


def shards(run: Run) -> str:
  """Manifests, indexes, and the size of every shard."""
  from tvts_jax.shards import index

  found = []
  for part in run.config.input.parts()[0]:
    manifest = index.load(part.folder, part.split)
    index.load_index(manifest)
    total = sum(shard.bytes for shard in manifest.shards)
    found.append(f'{manifest.count:,} records of {part.split!r} in {part.folder}, {size(total)}')
  return ', '.join(found)


def tokenizer(run: Run) -> str:
  from tvts_jax import preflight
  from tvts_jax.input.tokens import Tokenizer

  found = []
  for part in run.config.input.parts()[0]:
    late = f'{part.tokenizer!r} is no folder here, and no hub has given it within {HUB} s; give a folder'
    here = os.path.isdir(part.tokenizer) or not storage.is_local(part.tokenizer)
    limit = None if here else HUB
    opened = within(limit, late, Tokenizer, part.tokenizer, part.max_tokens)
    preflight.check_vocabulary(run.config, part.tokenizer, opened.vocab_size)
    found.append(f'{part.tokenizer} with {opened.vocab_size} word pieces')
  return ', '.join(dict.fromkeys(found))


def examples(run: Run) -> str:
  """Opens the input as a run does, which makes one example."""
  from tvts_jax import preflight
  from tvts_jax.input import pipeline

  source = pipeline.open(run.config.input)
  preflight.check_labels(run.config)
  found = [f'{source.num_examples:,}, {source.steps_per_epoch:,} steps an epoch']
  for part in run.config.input.parts()[0]:
    if count := enlarged(part):
      found.append(f'{count:,} in {part.folder} are smaller than image_size={part.image_size} and will be enlarged')
  return ', '.join(found)


def enlarged(part) -> int:
  """Records whose frames are too small for the crop, as the builder's report has them; 0 without a report."""
  from tvts_jax.shards import index, storage

  path = storage.path(part.folder) / index.REPORT
  if part.resize is not None or part.crop == 'resized' or not path.exists():
    return 0
  short_sides = json.loads(path.read_text())['splits'].get(part.split, {}).get('short_sides', {})
  return sum(count for side, count in short_sides.items() if int(side) < part.image_size)


def reading(run: Run) -> str:
  """Reads ranges of the run's own shards, as many at a time as its input does: how long each takes, and all."""
  import numpy as np

  from tvts_jax.input.examples import Examples
  from tvts_jax.input.tokens import Tokenizer

  parts = [Examples(part, Tokenizer(part.tokenizer, part.max_tokens)) for part in run.config.input.parts()[0]]
  each = RANGES // 2 // len(parts)
  clips = [(part, row) for part in parts for row in np.linspace(0, len(part) - 1, each, dtype=int).tolist()]

  def read(part, row: int) -> list[float]:
    """Seconds of the range of its head, and of that of its frames."""
    begin = time.monotonic()
    head = part.stored(row)
    middle = time.monotonic()
    numbers = part.sample(head, row, 0)[0].frames
    drawn = time.monotonic()
    part.frames(row, head, numbers)
    return [middle - begin, time.monotonic() - drawn]

  begin = time.monotonic()
  with futures.ThreadPoolExecutor(run.config.input.reads) as threads:
    seconds = [s for pair in threads.map(lambda clip: read(*clip), clips) for s in pair]
  rate = len(clips) / (time.monotonic() - begin)
  p50, p99 = (1000 * value for value in np.quantile(seconds, (0.5, 0.99)))
  said = (
    f'{len(seconds)} ranges, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {number(rate)} clips/s with input.reads='
    f'{run.config.input.reads}'
  )
  wanted = wanted_clips(run)
  if wanted is None:
    return f'{said}; how many this device takes is not known'
  if rate < wanted:
    raise UserError(
      f'{said}, and the devices of this host take {number(wanted)} at half of their peak; raise input.reads, or bring '
      'the shards to storage that is faster or nearer'
    )
  return f'{said}, which feeds the {number(wanted)} that the devices of this host take at half of their peak'


def wanted_clips(run: Run) -> float | None:
  """Clips a second that the devices of this host take at HALF of their peak; None where that is not known."""
  import jax

  from tvts_jax import machine
  from tvts_jax.models import flops

  peaks = [machine.peak(device.device_kind) for device in jax.local_devices()]
  return (
    None if None in peaks else HALF * sum(peaks) / flops.of_clip(run.config.model, run.parts.loss_fn, run.parts.spec)
  )


def batch(run: Run) -> str:
  from tvts_jax import sharding

  run.mesh = sharding.make_mesh(run.config.mesh)
  sharding.check_batch(run.config.input.batch, run.config.micro_batches, run.mesh)
  axes = ', '.join(f'{axis} {count}' for axis, count in run.mesh.shape.items())
  return f'{run.config.input.batch} clips fit the mesh of {axes}'
