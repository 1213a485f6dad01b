"""Where videos and pictures lie: files, members of tars, and folders full of them.

A reference is a path or 'some.tar::member'. Nothing is ever unpacked to disk, so no member's name can become a path.
"""

import functools
import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from tvts_jax.errors import UserError
from tvts_jax.media.errors import MediaError

VIDEOS = (
  *('.mp4', '.m4v', '.mkv', '.webm', '.mov', '.avi', '.flv', '.wmv', '.mpg', '.mpeg'),
  *('.ts', '.mts', '.m2ts', '.3gp', '.3g2', '.ogv'),
)
IMAGES = ('.jpg', '.jpeg', '.png', '.webp')
# data/archives.py reads lines of the JSONL files as well.
REFERENCE = re.compile(r'(.*?\.(?:tar|jsonl|jsonl\.gz))::(.+)', re.DOTALL)
HEADER_BYTES = 1 << 20  # Of one member of a tar: names are short.


def split_ref(ref: str) -> tuple[str, str | None]:
  """The path on disk, and the tar member or line offset inside it, if any."""
  match = REFERENCE.fullmatch(ref)
  return match.groups() if match else (ref, None)


def exists(ref: str) -> bool:
  """Whether a file is there, or the archive that should hold it. A cheap look, not a promise."""
  return os.path.isfile(split_ref(ref)[0])


def videos_under(folder: str, endings: tuple[str, ...] = VIDEOS) -> Iterator[str]:
  """Paths of all videos, or files with other endings, in a folder and those below it, folder by folder, in order."""

  def unreadable(error):
    raise UserError(f'{error.filename} cannot be read: {error.strerror}') from error

  for at, folders, files in os.walk(folder, onerror=unreadable):
    folders.sort()
    # macOS keeps what other file systems have no place for, of any file, in one with this before its name.
    wanted = [file for file in sorted(files) if file.lower().endswith(endings) and not file.startswith('._')]
    yield from (os.path.join(at, file) for file in wanted)


def open_media(ref: str) -> BinaryIO:
  """A seekable file object over a file or an uncompressed tar member, without copying it."""
  path, member = split_ref(ref)
  check_plain(path)
  try:
    if member is None:
      return open(path, 'rb')
    place = members(path).get(member)
    if place is None:
      raise MediaError('missing_video', f'{path} has no member {member!r}')
    return io.BufferedReader(Slice(path, *place))
  except OSError as error:
    raise MediaError('missing_video', f'{path} cannot be opened: {error.strerror}') from error


def check_plain(path: str) -> os.stat_result:
  """What the system knows of a plain file; MediaError if it is anything else."""
  try:
    info = os.stat(path)
  except (OSError, ValueError) as error:
    raise MediaError('missing_video', f'{path!r}: {getattr(error, "strerror", None) or error}') from error
  if not stat.S_ISREG(info.st_mode):
    raise MediaError('missing_video', f'{path} is not a plain file')
  return info


def sha256(file: BinaryIO) -> str:
  """Of a whole open file."""
  file.seek(0)
  return hashlib.file_digest(file, 'sha256').hexdigest()


def members(path: str) -> dict[str, tuple[int, int]]:
  """Name → (offset, size) of every file in an uncompressed tar, in the tar's order; remembered."""
  info = os.stat(path)
  return members_of(path, info.st_size, info.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def members_of(path: str, size: int, mtime_ns: int) -> dict[str, tuple[int, int]]:
  places = {}
  try:
    with Headers(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode='r:') as tar:
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
