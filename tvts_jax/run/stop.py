"""Until when a run goes on.

SIGTERM, as schedulers and preempted machines send it, or SIGINT, as Ctrl-C does, to any one process makes all
processes save before one and the same step and exit with EXIT_CODE. That takes as long as the step under way, or the
batch of an evaluation, and then the save; with several processes, which must agree, one second and one step more. A
second signal to the same process ends it at once, unsaved, with 128 + the number of the signal.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import ClassVar

import jax
from jax.experimental import multihost_utils

from tvts_jax.pod.peers import LIBC
from tvts_jax.run import watchdog

EXIT_CODE = os.EX_TEMPFAIL  # 75: saved, run the same command again to go on.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
  """The run was asked to stop, and an evaluation ends between two of its batches, in all processes the same two."""


class Stop:
  """Listens while it is entered, from the main thread, after the processes have joined.

  The signals are read by a thread, because Python runs handlers on its main thread only, and that may hang in a
  collective whose peer is gone.
  """

  entered: ClassVar['Stop | None'] = None  # Of this process.

  def __enter__(self):
    Stop.entered = self
    self._asked, self._asks = threading.Event(), 0
    # What tells the other processes is a handler in C, of JAX, which Python's own would only replace.
    self._tell = LIBC.signal(signal.SIGTERM, None) if jax.distributed.is_initialized() else None
    self._handlers = {s: signal.signal(s, leave_to_thread) for s in SIGNALS}
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    self._thread = threading.Thread(target=self._listen, name='stop', daemon=True)
    self._thread.start()
    return self

  def __exit__(self, kind, error, traceback) -> None:
    Stop.entered = None
    signal.set_wakeup_fd(self._wakeup)
    for s, handler in self._handlers.items():
      signal.signal(s, handler)
    if self._tell:
      LIBC.signal(signal.SIGTERM, self._tell)
    os.write(self._write, b'\0')
    self._thread.join()
    os.close(self._read)
    os.close(self._write)

  def requested(self) -> bool:
    """Whether to save before the next step and stop: the same answer in all processes, which must ask equally often."""
    self._asks += 1
    if jax.distributed.is_initialized():
      # Not the step: asked to stop before the first one, JAX agrees on the number 1, which a resumed run has behind it.
      return multihost_utils.reached_preemption_sync_point(self._asks)
    return self._asked.is_set()

  def _listen(self) -> None:
    while number := os.read(self._read, 1)[0]:
      if number not in SIGNALS:
        continue
      name = signal.Signals(number).name
      if self._asked.is_set():
        print(f'{name} again: leaving at once', file=sys.stderr, flush=True)
        os._exit(128 + number)
      print(f'{name}: saving at the next step and stopping; once more to leave at once', file=sys.stderr, flush=True)
      self._asked.set()
      if self._tell:
        ctypes.CFUNCTYPE(None, ctypes.c_int)(self._tell)(signal.SIGTERM)


def between_batches() -> None:
  """For an evaluation, which calls this equally often in all processes: Stopped if a run was asked to stop."""
  watchdog.beat()
  if Stop.entered is not None and Stop.entered.requested():
    raise Stopped


def leave_to_thread(number: int, frame) -> None:
  """Python's handler of a signal that the thread of a Stop reads from the pipe."""


def forget() -> None:
  """Gives a forked child the default handlers: a signal to a worker must end the worker, not the run.

  The wakeup descriptor cannot tell whether a Stop was entered: asyncio has reset it in the child since Python 3.12.
  """
  for s in SIGNALS:
    if signal.getsignal(s) is leave_to_thread:
      signal.set_wakeup_fd(-1)
      signal.signal(s, signal.SIG_DFL)


os.register_at_fork(after_in_child=forget)
