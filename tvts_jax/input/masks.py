"""Which tubelets of a clip the model sees."""

import numpy as np

from tvts_jax.errors import UserError


def visible_per_slice(grid: int, ratio: float) -> int:
  """How many of a time slice's `grid` tubelets stay when `ratio` of them are masked."""
  kept = int(grid * (1 - ratio) + 1e-6) if 0 <= ratio < 1 else 0  # 1 - .9 is a little less than .1.
  if not kept:
    raise UserError(f'mask_ratio={ratio} leaves nothing of {grid} tubelets to see; it must be in [0, 1)')
  return kept


def random_mask(rng: np.random.Generator, slices: int, grid: int, kept: int) -> np.ndarray:
  """int [T, V]: each time slice keeps its own random tubelets, in order of place."""
  return np.sort(np.argpartition(rng.random((slices, grid)), kept - 1, axis=1)[:, :kept], axis=1)


def tube_mask(rng: np.random.Generator, slices: int, grid: int, kept: int) -> np.ndarray:
  """int [T, V]: all time slices keep the same random places."""
  return np.repeat(random_mask(rng, 1, grid, kept), slices, axis=0)


MASKS = {'random': random_mask, 'tube': tube_mask}


def positions(rng: np.random.Generator, kind: str, slices: int, grid: int, kept: int) -> np.ndarray:
  """int32 [T V]: the visible tubelets as t * grid + place, rising."""
  place_TxV = MASKS[kind](rng, slices, grid, kept)
  return (place_TxV + np.arange(slices)[:, None] * grid).ravel().astype(np.int32)
