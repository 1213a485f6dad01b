"""One row of a batch: a pure function of (part, row, epoch), whichever thread of whichever process makes it."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from tvts_jax.input import augment, decoders
from tvts_jax.input.examples import Examples

# A row to make. Part, row and epoch say what it holds; slot and place, which batch in the making it is for and where.
TASK = np.dtype([('slot', np.int32), ('place', np.int32), ('part', np.int32), ('epoch', np.int32), ('row', np.int64)])
END_S = 5  # Seconds that threads have to end the row at hand.


class Maker:
  """Makes rows, for as many threads as like to call it; `parallel` of them decode at a time."""

  def __init__(self, parts: list[Examples], parallel: int):
    self._parts, self._config = parts, parts[0].config  # Parts that share a batch ask the same of what decodes.
    self.decoder, self.parallel = decoders.resolve(self._config.decoder), parallel
    self._decode, self._turn = decoders.DECODERS[self.decoder], threading.Semaphore(parallel)

  def load(self, part: int, row: int, epoch: int, out: dict[str, np.ndarray]) -> decoders.Clip:
    """Writes all of a row but pixels into `out`, the arrays of its place in a batch → what is left to decode."""
    config = self._config
    example = self._parts[part].load(row, epoch)
    values = {**vars(example), **example.more}
    pixels = []
    for name, value in out.items():
      if name.endswith('patches'):
        pixels.append((values[name.removesuffix('patches') + 'positions'], value))
      elif name in values:
        value[...] = values[name]
    change = lambda clip: augment.augment(clip, config, epoch, int(example.example_id))
    return decoders.Clip(example.jpegs, example.crop, config, pixels, change if config.augmented else None)

  def decode(self, clip: decoders.Clip) -> None:
    with self._turn:
      self._decode(*clip)

  def told(self, error: Exception | None, part: int, row: int) -> Exception | None:
    """What a row failed of, as a BadExample where it is the row's own fault."""
    if isinstance(error, decoders.DamagedFrame):
      return self._parts[part].undecodable(row, str(error))
    return error


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
      self._maker.decode(self._maker.load(part, row, epoch, self._arrays_of(slot, place)))
    except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
      error = e
    self._report(slot, place, self._maker.told(error, part, row))


class Pipeline(Threads):
  """The same, with tf.data to decode what the threads have read."""

  def __init__(self, maker: Maker, count: int, arrays_of: Callable, report: Callable):
    self._loaded = queue.SimpleQueue()  # Clips that are read, with where each belongs; at the end None.
    super().__init__(maker, count, arrays_of, report)
    self._stage = threading.Thread(target=self._run, name='tf.data', daemon=True)
    self._stage.start()

  def make(self, slot: int, place: int, part: int, epoch: int, row: int) -> None:
    try:
      clip = self._maker.load(part, row, epoch, self._arrays_of(slot, place))
      self._loaded.put((clip, decoders.tf_values(*clip), (slot, place, part, row)))
    except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
      self._report(slot, place, self._maker.told(e, part, row))

  def close(self) -> None:
    super().close()
    self._loaded.put(None)
    self._stage.join(END_S)

  def _run(self) -> None:
    if (first := self._loaded.get()) is None:
      return
    begun = deque()

    def clips() -> Iterator[tuple]:
      loaded = first
      while loaded is not None and not self._ended:
        clip, values, where = loaded
        begun.append(where)
        yield clip, values
        loaded = self._loaded.get()

    for error in decoders.tf_stream(clips(), first[0], self._maker.parallel):
      slot, place, part, row = begun.popleft()
      self._report(slot, place, self._maker.told(error, part, row))


def start(maker: Maker, count: int, arrays_of: Callable, report: Callable) -> Threads:
  """What makes many rows at a time: with tf.data, where TensorFlow decodes."""
  return (Pipeline if maker.decoder == 'tf' else Threads)(maker, count, arrays_of, report)
