import dataclasses
import subprocess
import sys

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import folders
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.shards import layout, records
from tvts_jax.shards.head import Head

GOOD = folders.record(frames=3, words=4)


def change(**changes):
  return dataclasses.replace(GOOD, **changes)


def test_names_are_the_published_ones():
  assert set(records.FEATURES) == {
    'video/id', 'window/index', 'window/start_ms', 'window/end_ms', 'video/duration_ms', 'frames/jpeg',
    'frames/time_ms', 'frames/height', 'frames/width', 'words/text', 'words/start_ms', 'words/end_ms', 'lang',
    'transcript/source', 'transcript/timing', 'source/sha256', 'schema_version',
    'frames/offset', 'frames/length', 'frames/crc32c', 'head/crc32c',
  }  # fmt: skip
  assert {f for f, _, _ in records.FEATURES.values() if f} == {f.name for f in dataclasses.fields(records.Record)}


text = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=30)


@st.composite
def any_record(draw):
  start = draw(st.integers(0, 10**12))
  length = draw(st.integers(1, 10**6))
  times = sorted(draw(st.sets(st.integers(start, start + length), min_size=1, max_size=6)))
  words = draw(st.lists(st.tuples(st.integers(0, length), st.integers(0, 5000), text), min_size=1, max_size=9))
  words.sort(key=lambda w: w[0])
  duration = start + length + 6000
  return change(
    video_id=draw(text),
    window_index=draw(st.integers(0, 1000)),
    start_ms=start,
    end_ms=start + length,
    duration_ms=duration,
    frames=[GOOD.frames[i % 3] for i in range(len(times))],
    frame_times_ms=times,
    words=[w for _, _, w in words],
    word_starts_ms=[start + a for a, _, _ in words],
    word_ends_ms=[start + a + d for a, d, _ in words],
    lang=draw(st.text(max_size=5).filter(lambda s: s.isprintable())),
  )


@settings(max_examples=40, deadline=None)
@given(any_record())
def test_round_trip(record):
  assert records.decode(records.encode(record)) == record


@settings(max_examples=10, deadline=None)
@given(any_record())
def test_tensorflow_reads_a_record(record):
  tf = tensorflow()

  serialized = records.encode(record)
  theirs = tf.train.Example.FromString(serialized)
  assert set(theirs.features.feature) == set(records.FEATURES) and theirs.ByteSize() == len(serialized)
  assert list(theirs.features.feature['frames/jpeg'].bytes_list.value) == record.frames
  assert theirs.features.feature['video/id'].bytes_list.value[0].decode() == record.video_id
  assert list(theirs.features.feature['words/start_ms'].int64_list.value) == record.word_starts_ms


@settings(max_examples=30, deadline=None)
@given(any_record())
def test_the_head_says_what_the_record_says_and_where_its_frames_are(record):
  serialized = records.encode(record)
  size = layout.head_bytes(serialized)
  layout.check_head(serialized[:size])
  head = Head(serialized[:size])
  for name in ('video_id', 'window_index', 'start_ms', 'end_ms', 'height', 'width', 'transcript_timing'):
    assert getattr(head, name) == getattr(record, name)
  assert list(head.words) == head.words[:] == record.words and head.words[1:3] == record.words[1:3]
  assert head.word_starts_ms.tolist() == record.word_starts_ms and head.frame_times_ms.tolist() == record.frame_times_ms
  offsets, lengths, sums = map(list, head.table)
  assert [serialized[size + at :][:length] for at, length in zip(offsets, lengths)] == record.frames
  assert sums == [google_crc32c.value(jpeg) for jpeg in record.frames]
  assert offsets == sorted(offsets) and size + offsets[-1] + lengths[-1] == len(serialized)


def test_no_byte_of_a_head_can_change_unseen():
  serialized = records.encode(GOOD)
  head = serialized[: layout.head_bytes(serialized)]
  for at in range(len(head)):
    for bit in (0, 5, 7):
      flipped = head[:at] + bytes([head[at] ^ 1 << bit]) + head[at + 1 :]
      with pytest.raises(ValueError, match='the checksum of its head is wrong'):
        layout.check_head(flipped)
  for part in (head[:-1], head[1:], b''):
    with pytest.raises(ValueError, match='the checksum of its head is wrong'):
      layout.check_head(part)


@pytest.mark.parametrize(
  'changes, kind, says',
  [
    ({'schema_version': [1]}, 'schema', 'schema_version is 1, this code reads 2'),
    ({'schema_version': None}, 'schema', 'schema_version is missing'),
    ({'lang': None}, 'schema', "missing: ['lang']"),
    ({'audio': [b'x']}, 'schema', "unknown: ['audio']"),
    ({'window/index': [0, 1]}, 'schema', 'window/index has 2 values'),
    ({'window/start_ms': [0.5]}, 'schema', 'window/start_ms is a float_list'),
    ({'words/text': [b'\xff', b'a', b'b', b'c']}, 'schema', 'words/text is not UTF-8'),
    ({'frames/time_ms': [0, 5000, 4000]}, 'times', 'not rising'),
    ({'frames/jpeg': [b'RIFF', b'', b'']}, 'jpeg', 'not a JPEG'),
    ({'frames/offset': [20, 21, 22]}, 'schema', 'its table of frames, a checksum or the order'),
    ({'frames/length': [1, 2, 3]}, 'schema', 'its table of frames, a checksum or the order'),
    ({'frames/crc32c': [1, 2, 3]}, 'schema', 'its table of frames, a checksum or the order'),
    ({'head/crc32c': [b'00000000']}, 'schema', 'its table of frames, a checksum or the order'),
  ],
  ids=str,
)
def test_decode_refuses(changes, kind, says):
  with pytest.raises(records.RecordError) as e:
    records.decode(folders.example(GOOD, changes))
  assert e.value.kind == kind and says in str(e.value)


