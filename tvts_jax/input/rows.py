"""One row of a batch: a pure function of (part, row, epoch), whichever thread of whichever process makes it."""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from tvts_jax.input import augment, decoders
from tvts_jax.input.examples import Examples
from tvts_jax.input.host_tf import tensorflow

# A row to make. Part, row and epoch say what it holds; slot and place, which batch in the making it is for and where.
TASK = np.dtype([('slot', np.int32), ('place', np.int32), ('part', np.int32), ('epoch', np.int32), ('row', np.int64)])
END_S = 5  # Seconds that threads have to end the row at hand.


class Maker:
  """Makes rows, for as many threads as like to call it; `decoding` of them decode at a time."""

  def __init__(self, parts: list[Examples], decoding: int):
    self._parts, self._config = parts, parts[0].config  # Parts that share a batch ask the same of what decodes.
    self.decoder, self.decoding = decoders.resolve(self._config.decoder), decoding
    self._decode = decoders.DECODERS[self.decoder]
    self._turn = threading.Semaphore(decoding)

  def load(self, part: int, row: int, epoch: int, out: dict[str, np.ndarray]) -> Callable[[], None]:
    """Writes all of a row but pixels into `out`, the arrays of its place in a batch → what writes these.

    Either raises BadExample if the row cannot be made.
    """
    examples, config = self._parts[part], self._config
    example = examples.load(row, epoch)
    values = {**vars(example), **example.more}
    pixels = []
    for name, value in out.items():
      if name.endswith('patches'):
        pixels.append((values[name.removesuffix('patches') + 'positions'], value))
      elif name in values:
        value[...] = values[name]
    change = lambda clip: augment.augment(clip, config, epoch, int(example.example_id))

    def decode() -> None:
      with self._turn:
        try:
          self._decode(example.jpegs, example.crop, config, pixels, change if config.augmented else None)
        except decoders.DamagedFrame as e:
          raise examples.undecodable(row, str(e)) from e

    return decode


class Threads:
  """Make rows one by one: while some wait for storage, others decode."""

  def __init__(self, maker: Maker, count: int, arrays_of: Callable, report: Callable):
    """Args:
    maker: what makes a row.
    count: how many threads, and so how many reads may be in flight.
    arrays_of: (slot, place) → the arrays of that place.
    report: (slot, place, the exception that ended it or None), called by a thread once a row is done.
    """
    self._maker, self._arrays_of, self._report = maker, arrays_of, report
    self._tasks, self._ended = queue.SimpleQueue(), False
    self._threads = [threading.Thread(target=self._work, name='rows', daemon=True) for _ in range(count)]
    for thread in self._threads:
      thread.start()

  def begin(self, tasks: np.ndarray) -> None:
    for task in tasks.tolist():
      self._tasks.put(task)

  def close(self) -> None:
    """A thread that still called libraries while the interpreter shuts down could bring the process down."""
    self._ended = True
    for _ in self._threads:
      self._tasks.put(None)
    late = time.monotonic() + END_S
    for thread in self._threads:
      thread.join(max(0, late - time.monotonic()))

  def _work(self) -> None:
    while True:
      task = self._tasks.get()
      if self._ended:
        return
      self.make(*task)

  def make(self, slot: int, place: int, part: int, epoch: int, row: int) -> None:
    error = None
    try:
      self._maker.load(part, row, epoch, self._arrays_of(slot, place))()
    except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
      error = e
    self._report(slot, place, error)


class Pipeline(Threads):
  """The same, with tf.data to decode what the threads have read."""

  def __init__(self, maker: Maker, count: int, arrays_of: Callable, report: Callable):
    self._loaded = queue.SimpleQueue()  # (slot, place, what decodes it) of rows that are read.
    self._decoding: dict[int, tuple] = {}  # The same, by a number that goes through tf.data.
    super().__init__(maker, count, arrays_of, report)
    self._stage = threading.Thread(target=self._run, name='tf.data', daemon=True)
    self._stage.start()

  def make(self, slot: int, place: int, part: int, epoch: int, row: int) -> None:
    try:
      self._loaded.put((slot, place, self._maker.load(part, row, epoch, self._arrays_of(slot, place))))
    except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
      self._report(slot, place, e)

  def close(self) -> None:
    super().close()
    self._loaded.put(None)
    self._stage.join(END_S)

  def _run(self) -> None:
    tf = tensorflow()
    data = tf.data.Dataset.from_generator(self._numbers, output_signature=tf.TensorSpec([], tf.int64))
    decode = lambda number: tf.numpy_function(self._decode, [number], tf.int64)
    data = data.map(decode, num_parallel_calls=self._maker.decoding, deterministic=False)
    options = tf.data.Options()
    options.threading.private_threadpool_size = self._maker.decoding + 1  # Idle threads spin.
    options.threading.max_intra_op_parallelism = 1
    for _ in data.with_options(options):
      pass

  def _numbers(self) -> Iterator[int]:
    for number in itertools.count():
      if (loaded := self._loaded.get()) is None or self._ended:
        return
      self._decoding[number] = loaded
      yield number

  def _decode(self, number: np.ndarray) -> np.ndarray:
    slot, place, decode = self._decoding.pop(int(number))
    error = None
    try:
      decode()
    except Exception as e:  # noqa: BLE001 — as above.
      error = e
    self._report(slot, place, error)
    return number


def start(maker: Maker, count: int, arrays_of: Callable, report: Callable) -> Threads:
  """What makes many rows at a time: with tf.data, where TensorFlow decodes."""
  return (Pipeline if maker.decoder == 'tf' else Threads)(maker, count, arrays_of, report)
