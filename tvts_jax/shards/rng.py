"""Randomness without state: the same key gives the same numbers in any process, in any order, at any step."""

import math

import numpy as np
from numpy.random.bit_generator import ISeedSequence

ROUNDS = 4


class Key(ISeedSequence):
  """The key of a Philox, as a seed: given as a key, numpy asks the system for random bytes first, and forgets them."""

  def __init__(self, words: np.ndarray):
    self._words = words

  def generate_state(self, n_words: int, dtype=np.uint32) -> np.ndarray:
    return self._words


def generator(seed: int, *, epoch: int = 0, example: int = 0, stream: int = 0) -> np.random.Generator:
  """A Philox generator keyed by (seed, example), its counter started at (epoch, stream).

  Stream 0 of an example in an epoch draws its transcripts and frames first, then the crop, then the mask.
  """
  key = np.array([seed & 0xFFFFFFFFFFFFFFFF, example], np.uint64)
  counter = np.array([0, 0, epoch, stream], np.uint64)  # The low words count the draws.
  return np.random.Generator(np.random.Philox(Key(key), counter=counter))


def mix(values: np.ndarray, key: int) -> np.ndarray:
  """uint64 array → uint64 array: a keyed bijection (splitmix64), so unequal values stay unequal."""
  with np.errstate(over='ignore'):
    z = values.astype(np.uint64) + np.uint64(key & 0xFFFFFFFFFFFFFFFF) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return z ^ (z >> np.uint64(31))


class Bijection:
  """A random permutation of 0 ... size - 1 and its inverse, without memory.

  A Feistel network on the cells of a grid that is hardly larger; from a cell beyond, it goes on until it comes back.
  """

  def __init__(self, size: int, rng: np.random.Generator):
    self.size, self._high = size, math.isqrt(max(size, 1) - 1) + 1
    self._wide = -(-max(size, 1) // self._high)
    self._keys = rng.integers(2**63, size=(ROUNDS, 2)).tolist()

  def __call__(self, places: np.ndarray) -> np.ndarray:
    """int64 → int64."""
    return self._walk(places, self._forward)

  def inverse(self, values: np.ndarray) -> np.ndarray:
    return self._walk(values, self._back)

  def _walk(self, numbers: np.ndarray, step) -> np.ndarray:
    numbers = step(numbers.astype(np.uint64))
    while (beyond := numbers >= self.size).any():
      numbers[beyond] = step(numbers[beyond])
    return numbers.astype(np.int64)

  def _forward(self, numbers: np.ndarray) -> np.ndarray:
    row, column = np.divmod(numbers, self._wide)
    for first, second in self._keys:
      row = (row + mix(column, first) % self._high) % self._high
      column = (column + mix(row, second) % self._wide) % self._wide
    return row * self._wide + column

  def _back(self, numbers: np.ndarray) -> np.ndarray:
    row, column = np.divmod(numbers, self._wide)
    for first, second in reversed(self._keys):
      column = (column + self._wide - mix(row, second) % self._wide) % self._wide
      row = (row + self._high - mix(column, first) % self._high) % self._high
    return row * self._wide + column
