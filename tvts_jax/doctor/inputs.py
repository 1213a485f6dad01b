"""Checks of the config and the data that it names, up to the batch."""

import json
import os

from tvts_jax.doctor.examination import Run, within
from tvts_jax.errors import UserError
from tvts_jax.human import size

HUB = 15  # Seconds that a hub of tokenizers has.


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
    limit = None if os.path.isdir(part.tokenizer) else HUB
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


def batch(run: Run) -> str:
  from tvts_jax import sharding

  run.mesh = sharding.make_mesh(run.config.mesh)
  sharding.check_batch(run.config.input.batch, run.config.micro_batches, run.mesh)
  axes = ', '.join(f'{axis} {count}' for axis, count in run.mesh.shape.items())
  return f'{run.config.input.batch} clips fit the mesh of {axes}'
