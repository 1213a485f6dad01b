"""The record: one window of one video, as words, frames and their times.

Names, types and units of everything in a shard live here. The builder writes with `encode`, tools read with
`decode`; the input pipeline reads a part of the bytes (layout.py), and checks and takes only what a sample needs
(head.py). All times are integer milliseconds on the video's own clock, never relative to the window.
"""

import re
from dataclasses import dataclass

from google.protobuf import message

from tvts_jax.errors import UserError
from tvts_jax.shards import layout

SCHEMA_VERSION = 2
TIMINGS = ('word', 'interpolated', 'caption')
JPEG_BEGIN, JPEG_END = b'\xff\xd8', b'\xff\xd9'


@dataclass(frozen=True)
class Record:
  """One window [start_ms, end_ms] of one video."""

  video_id: str
  window_index: int
  start_ms: int
  end_ms: int
  duration_ms: int  # Of the whole video.
  frames: list[bytes]  # JPEG, all height x width.
  frame_times_ms: list[int]  # When each frame is shown; rising; the first may begin before the window does.
  height: int
  width: int
  words: list[str]  # Those that touch the window, by start.
  word_starts_ms: list[int]
  word_ends_ms: list[int]
  lang: str
  transcript_source: str  # The transcript's format.
  transcript_timing: str  # One of TIMINGS.
  source_sha256: str  # Of the video file.


# Feature in the shard → field of Record, its type, and whether it is a list. Those without a field are of the layout.
FEATURES = {
  'video/id': ('video_id', str, False),
  'video/duration_ms': ('duration_ms', int, False),
  'window/index': ('window_index', int, False),
  'window/start_ms': ('start_ms', int, False),
  'window/end_ms': ('end_ms', int, False),
  layout.FRAMES: ('frames', bytes, True),
  'frames/time_ms': ('frame_times_ms', int, True),
  'frames/height': ('height', int, False),
  'frames/width': ('width', int, False),
  'words/text': ('words', str, True),
  'words/start_ms': ('word_starts_ms', int, True),
  'words/end_ms': ('word_ends_ms', int, True),
  'lang': ('lang', str, False),
  'transcript/source': ('transcript_source', str, False),
  'transcript/timing': ('transcript_timing', str, False),
  'source/sha256': ('source_sha256', str, False),
  'schema_version': (None, int, False),
  **dict.fromkeys([layout.OFFSET, layout.LENGTH, layout.CRC], (None, int, True)),
  layout.HEAD_CRC: (None, str, False),
}


class RecordError(UserError):
  """A record that breaks the schema; `kind` is 'schema', 'times' or 'jpeg'."""

  def __init__(self, kind: str, detail: str):
    super().__init__(detail)
    self.kind = kind


def encode(record: Record) -> bytes:
  """A serialized tf.train.Example; equal records give equal bytes. RecordError if the record is not valid."""
  check(record)
  return layout.serialize(features_of(record))


def features_of(record: Record) -> dict[str, list]:
  """The features of a record but those of its layout, as protobuf takes them."""
  features = {'schema_version': [SCHEMA_VERSION]}
  for name, (field, kind, many) in FEATURES.items():
    if field is not None:
      values = getattr(record, field) if many else [getattr(record, field)]
      features[name] = [value.encode() for value in values] if kind is str else values
  return features


def decode(serialized: bytes) -> Record:
  """The record in a serialized tf.train.Example, checked. RecordError if there is no valid one in it."""
  try:
    features = layout.message_class('Example').FromString(serialized).features.feature
  except message.DecodeError as e:
    raise RecordError('schema', f'not a tf.train.Example: {e}') from e
  if 'schema_version' not in features:
    raise RecordError('schema', 'feature schema_version is missing: not a record of this project')
  version = values_of(features, 'schema_version', int, many=False)
  if version != SCHEMA_VERSION:
    raise RecordError('schema', f'schema_version is {version}, this code reads {SCHEMA_VERSION}; build the data again')
  if set(features) != set(FEATURES):
    missing, unknown = sorted(set(FEATURES) - set(features)), sorted(set(features) - set(FEATURES))
    raise RecordError('schema', f'features missing: {missing or "none"}, unknown: {unknown or "none"}')
  record = Record(**{field: values_of(features, name, *t) for name, (field, *t) in FEATURES.items() if field})
  check(record)
  if layout.serialize(features_of(record)) != serialized:
    raise RecordError('schema', 'its table of frames, a checksum or the order of its features is not as it must be')
  return record


