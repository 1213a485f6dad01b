"""Errors of storage: one type for all libraries, a reason that one can read, and tries that go on for minutes.

What may pass (a server that is busy, a connection that is cut, a network file system that fails over) is tried again
with growing, random waits for PATIENCE_S seconds in all. Then it is a StorageError, which ends a command with exit code
76: the same command goes on.
"""

import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator

from absl import logging

PATIENCE_S = float(os.environ.get('TVTS_STORAGE_PATIENCE_S', 600))
WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # Before the second try, and before any.
# What another try cannot mend.
LASTING = FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError
LASTING_NUMBERS = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENODATA


class StorageError(OSError):
  """Storage that went on failing for as long as we wait."""

  def __str__(self):
    return f'{self.filename}: {self.strerror}'


class Retries:
  """How often this process, and those that tell it, had to try again."""

  def __init__(self):
    self._lock, self.count = threading.Lock(), 0
    self.tell = lambda: None  # Called for each: an input worker tells the process that it works for.

  def add(self) -> int:
    self.tell()
    with self._lock:
      self.count += 1
      return self.count


RETRIES = Retries()
ANSWERED = set()  # Buckets that have answered this process.


def patiently(path, work: Callable):
  """work(), tried again while storage fails: StorageError in the end. What lasts is raised at once."""
  begin, pause, tries = time.monotonic(), WAIT_S, 0
  while True:
    try:
      with as_os_error(path):
        result = work()
      ANSWERED.add(server(path))
      return result
    except LASTING:
      raise
    except OSError as e:
      if e.errno in LASTING_NUMBERS:
        raise
      if 'token request' in e.strerror and server(path) not in ANSWERED:  # Later it is no more than a blink.
        raise PermissionError(errno.EACCES, 'no credentials are found; docs/storage.md says where', str(path)) from e
      tries += 1
      waited = time.monotonic() - begin
      if waited >= PATIENCE_S:
        why = f'{e.strerror}, {tries} times in {waited:.0f} s; put the storage right and run the same command again'
        raise StorageError(e.errno, why, str(path)) from e
      nap = min(pause * random.uniform(0.5, 1.5), PATIENCE_S - waited)
      logging.warning('%s: %s; trying again in %.1f s (retry %d)', path, e.strerror, nap, RETRIES.add())
    time.sleep(nap)
    pause = min(2 * pause, LONGEST_WAIT_S)


def server(path) -> str:
  """Who answers: a bucket; '' for a disk."""
  return '/'.join(str(path).split('/')[:3]) if '://' in str(path) else ''


@contextlib.contextmanager
def as_os_error(path) -> Iterator[None]:
  """Gives every error of storage a type of OSError, a number, a reason and the path."""
  try:
    yield
  except OSError as e:
    if e.errno and e.strerror and e.filename:
      raise
    number = e.errno or (errno.ENOENT if isinstance(e, FileNotFoundError) else errno.EIO)
    reason = e.strerror or (os.strerror(number) if number != errno.EIO else reason_of(e))
    raise OSError(number, reason, str(path)) from e
  except Exception as e:
    if not type(e).__module__.startswith('obstore'):
      raise
    number = NUMBERS.get(type(e).__name__, errno.EIO)
    raise OSError(number, reason_of(e) if number == errno.EIO else os.strerror(number), str(path)) from e


# Errors of obstore by name. OSError makes PermissionError and the like of these numbers.
NUMBERS = {
  'NotFoundError': errno.ENOENT,
  'PermissionDeniedError': errno.EACCES,
  'UnauthenticatedError': errno.EACCES,
  'AlreadyExistsError': errno.EEXIST,
  'PreconditionError': errno.EEXIST,
}


def reason_of(error: Exception) -> str:
  """What matters of an error's text, of which libraries write pages: its first line."""
  return ' '.join(str(error).strip().partition('\n')[0].split())[:300] or type(error).__name__
