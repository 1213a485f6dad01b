"""Bytes out of the user's files and archives, on disks and in buckets; sizes are checked before anything is inflated.

A reference is one of tvts_jax.media.paths, or 'some.jsonl[.gz]::offset' for the line that starts at that (uncompressed)
byte.
"""

import functools
import gzip
import io
import zlib
from collections.abc import Iterator

from data.outcomes import ItemError
from tvts_jax.media import paths
from tvts_jax.media.errors import MediaError
from tvts_jax.shards import storage

GZIP_MAGIC = b'\x1f\x8b'

MARK_BYTES = 64 << 20  # Inflated bytes between two places from which a gzip file can be read on.
READ_BYTES = 1 << 20


def open_bytes(ref: str, limit_bytes: int, what: str = 'video') -> bytes:
  """The whole of a file, tar member or line. `what` ('video', 'transcript') names the failure codes."""
  try:
    return read(ref, limit_bytes)
  except MediaError as error:
    raise ItemError(error.code.replace('video', what), error.detail) from error


def read(ref, limit_bytes):
  path, inside = paths.split_ref(ref)
  if inside is not None and not path.endswith('.tar'):
    return line_at(path, inside, limit_bytes)
  with paths.open_media(ref, limit_bytes) as file:
    return file.read()


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


def lines(path: str, limit_bytes: int) -> Iterator[tuple[int, bytes]]:
  """(Offset, line without its end) of a text file, gzipped or not, one line in memory at a time."""
  offset = 0
  try:
    with storage.path(path).open('rb') as raw, gzip.GzipFile(fileobj=raw) if is_gzip(path) else raw as file:
      while line := file.readline(limit_bytes + 1):
        if len(line) > limit_bytes:
          raise ItemError('oversized_transcript', f'{path}: the line at byte {offset} is over {limit_bytes} bytes')
        yield offset, line.rstrip(b'\r\n')
        offset += len(line)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ItemError('bad_archive', f'{path} is damaged behind byte {offset} of its text: {error}') from error


def line_at(path, inside, limit_bytes):
  info = paths.check_plain(path)
  if not inside.isdecimal():
    raise MediaError('missing_video', f'{path}::{inside} should end in the byte offset of a line')
  offset = int(inside)
  if is_gzip(path):
    line = gzip_marks(path, *info).line(offset, limit_bytes + 1)
  else:
    with storage.path(path).open('rb', READ_BYTES) as file:
      file.seek(offset)
      line = file.readline(limit_bytes + 1)
  if not line:
    raise MediaError('missing_video', f'{path} has no line at byte {offset}')
  if len(line) > limit_bytes:
    raise MediaError('oversized_video', f'{path}: the line at byte {offset} is over {limit_bytes} bytes')
  return line


def is_gzip(path):
  return storage.read_range(path, 0, len(GZIP_MAGIC)) == GZIP_MAGIC


@functools.lru_cache(maxsize=128)
def gzip_marks(path, size, time):
  return Gzip(path)


class Gzip:
  """Lines of a gzip file at any offset: marks the way it inflates, and starts from the nearest mark.

  The first far read pays for inflating all before it, later ones for `_MARK_BYTES` at most. A mark is a
  copied decompressor, about 45 KB.
  """

  def __init__(self, path):
    self._path = path
    self._marks = [(0, 0, zlib.decompressobj(wbits=31))]  # Inflated offset, file offset, state.

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
    with storage.path(self._path).open('rb', READ_BYTES) as file:
      file.seek(in_at)
      pending, whole = b'', False
      while data := pending or file.read(READ_BYTES):
        try:
          chunk = state.decompress(data, READ_BYTES)
        except zlib.error as error:
          raise ItemError('bad_archive', f'{self._path} is damaged behind byte {out_at} of its text') from error
        pending, whole = state.unconsumed_tail, state.eof
        if whole:
          pending, state = state.unused_data.lstrip(b'\0'), zlib.decompressobj(wbits=31)
        if chunk:
          yield out_at, chunk
        out_at += len(chunk)
        if out_at >= self._marks[-1][0] + MARK_BYTES:
          self._marks.append((out_at, file.tell() - len(pending), state.copy()))
    if not whole:
      raise ItemError('bad_archive', f'{self._path} is cut short behind byte {out_at} of its text')
