"""Reads records in an order made of permuted blocks, so that storage far away sees few large requests.

Large records are read one at a time. Small ones (captions) are read a block at a time, and the block is kept until
its other records are asked for: the order spreads a block over neighbouring batches and never comes back to it.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future

from absl import logging

from tvts_jax.input.skipped import Trouble
from tvts_jax.shards import tfrecord
from tvts_jax.shards.index import DamagedRecord, Index, Manifest, refuse_changed, vanished

BLOCK_BYTES = 8 << 20  # A block larger than this is read record by record: each is a large request by itself.
KEEP_BYTES = 512 << 20


class Reader:
  """Thread-safe; `block_records` as in the order."""

  def __init__(self, manifest: Manifest, index: Index, block_records: int, trouble: Trouble):
    self._manifest, self._index, self._trouble = manifest, index, trouble
    self._block = block_records if index.length.mean() * block_records <= BLOCK_BYTES else 1
    self._lock = threading.Lock()
    self._runs: OrderedDict[tuple[int, int], Future] = OrderedDict()  # (shard, block) → (first byte, bytes).
    self._held = 0

  def read(self, row: int) -> bytes:
    """The serialized record.

    DamagedRecord if its checksums don't agree, FolderError if its shard is gone or was changed, StorageError if it
    cannot be read.
    """
    begin, data = self._run_of(row) if self._block > 1 else self._fetch(row, row + 1)
    first, last = int(self._index.offset[row]) - begin, self._stop(row) - begin
    try:
      return tfrecord.unframe(data[first:last])
    except ValueError as e:
      return self._read_again(row, e)

  def _read_again(self, row: int, error: ValueError) -> bytes:
    """Only what is wrong twice is wrong in storage, and only in a shard that is as it was is it the record's fault."""
    at = f'{self._path(row)}: record {self._index.number(row)} at byte {self._index.offset[row]}'
    try:
      record = tfrecord.unframe(self._fetch(row, row + 1)[1])
    except ValueError as e:
      refuse_changed(self._manifest, self._index, self._index.shard[row], self._trouble)
      raise DamagedRecord(f'{at} cannot be read: {e}') from e
    logging.warning('%s was read wrong (%s) and then right', at, error)
    return record

  def _run_of(self, row: int) -> tuple[int, bytes]:
    """The bytes of the records of `row`'s block that lie in its shard; one thread fetches, others wait for it."""
    key = (int(self._index.shard[row]), row // self._block)
    with self._lock:
      run = self._runs.get(key)
      if mine := run is None:
        run = self._runs[key] = Future()
      self._runs.move_to_end(key)
    if mine:
      self._fill(key, run, row)
    return run.result()

  def _fill(self, key: tuple[int, int], run: Future, row: int) -> None:
    shard_R = self._index.shard[key[1] * self._block : (key[1] + 1) * self._block]
    rows = [key[1] * self._block + i for i in range(len(shard_R)) if shard_R[i] == key[0]]
    try:
      fetched = self._fetch(rows[0], rows[-1] + 1)
    except BaseException as e:
      with self._lock:
        del self._runs[key]  # The next one to ask tries again.
      run.set_exception(e)
      raise
    run.set_result(fetched)
    with self._lock:
      self._held += len(fetched[1])
      while self._held > KEEP_BYTES and next(iter(self._runs.values())).done():
        _, old = self._runs.popitem(last=False)
        self._held -= len(old.result()[1])

  def _fetch(self, first: int, stop: int) -> tuple[int, bytes]:
    """(place of the first byte, the bytes) of neighbouring records of one shard, in one request."""
    begin, path = int(self._index.offset[first]), self._path(first)
    try:
      return begin, self._trouble.patiently(path, lambda: self._read_bytes(path, begin, self._stop(stop - 1) - begin))
    except FileNotFoundError as e:
      raise vanished(path) from e

  def _read_bytes(self, path, begin: int, count: int) -> bytes:
    with path.open('rb') as f:
      f.seek(begin)
      return f.read(count)

  def _stop(self, row: int) -> int:
    return int(self._index.offset[row]) + int(self._index.length[row]) + tfrecord.HEADER + tfrecord.FOOTER

  def _path(self, row: int):
    return self._manifest.folder / self._manifest.shards[self._index.shard[row]].name