def check(record: Record) -> None:
  """RecordError naming the first thing wrong: types, lengths, order and range of times, sizes of the JPEGs."""
  for name, (field, kind, many) in FEATURES.items():
    if field is None:
      continue
    value = getattr(record, field)
    if many and not value:
      raise RecordError('schema', f'{name} is empty')
    for v in value if many else [value]:
      if type(v) is not kind:
        raise RecordError('schema', f'{name} holds {v!r:.80}, a {type(v).__name__} instead of {kind.__name__}')
      if kind is int and not -(1 << 63) <= v < 1 << 63:
        raise RecordError('schema', f'{name} holds {v}, which no int64 can')
      if kind is str and not is_utf8(v):
        raise RecordError('schema', f'{name} holds {v!r:.80}, which UTF-8 cannot spell')
  for name in ('video_id', 'transcript_source'):
    if not getattr(record, name):
      raise RecordError('schema', f'{name} is empty')
  if not all(record.words):
    raise RecordError('schema', f'word {record.words.index("")} is empty')
  if record.transcript_timing not in TIMINGS:
    raise RecordError('schema', f'transcript/timing is {record.transcript_timing!r}; known: {", ".join(TIMINGS)}')
  if not re.fullmatch('[0-9a-f]{64}', record.source_sha256):
    raise RecordError('schema', f'source/sha256 is {record.source_sha256!r:.80}, not 64 hexadecimal digits')
  check_times(record)
  for i, jpeg in enumerate(record.frames):
    size = jpeg_size(jpeg)
    if jpeg[-2:] != JPEG_END:
      raise RecordError('jpeg', f'frame {i} is cut short: it does not end like a JPEG')
    if size != (record.height, record.width):
      raise RecordError(
        'jpeg', f'frame {i} says {size[0]}x{size[1]} in its header, the record {record.height}x{record.width}'
      )


def check_times(r: Record) -> None:
  if r.window_index < 0 or not 0 <= r.start_ms < r.end_ms <= r.duration_ms:
    raise RecordError(
      'times', f'window {r.window_index} is [{r.start_ms}, {r.end_ms}] ms in a video of {r.duration_ms} ms'
    )
  frames, starts, ends = r.frame_times_ms, r.word_starts_ms, r.word_ends_ms
  if len(frames) != len(r.frames):
    raise RecordError('schema', f'{len(frames)} frame times for {len(r.frames)} frames')
  if not len(starts) == len(ends) == len(r.words):
    raise RecordError('schema', f'{len(starts)} starts and {len(ends)} ends for {len(r.words)} words')
  for i, (a, b) in enumerate(zip(frames, frames[1:])):
    if a >= b:
      raise RecordError('times', f'frames {i} and {i + 1} are at {a} and {b} ms: not rising')
  # What is on screen when the window opens may have appeared earlier; everything after it appears inside.
  for i, t in enumerate(frames):
    if not (r.start_ms if i else 0) <= t <= r.end_ms:
      raise RecordError('times', f'frame {i} at {t} ms is outside [{r.start_ms}, {r.end_ms}]')
  for i, (a, b) in enumerate(zip(starts, starts[1:])):
    if a > b:
      raise RecordError('times', f'words {i} and {i + 1} start at {a} and {b} ms: not sorted')
  for i, (a, b) in enumerate(zip(starts, ends)):
    if not 0 <= a <= b <= r.duration_ms or b < r.start_ms or a > r.end_ms:
      raise RecordError('times', f'word {i} at [{a}, {b}] ms does not touch the window [{r.start_ms}, {r.end_ms}]')


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
  """(height, width) as the header of a JPEG says; RecordError if it is not a JPEG."""
  at = size_place(jpeg)
  return int.from_bytes(jpeg[at : at + 2], 'big'), int.from_bytes(jpeg[at + 2 : at + 4], 'big')


def size_place(jpeg: bytes) -> int:
  """Where the header of a JPEG has its height and width; RecordError if it is not a JPEG."""
  if jpeg[:2] != JPEG_BEGIN:
    raise RecordError('jpeg', f'not a JPEG: begins with {jpeg[:8].hex() or "nothing"}')
  at = 2
  while at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
    marker = jpeg[at + 1]
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # Start of frame, whatever the coding.
      return at + 5
    # A fill byte is one byte, a marker without content two, any other segment says its length.
    at += 1 if marker == 0xFF else 2
    if marker != 0xFF and not (marker == 0x01 or 0xD0 <= marker <= 0xD8):
      at += int.from_bytes(jpeg[at : at + 2], 'big')
  raise RecordError('jpeg', 'a JPEG without a frame header')


def is_utf8(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def values_of(features, name, kind, many):
  feature, want = features[name], 'int64_list' if kind is int else 'bytes_list'
  if feature.WhichOneof('kind') != want:
    raise RecordError('schema', f'{name} is a {feature.WhichOneof("kind")}, not a {want}')
  values = list(getattr(feature, want).value)
  if kind is str:
    try:
      values = [v.decode() for v in values]
    except UnicodeDecodeError as e:
      raise RecordError('schema', f'{name} is not UTF-8: {e}') from e
  if many:
    return values
  if len(values) != 1:
    raise RecordError('schema', f'{name} has {len(values)} values, not 1')
  return values[0]
