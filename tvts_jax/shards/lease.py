"""One live owner of a folder in a bucket: an object that its owner renews, and that a dead one ceases to renew.

A bucket has no locks, but it writes on conditions. The owner writes OWNER and renews it every RENEW_S seconds. Who
comes later takes the folder over if the owner was a process of this machine that is gone, or if nobody renews OWNER for
LEASE_S seconds; otherwise the folder is in use. An owner that was taken over, which may happen to a process that was
paused, ends at once, before it writes another byte.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator

from absl import logging

from tvts_jax.shards.bucket import BucketPath

OWNER = 'owner.json'
RENEW_S, LEASE_S = 20.0, 60.0
HELD = set()  # Leases of this process.


@contextlib.contextmanager
def held(folder: BucketPath) -> Iterator[str | None]:
  """Yields None while this process owns the folder, or who else does."""
  lease = Lease(folder)
  if lease.owner is not None:
    yield lease.owner
    return
  HELD.add(lease)
  try:
    yield None
  finally:
    HELD.discard(lease)
    lease.release()


def renew() -> None:
  """All leases of this process, before what must not be done by two."""
  for lease in tuple(HELD):
    lease.renew()


class Lease:
  """`owner` says who else holds the folder, or is None."""

  def __init__(self, folder: BucketPath):
    self._path, self._lock = folder / OWNER, threading.Lock()
    self._who = {'host': socket.gethostname(), 'pid': os.getpid(), 'token': secrets.token_hex(8)}
    self.owner = self._take()
    self._done = threading.Event()
    if self.owner is None:
      threading.Thread(target=self._keep, name='lease', daemon=True).start()

  def renew(self) -> None:
    with self._lock:
      if self._done.is_set():
        return
      try:
        self._version = self._path.replace_version(self._content(), self._version)
      except (FileExistsError, FileNotFoundError):
        print(
          f'error: {self._path.parent} was taken over by {describe(self._read()[0])}, for this process gave no sign of '
          f'life for {LEASE_S:g} s; stop one of the two runs',
          file=sys.stderr,
          flush=True,
        )
        os._exit(1)

  def release(self) -> None:
    with self._lock:
      self._done.set()
      if self._read()[1] == self._version:
        self._path.unlink(missing_ok=True)

  def _content(self) -> bytes:
    return json.dumps({**self._who, 'renewed': time.time()}).encode()

  def _take(self) -> str | None:
    try:
      self._version = self._path.create(self._content())
      return None
    except FileExistsError:
      content, seen = self._read()
    end = time.monotonic() + LEASE_S
    if seen and not dead(content):
      logging.info(
        '%s belongs to %s; waiting up to %g s for a sign of life', self._path.parent, describe(content), LEASE_S
      )
      while time.monotonic() < end:
        time.sleep(LEASE_S / 20)
        content, now = self._read()
        if now and now != seen:
          return describe(content)
    try:
      write = (lambda data: self._path.replace_version(data, seen)) if seen else self._path.create
      self._version = write(self._content())
      return None
    except (FileExistsError, FileNotFoundError):
      return describe(self._read()[0])

  def _read(self) -> tuple[dict, dict | None]:
    """What the owner says of itself, and the version of that; ({}, None) if there is no owner."""
    try:
      data, seen = self._path.read_version()
      content = json.loads(data)
      return (content if isinstance(content, dict) else {}), seen
    except FileNotFoundError:
      return {}, None
    except ValueError:
      return {}, seen

  def _keep(self) -> None:
    while not self._done.wait(RENEW_S):
      try:
        self.renew()
      except OSError as e:
        logging.warning('%s cannot be renewed: %s', self._path, e.strerror)


def dead(owner: dict) -> bool:
  """Whether it was a process of this machine, and is no more."""
  host, pid = owner.get('host'), owner.get('pid')
  if host != socket.gethostname() or not isinstance(pid, int):
    return False
  if pid == os.getpid():  # As in a container that was started again.
    return True
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    pass
  return False


def describe(owner: dict) -> str:
  return f'process {owner.get("pid", "?")} on {owner.get("host", "?")}'
