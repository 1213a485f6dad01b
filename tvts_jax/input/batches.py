"""Iterators over batches that have threads behind them, and a way to end those."""

import atexit
import weakref
from collections.abc import Iterator

from tvts_jax.input.host_tf import tensorflow


class Stream(Iterator):
  """Of batches; close it, or leave its `with`, when done before the end."""

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


class Batches(Stream):
  """Iterates over a tf.data pipeline as numpy."""

  _open = weakref.WeakSet()

  def __init__(self, make, step: int, repair):
    """make(step): a pipeline that begins with the batch of a step; repair(step, message): puts right what TensorFlow
    failed at in that batch, so that a new pipeline does not, or raises why it cannot."""
    self._make, self._step, self._repair = make, step, repair
    self._iterator = make(step).as_numpy_iterator()
    self._open.add(self)

  def __next__(self) -> dict:
    tf = tensorflow()
    while True:
      try:
        batch = next(self._iterator)
        break
      except tf.errors.OpError as e:
        message = e.message
      # With the error, which would keep it, goes the failed pipeline: its threads must not outlive us.
      self.close()
      self._repair(self._step, message)
      self._iterator = self._make(self._step).as_numpy_iterator()
    self._step += 1
    return batch

  def close(self) -> None:
    self._iterator = iter(())

  @classmethod
  def close_all(cls) -> None:
    """Threads that still call Python would wait for ever for an interpreter that is shutting down."""
    for batches in list(cls._open):
      batches.close()


atexit.register(Batches.close_all)


class Turns(Stream):
  """Takes from one iterator after the other; `first`: whose turn it is at the start."""

  def __init__(self, iterators: list[Batches], first: int):
    self._iterators, self._turn = iterators, first

  def __next__(self) -> dict:
    batch = next(self._iterators[self._turn])
    self._turn = (self._turn + 1) % len(self._iterators)
    return batch

  def close(self) -> None:
    for batches in self._iterators:
      batches.close()
