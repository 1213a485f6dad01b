"""Evaluates a checkpoint: python -m tvts_jax.evaluate --config=configs/demo_evals.py --checkpoint=runs/demo/run

runs `evals` of the config on what --checkpoint names: the work directory of a run (its newest checkpoint, and the
running mean of the parameters where it keeps one), a folder of converted weights (python -m tvts_jax.convert), or
`random`, the parameters that a run would start from without any weights: a control that every number needs. A folder
of weights of another model than the config's is evaluated as the model it is, with its own frames, size and pixels, and
with the tokenizer that lies beside it.

Each evaluator prints a line, and the numbers that others have published where its setting `quoted` names their table.
It writes OUT/NAME.json: metrics, how many clips were expected and which are missing, the score of each item, the
protocol in words, and what was evaluated. It looks at all clips, whatever `max_clips` of an evaluator is: that bounds
evaluations beside a training run. Features are kept in OUT/features, so a second call is fast. Several processes
(launch/local_pod.py) share the work.

Exit codes: 0 all is written, 1 stopped by an error that one sentence names, 76 another process died on the way.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from tvts_jax import command, convert, evaluators, machine, roles, sharding
from tvts_jax import config as config_lib
from tvts_jax import step as step_lib
from tvts_jax.convert.read_weights import build, our_config, read_json
from tvts_jax.errors import UserError
from tvts_jax.evaluators import features, quoted
from tvts_jax.files import local, write_whole
from tvts_jax.human import Progress
from tvts_jax.input import tokens
from tvts_jax.input.tokens import Tokenizer, check_fingerprint
from tvts_jax.models import tvts
from tvts_jax.pod import distributed
from tvts_jax.run.checkpoint_reader import FOLDER, of_run
from tvts_jax.shards import storage
from tvts_jax.warm_start import from_run

RANDOM = 'random'


def evaluate(config: config_lib.RunConfig, checkpoint: str, out: str | os.PathLike | None = None) -> dict[str, dict]:
  """What is written of each evaluator, by its name."""
  if not config.evals:
    raise UserError('the config has no evals, so there is nothing to do; configs/demo_evals.py shows some')
  if out is None and checkpoint == RANDOM:
    raise UserError('random parameters have no folder; name one for the results by --out')
  out = storage.path(out or storage.path(checkpoint) / 'evaluate')
  # What bounds the evaluations beside a run would make half a benchmark pass for one.
  evals = {name: {k: v for k, v in own.items() if k != 'max_clips'} for name, own in config.evals.items()}
  config = dataclasses.replace(config, evals=evals)
  mesh = sharding.make_mesh(config.mesh)
  model, _, spec = step_lib.build(config)
  with jax.set_mesh(mesh), features.STORE.kept_in(out / 'features'):
    params, about = parameters(config, model, spec, mesh, checkpoint)
    about |= {'path': str(checkpoint), 'parameters': features.identity(params)}
    evals = evaluators.build(config, model, mesh)
    written, progress = {}, Progress('evaluators', len(evals))
    for nth, (name, evaluator) in enumerate(evals.items(), 1):
      since = time.monotonic()
      result = evaluator.result(params)
      written[name] = {
        'name': name,
        'protocol': result.protocol,
        'metrics': result.metrics,
        'expected': result.expected,
        'evaluated': result.evaluated,
        'missing': list(result.missing),
        'checkpoint': about,
        'seconds': round(time.monotonic() - since, 1),
        'versions': machine.versions() | {'devices': machine.devices()},
        'config': config_lib.text(config),
        'quoted': [quote._asdict() for quote in quoted.beside(config.evals[name].get('quoted', ''))],
        'items': result.items,
      }
      if jax.process_index() == 0:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / f'{name}.json', json.dumps(written[name], allow_nan=False) + '\n')
        print(line(name, result), flush=True)
        if written[name]['quoted']:
          print(*quoted.lines(config.evals[name]['quoted']), sep='\n', flush=True)
        progress.tell(nth)
  return written


def as_it_is(values: Mapping, checkpoint: str) -> dict:
  """A config's values with the model of a folder of converted weights, where that is another model."""
  values, folder = config_lib.plain(values), storage.path(checkpoint)
  if checkpoint == RANDOM or not (folder / 'config.json').exists():
    return values
  model = our_config(read_json(local(folder, ('config.json',)) / 'config.json'), folder)
  own = model.to_dict()
  asked = build(tvts.TVTSConfig.from_dict, values['model'], 'the config').to_dict()
  changed = differences_of(asked, own)
  if not changed:
    return values
  computed = {name: asked[name] for name in ('dtype', 'scan', 'remat', 'attention')}
  logging.info(
    '%s holds another model than the config asks for, and is evaluated as it is (%s)', folder, '; '.join(changed)
  )
  input = dict(values['input'])
  if any((folder / name).exists() for name in tokens.FILES):
    input['tokenizer'] = str(folder)
  if model.video.SAME_PLACES:
    input['mask'] = 'tube'
  return {**values, 'input': input, 'model': own | computed}


