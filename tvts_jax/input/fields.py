"""What a batch holds beyond the usual, for the objectives that declare it, by name. Nothing else pays for it.

An array whose name ends with `patches` is not made but looked up: it holds the pixels of the tubelets at the positions
in the array of the same name that ends with `positions`, int32 [T V]: as many of each time slice.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tvts_jax.input.config import InputConfig


class Field(NamedTuple):
  spec: Callable  # InputConfig → {array: (shape, dtype)} of one example
  # (InputConfig, examples.Stored, positions, rng) → {array: value}; what it draws changes no other draw.
  make: Callable


FIELDS: dict[str, Field] = {}


def spec(config: InputConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """Shape and dtype of each array of one example."""
  made = {}
  for name in config.fields:
    made |= FIELDS[name].spec(config)
  return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in made.items()}
