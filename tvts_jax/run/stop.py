"""Who may run in a work directory, and until when.

SIGTERM, as schedulers and preempted machines send it, or SIGINT, as Ctrl-C does, to any one process makes all
processes save before one and the same step and exit with EXIT_CODE. That takes as long as the step under way, or the
evaluation, and then the save; with several processes, which must agree, one second and one step more. A second signal
to the same process ends it at once, unsaved, with 128 + the number of the signal.
"""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import sys
import threading

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from tvts_jax.errors import UserError
from tvts_jax.files import is_local
from tvts_jax.pod.peers import LIBC

EXIT_CODE = os.EX_TEMPFAIL  # 75: saved, run the same command again to go on.
LOCK = '.lock'
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # What file systems without locks say.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
  """Listens while it is entered, from the main thread, after the processes have joined.

  The signals are read by a thread, because Python runs handlers on its main thread only, and that may hang in a
  collective whose peer is gone.
  """

  def __enter__(self):
    self._asked, self._asks = threading.Event(), 0
    # What tells the other processes is a handler in C, of JAX, which Python's own would only replace.
    self._tell = LIBC.signal(signal.SIGTERM, None) if jax.distributed.is_initialized() else None
    self._handlers = {s: signal.signal(s, lambda number, frame: None) for s in SIGNALS}
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=forget)
    self._thread = threading.Thread(target=self._listen, name='stop', daemon=True)
    self._thread.start()
    return self

  def __exit__(self, kind, error, traceback) -> None:
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
    """Whether to save before the next step and stop: the same answer in all processes. Ask before every step."""
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


def forget() -> None:
  """In a forked child, which has signals of its own: or ending a worker would stop the run."""
  if signal.set_wakeup_fd(-1) != -1:
    for s in SIGNALS:
      signal.signal(s, signal.SIG_DFL)


def lock(file, how: int) -> None:
  """fcntl's flock, which goes on with a warning where a file system has none, as Lustre mounted without -o flock."""
  try:
    fcntl.flock(file, how)
  except OSError as e:
    if e.errno not in NO_LOCKS:
      raise
    logging.warning(
      '%s is not guarded, for its file system has no locks (%s): start no second run in it',
      os.path.dirname(file.name),
      e.strerror,
    )


class WorkdirLock:
  """One live run per work directory: taken by process 0, refused in all processes alike, freed when process 0 dies.

  Object stores and some file systems have no locks, so a directory on one is not guarded; of the latter a warning
  tells.
  """

  def __init__(self, folder):
    self._folder = epath.Path(folder)
    self._file = None

  def __enter__(self):
    owner = self._take() if jax.process_index() == 0 else None
    refused = owner is not None
    if jax.process_count() > 1:
      refused = bool(multihost_utils.broadcast_one_to_all(np.int32(refused)))
    if refused:
      raise UserError(
        f'{self._folder} is in use by {owner or "another run"}; wait for it, stop it, or give another work directory'
      )
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if self._file is not None:
      self._file.close()

  def _take(self) -> str | None:
    """None, or who holds it."""
    if not is_local(self._folder):
      return None
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      file = open(self._folder / LOCK, 'a+')  # noqa: SIM115
    except OSError as e:
      raise UserError(f'{self._folder} can not be a work directory: {e.strerror}') from e
    try:
      lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      with file:
        file.seek(0)
        return file.read() or 'another run'
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    self._file = file
    return None
