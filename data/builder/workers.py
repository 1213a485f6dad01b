"""Processes that may die: one task at a time in a child, under a limit of memory and of time.

A decoder fed with other people's files crashes, hangs and swallows memory. It does so in a child here; the
parent sees a code, starts another child and goes on.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker

from data.outcomes import BuildError
from tvts_jax.media.errors import MediaError
from tvts_jax.shards import patience
from tvts_jax.shards.storage import StorageError

RETRIED = ('crashed', 'timeout', 'out_of_memory')  # Once, in a fresh process: the cause may have been elsewhere.
START_S = 120.0  # Imports alone; a child that takes longer never comes.
LAST_WORDS_S = 5.0
RENEWED_AFTER = 500  # Items: what a decoder leaks must not fill the memory of items to come.
TICK_S = 0.2  # How soon a waiting parent notices that it is to stop.


class Stopped(Exception):
  """The runner was told to stop while it worked."""


@dataclass(frozen=True)
class Limits:
  seconds: float  # Wall clock of one item.
  memory_mb: int  # Address space of one item, on top of what the process has after its imports.


@dataclass(frozen=True)
class Answer:
  """What became of one item: `value` if code is 'ok'."""

  code: str
  value: object
  detail: str
  seconds: float
  attempts: int


class Runner:
  """One child that runs `task(job)`; to be used by one thread. task and jobs must pickle."""

  def __init__(self, task: Callable, limits: Limits, stop: threading.Event):
    self._task, self._limits, self._stop = task, limits, stop
    self._process = self._conn = None
    self._answered = 0

  def run(self, job) -> Answer:
    """BuildError if the child cannot start or the task says that nothing can go on; Stopped when told to."""
    if not self._process:
      self._start()
    begin = time.monotonic()
    code, value, attempts = *self._once(job), 1
    if code in RETRIED:
      self.close()
      code, value, attempts = *self._once(job), 2
    self._answered += 1
    if self._answered % RENEWED_AFTER == 0:
      self.close()
    ok = code == 'ok'
    return Answer(code, value if ok else None, '' if ok else value, time.monotonic() - begin, attempts)

  def close(self) -> None:
    if self._process:
      self._process.kill()
      self._process.join()
      self._conn.close()
      self._process = None

  def _once(self, job) -> tuple[str, object]:
    if not self._process:
      self._start()
    try:
      self._conn.send(job)
      code, value = self._receive(self._limits.seconds)
    except TimeoutError:
      self.close()
      return 'timeout', f'took more than {self._limits.seconds:g} s'
    except (EOFError, ConnectionError):
      return 'crashed', f'the process died of {self._cause_of_death()}'
    if code == 'fatal':
      raise BuildError(value, 'output')
    return code, value

  def _start(self) -> None:
    context = multiprocessing.get_context('spawn')
    self._conn, theirs = context.Pipe()
    self._process = context.Process(target=serve, args=(theirs, self._task, self._limits), daemon=True)
    # Ctrl-C reaches the whole group of processes; what it means is the parent's to decide. The tracker that
    # multiprocessing starts with the first process would lift the mask.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
      self._process.start()  # The child inherits the mask.
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # So that the child's death is the end of the file.
    try:
      self._receive(START_S)
    except (TimeoutError, EOFError, ConnectionError) as e:
      raise BuildError(
        f'a worker process cannot start ({self._cause_of_death()}); what it printed above says why', 'worker'
      ) from e

  def _cause_of_death(self) -> str:
    self._process.join(LAST_WORDS_S)  # It may still be printing what killed it.
    process = self._process
    self.close()
    status = process.exitcode
    return signal_name(-status) if status < 0 else f'exit code {status}'

  def _receive(self, seconds: float):
    end = time.monotonic() + seconds
    while not self._conn.poll(TICK_S):
      if self._stop.is_set():
        self.close()
        raise Stopped
      if time.monotonic() > end:
        raise TimeoutError
    return self._conn.recv()


class Pool:
  """`workers` runners, each with a thread that waits for it. Leaving the block kills what still runs."""

  def __init__(self, workers: int, task: Callable, limits: Limits):
    self._make = lambda: Runner(task, limits, self._stop)
    self._stop, self._local, self._runners = threading.Event(), threading.local(), []
    self._threads = ThreadPoolExecutor(workers)

  def __enter__(self):
    return self

  def submit(self, job) -> Future:
    """A future of the job's Answer."""
    return self._threads.submit(self._run, job)

  def _run(self, job) -> Answer:
    if not hasattr(self._local, 'runner'):
      self._local.runner = self._make()
      self._runners.append(self._local.runner)
    return self._local.runner.run(job)

  def __exit__(self, *_):
    self._stop.set()
    self._threads.shutdown(cancel_futures=True)
    for runner in self._runners:
      runner.close()


@contextlib.contextmanager
def held_back(*signals: int):
  """Notes signals instead of raising KeyboardInterrupt anywhere; yields a function that raises it if one came."""
  came = []
  before = [signal.signal(s, lambda number, _: came.append(number)) for s in signals]

  def check():
    if came:
      raise KeyboardInterrupt

  try:
    yield check
  finally:
    for s, handler in zip(signals, before):
      signal.signal(s, handler)
  check()


def serve(conn, task: Callable, limits: Limits) -> None:
  """The child: answers jobs until its parent closes the pipe or dies."""
  memory = limits.memory_mb << 20
  # So that a bucket that does not answer ends the build, instead of item after item that takes too long.
  patience.PATIENCE_S = min(patience.PATIENCE_S, limits.seconds / 2)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  threading.Thread(target=die_with_parent, daemon=True).start()
  os.environ['TOKIO_WORKER_THREADS'] = '1'  # obstore would start one a core, with 25 MB and more of address space each.
  limit_memory(memory)
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  conn.send('ready')
  while True:
    try:
      job = conn.recv()
    except EOFError:
      return
    try:
      answer = 'ok', task(job)
    except MediaError as e:
      answer = e.code, e.detail
    except (BuildError, StorageError) as e:
      answer = 'fatal', str(e)
    except MemoryError as e:
      answer = 'out_of_memory', f'needed more than {memory >> 20} MB: {e}'
    except Exception:  # noqa: BLE001 - whatever it is, it belongs to this item and is logged with it
      answer = 'unexpected_error', traceback.format_exc()
    conn.send(answer)


def die_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def limit_memory(memory: int) -> None:
  """`memory` bytes of address space on top of what is mapped now; no limit where /proc does not say what is."""
  try:
    with open('/proc/self/statm') as f:
      limit = int(f.read().split()[0]) * resource.getpagesize() + memory
  except FileNotFoundError:
    return
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def signal_name(number: int) -> str:
  try:
    return signal.Signals(number).name
  except ValueError:
    return f'signal {number}'
