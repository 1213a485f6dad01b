"""Iterators over batches, which are made ahead of whoever takes them."""

import math
import queue
import time
import weakref
from collections import deque
from collections.abc import Iterator

import numpy as np

from tvts_jax.input.rows import TASK, Maker, Rows
from tvts_jax.input.skipped import BadExample
from tvts_jax.machine import cores

FIRST = 8  # Batches in the making until it is known how fast they are taken,
LEAST = 2  # And however slowly they are.


class Stream(Iterator):
  """Of batches; close it, or leave its `with`, when done before the end."""

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


class Local:
  """Makes the rows of batches on threads of this process."""

  def __init__(self, source, size: int):
    config = source.config
    self._spec, self._size = source.row_spec, size
    batch_bytes = size * sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._spec.values())
    self.most, self.pids = max(LEAST, config.prefetch_bytes // batch_bytes), []
    self._slots = iter(range(2**31))
    self._arrays: dict[int, dict[str, np.ndarray]] = {}
    self._left: dict[int, int] = {}
    self._reports = queue.SimpleQueue()
    reads = min(config.reads, size)
    self._rows = Rows(Maker(source.parts), reads, cores(), self._arrays_of, lambda *r: self._reports.put(r))

  def open(self) -> int | None:
    """A slot for a batch; None where there is no room for one."""
    slot = next(self._slots)
    self._arrays[slot] = {n: np.zeros((self._size, *shape), dtype) for n, (shape, dtype) in self._spec.items()}
    self._left[slot] = self._size
    return slot

  def begin(self, tasks: np.ndarray) -> None:
    self._rows.begin(tasks)

  def look(self, wait: bool) -> list[tuple[int, int, Exception]]:
    """Notes which rows are done; (slot, place, error) of those that cannot be made. wait: until there is news."""
    failed = []
    while wait or not self._reports.empty():
      slot, place, error = self._reports.get()
      wait = False
      if error is None:
        self._left[slot] -= 1
      else:
        failed.append((slot, place, error))
    return failed

  def left(self, slot: int) -> int:
    """How many rows of a batch are not done."""
    return self._left[slot]

  def take(self, slot: int) -> dict[str, np.ndarray]:
    """A batch that is done, for good."""
    del self._left[slot]
    return self._arrays.pop(slot)

  def close(self) -> None:
    self._rows.close()

  def _arrays_of(self, slot: int, place: int) -> dict[str, np.ndarray]:
    return {name: value[place, ...] for name, value in self._arrays[slot].items()}


class Making:
  """A batch in the making."""

  def __init__(self, step: int, tasks: np.ndarray, valid: np.ndarray):
    self.step, self.tasks, self.valid = step, tasks, valid
    self.bad: dict[int, list[BadExample]] = {}  # By place: what was tried and cannot be made.
    self.others: dict[int, Iterator[int]] = {}  # By place: what is left to try.
    self.errors: dict[int, Exception] = {}  # By place: why nothing can be made.


class Batches(Stream):
  """Batches of steps start, start + 1, ... before stop, where there is one, with the rows `mine`."""

  def __init__(self, source, crew, start: int, stop: int | None, mine: np.ndarray):
    """crew: makes rows: Local, or workers.Workers."""
    self._source, self._crew, self._mine = source, crew, mine
    self._step, self._stop, self._begun = start, stop, start
    self._making: dict[int, Making] = {}  # By slot, that of the next step first.
    self._taken, self._between = None, deque(maxlen=8)  # When the last batch was taken, and seconds between them.
    self._depth = max(LEAST, min(FIRST, crew.most))
    self._end = weakref.finalize(self, crew.close)  # Also where it is forgotten, and at the end of the process.
    self._begin()

  def __next__(self) -> dict[str, np.ndarray]:
    if self._step == self._stop:
      raise StopIteration
    self._begin()
    slot, batch = next(iter(self._making.items()))
    self._look(wait=False)
    self._finish(slot, batch)
    self._source.settle(batch)
    arrays = self._crew.take(slot)
    if 'valid' in arrays:
      arrays['valid'][:] = batch.valid
      arrays['valid'][list(batch.bad)] = False
    for value in arrays.values():
      value.flags.writeable = False
    del self._making[slot]
    self._step += 1
    self._pace()
    self._begin()
    return arrays

  @property
  def pids(self) -> list[int]:
    """Ids of the processes that make rows."""
    return self._crew.pids

  def finish(self) -> int:
    """Waits until all batches in the making are done → how many these are."""
    for slot, batch in self._making.items():
      self._finish(slot, batch)
    return len(self._making)

  def close(self) -> None:
    self._stop = self._step
    self._making.clear()
    self._end()

  def _finish(self, slot: int, batch: Making) -> None:
    while self._crew.left(slot) > len(batch.errors):
      self._look(wait=True)

  def _pace(self) -> None:
    """As many batches ahead as are taken in prefetch_s: twice as many with each taken until so many."""
    now, last = time.monotonic(), self._taken
    self._taken = now
    if last is None:
      return
    self._between.append(now - last)
    usual = sorted(self._between)[len(self._between) // 2]
    wanted = math.ceil(self._source.config.prefetch_s / max(usual, 1e-6))
    self._depth = max(LEAST, min(wanted, self._crew.most, 2 * self._depth))

  def _begin(self) -> None:
    while len(self._making) < self._depth and self._begun != self._stop:
      if (slot := self._crew.open()) is None:
        return
      places = self._source.places(self._begun)
      tasks = np.zeros(len(self._mine), TASK)
      tasks['slot'], tasks['place'] = slot, np.arange(len(tasks))
      for name in ('part', 'row', 'epoch'):
        tasks[name] = getattr(places, name)[self._mine]
      self._making[slot] = Making(self._begun, tasks, places.valid[self._mine])
      self._begun += 1
      self._crew.begin(tasks)

  def _look(self, wait: bool) -> None:
    for slot, place, error in self._crew.look(wait):
      batch = self._making[slot]
      task = batch.tasks[place : place + 1]
      if isinstance(error, BadExample):
        part, row, epoch = (int(task[name][0]) for name in ('part', 'row', 'epoch'))
        self._source.parts[part].remember(row, epoch, error)
        batch.bad.setdefault(place, []).append(error)
        if place not in batch.others:
          batch.others[place] = self._source.stand_ins(batch.step, int(self._mine[place]))
        if (row := next(batch.others[place], None)) is not None:
          task['row'] = row
          self._crew.begin(task)
          continue
        error = self._source.exhausted(self._source.parts[part], batch.bad[place])
      batch.errors[place] = error


class Turns(Stream):
  """Takes from one iterator after the other; `first`: whose turn it is at the start."""

  def __init__(self, iterators: list[Stream], first: int):
    self._iterators, self._turn = iterators, first

  def __next__(self) -> dict:
    batch = next(self._iterators[self._turn])
    self._turn = (self._turn + 1) % len(self._iterators)
    return batch

  def close(self) -> None:
    for batches in self._iterators:
      batches.close()
