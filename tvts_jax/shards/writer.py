"""Shards, indices and the manifest as files, each all or nothing."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from tvts_jax.files import publish, write_whole
from tvts_jax.shards import index, layout, records, tfrecord

DONE = '.shard.json'  # After a shard's name: it is complete.
# Of a record, until the index of its split is written: bytes with the TFRecord frame, and columns of the index.
ROW = np.dtype([('size', '<u8'), ('video', '<u8'), ('example_id', '<u8'), ('head', '<u4')])


def row_of(record: bytes, video_id: str, window_index: int) -> tuple[int, int, int, int]:
  """The ROW of a serialized record."""
  size = len(record) + tfrecord.HEADER + tfrecord.FOOTER
  hashes = index.video_hash(video_id), index.example_hash(video_id, window_index)
  return size, *hashes, layout.head_bytes(record)


def write_shard(path, content: Iterable[tuple[bytes, tuple]]) -> tuple[index.Shard, np.ndarray]:
  """Writes NAME.tfrecord out of serialized records, each with its ROW; returns also the ROWs."""
  rows, size, sha = [], 0, hashlib.sha256()
  with publish(path) as f:
    for record, row in content:
      framed = tfrecord.frame(record)
      f.write(framed)
      sha.update(framed)
      rows.append(row)
      size += len(framed)
  return index.Shard(path.name, len(rows), size, sha.hexdigest()), np.array(rows, ROW)


def write_manifest(folder, config: dict, sampling: dict, splits: Mapping[str, tuple]) -> dict:
  """The last step of a build: writes the index of each split, and then the manifest.

  Args:
    config: what the builder was told.
    sampling: what every record can serve.
    splits: name → (shards, the ROWs of each, items by outcome).

  Returns:
    The content of manifest.json.
  """
  content = {'schema_version': records.SCHEMA_VERSION, 'config': config, 'sampling': sampling, 'splits': {}}
  for name, (shards, rows, outcomes) in splits.items():
    content['splits'][name] = {
      'records': sum(s.count for s in shards),
      'outcomes': outcomes,
      'index': asdict(write_index(folder / f'{name}.idx', rows)),
      'shards': [asdict(s) for s in shards],
    }
  write_whole(folder / index.MANIFEST, json.dumps(content, indent=2, sort_keys=True))
  return content


def write_index(path, rows: Sequence[np.ndarray]) -> index.IndexFile:
  """rows: the ROWs of all shards of a split."""
  rows_N = np.concatenate([np.zeros(0, ROW), *rows])
  columns = {name: rows_N[name] for name in ROW.names}
  columns['offset'] = np.cumsum(np.append(np.uint64(0), rows_N['size']), dtype=np.uint64)
  parts = [np.asarray(columns[name], dtype).tobytes() for name, (dtype, _) in index.COLUMNS.items()]
  data = b''.join([index.INDEX_MAGIC, *parts])
  write_whole(path, data)
  return index.IndexFile(path.name, len(data), hashlib.sha256(data).hexdigest())
