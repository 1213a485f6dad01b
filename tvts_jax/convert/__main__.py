"""Weights in and out, from the command line.

  python -m tvts_jax.convert import TVTS.pth --out MODEL
  python -m tvts_jax.convert import mae_pretrain_vit_base.pth distilbert-base-uncased --out MODEL
  python -m tvts_jax.convert export MODEL --format vivit --out VIVIT
  python -m tvts_jax.convert inspect FILE

What a file holds is recognised by its contents. MODEL is a folder that PyTorch reads without this package
(modeling_tvts.py in it). Each load prints what matched,
what did not, and why. The exit code is 0 if all is well, 1 if weights are refused, with one sentence to say why and
nothing written, and 2 if the command is not understood.
"""

import argparse
import json
import pathlib
import sys

from tvts_jax import command
from tvts_jax.convert import export, folder, load, names, read_weights, vivit, workdir, write_weights
from tvts_jax.convert.families import FAMILIES
from tvts_jax.convert.families.tvts import state_dict
from tvts_jax.convert.load_report import ConvertError, LoadError, plain
from tvts_jax.files import appear, local
from tvts_jax.input import tokens
from tvts_jax.shards import storage

FORMATS = {
  'folder': 'all that PyTorch needs, and this package reads',
  'safetensors': 'its weights as one safetensors file',
  'vivit': 'the video encoder as a VivitModel of transformers',
  **{name: f'{family.title}, for what reads it' for name, family in FAMILIES.items()},
}


def main(argv: list[str] | None = None) -> int:
  arguments = parser().parse_args(argv)
  return command.ending(lambda: run(arguments))


def run(arguments) -> None:
  try:
    arguments.run(arguments)
  except LoadError as error:
    print(error.report)
    raise


def parser() -> argparse.ArgumentParser:
  result = command.parser('tvts_jax.convert', __doc__)
  commands = result.add_subparsers(required=True, metavar='COMMAND')

  into = commands.add_parser('import', help='make a folder out of published weights')
  into.set_defaults(run=run_import)
  into.add_argument('files', metavar='FILE', nargs='+', help='.pth, safetensors, TorchScript or folder: a whole model, '
                    'or the encoders of a new one')  # fmt: skip
  into.add_argument('--as', dest='family', default='', choices=['', *FAMILIES], metavar='FAMILY',
                    help=f'what the file is, where two have the same names: {", ".join(FAMILIES)}')  # fmt: skip
  into.add_argument('--size', default='', help='the video encoder of a new model by name, if no file has one')
  into.add_argument('--seed', type=int, default=0, help='of the parts of a new model that no file fills')
  into.add_argument('--config', metavar='NAME=VALUE', action='append', default=[], type=setting,
                    help='a setting of the model that wins over the file, such as video.heads=12')  # fmt: skip
  into.add_argument('--allow-missing', metavar='PATTERN', action='append', default=[],
                    help='parameters that may keep their initial values, such as video/time_position')  # fmt: skip
  into.add_argument('--allow-unexpected', metavar='PATTERN', action='append', default=[],
                    help='names in the file that may be left out')  # fmt: skip
  into.add_argument('--cast', action='store_true', help='round weights that are wider than float32')
  into.add_argument('--tokenizer', metavar='DIR', help='to lie beside the weights; by default that of a FILE')
  into.add_argument('--out', metavar='MODEL', required=True, help='a folder that is not there yet')

  out = commands.add_parser('export', help='write a folder in another format')
  out.set_defaults(run=run_export)
  out.add_argument('model', metavar='MODEL', help='a folder that import made, or the work directory of a training run')
  out.add_argument('--format', required=True, choices=FORMATS, help='; '.join(f'{k}: {v}' for k, v in FORMATS.items()))
  out.add_argument('--tokenizer', metavar='DIR', help='for --format folder; by default that of MODEL')
  out.add_argument('--out', metavar='PATH', required=True, help='a file or folder that is not there yet')

  look = commands.add_parser('inspect', help='print what a file or folder holds, and load nothing')
  look.set_defaults(run=run_inspect)
  look.add_argument('path', metavar='FILE', help='a .pth, a safetensors file, or a folder of either')
  return result


