"""Files that readers find whole, whatever happens while they are written, and folders that one process holds."""

import atexit
import contextlib
import errno
import fcntl
import functools
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Collection, Iterator
from typing import BinaryIO

from absl import logging

from tvts_jax.errors import UserError
from tvts_jax.shards import lease, storage
from tvts_jax.shards.storage import is_local

FETCHED = 'tvts_jax-'  # Before the number of the process that has fetched what is in such a folder.
HALF = re.compile(r'\..+-[0-9a-f]{8}')  # The name of a file or folder that is not finished.
LOCK = '.lock'
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # What file systems without locks say.


def local(path, only: Collection[str] | None = None) -> pathlib.Path:
  """The path as it is; of a file or flat folder in a bucket a copy, with all its files or those named in `only`."""
  return pathlib.Path(path) if is_local(path) else fetched(storage.path(path), only)


@functools.cache
def fetched(source: storage.BucketPath, only: Collection[str] | None) -> pathlib.Path:
  """Lasts as long as this process, or if it is killed, until the next one."""
  if not source.exists():
    raise UserError(f'{source} is not there, or may not be read from here')
  for old in pathlib.Path(tempfile.gettempdir()).glob(f'{FETCHED}*-*'):
    try:
      os.kill(int(old.name.removeprefix(FETCHED).partition('-')[0]), 0)
    except ProcessLookupError:
      shutil.rmtree(old, ignore_errors=True)
    except (ValueError, PermissionError):
      pass  # Not ours.
  own = tempfile.mkdtemp(prefix=f'{FETCHED}{os.getpid()}-')
  atexit.register(shutil.rmtree, own, ignore_errors=True)
  copy = pathlib.Path(own, source.name)
  if source.is_file():
    copy.write_bytes(source.read_bytes())
    return copy
  copy.mkdir()
  for file in source.iterdir():
    if file.name in only if only is not None else file.is_file():
      (copy / file.name).write_bytes(file.read_bytes())
  return copy


def half(path):
  """Where to write what will be at `path`: beside it, under a name that `sweep` knows."""
  return path.with_name(f'.{path.name}-{secrets.token_hex(4)}')


@contextlib.contextmanager
def publish(path, durable: bool = True) -> Iterator[BinaryIO]:
  """A file to write, in a local folder or a bucket: once the block ends well, it takes the place of what `path` holds.

  Whoever reads sees the old or the new, never a half.

  Args:
    durable: waits for the disk, some 10 ms, so that a local file outlives a power cut.
  """
  path = storage.path(path)
  if isinstance(path, storage.BucketPath):
    with tempfile.TemporaryFile() as file:
      yield file
      path.write(file)
    return
  temp = half(path)
  try:
    with temp.open('wb') as file:
      yield file
      file.flush()
      if durable:
        os.fsync(file.fileno())
    temp.replace(path)
    if durable:
      sync(path.parent)
  except BaseException as error:
    temp.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.filename is None:
      error.filename = str(path)  # Which an error of writing lacks.
    raise


def write_whole(path, content: str | bytes, durable: bool = True) -> None:
  """Publishes `content`, a text as UTF-8; tries again what may pass."""
  path = storage.path(path)

  def write():
    with publish(path, durable) as file:
      file.write(content.encode() if isinstance(content, str) else content)

  storage.patiently(path, write) if is_local(path) else write()


@contextlib.contextmanager
def appear(target) -> Iterator[pathlib.Path]:
  """A local path to write a file or folder at, which becomes `target` at the end, or nothing if the writing fails.

  A folder in a bucket appears file by file.
  """
  target = storage.path(target)
  if target.exists() or os.path.lexists(target):
    raise UserError(f'{target} exists already; move it away or choose another place')
  if isinstance(target, storage.BucketPath):
    with tempfile.TemporaryDirectory() as folder:
      temporary = pathlib.Path(folder, target.name)
      yield temporary
      if temporary.is_file():
        target.write(temporary)
      for file in storage.files_below(temporary):
        (target / file.relative_to(temporary)).write(file)
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  with scratch(target) as beside:
    temporary = beside / target.name  # Libraries look at the end of a name.
    yield temporary
    for path in [temporary, *temporary.rglob('*')]:
      sync(path)
    temporary.rename(target)
    sync(target.parent)


@contextlib.contextmanager
def scratch(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder beside a local path, which is gone at the end."""
  folder = half(path)
  folder.mkdir()
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def sync(path) -> None:
  """Waits until a file, or the entries of a folder, are on disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  except OSError as e:
    if e.errno != errno.EINVAL or not os.path.isdir(path):  # Some file systems cannot sync folders.
      raise
  finally:
    os.close(handle)


def sweep(folder) -> None:
  """Removes what processes that died have left half written in a local folder. For the folder's owner alone."""
  folder = storage.path(folder)
  if is_local(folder) and folder.exists():
    for path in folder.iterdir():
      if HALF.fullmatch(path.name):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def locked(folder, name: str = LOCK, wait: bool = False) -> Iterator[str | None]:
  """Makes a folder and holds it while it is entered, or until this process dies.

  Where a file system has no locks, the folder is not guarded, and a warning says so; in a bucket a lease guards it.

  Args:
    name: of the file in the folder that is locked.
    wait: until no other process holds it.

  Yields:
    None, or which other process holds the folder, as far as it says: then this one does not.
  """
  folder = storage.path(folder)
  if isinstance(folder, storage.BucketPath):
    with lease.held(folder) as owner:
      yield owner
    return
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / name, 'a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      yield file.read() or 'another process'
      return
    except OSError as e:
      if e.errno not in NO_LOCKS:
        raise
      logging.warning(
        '%s is not guarded, for its file system has no locks (%s); start no second run in it', folder, e.strerror
      )
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    try:
      yield None
    finally:
      file.truncate(0)


def read_rows(path) -> tuple[list[dict], list[int]]:
  """The lines of a JSONL file that are objects with a "step", and the numbers, from 1, of those that are not."""
  path = storage.path(path)
  rows, broken = [], []
  for number, line in enumerate(path.read_bytes().split(b'\n') if path.exists() else [], 1):
    if not line:
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict) and type(step := row.get('step')) is int and 0 <= step < 2**53:
      rows.append(row)
    else:
      broken.append(number)
  return rows, broken