def test_decode_refuses_another_order():
  """TensorFlow writes features by name: an Example of the same content, of which no part can be read."""
  theirs = tensorflow().train.Example.FromString(records.encode(GOOD)).SerializeToString(deterministic=True)
  with pytest.raises(records.RecordError, match='the order of its features'):
    records.decode(theirs)


@pytest.mark.parametrize('serialized', [b'\xff' * 20, records.encode(GOOD)[:-3], b''], ids=['noise', 'cut', 'empty'])
def test_decode_refuses_what_is_no_example(serialized):
  with pytest.raises(records.RecordError, match=r'not a tf.train.Example|schema_version is missing'):
    records.decode(serialized)


@pytest.mark.parametrize(
  'changes, kind, says',
  [
    ({'video_id': ''}, 'schema', 'video_id is empty'),
    ({'video_id': 7}, 'schema', 'a int instead of str'),
    ({'lang': '\udc80'}, 'schema', 'UTF-8 cannot spell'),
    ({'duration_ms': 1 << 63}, 'schema', 'no int64 can'),
    ({'start_ms': 0.0}, 'schema', 'a float instead of int'),
    ({'frames': [], 'frame_times_ms': []}, 'schema', 'frames/jpeg is empty'),
    ({'words': [], 'word_starts_ms': [], 'word_ends_ms': []}, 'schema', 'words/text is empty'),
    ({'words': ['a', '', 'b', 'c']}, 'schema', 'word 1 is empty'),
    ({'words': ['a']}, 'schema', '4 starts and 4 ends for 1 words'),
    ({'frame_times_ms': [0]}, 'schema', '1 frame times for 3 frames'),
    ({'transcript_timing': 'guess'}, 'schema', 'known: word, interpolated, caption'),
    ({'source_sha256': 'abc'}, 'schema', 'not 64 hexadecimal digits'),
    ({'end_ms': 30001}, 'times', 'in a video of 30000 ms'),
    ({'start_ms': 30000}, 'times', 'window 0 is [30000, 30000]'),
    ({'window_index': -1}, 'times', 'window -1'),
    ({'frame_times_ms': [0, 0, 1]}, 'times', 'not rising'),
    ({'frame_times_ms': [0, 1, 30001]}, 'times', 'frame 2 at 30001 ms is outside'),
    ({'frame_times_ms': [-1, 1, 2]}, 'times', 'frame 0 at -1 ms'),
    ({'word_starts_ms': [0, 15000, 7500, 22500]}, 'times', 'not sorted'),
    ({'word_ends_ms': [7500, 15000, 22500, 30001]}, 'times', 'word 3 at [22500, 30001]'),
    ({'word_ends_ms': [7500, 7000, 22500, 30000]}, 'times', 'word 1 at [7500, 7000]'),
    ({'frames': [folders.jpeg(16, 24), folders.jpeg(16, 32), folders.jpeg(16, 24)]}, 'jpeg', 'frame 1 says 16x32'),
    ({'frames': [b'<html>'] * 3}, 'jpeg', 'not a JPEG'),
    ({'frames': [f[:-9] for f in GOOD.frames]}, 'jpeg', 'frame 0 is cut short'),
  ],
  ids=str,
)
def test_encode_refuses(changes, kind, says):
  with pytest.raises(records.RecordError) as e:
    records.encode(change(**changes))
  assert e.value.kind == kind and says in str(e.value)


def test_first_frame_may_have_appeared_before_the_window():
  late = change(start_ms=1000, frame_times_ms=[400, 10000, 20000])
  assert records.decode(records.encode(late)) == late
  with pytest.raises(records.RecordError, match='frame 1 at 900 ms is outside'):
    records.encode(change(start_ms=1000, frame_times_ms=[400, 900, 20000]))


@pytest.mark.parametrize('flags', [[], [2, 1], [3, 1]], ids=['baseline', 'progressive', 'optimized'])
@pytest.mark.parametrize('size', [(1, 1), (16, 24), (300, 7)])
def test_jpeg_size(size, flags):
  import cv2
  import numpy as np

  jpeg = cv2.imencode('.jpg', np.zeros((*size, 3), np.uint8), flags)[1].tobytes()
  assert records.jpeg_size(jpeg) == size
  # Metadata may hold a thumbnail with a header of its own.
  thumbnail = folders.jpeg(8, 8)
  block = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
  assert records.jpeg_size(jpeg[:2] + block + b'\xff' + jpeg[2:]) == size


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.integers(2, 200))
def test_jpeg_size_of_anything_is_a_size_or_refused(noise, at):
  jpeg = folders.jpeg(16, 24)
  for data in (noise, jpeg[:at], jpeg[:at] + noise):
    try:
      height, width = records.jpeg_size(data)
      assert height >= 0 and width >= 0
    except records.RecordError as e:
      assert e.kind == 'jpeg'


def test_no_tensorflow_at_import():
  code = (
    'import sys; from tvts_jax.shards import records, index; records.decode\n'
    'assert not {"tensorflow", "jax", "cv2"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
