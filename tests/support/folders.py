"""Finished folders of shards out of records made by hand, for tests of whatever reads them."""

import json
import os

from tvts_jax.input.host_tf import tensorflow
from tvts_jax.shards import index, records, storage, writer


def jpeg(height, width, quality=75, value=None):
  """A real JPEG, grey `value` or a gradient."""
  import cv2
  import numpy as np

  image = np.full((height, width, 3), value) if value is not None else np.indices((height, width, 3)).sum(0) * 3
  ok, data = cv2.imencode('.jpg', (image % 256).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
  assert ok
  return data.tobytes()


def record(video_id='v', window=0, frames=8, words=40, seconds=30, height=16, width=24, **changes):
  """A valid record: evenly spaced frames and words over the window, which is the whole video."""
  ms = seconds * 1000
  values = {
    'video_id': video_id,
    'window_index': window,
    'start_ms': 0,
    'end_ms': ms,
    'duration_ms': ms,
    'frames': [jpeg(height, width, value=(i * 29) % 256) for i in range(frames)],
    'frame_times_ms': [i * ms // frames for i in range(frames)],
    'height': height,
    'width': width,
    'words': [f'w{i}' for i in range(words)],
    'word_starts_ms': [i * ms // words for i in range(words)],
    'word_ends_ms': [(i + 1) * ms // words for i in range(words)],
    'lang': 'en',
    'transcript_source': 'json3',
    'transcript_timing': 'word',
    'source_sha256': '0' * 64,
  }
  return records.Record(**{**values, **changes})


def example(record, changes):
  """A serialized tf.train.Example made by TensorFlow: the record with some features replaced, or gone (None)."""
  tf = tensorflow()

  features = dict(tf.train.Example.FromString(records.encode(record)).features.feature)
  for name, values in changes.items():
    if values is None:
      del features[name]
    elif isinstance(values[0], int):
      features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    elif isinstance(values[0], float):
      features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    else:
      features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def flip(path, at):
  """Flips one bit, as a disk does: nobody wrote, so the file's time stays."""
  data, times = bytearray(path.read_bytes()), os.stat(path)
  data[at] ^= 4
  path.write_bytes(bytes(data))
  os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def write(folder, splits, config=None, sampling=None):
  """splits: {'train': [[record, ...] for each shard]}. An entry may be (serialized, video_id, window) instead."""
  folder = storage.path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  done = {}
  for split, contents in splits.items():
    written, ids = [], set()
    for i, content in enumerate(contents):
      rows = []
      for r in content:
        payload, video_id, window = r if isinstance(r, tuple) else (records.encode(r), r.video_id, r.window_index)
        rows.append((payload, index.video_hash(video_id), index.example_hash(video_id, window)))
        ids.add(video_id)
      written.append(writer.write_shard(folder / f'{split}-{i:05d}-of-{len(contents):05d}.tfrecord', rows))
    done[split] = (written, {'ok': len(ids)})
  sampling = sampling or {'transcripts': 4, 'seconds': [3, 4, 5], 'gap_s': 1.0, 'min_words': 3}
  config = config or {'fps': 3.0, 'short_side': 16}
  (folder / index.MANIFEST).write_text(json.dumps(index.manifest_json(config, sampling, done)))
  return folder
