"""What a run checks before it allocates anything: files, vocabulary and labels, and that a resume is the same run."""

import ast
import dataclasses
import math
import re
from collections.abc import Collection, Mapping

from tvts_jax import config as config_lib
from tvts_jax import objectives, roles
from tvts_jax.errors import UserError
from tvts_jax.input.settings import InputConfig
from tvts_jax.run.checkpoint_reader import check_run
from tvts_jax.shards import annotations, storage

DATA = 'data'  # The name of the records, by the hashes of their manifests, among what may change.
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


def check_shards(config):
  """What a newcomer lacks most often, told before anything slow."""
  if not config.input.sources:  # Each has a folder of its own, which opens with errors of its own.
    make = 'make them with: python -m data.build YOUR_VIDEOS --val-fraction 0.1 --out'
    check_there(f'{config.input.folder}/manifest.json', 'shards', make)


def check_init(config):
  """Only a run that begins reads these."""
  for part, path in config.init.items():
    if path:
      check_there(path, f'init.{part}', config_lib.INIT[part] + ' belongs at')


def check_there(path: str, what: str, how: str):
  if not storage.path(path).exists():
    folder = path.removesuffix('/manifest.json')
    raise UserError(f'{what} {folder} is not there; {how} {folder}. A run without either: bash launch/local.sh')


def check_identity(meta: Mapping, identity: Mapping, workdir, may_change: Collection[str] = ()):
  """Resuming another run than the one that was saved would be a mistake of which nobody would hear.

  Args:
    may_change: names of settings, or of groups of them such as `optim`, that may be others than before; or `data`.
  """
  check_run(meta, workdir)
  texts = f'{meta["config"]}\n{identity["config"]}'
  for name in may_change:
    if name != DATA and not re.search(rf'^{re.escape(name)}[.:]', texts, re.MULTILINE):
      raise UserError(f'--resume_with_changes={name} is no setting; name those that follow --config, or {DATA}')
  instead = f'start from its weights in a new --workdir with --config.init.run={workdir}'
  free = tuple(f'{name}{end}' for name in may_change for end in '.:')
  refused = [line for line in changes(meta, identity) if not line.startswith(free)]
  names = ','.join(dict.fromkeys([*may_change, *(line.partition(':')[0] for line in refused)]))
  go_on = f'go on with the change by --resume_with_changes={names}'
  if any(line.startswith(f'{DATA}:') for line in refused):
    raise UserError(f'{workdir} was trained on other data; bring the old data back, or {instead}, or {go_on}')
  if meta['vocabulary'] != identity['vocabulary']:
    raise UserError(f'{workdir} was trained on other vocabulary; bring the old vocabulary back, or {instead}')
  if refused:
    raise UserError(
      f'{workdir} holds a run with another config ({"; ".join(refused[:8])}); give a new --workdir, the old config, '
      f'start from it with --config.init.run={workdir}, or {go_on}'
    )


def check_length(first: int, total: int, workdir):
  if first > total:
    raise UserError(
      f'{workdir} has been trained for {first} steps, and this config asks for {total}; ask for more, or go back to '
      f'an earlier checkpoint with --resume_step=STEP'
    )


def changes(meta: Mapping, identity: Mapping) -> list[str]:
  """What makes a run another one than was saved, as lines 'setting: old → new'.

  A setting that the version of the run did not have changes nothing at its default, which keeps what was before.
  """
  free = (*roles.lines(config_lib.RunConfig, 'resume'), *GONE)
  new = config_lib.differences('', config_lib.text_of(fixed(config_lib.RunConfig())))
  lines = config_lib.differences(without_free(meta['config']), without_free(identity['config']))
  lines = [line for line in lines if not line.startswith(free) and line not in new]
  if meta['data'] != identity['data']:
    old, new = (' '.join(str(sha256)[:8] for sha256 in who['data']) for who in (meta, identity))
    lines.append(f'{DATA}: {old} → {new}')
  return lines


def fixed(config) -> dict:
  """Settings that every run has, as nested plain values: not what is in a dict, such as the objectives."""
  values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  return {
    name: fixed(value) if dataclasses.is_dataclass(value) else config_lib.plain(value)
    for name, value in values.items()
    if not isinstance(value, Mapping)
  }


def without_free(text: str) -> str:
  """The text of a config whose sources lack what a resume may change in a source."""
  free = roles.names(InputConfig, 'resume')
  lines = []
  for line in text.splitlines():
    name, _, value = line.partition(': ')
    if name == 'input.sources' and value.startswith('('):
      sources = [{k: v for k, v in source.items() if k not in free} for source in ast.literal_eval(value)]
      line = f'{name}: {sources!r}'
    lines.append(line)
  return '\n'.join(lines)
