"""Randomness without state: the same key gives the same numbers in any process, in any order, at any step."""

import numpy as np


def generator(seed: int, *, epoch: int = 0, example: int = 0, stream: int = 0) -> np.random.Generator:
  """A Philox generator keyed by (seed, example), its counter started at (epoch, stream).

  Stream 0 of an example in an epoch draws its transcripts and frames first, then the crop, then the mask.
  """
  key = np.array([seed & 0xFFFFFFFFFFFFFFFF, example], np.uint64)
  counter = np.array([0, 0, epoch, stream], np.uint64)  # The low words count the draws.
  return np.random.Generator(np.random.Philox(key=key, counter=counter))


def mix(values: np.ndarray, key: int) -> np.ndarray:
  """uint64 array → uint64 array: a keyed bijection (splitmix64), so unequal values stay unequal."""
  with np.errstate(over='ignore'):
    z = values.astype(np.uint64) + np.uint64(key & 0xFFFFFFFFFFFFFFFF) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return z ^ (z >> np.uint64(31))
