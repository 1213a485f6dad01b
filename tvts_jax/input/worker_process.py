"""What an input worker does; workers.py starts and feeds it."""

import dataclasses
import functools
import gc
import mmap
import os
import pickle
import select
import signal
import socket
import threading
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple, NoReturn

import numpy as np
from absl import logging

from tvts_jax.input import decoders, shared
from tvts_jax.input.examples import Examples
from tvts_jax.input.rows import TASK, Maker, Rows
from tvts_jax.shards import storage

DONE = np.dtype([('slot', np.int32), ('place', np.int32)])  # What a worker reports of a row.


ATOMIC = select.PIPE_BUF // DONE.itemsize  # So many reports are never torn apart by those of other workers.


class Setup(NamedTuple):
  """What all workers of a stream are given."""

  parts: list[tuple]  # InputConfig, tokenizer, and what shards.index has opened, of each.
  layout: shared.Layout
  slots: int
  reads: int


def serve(descriptor: int, decoder: str) -> NoReturn:
  """Forks workers for the process at the other end, until that is gone. Nothing here may start a thread."""
  decoders.load(decoder)
  gc.collect()
  gc.freeze()  # Else the first collection of each fork would copy all that is imported.
  with socket.socket(fileno=descriptor) as parent:
    while True:
      message, files, _, _ = socket.recv_fds(parent, 64, 4)
      if not message:
        os._exit(0)
      if message == b'fork':
        if not os.fork():
          parent.close()
          work(*files)
        for file in files:
          os.close(file)
      else:
        pid = int(message)
        os.kill(pid, signal.SIGKILL)
        parent.send(b'%d' % os.waitpid(pid, 0)[1])


def work(connection: int, reports: int, memory: int, setup: int) -> NoReturn:
  """Makes the rows that come through the connection, until that is closed. All are descriptors."""
  try:
    run(Parent(Connection(connection), reports), memory, shared.read(setup))
  except (EOFError, OSError):
    os._exit(0)  # Nobody is left to work for.
  except BaseException:
    traceback.print_exc()
    raise
  finally:
    os._exit(1)


class Parent:
  """The training process, as a worker sees it."""

  def __init__(self, connection: Connection, reports: int):
    self._connection, self._reports, self._lock = connection, reports, threading.Lock()
    self._groups: dict[tuple[int, int], Group] = {}  # By slot and place, of what is in the making.

  def tasks(self, single: bool = False) -> np.ndarray:
    """Rows to make. They are reported together, so that the training process wakes up once; single: one by one."""
    tasks = np.frombuffer(self._connection.recv_bytes(), TASK)
    places = tasks[['slot', 'place']].tolist()
    group = Group(len(places), [])
    with self._lock:
      self._groups.update((place, Group(1, []) if single else group) for place in places)
    return tasks

  def tell(self, *message) -> None:
    with self._lock:
      self._connection.send(message)

  def report(self, slot: int, place: int, error: Exception | None) -> None:
    with self._lock:
      group = self._groups.pop((slot, place))  # Before another row may come for the place of one that failed.
      group.left -= 1
      if error is None:
        group.done.append((slot, place))
      else:
        self._connection.send(('failed', slot, place, portable(error)))
      if not group.left:
        for first in range(0, len(group.done), ATOMIC):
          os.write(self._reports, np.array(group.done[first : first + ATOMIC], DONE).tobytes())


@dataclasses.dataclass
class Group:
  """Rows that came together."""

  left: int
  done: list[tuple[int, int]]


def run(parent: Parent, memory: int, setup: Setup) -> None:
  size = setup.layout.bytes
  whole = np.frombuffer(mmap.mmap(memory, setup.slots * size), np.uint8).reshape(setup.slots, size)
  arrays = functools.cache(lambda slot: setup.layout.arrays(whole[slot]))
  arrays_of = lambda slot, place: {name: value[place, ...] for name, value in arrays(slot).items()}
  logging.use_absl_handler()  # Warnings look like those of the training process.
  storage.RETRIES.tell = lambda: parent.tell('retried')
  maker = Maker([Examples(*part) for part in setup.parts])
  parent.tell('started', os.getpid())
  # What a worker that died has left, one by one, so that it is known which row it died of if this one dies as well.
  for slot, place, part, epoch, row in parent.tasks(single=True).tolist():
    parent.report(slot, place, maker.make(part, row, epoch, arrays_of(slot, place)))
  rows = Rows(maker, setup.reads, 1, arrays_of, parent.report)
  while True:
    rows.begin(parent.tasks())


def portable(error: Exception) -> Exception:
  """The error, or where it cannot be sent, one that says the same."""
  error.add_note(''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))  # noqa: S301 — our own.
    return error
  except Exception:  # noqa: BLE001 — whatever a class does when it is made again.
    return RuntimeError(''.join(traceback.format_exception(error)))
