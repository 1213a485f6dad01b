"""Iterators over batches that have threads behind them, and a way to end those."""

import atexit
import weakref

from tvts_jax.input.host_tf import tensorflow


class Batches:
  """Iterates over a tf.data pipeline as numpy; close it, or leave its `with`, when done before the end."""

  _open = weakref.WeakSet()

  def __init__(self, data, step: int, explain):
    """`explain(step, error)`: the exception to raise for an error of TensorFlow in the batch of a step."""
    self._iterator, self._step, self._explain = data.as_numpy_iterator(), step, explain
    self._open.add(self)

  def __iter__(self):
    return self

  def __next__(self) -> dict:
    tf = tensorflow()
    try:
      batch = next(self._iterator)
    except tf.errors.OpError as e:
      raise self._explain(self._step, e) from e
    self._step += 1
    return batch

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    self._iterator = iter(())

  @classmethod
  def close_all(cls) -> None:
    """Threads that still call Python would wait for ever for an interpreter that is shutting down."""
    for batches in list(cls._open):
      batches.close()


atexit.register(Batches.close_all)


class Turns:
  """Takes from one iterator after the other; `first`: whose turn it is at the start."""

  def __init__(self, iterators: list[Batches], first: int):
    self._iterators, self._turn = iterators, first

  def __iter__(self):
    return self

  def __next__(self) -> dict:
    batch = next(self._iterators[self._turn])
    self._turn = (self._turn + 1) % len(self._iterators)
    return batch

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    for batches in self._iterators:
      batches.close()
