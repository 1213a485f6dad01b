"""A process that a test started must not outlive it."""

import contextlib
import os
import pathlib
import signal
import time

import pytest

MARK = 'TVTS_TEST_PROCESS'  # Inherited by all that a test starts, and so found where a parent is gone.
GRACE_S = 5
# One of each is kept for as long as the process lives that started it, by multiprocessing and by input/workers.py.
KEPT = (b'multiprocessing.forkserver', b'multiprocessing.resource_tracker', b'worker_process.serve')
PROC = pathlib.Path('/proc')

os.environ[MARK] = str(os.getpid())


def pids() -> set[int]:
  return {int(path.name) for path in PROC.glob('[0-9]*')}


def read(pid: int, name: str) -> bytes:
  try:
    return (PROC / str(pid) / name).read_bytes()
  except OSError:  # It is gone, or somebody else's.
    return b''


def status(pid: int) -> tuple[bytes, int]:
  """State and parent; a process that is gone counts as dead."""
  words = read(pid, 'stat').rpartition(b')')[2].split()
  return (words[0], int(words[1])) if words else (b'X', 0)


def is_ours(pid: int) -> bool:
  """Whether a living process comes from this one, by its environment or by its parents."""
  state, parent = status(pid)
  if state in (b'X', b'Z') or parent == os.getpid() and any(name in read(pid, 'cmdline') for name in KEPT):
    return False
  if f'{MARK}={os.getpid()}'.encode() in read(pid, 'environ').split(b'\0'):
    return True
  while parent not in (0, 1, os.getpid()):
    parent = status(parent)[1]
  return parent == os.getpid()


def is_starting(pid: int) -> bool:
  """Whether it has no environment yet, by which it would be known."""
  state, _ = status(pid)
  with contextlib.suppress(OSError):
    return state not in (b'X', b'Z') and (PROC / str(pid)).stat().st_uid == os.getuid() and not read(pid, 'environ')
  return False


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
  """Kills those that do, and fails the test. What fixtures of a module or session started stays, being older."""
  before = pids()
  yield
  end = time.monotonic() + GRACE_S  # Workers whose parent was killed end by themselves.
  while True:
    new = pids() - before
    left = [pid for pid in new if is_ours(pid)]
    if not left and not any(map(is_starting, new)) or time.monotonic() > end:
      break
    time.sleep(0.02)
  commands = [read(pid, 'cmdline').replace(b'\0', b' ').decode(errors='replace').strip() for pid in left]
  for pid in left:
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
  assert not left, f'left behind, and killed now: {commands}'
