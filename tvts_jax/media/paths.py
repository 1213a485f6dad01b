"""Where videos and pictures lie: files, members of tars, and folders full of them, on disks and in buckets.

A reference is a path or 'some.tar::member'. Nothing is ever unpacked to disk by name, so no member's name can become a
path.
"""

import functools
import hashlib
import io
import math
import os
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from tvts_jax.errors import UserError
from tvts_jax.media.errors import MediaError
from tvts_jax.shards import storage

VIDEOS = (
  *('.mp4', '.m4v', '.mkv', '.webm', '.mov', '.avi', '.flv', '.wmv', '.mpg', '.mpeg'),
  *('.ts', '.mts', '.m2ts', '.3gp', '.3g2', '.ogv'),
)
IMAGES = ('.jpg', '.jpeg', '.png', '.webp')
# data/archives.py reads lines of the JSONL files as well.
REFERENCE = re.compile(r'(.*?\.(?:tar|jsonl|jsonl\.gz))::(.+)', re.DOTALL)
HEADER_BYTES = 1 << 20  # Of one member of a tar: names are short.
FETCH_BYTES = 16 << 20  # Of one request to a bucket.


def split_ref(ref: str) -> tuple[str, str | None]:
  """The path, and the tar member or line offset inside it, if any."""
  match = REFERENCE.fullmatch(ref)
  return match.groups() if match else (ref, None)


def exists(ref: str) -> bool:
  """Whether a file is there, or the archive that should hold it. A cheap look, not a promise."""
  return storage.path(split_ref(ref)[0]).is_file()


def videos_under(folder: str, endings: tuple[str, ...] = VIDEOS) -> Iterator[str]:
  """Paths of all videos, or files with other endings, in a folder and those below it, folder by folder, in order."""

  def unreadable(error):
    raise UserError(f'{error.filename} cannot be read: {error.strerror}') from error

  if not storage.is_local(folder):
    files = sorted((str(file) for file in storage.files_below(folder)), key=os.path.split)
    yield from (file for file in files if is_wanted(os.path.basename(file), endings))
    return
  for at, folders, files in os.walk(folder, onerror=unreadable):
    folders.sort()
    yield from (os.path.join(at, file) for file in sorted(files) if is_wanted(file, endings))


def is_wanted(name: str, endings: tuple[str, ...]) -> bool:
  # macOS keeps what other file systems have no place for, of any file, in one with this before its name.
  return name.lower().endswith(endings) and not name.startswith('._')


def open_media(ref: str, limit_bytes: float = math.inf) -> BinaryIO:
  """A seekable file object over a file or an uncompressed tar member; MediaError if it is larger than the limit.

  On a disk nothing is copied. What lies in a bucket is fetched first, since decoders jump to and fro.
  """
  path, member = split_ref(ref)
  offset, size = 0, check_plain(path).size
  try:
    if member is not None:
      if member not in members(path):
        raise MediaError('missing_video', f'{path} has no member {member!r}')
      offset, size = members(path)[member]
    if size > limit_bytes:
      raise MediaError('oversized_video', f'{ref} has {size} bytes, more than {limit_bytes}')
    if not storage.is_local(path):
      return fetch(path, offset, size)
    return open(path, 'rb') if member is None else io.BufferedReader(Slice(path, offset, size))
  except storage.StorageError:
    raise
  except OSError as error:
    raise MediaError('missing_video', f'{path} cannot be opened: {error.strerror}') from error


def fetch(path: str, offset: int, size: int) -> BinaryIO:
  """Bytes [offset, offset + size) of an object in a bucket, in a temporary file that has no name."""
  file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
  for begin in range(offset, offset + size, FETCH_BYTES):
    count = min(FETCH_BYTES, offset + size - begin)
    data = storage.read_range(path, begin, count)
    if len(data) < count:
      raise MediaError('missing_video', f'{path} became shorter while it was read')
    try:
      file.write(data)
    except OSError as error:  # Says nothing about the video.
      reason = f'{error.strerror}; free some space, or set TMPDIR to a folder with more'
      raise storage.StorageError(error.errno, reason, tempfile.gettempdir()) from error
  file.seek(0)
  return file