def differences_of(old: Mapping, new: Mapping) -> list[str]:
  """Of two models, in settings without which weights mean something else."""
  lines = config_lib.differences(*(config_lib.text_of(config_lib.plain(model)) for model in (old, new)))
  free = roles.lines(tvts.TVTSConfig, 'loads')
  return [line for line in lines if not line.startswith(free)]


def line(name: str, result) -> str:
  numbers = '  '.join(f'{key} {value:.4g}' for key, value in result.metrics.items())
  missing = f'  {result.expected - result.evaluated} of {result.expected} missing'
  return f'{name}: {numbers}{missing if result.expected > result.evaluated else ""}'


def parameters(config, model, spec, mesh, checkpoint: str) -> tuple[dict, dict]:
  """Parameters where the config's sharding puts them, and what they are."""
  init = lambda key: model.init(key, spec)
  shapes = jax.eval_shape(init, jax.random.key(0))
  place = sharding.layout(shapes, config.sharding, mesh)
  if checkpoint == RANDOM:
    return jax.jit(init, out_shardings=place)(jax.random.key(config.seed)), {'kind': RANDOM, 'seed': config.seed}
  folder, heads = storage.path(checkpoint), [name for name in shapes if name.startswith(tvts.HEADS)]
  if (folder / 'config.json').exists():
    given = shapes
    for part in (name for name in shapes if name not in heads):
      given, report = convert.load_part(given, config.model, part, folder)
      logging.info('%s', report)
    if (folder / 'tokenizer.json').exists():
      check_tokenizer(config, Tokenizer(str(folder), config.input.max_tokens).fingerprint, folder)
    check_heads(heads, (), folder)
    put = lambda leaf, place: jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])
    return jax.tree.map(put, given, place), {'kind': 'weights'}
  if not (folder / FOLDER).exists():
    raise UserError(
      f'{folder} is neither the work directory of a run nor a folder of converted weights; name one of the two, or '
      f'{RANDOM}'
    )
  checkpoints = of_run(folder)
  step = checkpoints.latest()
  meta = checkpoints.read_run(step)
  check_model(config, meta, folder)
  part = 'ema' if meta['ema'] else 'params'
  about = {'kind': 'run', 'step': step, 'part': part, 'trained_with': meta['version']}
  params = from_run(folder, config.model.video, shapes, place, part)
  check_heads(heads, params, folder)
  return params, about


def check_heads(asked, there, folder):
  if missing := sorted(set(asked) - set(there)):
    raise UserError(
      f'{folder} holds no {missing[0]}, which the objectives of the config have; take the config it was trained with'
    )


def check_model(config, meta: dict, folder):
  """What fits by its shapes and means something else would be evaluated without a word."""
  theirs = build(tvts.TVTSConfig.from_dict, meta['model'], folder)  # Settings that are newer than it have defaults.
  if changed := differences_of(theirs.to_dict(), config.model.to_dict()):
    raise UserError(
      f'{folder} was trained with another model ({"; ".join(changed[:8])}); take the config it was trained with'
    )
  check_tokenizer(config, meta['vocabulary'], folder)


def check_tokenizer(config, fingerprint: str, folder):
  tokenizer = Tokenizer(config.input.tokenizer, config.input.max_tokens)
  check_fingerprint(tokenizer.fingerprint, fingerprint, str(folder))


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]!r} is not a flag; settings are given as --config.evals.NAME.batch=64')
  command.tell_own()

  def work() -> None:
    distributed.initialize()
    given = flags.FLAGS
    evaluate(config_lib.resolve(as_it_is(given.config, given.checkpoint)), given.checkpoint, given.out)

  return command.ending(work, leave=distributed.leave)


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None, 'a file of configs/, of which `evals` are run')
  flags.DEFINE_string('checkpoint', None, 'a work directory, a folder of converted weights, or random')
  flags.DEFINE_string('out', None, 'where results go; by default CHECKPOINT/evaluate')
  flags.mark_flags_as_required(['config', 'checkpoint'])
  command.run(main)
