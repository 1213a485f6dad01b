"""The exchange format: a folder that this code, and PyTorch without it, read alike.

config.json               the settings of the model (TVTSConfig) and the version of this format
model.safetensors         the weights under the names of the published TVTS v1 model
modeling_tvts.py          the model in plain PyTorch
preprocessor_config.json  how frames are prepared (an image processor of transformers)
tokenizer files           where a tokenizer was given
run.json                  metrics and settings of the run, where they were given
README.md                 a model card
"""

import os
import pathlib
from collections.abc import Mapping

from tokenizers import Tokenizer

from tvts_jax.convert import card, load, names, read_weights, write_weights
from tvts_jax.convert.families.tvts import state_dict
from tvts_jax.convert.load_report import ConvertError, Report
from tvts_jax.files import local
from tvts_jax.input import tokens
from tvts_jax.models.tvts import TVTSConfig

MODELING = pathlib.Path(__file__).with_name('modeling_tvts.py')


def save_folder(
  folder: str | os.PathLike,
  config: TVTSConfig,
  params: Mapping,
  *,
  tokenizer: str | os.PathLike | None = None,
  metrics: Mapping | None = None,
  run: Mapping | None = None,
) -> None:
  """Writes the exchange folder, whole or not at all; raises UserError.

  Args:
    folder: a path where nothing is yet.
    params: parameters of a model of `config`, nested by name; arrays on the host or on one device.
    tokenizer: a folder with the files of a transformers tokenizer.
    metrics: numbers by name, nested or not, for the model card.
    run: settings of the run that made the weights, for the model card.
  """
  state = state_dict(config, params)
  tokenizer_files = find_tokenizer(local(tokenizer, tokens.FILES), config) if tokenizer is not None else []
  text = card.model_card(config, names.flatten(params), tokenizer=bool(tokenizer_files), metrics=metrics, run=run)
  settings = {'config.json': config_json(config), 'preprocessor_config.json': card.preprocessor(config.video)}
  if metrics or run:
    settings['run.json'] = dict(metrics=metrics, run=run)
  write_weights.write_folder(folder, state, settings, text, [MODELING, *tokenizer_files])


def load_folder(folder: str | os.PathLike) -> tuple[TVTSConfig, dict, Report]:
  """(config, params, report) of an exchange folder; raises ConvertError. Parameters are arrays on the host."""
  source = read_weights.open_folder(local(folder))
  if source.config is None:
    raise ConvertError(f'{folder} is no folder of ours: its config.json does not say model_type="tvts"')
  params = names.unflatten(names.spec(source.config))
  params, report = load.load(params, source.config, source, tuple(params), (), (), cast=False)
  return source.config, params, report


def load_run(folder) -> dict:
  """Metrics and settings of the run, as save_folder took them."""
  path = local(folder) / 'run.json'
  values = read_weights.read_json(path) if path.exists() else {}
  return dict(metrics=values.get('metrics'), run=values.get('run'))


def config_json(config: TVTSConfig, layout: str = 'tvts') -> dict:
  """layout: the family whose names the weights beside it have."""
  about = {'model_type': 'tvts', 'format_version': read_weights.FORMAT_VERSION, read_weights.LAYOUT: layout}
  return about | config.to_dict()


def find_tokenizer(folder: pathlib.Path, config: TVTSConfig) -> list[pathlib.Path]:
  """The files of a tokenizer, if it fits the text encoder."""
  listed = {name: folder / name for name in tokens.FILES if (folder / name).is_file()}
  if 'tokenizer.json' in listed:
    try:
      size = Tokenizer.from_file(str(listed['tokenizer.json'])).get_vocab_size()
    except Exception as error:
      raise ConvertError(f'{listed["tokenizer.json"]} is no tokenizer: {error}') from error
  elif 'vocab.txt' in listed:
    size = len(listed['vocab.txt'].read_text('utf-8').splitlines())
  elif {'vocab.json', 'merges.txt'} <= set(listed):
    size = len(read_weights.read_json(listed['vocab.json']))
  else:
    raise ConvertError(f'{folder} has no tokenizer; it needs tokenizer.json, vocab.txt, or vocab.json and merges.txt')
  if size > config.text.vocab_size:
    raise ConvertError(
      f'the tokenizer in {folder} knows {size} word pieces, but the text encoder only {config.text.vocab_size}; '
      f'give the tokenizer of these weights'
    )
  return list(listed.values())
