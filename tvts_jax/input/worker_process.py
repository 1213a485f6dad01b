"""What an input worker does; workers.py starts and feeds it."""

import functools
import gc
import mmap
import os
import pickle
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
from tvts_jax.input.rows import TASK, Maker, Threads
from tvts_jax.shards import storage

DONE = np.dtype([('slot', np.int32), ('place', np.int32)])  # What a worker reports of a row.


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

  def tasks(self) -> np.ndarray:
    return np.frombuffer(self._connection.recv_bytes(), TASK)

  def tell(self, *message) -> None:
    with self._lock:
      self._connection.send(message)

  def report(self, slot: int, place: int, error: Exception | None) -> None:
    if error is None:
      os.write(self._reports, np.array((slot, place), DONE).tobytes())
    else:
      self.tell('failed', slot, place, portable(error))


def run(parent: Parent, memory: int, setup: Setup) -> None:
  size = setup.layout.bytes
  whole = np.frombuffer(mmap.mmap(memory, setup.slots * size), np.uint8).reshape(setup.slots, size)
  arrays = functools.cache(lambda slot: setup.layout.arrays(whole[slot]))
  arrays_of = lambda slot, place: {name: value[place, ...] for name, value in arrays(slot).items()}
  logging.use_absl_handler()  # Warnings look like those of the training process.
  storage.RETRIES.tell = lambda: parent.tell('retried')
  maker = Maker([Examples(*part) for part in setup.parts], decoding=1)
  parent.tell('started', os.getpid())
  # What a worker that died has left, one by one, so that it is known which row it died of if this one dies as well.
  left = Threads(maker, 0, arrays_of, parent.report)
  for task in parent.tasks().tolist():
    left.make(*task)
  threads = Threads(maker, setup.reads, arrays_of, parent.report)
  while True:
    threads.begin(parent.tasks())


def portable(error: Exception) -> Exception:
  """The error, or where it cannot be sent, one that says the same."""
  error.add_note(''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))  # noqa: S301 — our own.
    return error
  except Exception:  # noqa: BLE001 — whatever a class does when it is made again.
    return RuntimeError(''.join(traceback.format_exception(error)))
