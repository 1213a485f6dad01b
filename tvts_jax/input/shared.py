"""Memory that processes share: it has no name, and goes with the last process that has it open."""

import math
import mmap
import os
import pickle

import numpy as np

ALIGN = 64  # Bytes, as XLA likes arrays.


class Layout:
  """Where the arrays of a batch lie in a slot of `bytes` bytes."""

  def __init__(self, spec: dict[str, tuple[tuple[int, ...], np.dtype]], size: int):
    """spec: shape and dtype of each array of a row; size: rows of a batch."""
    self._arrays, end = {}, 0
    for name, (shape, dtype) in spec.items():
      self._arrays[name] = (size, *shape), dtype, end
      end = align(end + size * math.prod(shape) * dtype.itemsize, ALIGN)
    self.bytes = align(end, mmap.PAGESIZE)

  def arrays(self, slot_N: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays in the uint8 of one slot."""
    return {name: np.ndarray(shape, dtype, slot_N, begin) for name, (shape, dtype, begin) in self._arrays.items()}


def align(size: int, step: int) -> int:
  return -(-size // step) * step


def write(value) -> int:
  """A descriptor of memory that holds a value, for `read` in any process."""
  buffers = []
  body = pickle.dumps(value, 5, buffer_callback=buffers.append)
  buffers = [buffer.raw() for buffer in buffers]
  places, end = [], 0
  for buffer in buffers:
    places.append((end, buffer.nbytes))
    end = align(end + buffer.nbytes, ALIGN)
  head = pickle.dumps((body, places))
  memory = os.memfd_create('value')
  with open(memory, 'wb', closefd=False) as file:
    file.write(len(head).to_bytes(8, 'little') + head)
    for (begin, _), buffer in zip(places, buffers):
      file.seek(align(8 + len(head), ALIGN) + begin)
      file.write(buffer)
  return memory


def read(memory: int):
  """The value; its arrays are not copied."""
  whole = memoryview(mmap.mmap(memory, 0, access=mmap.ACCESS_READ))
  length = int.from_bytes(whole[:8], 'little')
  body, places = pickle.loads(whole[8 : 8 + length])  # noqa: S301 — written by `write`, for us.
  first = align(8 + length, ALIGN)
  return pickle.loads(body, buffers=[whole[first + begin : first + begin + n] for begin, n in places])  # noqa: S301
