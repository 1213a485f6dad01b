"""What a run is: every setting, checked by name before anything is allocated.

A config file starts from `base()`, which holds every default, and changes what it likes; `resolve()` turns the result
into a frozen `RunConfig`. Defaults have one home each: the dataclass of the part they belong to.
"""

import ast
import dataclasses
import operator
import types
import typing
from collections.abc import Mapping

import ml_collections

from tvts_jax import evaluators, objectives, roles, sharding
from tvts_jax.errors import UserError
from tvts_jax.input.settings import InputConfig
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.optim import OptimConfig
from tvts_jax.roles import setting
from tvts_jax.run.checkpoint import CheckpointConfig
from tvts_jax.shards import storage

# What a run can start from; '' for nothing.
INIT = {
  'video': 'a file with an image or video encoder, such as mae_pretrain_vit_base.pth',
  'text': 'a folder with a DistilBERT',
  'run': 'the work directory of another run, or a folder of converted weights',
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
  model: TVTSConfig = TVTSConfig()
  input: InputConfig = InputConfig()
  objectives: dict = setting({'contrastive': {'weight': 1.0}, 'sort': {'weight': 2.0}})
  optim: OptimConfig = OptimConfig()
  checkpoint: CheckpointConfig = setting(CheckpointConfig(), 'resume')
  # Evaluators by a name of one's own: {'type': ..., 'every_steps': ..., settings}; each also runs at the end.
  evals: dict = setting({}, 'resume')
  init: dict = setting(dict.fromkeys(INIT, ''), 'resume')
  mesh: dict = setting({'data': -1, 'fsdp': 1, 'tensor': 1}, 'resume')
  sharding: tuple = setting(sharding.RULES, 'resume')
  epochs: float | None = None  # How long to train: this, or `steps`.
  steps: int | None = None
  micro_batches: int = 1  # Passes that a batch is cut into where memory is short; the loss stays that of the whole.
  # Decay of the running mean of the parameters, at step s at most (1 + s) / (10 + s) unless it teaches; 0 keeps none.
  ema: float = 0.0
  # Skip a step whose loss or gradient norm is so many deviations above those of the last steps; 0: take every step.
  spike_sigmas: float = 0.0
  # So many steps in a row may give a loss or gradient that is not finite; they are skipped as spikes are.
  nan_skips: int = setting(0, 'resume')
  seed: int = 0
  log_every: int = setting(20, 'resume')  # Steps.
  # A step to trace a few from; 0: none but those that touching WORKDIR/profile asks for.
  profile_at: int = setting(0, 'resume')


def base() -> ml_collections.ConfigDict:
  """Every setting at its default, for a config file to change; what follows from others is left out of the input."""
  config = ml_collections.ConfigDict(plain(RunConfig()))
  give_types(config, RunConfig())
  for name in roles.followers(InputConfig):
    del config.input[name]
  return config


def give_types(config, defaults) -> None:
  """To settings that are None, which the command line could not set without."""
  for field in dataclasses.fields(defaults):
    value = getattr(defaults, field.name)
    if dataclasses.is_dataclass(value):
      give_types(config[field.name], value)
    elif value is None:
      config[field.name] = ml_collections.config_dict.placeholder(typing.get_args(field.type)[0])


def parse_arg(arg: str, **defaults) -> ml_collections.ConfigDict:
  """The variations in `--config=file.py:key=value,key=value`, each of the type of its default."""
  result = ml_collections.ConfigDict(defaults)
  for item in filter(None, arg.split(',')):
    key, _, value = item.partition('=')
    if key not in defaults:
      raise UserError(f'this config knows no variation {key!r}; it has {", ".join(defaults) or "none"}')
    kind = type(defaults[key])
    try:
      result[key] = value in ('', '1', 'true', 'True') if kind is bool else kind(value)
    except ValueError as error:
      raise UserError(f'the variation {key}={value!r} should be a {kind.__name__}') from error
  return result


def choose(arg: ml_collections.ConfigDict, name: str, table: Mapping):
  """The entry of a table that a variation names."""
  if arg[name] not in table:
    raise UserError(f'this config knows no {name}={arg[name]}; it has {", ".join(table)}')
  return table[arg[name]]


def plain(value):
  """Dataclasses, mappings and ConfigDicts as nested dicts, sequences as tuples."""
  if dataclasses.is_dataclass(value):
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return tuple(plain(item) for item in value)
  return value


def resolve(config: Mapping) -> RunConfig:
  """A RunConfig out of a config file's values; one sentence names what is unknown, missing or contradicting."""
  values = plain(config)
  known = [field.name for field in dataclasses.fields(RunConfig)]
  if unknown := sorted(set(values) - set(known)):
    raise UserError(f'config has no setting {unknown[0]!r}; it has {", ".join(known)}')
  model = TVTSConfig.from_dict(values.get('model', {}))
  loss_fn = objectives.build(values.get('objectives', RunConfig().objectives))
  followers, decided = roles.followers(InputConfig), types.SimpleNamespace(model=model, objectives=loss_fn)
  follows = {name: operator.attrgetter(path)(decided) for name, path in followers.items()}
  given = values.get('input', {})
  evals = {f'evals.{name}': evaluators.bound(name, own) for name, own in values.get('evals', {}).items()}
  for part, settings in {'input': given, **evals}.items():
    for name, path in followers.items():
      if path.startswith('model.') and settings.get(name, follows[name]) != follows[name]:
        raise UserError(
          f'{part}.{name}={settings[name]!r} contradicts the model, which has {follows[name]!r}; set the model'
        )
  parts = {'model': model, 'input': make('input', InputConfig, {**given, **follows})}
  for name, kind in (('optim', OptimConfig), ('checkpoint', CheckpointConfig)):
    parts[name] = make(name, kind, values.get(name, {}))
  run = RunConfig(**{**values, **parts})
  check(run)
  return run


def check(run: RunConfig):
  """UserError if settings of several parts contradict each other, or one of the run's own makes no sense."""
  evaluators.check(run)
  if run.input.keep is not None and (uneven := [name for name in run.objectives if objectives.OBJECTIVES[name].even]):
    raise UserError(
      f'input.keep={run.input.keep} leaves time slots with unequal numbers of tubelets, and the objective '
      f'{uneven[0]!r} needs equal ones; leave input.keep out'
    )
  evaluators.check_input('input', run.input, run.model)
  if (run.epochs is None) == (run.steps is None):
    raise UserError('config says how long to train by epochs or by steps; set exactly one of the two')
  for name, least in (('epochs', 0), ('steps', 0), ('micro_batches', 1), ('nan_skips', 0), ('log_every', 1)):
    if (value := getattr(run, name)) is not None and value < least:
      raise UserError(f'{name}={value} must be at least {least}')
  if wrong := [f'{axis}={size}' for axis, size in run.mesh.items() if size < 1 and size != -1]:
    raise UserError(f'mesh.{wrong[0]} must be at least 1, or -1 for the devices that the other axes leave')
  if unknown := sorted(set(run.init) - set(INIT)):
    raise UserError(f'config.init has no {unknown[0]!r}; it has {", ".join(INIT)}')
  if run.init.get('run') and (others := [part for part in ('video', 'text') if run.init.get(part)]):
    raise UserError(f'config.init.run brings the whole model, which contradicts init.{others[0]}; set one of the two')
  if not run.ema and (taught := [name for name in run.objectives if objectives.OBJECTIVES[name].taught]):
    raise UserError(
      f'objective {taught[0]!r} has the running mean of the parameters for its teacher, and ema=0 keeps none; set '
      'ema=0.996'
    )
  if run.input.batch % run.micro_batches:
    raise UserError(f'input.batch={run.input.batch} is not a multiple of micro_batches={run.micro_batches}')
  if not 0 <= run.ema < 1:
    raise UserError(f'ema={run.ema} must be at least 0 and below 1')
  if run.spike_sigmas < 0:
    raise UserError(f'spike_sigmas={run.spike_sigmas} must be above 0, or 0 to take every step')


def make(part: str, kind: type, values: Mapping):
  known = [field.name for field in dataclasses.fields(kind)]
  if unknown := sorted(set(values) - set(known)):
    raise UserError(f'{part} has no setting {unknown[0]!r}; it has {", ".join(known)}')
  return kind(**values)


def read_input(workdir) -> InputConfig:
  """The input of a run, as the text in its work directory has it."""
  path = storage.path(workdir) / 'config.txt'
  if not path.exists():
    raise UserError(f'{path} is not there; name the work directory of a run')
  values, damaged = {}, (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)  # What odd literals end in.
  line = ''
  try:
    for line in path.read_text().splitlines():
      name, _, value = line.partition(': ')
      if name.startswith('input.'):
        values[name.removeprefix('input.')] = ast.literal_eval(value)
    line = 'input'
    return make('input', InputConfig, values)
  except damaged as error:
    raise UserError(f'{path} is damaged at {line[:80]!r}; give its run once more to write it anew') from error


def text(config: RunConfig) -> str:
  """A line 'path: value' for every setting: what a run is, for eyes, diffs and checkpoints."""
  return text_of(plain(config))


def text_of(values: Mapping) -> str:
  """The same of nested plain values."""

  def lines(prefix, value):
    if isinstance(value, dict) and value:
      for key, item in value.items():
        yield from lines(f'{prefix}.{key}' if prefix else key, item)
    else:
      yield f'{prefix}: {value!r}'

  return '\n'.join(lines('', values)) + '\n'


def differences(old: str, new: str) -> list[str]:
  """What changed between two such texts, as lines 'key: old → new'."""
  before, after = ({k: v for k, _, v in (line.partition(': ') for line in text.splitlines())} for text in (old, new))
  return [
    f'{key}: {before.get(key, "(absent)")} → {after.get(key, "(absent)")}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key) != after.get(key)
  ]
