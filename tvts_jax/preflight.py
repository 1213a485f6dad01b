"""What a run checks before it allocates anything: files, vocabulary and labels, and that a resume is the same run."""

import math

from tvts_jax import config as config_lib
from tvts_jax import objectives, roles
from tvts_jax.errors import UserError
from tvts_jax.run.checkpoint_reader import check_run
from tvts_jax.shards import annotations, storage

# Lines of settings that earlier versions had and that changed no batch.
GONE = ('input.threads:', 'input.decoded:', 'input.splice: False')


def check_vocabulary(config, tokenizer: str, pieces: int):
  if pieces > (known := config.model.text.vocab_size):
    raise UserError(
      f'the tokenizer {tokenizer!r} has {pieces} word pieces, but model.text.vocab_size is {known}; set it to at least '
      'that'
    )


def check_labels(config):
  labelled = [name for name in config.objectives if 'label' in objectives.OBJECTIVES[name].fields]
  for part in config.input.parts()[0]:
    for name in labelled:
      classes = config.objectives[name].get('classes', math.inf)
      found = annotations.labels_of(part.annotations, part.split, part.label)
      if beyond := [clip for clip, label in found.items() if label >= classes]:
        raise UserError(
          f'{part.annotations} numbers classes up to {max(found.values())}, {beyond[0]!r} the first clip beyond '
          f'objectives.{name}.classes={classes}; set it to at least {max(found.values()) + 1}'
        )


def check_files(config):
  """What a newcomer lacks most often, told before anything slow."""
  make = 'make them with: python -m data.build YOUR_VIDEOS --val-fraction 0.1 --out'
  needed = [(f'{config.input.folder}/manifest.json', 'shards', make)]
  if config.input.sources:
    needed = []  # Each has a folder of its own, which opens with errors of its own.
  needed += [
    (path, f'init.{part}', config_lib.INIT[part] + ' belongs at') for part, path in config.init.items() if path
  ]
  for path, what, how in needed:
    if not storage.path(path).exists():
      folder = path.removesuffix('/manifest.json')
      raise UserError(f'{what} {folder} is not there; {how} {folder}. A run without either: bash launch/local.sh')


def check_identity(meta, identity, workdir):
  """Resuming another run than the one that was saved would be a mistake of which nobody would hear."""
  check_run(meta, workdir)
  for name in ('data', 'vocabulary'):
    if meta[name] != identity[name]:
      raise UserError(
        f'{workdir} was trained on other {name}; bring the old {name} back, or start from its weights in a new '
        f'--workdir with --config.init.run={workdir}'
      )
  free = roles.lines(config_lib.RunConfig, 'resume')
  changed = [
    line for line in config_lib.differences(meta['config'], identity['config']) if not line.startswith((*free, *GONE))
  ]
  if changed:
    raise UserError(
      f'{workdir} holds a run with another config ({"; ".join(changed[:8])}); give a new --workdir, the old '
      f'config, or start from it with --config.init.run={workdir}'
    )
