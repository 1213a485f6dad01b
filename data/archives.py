"""Bytes out of the user's files and archives, sizes checked before anything is read or inflated.

A reference is a path, 'some.tar::member', or 'some.jsonl[.gz]::offset' for the line that starts at that
(uncompressed) byte. Nothing is ever unpacked to disk, so no member's name can become a path.
"""

import functools
import gzip
import io
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from data.outcomes import ItemError

GZIP_MAGIC = b'\x1f\x8b'

_REFERENCE = re.compile(r'(.*?\.(?:tar|jsonl|jsonl\.gz))::(.+)', re.DOTALL)
_MARK_BYTES = 64 << 20  # inflated bytes between two places from which a gzip file can be read on
_READ_BYTES = 1 << 20
_HEADER_BYTES = 1 << 20  # of one member of a tar: names are short


def split_ref(ref: str) -> tuple[str, str | None]:
  """The path on disk, and the tar member or line offset inside it, if any."""
  found = _REFERENCE.fullmatch(ref)
  return found.groups() if found else (ref, None)


def exists(ref: str) -> bool:
  """Whether a file is there, or the archive that should hold it. A cheap look, not a promise."""
  return os.path.isfile(split_ref(ref)[0])


def open_bytes(ref: str, limit_bytes: int, what: str = 'video') -> bytes:
  """The whole of a file, tar member or line. `what` ('video', 'transcript') names the failure codes."""
  path, inside = split_ref(ref)
  if inside is not None and not path.endswith('.tar'):
    return _line(path, inside, limit_bytes, what)
  with open_media(ref, what) as file:
    size = file.seek(0, io.SEEK_END)
    if size > limit_bytes:
      raise ItemError(f'oversized_{what}', f'{ref} has {size} bytes, more than {limit_bytes}')
    file.seek(0)
    return file.read()


def open_media(ref: str, what: str = 'video') -> BinaryIO:
  """A seekable file object over a file or an uncompressed tar member, without copying it."""
  path, member = split_ref(ref)
  _stat(path, what)
  try:
    if member is None:
      return open(path, 'rb')
    place = members(path).get(member)
    if place is None:
      raise ItemError(f'missing_{what}', f'{path} has no member {member!r}')
    return io.BufferedReader(_Slice(path, *place))
  except OSError as error:
    raise ItemError(f'missing_{what}', f'{path} cannot be opened: {error.strerror}') from error


