"""A file that nobody else can open: who tries waits, until it is given back or 45 s have gone by, as Linux has it."""

import contextlib
import fcntl
import os
import signal


@contextlib.contextmanager
def held(path):
  """For the length of a block, so that a test and not the clock says how long its reader works."""
  file = os.open(path, os.O_RDWR)
  before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # Sent to the holder when somebody asks for the file.
  try:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    yield
  finally:
    os.close(file)
    signal.signal(signal.SIGIO, before)