def check_plain(path: str) -> storage.Stat:
  """Size and time of a plain file; MediaError if it is anything else."""
  try:
    if not storage.is_local(path):
      return storage.stat(path)
    info = os.stat(path)
  except storage.StorageError:
    raise
  except (OSError, ValueError) as error:
    raise MediaError('missing_video', f'{path!r}: {getattr(error, "strerror", None) or error}') from error
  if not stat.S_ISREG(info.st_mode):
    raise MediaError('missing_video', f'{path} is not a plain file')
  return storage.Stat(info.st_size, info.st_mtime)


def sha256(file: BinaryIO) -> str:
  """Of a whole open file."""
  file.seek(0)
  return hashlib.file_digest(file, 'sha256').hexdigest()


def members(path: str) -> dict[str, tuple[int, int]]:
  """Name → (offset, size) of every file in an uncompressed tar, in the tar's order; remembered."""
  return members_of(path, *check_plain(path))


@functools.lru_cache(maxsize=64)
def members_of(path: str, size: int, time: float) -> dict[str, tuple[int, int]]:
  places = {}
  try:
    with Headers(storage.path(path).open('rb', 0)) as file, tarfile.open(fileobj=file, mode='r:') as tar:
      for entry in tar:
        name = entry.name.removeprefix('./')
        if entry.isdir():
          continue
        if not entry.isreg() or entry.issparse():
          raise MediaError('bad_archive', f'{path}: member {name!r} is a link, a device or sparse, not a plain file')
        if name.startswith('/') or '..' in name.split('/'):
          raise MediaError('bad_archive', f'{path}: member {name!r} points outside the archive')
        if name in places:
          raise MediaError('bad_archive', f'{path}: two members are called {name!r}')
        if entry.offset_data + entry.size > size:
          raise MediaError('bad_archive', f'{path}: ends inside its member {name!r}')
        places[name] = entry.offset_data, entry.size
        tar.members = []  # Tarfile would keep every header.
      check_end(file, tar.offset)
  except (tarfile.TarError, ValueError, EOFError) as error:
    raise MediaError('bad_archive', f'{path} is not a readable uncompressed tar: {error}') from error
  return places


def check_end(file: BinaryIO, offset: int) -> None:
  """tarfile takes whatever it cannot read for the end. Behind a real one may be any bytes, but no second archive."""
  file.seek(offset)
  if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
    raise tarfile.ReadError(f'it is damaged or cut short at byte {offset}; fetch or pack it again')
  while block := file.read(tarfile.BLOCKSIZE):
    offset += tarfile.BLOCKSIZE
    if block[257:262] == b'ustar':
      raise tarfile.ReadError(f'a second archive follows at byte {offset}; unpack both and pack them as one')


class Headers(io.BufferedReader):
  """What tarfile may read of a tar: it would hold a header in memory whole, and of any size that it claims."""

  def read(self, size=-1):
    if size > HEADER_BYTES:
      raise tarfile.ReadError(f'a header claims to have {size} bytes')
    return super().read(size)


class Slice(io.RawIOBase):
  """Bytes [offset, offset + size) of a file, as a file."""

  def __init__(self, path: str, offset: int, size: int):
    self._fd, self._offset, self._size, self._at = os.open(path, os.O_RDONLY), offset, size, 0

  def readable(self):
    return True

  def seekable(self):
    return True

  def seek(self, offset, whence=io.SEEK_SET):
    at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
    if at < 0:
      raise ValueError(f'seek to {at}')
    self._at = at
    return at

  def readinto(self, buffer):
    data = os.pread(self._fd, max(0, min(len(buffer), self._size - self._at)), self._offset + self._at)
    buffer[: len(data)] = data
    self._at += len(data)
    return len(data)

  def close(self):
    if not self.closed:
      os.close(self._fd)
    super().close()