def inflate(data: bytes, limit_bytes: int, what: str) -> bytes:
  """gunzip, up to a limit that a bomb runs into without using more memory than it."""
  with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
    try:
      out = file.read(limit_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
      raise ItemError('bad_archive', f'damaged gzip data: {error}') from error
  if len(out) > limit_bytes:
    raise ItemError(f'oversized_{what}', f'inflates to more than {limit_bytes} bytes')
  return out


def members(path: str) -> dict[str, tuple[int, int]]:
  """Name -> (offset, size) of every file in an uncompressed tar, in the tar's order; remembered."""
  info = os.stat(path)
  return _members(path, info.st_size, info.st_mtime_ns)


def lines(path: str, limit_bytes: int) -> Iterator[tuple[int, bytes]]:
  """(Offset, line without its end) of a text file, gzipped or not, one line in memory at a time."""
  offset = 0
  try:
    with gzip.open(path) if _is_gzip(path) else open(path, 'rb') as file:
      while line := file.readline(limit_bytes + 1):
        if len(line) > limit_bytes:
          raise ItemError('oversized_transcript', f'{path}: the line at byte {offset} is over {limit_bytes} bytes')
        yield offset, line.rstrip(b'\r\n')
        offset += len(line)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ItemError('bad_archive', f'{path} is damaged behind byte {offset} of its text: {error}') from error


def _stat(path, what):
  try:
    info = os.stat(path)
  except (OSError, ValueError) as error:
    raise ItemError(f'missing_{what}', f'{path!r}: {getattr(error, "strerror", None) or error}') from error
  if not stat.S_ISREG(info.st_mode):
    raise ItemError(f'missing_{what}', f'{path} is no plain file')
  return info


class _Slice(io.RawIOBase):
  """Bytes [offset, offset + size) of a file, as a file."""

  def __init__(self, path, offset, size):
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


class _Headers(io.BufferedReader):
  """What tarfile may read of a tar: it would hold a header in memory whole, and of any size that it claims."""

  def read(self, size=-1):
    if size > _HEADER_BYTES:
      raise tarfile.ReadError(f'a header claims to have {size} bytes')
    return super().read(size)


@functools.lru_cache(maxsize=64)
def _members(path, size, mtime_ns):
  out = {}
  try:
    with _Headers(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode='r:') as tar:
      for entry in tar:
        name = entry.name.removeprefix('./')
        if entry.isdir():
          continue
        if not entry.isreg() or entry.issparse():
          raise ItemError('bad_archive', f'{path}: member {name!r} is a link, a device or sparse, not a plain file')
        if name.startswith('/') or '..' in name.split('/'):
          raise ItemError('bad_archive', f'{path}: member {name!r} points outside the archive')
        if name in out:
          raise ItemError('bad_archive', f'{path}: two members are called {name!r}')
        if entry.offset_data + entry.size > size:
          raise ItemError('bad_archive', f'{path}: ends inside its member {name!r}')
        out[name] = entry.offset_data, entry.size
        tar.members = []  # tarfile would keep every header
      _check_end(file, tar.offset)
  except (tarfile.TarError, ValueError, EOFError) as error:
    raise ItemError('bad_archive', f'{path} is no readable uncompressed tar: {error}') from error
  return out


def _check_end(file, offset) -> None:
  """tarfile takes whatever it can not read for the end. Behind a real one may be any bytes, but no second archive."""
  file.seek(offset)
  if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
    raise tarfile.ReadError(f'it is damaged or cut short at byte {offset}; fetch or pack it again')
  while block := file.read(tarfile.BLOCKSIZE):
    offset += tarfile.BLOCKSIZE
    if block[257:262] == b'ustar':
      raise tarfile.ReadError(f'a second archive follows at byte {offset}; unpack both and pack them as one')


def _line(path, inside, limit_bytes, what):
  info = _stat(path, what)
  if not inside.isdecimal():
    raise ItemError(f'missing_{what}', f'{path}::{inside} should end in the byte offset of a line')
  offset = int(inside)
  if _is_gzip(path):
    line = _gzip(path, info.st_size, info.st_mtime_ns).line(offset, limit_bytes + 1)
  else:
    with open(path, 'rb') as file:
      file.seek(offset)
      line = file.readline(limit_bytes + 1)
  if not line:
    raise ItemError(f'missing_{what}', f'{path} has no line at byte {offset}')
  if len(line) > limit_bytes:
    raise ItemError(f'oversized_{what}', f'{path}: the line at byte {offset} is over {limit_bytes} bytes')
  return line


def _is_gzip(path):
  with open(path, 'rb') as file:
    return file.read(2) == GZIP_MAGIC


@functools.lru_cache(maxsize=128)
def _gzip(path, size, mtime_ns):
  return _Gzip(path)


class _Gzip:
  """Lines of a gzip file at any offset: marks the way it inflates, and starts from the nearest mark.

  The first far read pays for inflating all before it, later ones for `_MARK_BYTES` at most. A mark is a
  copied decompressor, about 45 KB.
  """

  def __init__(self, path):
    self._path = path
    self._marks = [(0, 0, zlib.decompressobj(wbits=31))]  # inflated offset, file offset, state

  def line(self, offset, limit_bytes):
    """At most `limit_bytes` of the line that starts at an offset of the inflated text."""
    parts, held = [], 0
    for at, chunk in self._chunks(offset):
      chunk = chunk[max(0, offset - at) :]
      end = chunk.find(b'\n') + 1
      parts.append(chunk[: end or None])
      held += len(parts[-1])
      if end or held >= limit_bytes:
        break
    return b''.join(parts)[:limit_bytes]

  def _chunks(self, offset):
    """(Inflated offset, bytes) from the last mark before `offset` to the end of the file."""
    out_at, in_at, state = max((mark for mark in self._marks if mark[0] <= offset), key=lambda mark: mark[0])
    state = state.copy()
    with open(self._path, 'rb') as file:
      file.seek(in_at)
      pending, whole = b'', False
      while data := pending or file.read(_READ_BYTES):
        try:
          chunk = state.decompress(data, _READ_BYTES)
        except zlib.error as error:
          raise ItemError('bad_archive', f'{self._path} is damaged behind byte {out_at} of its text') from error
        pending, whole = state.unconsumed_tail, state.eof
        if whole:
          pending, state = state.unused_data.lstrip(b'\0'), zlib.decompressobj(wbits=31)
        if chunk:
          yield out_at, chunk
        out_at += len(chunk)
        if out_at >= self._marks[-1][0] + _MARK_BYTES:
          self._marks.append((out_at, file.tell() - len(pending), state.copy()))
    if not whole:
      raise ItemError('bad_archive', f'{self._path} is cut short behind byte {out_at} of its text')
