"""Processes that make the rows of batches, and write them into memory that they share with this one.

A worker gets rows to make (rows.TASK) through a socket. When they are done it writes (slot, place) of each into a pipe
that all workers share; why a row cannot be made comes back through its socket. This process hands out tasks, reads the
pipe, and gives out arrays that lie in the shared memory: it spends next to nothing on a clip.

Workers are forks of a process that has imported what decodes and nothing else (worker_process.py). They end when this
process closes their sockets, or dies. SIGINT and SIGTERM are blocked in them, since schedulers send those to all
processes, and a run that saves and stops still takes batches.
"""

import contextlib
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.input import decoders, shared
from tvts_jax.input.rows import TASK
from tvts_jax.input.worker_process import DONE, Setup
from tvts_jax.machine import cores
from tvts_jax.shards import storage

FEWEST, MOST = 4, 4096  # Slots: at least two in the making, one that is computed with, and one on its way there.
DEATHS = 3  # Of workers at one row, or at their start, before the run ends.
FEW_ROWS = 4  # Of a batch, for one worker.
FEW_CORES = 3  # On so few, processes cost more than they bring.
# A worker is for one core, and sees no accelerator. It keeps the memory that it frees: to get that of each frame from
# the system anew costs a quarter of decoding it.
VARIABLES = {
  'CUDA_VISIBLE_DEVICES': '',
  'MALLOC_MMAP_THRESHOLD_': str(64 * 2**20),
  'MALLOC_TRIM_THRESHOLD_': str(256 * 2**20),
  **dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1'),
  **dict.fromkeys(('TF_NUM_INTEROP_THREADS', 'TF_NUM_INTRAOP_THREADS'), '1'),
}


def count(asked: int | None) -> int:
  """How many workers there are. None: one for each core but one, where there are enough."""
  able = hasattr(os, 'memfd_create')
  if asked is None:
    return cores() - 1 if able and cores() > FEW_CORES else 0
  if asked and not able:
    raise UserError(f'input.workers={asked} needs Linux; set it to 0')
  return asked


class ForkServer:
  """The process that workers are forks of."""

  def __init__(self, decoder: str):
    self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Not by multiprocessing, whose children import the main module of this process, with its flags.
    program = (
      f'import sys; sys.path[:] = {sys.path!r}; from tvts_jax.input import worker_process; '
      f'worker_process.serve({theirs.fileno()}, {decoder!r})'
    )
    with theirs, blocked(signal.SIGINT, signal.SIGTERM):
      self._process = subprocess.Popen(
        [sys.executable, '-c', program],
        env={**os.environ, **VARIABLES},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,
      )

  def fork(self, files: list[int]) -> None:
    socket.send_fds(self._socket, [b'fork'], files)

  def end(self, pid: int) -> int:
    """Kills a worker, if it still lives; its status."""
    self._socket.send(b'%d' % pid)
    return int(self._socket.recv(64))


SERVERS: dict[tuple[int, str], ForkServer] = {}  # By process and decoder; kept for the streams that come.


def fork(decoder: str, files: list[int]) -> ForkServer:
  """The server that has forked a worker with these descriptors."""
  key = os.getpid(), decoder
  for _ in range(2):
    server = SERVERS[key] = SERVERS.get(key) or ForkServer(decoder)
    try:
      server.fork(files)
      return server
    except OSError:  # It was killed.
      del SERVERS[key]
  raise UserError('the process that starts input workers ends at once; see what it wrote, or set input.workers=0')


