"""One row of a batch: a pure function of (part, row, epoch), whichever thread of whichever process makes it."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from tvts_jax.input import augment, decoders
from tvts_jax.input.examples import Examples

# A row to make. Part, row and epoch say what it holds; slot and place, which batch in the making it is for and where.
TASK = np.dtype([('slot', np.int32), ('place', np.int32), ('part', np.int32), ('epoch', np.int32), ('row', np.int64)])
END_S = 5  # Seconds that threads have to end the row at hand.
CHUNK = 16  # Clips at most that TensorFlow gets at a time.


class Maker:
  """Makes rows, one by one or in two parts: what storage is waited for, and what a core is needed for."""

  def __init__(self, parts: list[Examples]):
    self._parts, self._config = parts, parts[0].config  # Parts that share a batch ask the same of what decodes.
    self.decoder = decoders.resolve(self._config.decoder)

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

  def decode(self, clip: decoders.Clip) -> Exception | None:
    """What it failed of, or None."""
    try:
      decoders.DECODERS[self.decoder](*clip)
    except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
      return e

  def make(self, part: int, row: int, epoch: int, out: dict[str, np.ndarray]) -> Exception | None:
    """A whole row."""
    try:
      error = self.decode(self.load(part, row, epoch, out))
    except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
      error = e
    return self.told(error, part, row)

  def told(self, error: Exception | None, part: int, row: int) -> Exception | None:
    """What a row failed of, as a BadExample where it is the row's own fault."""
    if isinstance(error, decoders.DamagedFrame):
      return self._parts[part].undecodable(row, str(error))
    return error


class Rows:
  """Makes rows on threads: while some wait for storage, others decode what is there."""

  def __init__(self, maker: Maker, reads: int, parallel: int, arrays_of: Callable, report: Callable):
    """Args:
    maker: what makes a row.
    reads: how many reads may be in flight.
    parallel: how many cores decode.
    arrays_of: (slot, place) → the arrays of that place.
    report: (slot, place, the exception that ended it or None), called by a thread once a row is done.
    """
    self._maker, self._parallel, self._arrays_of, self._report = maker, parallel, arrays_of, report
    self._tasks, self._loaded, self._ended = queue.SimpleQueue(), queue.SimpleQueue(), False
    chunks = maker.decoder == 'tf'  # TensorFlow has threads of its own.
    work = [self._load] * reads + ([self._decode_chunks] if chunks else [self._decode] * parallel)
    self._threads = [threading.Thread(target=target, name='rows', daemon=True) for target in work]
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
      self._loaded.put(None)
    late = time.monotonic() + END_S
    for thread in self._threads:
      thread.join(max(0, late - time.monotonic()))

  def _load(self) -> None:
    while (task := self._tasks.get()) is not None and not self._ended:
      slot, place, part, epoch, row = task
      try:
        clip = self._maker.load(part, row, epoch, self._arrays_of(slot, place))
        self._loaded.put((clip, (slot, place, part, row)))
      except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
        self._done(e, slot, place, part, row)

  def _decode(self) -> None:
    while (loaded := self._loaded.get()) is not None and not self._ended:
      clip, where = loaded
      self._done(self._maker.decode(clip), *where)

  def _decode_chunks(self) -> None:
    stream, chunks = None, deque()  # In the making.
    while True:
      while len(chunks) <= self._parallel and (chunk := self._chunk(wait=not chunks)):
        if chunk[-1] is None or self._ended:
          if stream is not None:
            stream.close()
          return
        clips, places = zip(*chunk)
        if stream is None:
          stream = decoders.Stream(clips[0], self._parallel)
        stream.put(clips)
        chunks.append((clips, places))
      clips, places = chunks.popleft()
      errors = [None] * len(clips)
      try:
        stream.take()
      except Exception:  # noqa: BLE001 — one by one, each clip shows again what it fails of.
        errors = [self._maker.decode(clip) for clip in clips]
      for error, where in zip(errors, places):
        self._done(error, *where)

  def _chunk(self, wait: bool) -> list:
    """Some of what is loaded, and at least one with `wait`. While reads are slow, chunks are small; none waits."""
    if not wait and self._loaded.empty():
      return []
    chunk = [self._loaded.get()]
    while len(chunk) < CHUNK and chunk[-1] is not None and self._loaded.qsize() >= self._parallel * len(chunk):
      chunk.append(self._loaded.get())
    return chunk

  def _done(self, error: Exception | None, slot: int, place: int, part: int, row: int) -> None:
    self._report(slot, place, self._maker.told(error, part, row))
