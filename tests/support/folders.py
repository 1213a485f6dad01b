"""Finished folders of shards out of records made by hand, for tests of whatever reads them."""

import os

from tvts_jax.shards import layout, records, storage, writer


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
  """A record with some features replaced, or gone (None), as no encoder would write it, but for its checksums."""
  features = {**records.features_of(record), **changes}
  return layout.serialize({name: values for name, values in features.items() if values is not None})


def junk():
  """Laid out like a record, and with right checksums, but no message of protobuf."""
  head = layout.TAG + layout.varint(0) + layout.TAG + layout.varint(200) + b'\xff' * 200
  return head + layout.head_crc(head) + layout.entry(layout.FRAMES, [b''])


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
      entries = []
      for r in content:
        payload, video_id, window = r if isinstance(r, tuple) else (records.encode(r), r.video_id, r.window_index)
        entries.append((payload, writer.row_of(payload, video_id, window)))
        ids.add(video_id)
      written.append(writer.write_shard(folder / f'{split}-{i:05d}-of-{len(contents):05d}.tfrecord', entries))
    done[split] = (*zip(*written), {'ok': len(ids)})
  sampling = sampling or {'transcripts': 4, 'seconds': [3, 4, 5], 'gap_s': 1.0, 'min_words': 3}
  writer.write_manifest(folder, config or {'fps': 3.0, 'short_side': 16}, sampling, done)
  return folder
