"""What a batch holds beyond the usual, for the objectives that declare it, by name. Nothing else pays for it.

An array whose name ends with `patches` is not made but looked up: it holds the pixels of the tubelets at the positions
in the array of the same name that ends with `positions`, int32 [T V]: as many of each time slice.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.input.settings import InputConfig
from tvts_jax.shards import annotations


class Field(NamedTuple):
  spec: Callable  # InputConfig → {array: (shape, dtype)} of one example.
  # (InputConfig, shards.head.Head, positions, rng) → {array: value}; what it draws changes no other draw.
  make: Callable


def masked(config: InputConfig):
  hidden = config.slices * (config.grid - config.visible)
  if not hidden:
    raise UserError(f'mask_ratio={config.mask_ratio} masks nothing that could be reconstructed; set it higher')
  pixels = config.tubelet * config.patch**2 * 3
  return {'masked_patches': ((hidden, pixels), np.uint8), 'masked_positions': ((hidden,), np.int32)}


def make_masked(config: InputConfig, stored, positions, rng):
  """The tubelets that are not visible, rising."""
  return {'masked_positions': np.setdiff1d(np.arange(config.slices * config.grid, dtype=np.int32), positions)}


def part_order(config: InputConfig):
  """[K]: a clip is cut into as many parts as it has transcripts; the true place of the i-th part given."""
  return {'part_order': ((config.transcripts,), np.int32)}


def make_part_order(config: InputConfig, stored, positions, rng):
  return {'part_order': rng.permutation(np.arange(config.transcripts, dtype=np.int32))}


def make_label(config: InputConfig, stored, positions, rng):
  known = annotations.labels_of(config.annotations, config.split, config.label)
  if stored.video_id not in known:
    raise UserError(f'{config.annotations} does not list it in split {config.split!r}, so it has no label')
  return {'label': np.array(known[stored.video_id], np.int32)}


FIELDS = {
  'masked': Field(masked, make_masked),
  'part_order': Field(part_order, make_part_order),
  'label': Field(lambda config: {'label': ((), np.int32)}, make_label),
}


def spec(config: InputConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """Shape and dtype of each array of one example."""
  made = {}
  for name in config.fields:
    made |= FIELDS[name].spec(config)
  return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in made.items()}
