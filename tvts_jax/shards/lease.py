"""One live owner of a folder in a bucket: an object that its owner renews, and that a dead one ceases to renew.

A bucket has no locks, but it writes on conditions. The owner writes OWNER with its token and renews it every RENEW_S
seconds. Whoever comes next and finds it takes it over if it was renewed by a process of this machine that is gone, or
if it is not renewed for LEASE_S seconds; otherwise the folder is in use.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

from absl import logging

from tvts_jax.errors import UserError
from tvts_jax.shards.bucket import BucketPath

OWNER = 'owner.json'
RENEW_S, LEASE_S = 20.0, 60.0


class Lease:
  """Of a folder in a bucket; `owner` says who else holds it, or is None."""

  def __init__(self, folder: BucketPath, name: str = OWNER):
    self._path, self._version = folder / name, None
    self._who = {'host': socket.gethostname(), 'pid': os.getpid(), 'token': secrets.token_hex(8)}
    self._lost = None
    self.owner = self._take()
    if self.owner is None:
      self._done = threading.Event()
      self._thread = threading.Thread(target=self._keep, name='lease', daemon=True)
      self._thread.start()

  def check(self) -> None:
    """UserError if another process has taken the folder over, which it may when we gave no sign of life."""
    if self._lost:
      raise UserError(
        f'{self._path.parent} was taken over by {self._lost} while this run gave no sign of life; stop one of the two'
      )

  def release(self) -> None:
    self._done.set()
    self._thread.join()
    if not self._lost:
      self._path.unlink(missing_ok=True)

  def _content(self) -> bytes:
    return json.dumps({**self._who, 'renewed': time.time()}).encode()

  def _take(self) -> str | None:
    try:
      self._version = self._path.create(self._content())
      return None
    except FileExistsError:
      pass
    end = time.monotonic() + LEASE_S
    content, seen = self._read()
    while content is not None and not dead(content):
      logging.info('%s is held by %s; waiting for a sign of life', self._path.parent, describe(content))
      if time.monotonic() >= end:
        break
      time.sleep(min(RENEW_S / 2, LEASE_S / 4))
      content, now = self._read()
      if content is not None and now != seen:
        return describe(content)
    try:
      write = self._path.create if content is None else lambda data: self._path.replace_version(data, seen)
      self._version = write(self._content())
      return None
    except FileExistsError:
      return describe(self._read()[0])

  def _read(self) -> tuple[dict | None, dict | None]:
    try:
      data, seen = self._path.read_version()
    except FileNotFoundError:
      return None, None
    try:
      content = json.loads(data)
      return (content if isinstance(content, dict) else {}), seen
    except ValueError:
      return {}, seen

  def _keep(self) -> None:
    while not self._done.wait(RENEW_S):
      try:
        self._version = self._path.replace_version(self._content(), self._version)
      except FileExistsError:
        self._lost = describe(self._read()[0])
        return
      except OSError as e:
        logging.warning('%s could not be renewed: %s', self._path, e.strerror)


def dead(content: dict) -> bool:
  """Whether its owner was a process of this machine, and is no more."""
  if content.get('host') != socket.gethostname() or not isinstance(content.get('pid'), int):
    return False
  try:
    os.kill(content['pid'], 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    pass
  return False


def describe(content: dict | None) -> str:
  content = content or {}
  return f'process {content.get("pid", "?")} on {content.get("host", "?")}'


@contextlib.contextmanager
def held(folder: BucketPath) -> Iterator[str | None]:
  """Yields None while this process owns the folder, or who else does."""
  lease = Lease(folder)
  try:
    yield lease.owner
  finally:
    if lease.owner is None:
      lease.release()
