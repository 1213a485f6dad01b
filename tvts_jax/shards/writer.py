"""Shards as files, all or nothing."""

import hashlib
from collections.abc import Iterable

import numpy as np

from tvts_jax.files import publish, write_whole
from tvts_jax.shards import index, tfrecord

DONE = '.shard.json'  # After a shard's name: it and all its files are complete.


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
  sidecar = index.INDEX_MAGIC + np.array(rows, index.INDEX_ROW).tobytes()
  write_whole(index.index_path(path), sidecar)
  return index.Shard(path.name, len(rows), at, sha.hexdigest(), hashlib.sha256(sidecar).hexdigest())
