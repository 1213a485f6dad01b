"""A tensor in a file, described before it is read."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def bytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def __str__(self):
    return f'{self.dtype}{list(self.shape)}'
