"""One row of a batch: a pure function of (part, row, epoch), whichever thread of whichever process makes it."""

import queue
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np

from tvts_jax.input import augment, decoders
from tvts_jax.input.examples import Examples
from tvts_jax.input.settings import InputConfig

# A row to make. Part, row and epoch say what it holds; slot and place, which batch in the making it is for and where.
TASK = np.dtype([('slot', np.int32), ('place', np.int32), ('part', np.int32), ('epoch', np.int32), ('row', np.int64)])
END_S = 5  # Seconds that threads have to end the row at hand.


class Maker:
  """Makes rows; as many threads as like call it, and `decoding` of them decode at a time."""

  def __init__(self, parts: list[Examples], decoding: int):
    self._parts, self._config = parts, parts[0].config  # Parts that share a batch ask the same of what decodes.
    self._decode = decoders.DECODERS[decoders.resolve(self._config.decoder)]
    self._turn = threading.Semaphore(decoding)

  def make(self, part: int, row: int, epoch: int, out: dict[str, np.ndarray]) -> None:
    """Writes a row into `out`, the arrays of its place in a batch. BadExample if it cannot be made."""
    examples, config = self._parts[part], self._config
    example = examples.load(row, epoch)
    values = {**vars(example), **example.more}
    pixels = []
    for name, value in out.items():
      if name.endswith('patches'):
        pixels.append((values[name.removesuffix('patches') + 'positions'], value))
      elif name in values:
        value[...] = values[name]
    with self._turn:
      try:
        frames = self._decode(example.jpegs, example.crop, config.image_size)
        if config.augmented:
          frames = augment.augment(np.stack(list(frames)), config, epoch, int(example.example_id))
        cut(frames, pixels, config)
      except decoders.DamagedFrame as e:
        raise examples.undecodable(row, str(e)) from e


def cut(frames: Iterable[np.ndarray], pixels: list[tuple[np.ndarray, np.ndarray]], config: InputConfig) -> None:
  """Copies the tubelets at rising positions, int32 [N], into uint8 [N, P], for each pair of such.

  A row of a patch is a run of bytes in a row of the picture, and no other pixel is touched.
  """
  p, wide = config.patch, config.image_size // config.patch
  edges, where = np.arange(config.slices + 1) * config.grid, []
  for position_N, patch_NxP in pixels:
    row_N, column_N = np.divmod(position_N % config.grid, wide)
    cubes = patch_NxP.reshape(-1, config.tubelet, p, 3 * p)
    where.append((np.searchsorted(position_N, edges), row_N, column_N, cubes))
  for m, frame in enumerate(frames):
    nth, depth = divmod(m, config.tubelet)
    blocks = frame.reshape(wide, p, wide, 3 * p)
    for edge, row_N, column_N, cubes in where:
      here = slice(edge[nth], edge[nth + 1])
      cubes[here, depth] = blocks[row_N[here], :, column_N[here]]


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
      self._maker.make(part, row, epoch, self._arrays_of(slot, place))
    except Exception as e:  # noqa: BLE001 — whoever takes the batch raises it.
      error = e
    self._report(slot, place, error)