@contextlib.contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
  """What starts meanwhile is born with these signals blocked."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Worker:
  """One worker, as this process sees it."""

  def __init__(self, decoder: str, files: list[int], left: np.ndarray):
    """left: tasks of a worker that died."""
    ours, theirs = socket.socketpair()
    with theirs:
      self._server = fork(decoder, [theirs.fileno(), *files])
    self.connection, self.pid, self.left = Connection(ours.detach()), None, left
    self.begin(left)

  def begin(self, tasks: np.ndarray) -> None:
    with contextlib.suppress(OSError):  # That it died shows where its messages are read.
      self.connection.send_bytes(tasks.tobytes())

  def end(self) -> str:
    """How it ended."""
    self.connection.close()
    if self.pid is None:
      return 'ended before it began'
    try:
      code = os.waitstatus_to_exitcode(self._server.end(self.pid))
    except (OSError, ValueError):  # The server was killed as well.
      return 'ended'
    return f'was ended by {signal.Signals(-code).name}' if code < 0 else f'exited with {code}'


class Workers:
  """Makes the rows of batches in other processes; in use as batches.Local."""

  def __init__(self, source, size: int, processes: int):
    """size: rows of a batch."""
    config = source.config
    self._source, self._decoder = source, decoders.resolve(config.decoder)
    self._layout = shared.Layout(source.row_spec, size)
    slots = min(max(FEWEST, config.prefetch_bytes // self._layout.bytes), MOST)
    self.most = slots - 2
    self._slots, self._free = slots, list(range(slots))[::-1]
    self._leases: dict[int, weakref.ref] = {}
    self._tasks, self._done = np.zeros((slots, size), TASK), np.ones((slots, size), bool)
    self._owner, self._deaths = np.zeros((2, slots, size), np.int32)
    self._dealt = self._false_starts = 0

    parts = [(part.config, part.tokenizer, (part.manifest, part.index)) for part in source.parts]
    memory, setup = os.memfd_create('batches'), shared.write(Setup(parts, self._layout, slots, config.reads))
    os.ftruncate(memory, slots * self._layout.bytes)
    self._memory = mmap.mmap(memory, slots * self._layout.bytes)
    self._reports, reports = os.pipe()
    os.set_blocking(self._reports, False)
    self._files = [reports, memory, setup]
    self._poll = select.poll()
    self._poll.register(self._reports, select.POLLIN)
    self._workers: list[Worker] = []
    self._by_descriptor: dict[int, int] = {}
    for number in range(processes):
      self._start(number, self._tasks[:0, 0])

  @property
  def pids(self) -> list[int]:
    return [worker.pid for worker in self._workers if worker.pid]

  def open(self) -> int | None:
    """A slot for a batch; None where there is no room for one."""
    return self._free.pop() if self._free else None

  def begin(self, tasks: np.ndarray) -> None:
    """Workers get a few rows in turn, so that small batches keep all of them busy as well, at a message for a few."""
    n = len(self._workers)
    each = max(FEW_ROWS, -(-len(tasks) // n))
    at = tasks['slot'], tasks['place']
    self._tasks[at], self._done[at], self._deaths[at] = tasks, False, 0
    self._owner[at] = (self._dealt + np.arange(len(tasks)) // each) % n
    for begin in range(0, len(tasks), each):
      self._workers[self._dealt].begin(tasks[begin : begin + each])
      self._dealt = (self._dealt + 1) % n

  def look(self, wait: bool) -> list[tuple[int, int, Exception]]:
    """Notes which rows are done; (slot, place, error) of those that cannot be made. wait: until there is news."""
    failed, patience = [], None if wait else 0
    while ready := self._poll.poll(patience):
      patience = 0
      for descriptor, _ in ready:
        if descriptor == self._reports:
          self._read_reports()
        else:
          failed += self._hear(self._by_descriptor[descriptor])
    return failed

  def left(self, slot: int) -> int:
    """How many rows of a batch are not done."""
    return self._done.shape[1] - np.count_nonzero(self._done[slot])

  def take(self, slot: int) -> dict[str, np.ndarray]:
    """A batch that is done. Its slot is free again when nobody has any of its arrays any more.

    JAX keeps an array for as long as it copies from it, and on CPUs for as long as it computes with it. Whoever keeps
    so many that none would be left to make batches in is given copies.
    """
    slot_N = np.ndarray(self._layout.bytes, np.uint8, self._memory, slot * self._layout.bytes)
    arrays = self._layout.arrays(slot_N)
    if len(self._leases) > self._slots - FEWEST + 1:
      self._free.append(slot)
      return {name: value.copy() for name, value in arrays.items()}
    self._leases[slot] = weakref.ref(slot_N, lambda _: self._release(slot))
    return arrays

  def close(self) -> None:
    for worker in self._workers:
      worker.end()
    self._workers.clear()
    for file in [self._reports, *self._files]:
      os.close(file)

  def _release(self, slot: int) -> None:
    del self._leases[slot]
    self._free.append(slot)

  def _start(self, number: int, left: np.ndarray) -> None:
    worker = Worker(self._decoder, self._files, left)
    self._workers[number : number + 1] = [worker]
    self._by_descriptor[worker.connection.fileno()] = number
    self._poll.register(worker.connection.fileno(), select.POLLIN)

  def _read_reports(self) -> None:
    with contextlib.suppress(BlockingIOError):
      while data := os.read(self._reports, 1 << 16):
        done = np.frombuffer(data, DONE)
        self._done[done['slot'], done['place']] = True

  def _hear(self, number: int) -> list[tuple[int, int, Exception]]:
    worker = self._workers[number]
    try:
      kind, *values = worker.connection.recv()
    except (EOFError, OSError):
      return self._replace(number)
    if kind == 'failed':
      return [tuple(values)]
    if kind == 'started':
      (worker.pid,), self._false_starts = values, 0
    else:
      storage.RETRIES.add()
    return []

  def _replace(self, number: int) -> list[tuple[int, int, Exception]]:
    """Another worker goes on with what a dead one has left, but for a row that too many died of."""
    worker, failed = self._workers[number], []
    self._poll.unregister(worker.connection.fileno())
    del self._by_descriptor[worker.connection.fileno()]
    how = worker.end()
    self._read_reports()
    if worker.pid is None:
      self._false_starts += 1
      if self._false_starts == DEATHS:
        raise UserError('input workers end before they begin; see what they wrote, or set input.workers=0')
    self._source.trouble.replaced(f'the input worker of process {worker.pid} {how}')
    # What is left is made one by one and in order, so if there is any, the worker died of the first.
    left = worker.left[~self._done[worker.left['slot'], worker.left['place']]]
    for slot, place, part, _, row in left[:1].tolist():
      self._deaths[slot, place] += 1
      if self._deaths[slot, place] == DEATHS - 1:  # The first died when it made many at a time.
        self._owner[slot, place] = -1
        examples = self._source.parts[part]
        error = (
          f'{examples.place(row)}: {DEATHS} processes that made it died, and the last one {how}; look at it with '
          f'python -m data.validate --decode {examples.config.folder}, or set fewer input.workers if memory is short'
        )
        failed.append((slot, place, UserError(error)))
    self._start(number, self._tasks[(self._owner == number) & ~self._done])
    return failed
