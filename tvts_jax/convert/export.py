"""A model in the layout of a family of published weights, as far as it is one of them."""

import os
from collections.abc import Mapping

import numpy as np

from tvts_jax.convert import card, folder, geometry, names, read_weights, write_weights
from tvts_jax.convert.families import FAMILIES
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.source import Source
from tvts_jax.convert.tensors import Tensor
from tvts_jax.files import appear
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.roles import names as with_role

ELSE = 'export it as a folder'


def save_family(path: str | os.PathLike, config: TVTSConfig, params: Mapping, name: str) -> tuple[str, ...]:
  """Writes a .pth, or a folder of transformers where the family is of there; returns the parts that it has no place
  for. Raises ConvertError unless importing it gives the same model again."""
  family, flat = FAMILIES[name], names.check_params(config, params)
  state = state_of(name, config, flat)
  if family.folder is None:
    with appear(path) as temporary:
      write_weights.write_pth(temporary, state, folder.config_json(config, name), family.wrap)
  else:
    weights, settings = family.folder
    files = {read_weights.WEIGHT_FILES[weights]: settings(config)}
    if 'video' in family.parts:
      files['preprocessor_config.json'] = card.preprocessor(config.video)
    write_weights.write_folder(path, state, files, card.of_family(family.title, state), weights=weights)
  return tuple(part for part in params if part not in family.parts)


def state_of(name: str, config: TVTSConfig, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The parameters under the names of a family."""
  family = FAMILIES[name]
  rows = [row for row in family.rows(config) if row.part in family.parts]
  named = {path for row in rows for path in row.ours}
  zero = lambda path: any(names.fits(pattern, path) for pattern in family.zeros)
  own = (path for path in flat if names.part_of(path) in family.parts)
  foreign = sorted(path for path in own if path not in named and not zero(path))
  if foreign:
    raise ConvertError(f'this model is no {bare(family.title)}, which has no place for {foreign[0]}; {ELSE}')
  if lacking := sorted(named - set(flat)):
    raise ConvertError(f'this model is no {bare(family.title)}, which has {lacking[0]} and it has not; {ELSE}')
  state = names.apply_table(rows, config, flat)
  check_shown(name, config, state)
  state |= {key: np.array(value, np.float32) for key, value in family.extra.items()}
  return {family.prefix + key: array for key, array in state.items()}


def bare(title: str) -> str:
  return title.removeprefix('an ').removeprefix('a ')


def check_shown(name: str, config: TVTSConfig, state: Mapping[str, np.ndarray]) -> None:
  """ConvertError unless these weights, and all that their family says of them, mean the model they come from."""
  family = FAMILIES[name]
  tensors = {key: Tensor(array.shape, array.dtype, lambda array=array: array) for key, array in state.items()}
  beside = family.folder[1](config) if family.folder else {}
  text_config = config.text if family.parts == ('text',) else None
  source = Source('', name, family.title, tensors, {}, text_config=text_config, beside=beside)
  # A file that has our config beside its weights says their heads.
  given = {'video.heads': config.video.heads, 'text.n_heads': config.text.n_heads} if family.wrap else {}
  shown = family.settings(geometry.Shapes(source, given))
  ours = config.to_dict()
  for part in ('video', 'text'):
    kind = type(getattr(config, part))
    free = with_role(kind, 'loads')
    for key, theirs in shown.get(part, {}).items():
      if key not in free and theirs != ours[part][key]:
        raise ConvertError(
          f'this model is no {bare(family.title)}, which has {part}.{key}={theirs!r}, and it has {ours[part][key]!r}; '
          f'{ELSE}'
        )
