"""Shards as files: written whole under another name, brought to disk, then renamed. All or nothing."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable

import numpy as np

from tvts_jax.files import is_local
from tvts_jax.shards import index, tfrecord

TEMP = '.tmp-'  # in the name of every file that is still being written
DONE = '.shard.json'  # after a shard's name: it and all its files are complete


@contextlib.contextmanager
def publish(path):
  """A binary file to write; it stands under `path`, complete and on disk, once the block has ended well."""
  temp, local = path.with_name(f'{path.name}{TEMP}{secrets.token_hex(4)}'), is_local(path)
  try:
    with temp.open('wb') as f:
      yield f
      f.flush()
      if local:
        os.fsync(f.fileno())
    temp.replace(path)
  except BaseException:
    temp.unlink(missing_ok=True)
    raise
  if local:  # a rename is on disk when its folder is
    folder = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)


def write_shard(path, records: Iterable[tuple[bytes, int, int]]) -> index.Shard:
  """Writes NAME.tfrecord and NAME.idx. records: (serialized record, video_hash, example_hash)."""
  rows, at, sha = [], 0, hashlib.sha256()
  with publish(path) as f:
    for payload, video, example_id in records:
      framed = tfrecord.frame(payload)
      f.write(framed)
      sha.update(framed)
      rows.append((at, len(payload), video, example_id))
      at += len(framed)
  sidecar = index.index_bytes(np.array(rows, index.INDEX_ROW))
  with publish(index.index_path(path)) as f:
    f.write(sidecar)
  return index.Shard(path.name, len(rows), at, sha.hexdigest(), hashlib.sha256(sidecar).hexdigest())