def setting(text: str) -> tuple[list[str], object]:
  name, equals, value = text.partition('=')
  if not equals:
    raise argparse.ArgumentTypeError(f'{text!r} is not NAME=VALUE')
  try:
    return name.split('.'), json.loads(value)
  except ValueError:
    return name.split('.'), value


def nest(settings: list[tuple[list[str], object]]) -> dict:
  """{'video': {'heads': 4}, 'common': 64} out of ['video', 'heads'], 4 and ['common'], 64."""
  for path, _ in settings:
    if (path[0] in ('video', 'text')) != (len(path) == 2) or len(path) > 2:
      raise ConvertError(f'--config knows video.NAME, text.NAME and NAME, but not {".".join(path)}')
  return names.unflatten({'/'.join(path): value for path, value in settings})


def run_import(arguments):
  refuse_existing(arguments.out)
  config, params, reports = load.import_model(
    arguments.files,
    nest(arguments.config),
    family=arguments.family,
    size=arguments.size,
    seed=arguments.seed,
    allow_missing=arguments.allow_missing,
    allow_unexpected=arguments.allow_unexpected,
    cast=arguments.cast,
  )
  print(*reports, sep='\n')
  loaded = {path.split('/')[0] for report in reports for paths in report.matched.values() for path in paths.split(', ')}
  run = {'imported from': [pathlib.Path(path).name for path in arguments.files]}
  if fresh := [part for part in params if part not in loaded]:
    run |= {'not trained, but drawn at random': fresh, 'seed': arguments.seed}
    print(f'not in any file, so drawn at random: {", ".join(fresh)}')
  found = filter(None, map(known_tokenizer, arguments.files))
  tokenizer = arguments.tokenizer or next(found, None)
  folder.save_folder(arguments.out, config, params, tokenizer=tokenizer, run=run)
  print(f'wrote {arguments.out}')


def run_export(arguments):
  refuse_existing(arguments.out)
  if workdir.is_workdir(arguments.model):
    config, params, known = workdir.load_workdir(arguments.model)
    print(f'step {known["run"]["steps"]} of {arguments.model}')
  else:
    config, params, report = folder.load_folder(arguments.model)
    print(report)
    known = {'tokenizer': known_tokenizer(arguments.model), **folder.load_run(arguments.model)}
  out = storage.path(arguments.out)
  match arguments.format:
    case 'folder':
      known['tokenizer'] = arguments.tokenizer or known['tokenizer']
      folder.save_folder(out, config, params, **known)
    case 'vivit':
      vivit.save_vivit(out, config, params)
    case 'safetensors':
      metadata = {read_weights.CONFIG_KEY: json.dumps(folder.config_json(config))}
      with appear(out) as temporary:
        write_weights.write_safetensors(temporary, state_dict(config, params), **metadata)
    case family:
      if left := export.save_family(out, config, params, family):
        print(f'{FAMILIES[family].title} has no {", ".join(left)}')
  print(f'wrote {out}')


def run_inspect(arguments):
  source = read_weights.open_source(arguments.path)
  lines = [*source.notes, *(f'{name}  {tensor}' for name, tensor in source.tensors.items())]
  lines += [f'{name}: {reason}' for name, reason in source.unused.items()]
  print(*map(plain, [str(source), *(f'  {line}' for line in lines)]), sep='\n')


def refuse_existing(path: str):
  """At once, and not after minutes of reading."""
  if storage.path(path).exists():
    raise ConvertError(f'{path} exists already; move it away or choose another place')


def known_tokenizer(path: str) -> str | None:
  """The folder itself if it has a tokenizer."""
  return path if any((local(path) / name).is_file() for name in tokens.FILES) else None


if __name__ == '__main__':
  sys.exit(main())
