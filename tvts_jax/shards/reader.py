"""Reads of a record what a sample takes: its head, and then the frames that were drawn.

From a bucket those are two requests, the second for all bytes from the first of the frames to the last; from a local
disk no other frames are read. A small record, such as one with a caption, is read in one go. Every byte that is used is
checked against a checksum.
"""

import functools
from collections.abc import Callable, Sequence

import google_crc32c
from absl import logging

from tvts_jax.errors import UserError
from tvts_jax.shards import layout, storage, tfrecord
from tvts_jax.shards.head import Head
from tvts_jax.shards.index import DamagedRecord, Index, Manifest, Place, refuse_changed, vanished

WHOLE_BYTES = 64 << 10  # A record of so many bytes is read in one go.


class Reader:
  """Thread-safe.

  All that reads may raise DamagedRecord if a checksum is wrong, FolderError if the shard is gone or was changed, and
  OSError if it cannot be read.
  """

  def __init__(self, manifest: Manifest, index: Index):
    self._manifest, self._index, self._local = manifest, index, storage.is_local(manifest.folder)
    self._path = functools.lru_cache(4096)(manifest.path)

  def head(self, row: int) -> tuple[bytes, bytes]:
    """The head of a record, and what was read behind it: all, or nothing."""
    place, size, room = self._place(row)

    def read():
      (data,) = self._ranges(place, [(0, size + room if size + room <= WHOLE_BYTES else size)])
      head = data[:size]
      layout.check_head(head)
      return head, data[size:]

    return self._checked(place, read)

  def frames(self, row: int, head: Head, numbers: Sequence[int]) -> list[bytes]:
    """JPEGs. UserError if the head of the record is wrong about where they are."""
    place, size, room = self._place(row)
    offset_F, length_F, crc_F = head.table
    wanted = {number: (offset_F[number], length_F[number]) for number in numbers}
    first, stop = min(at for at, _ in wanted.values()), max(at + length for at, length in wanted.values())
    if first < 0 or min(length for _, length in wanted.values()) < 0 or stop > room:
      raise UserError('its table of frames leads out of the record')

    def read(behind=b''):
      if behind or not self._local:
        span, begin = (behind, 0) if behind else (self._ranges(place, [(size + first, stop - first)])[0], first)
        jpegs = [span[at - begin : at - begin + length] for at, length in wanted.values()]
      else:
        jpegs = self._ranges(place, [(size + at, length) for at, length in wanted.values()])
      for number, jpeg in zip(wanted, jpegs):
        if google_crc32c.value(jpeg) != crc_F[number]:
          raise ValueError(f'the checksum of frame {number} is wrong')
      return dict(zip(wanted, jpegs))

    jpegs = self._checked(place, read, head.behind)
    return [jpegs[number] for number in numbers]

  def _place(self, row: int) -> tuple[Place, int, int]:
    """Of a record; and the bytes of its head and of its JPEGs."""
    place, head = self._index.place(row), int(self._index.head[row])
    return place, head, place.size - tfrecord.HEADER - tfrecord.FOOTER - head

  def _ranges(self, place: Place, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Some (begin, count) of the serialized record."""
    path, begin = self._path(place.shard), place.begin + tfrecord.HEADER
    try:
      return storage.read_ranges(path, [(begin + at, count) for at, count in ranges])
    except FileNotFoundError as e:
      raise vanished(path) from e

  def _checked(self, place: Place, read: Callable, *first):
    """read(*first), or read() if a checksum is wrong there: only what is wrong twice is wrong in storage, and only in a
    shard that is as it was is it the record's fault.
    """
    try:
      return read(*first)
    except ValueError as e:
      error = e
    at = f'{self._path(place.shard)}: record {place.number} at byte {place.begin}'
    try:
      content = read()
    except ValueError as e:
      refuse_changed(self._manifest, self._index, place.shard)
      raise DamagedRecord(f'{at} cannot be read: {e}') from e
    logging.warning('%s was read wrong (%s) and then right', at, error)
    return content
