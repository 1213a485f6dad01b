"""What a record says before its frames, under the names that sampling knows; checked as far as a sample needs."""

from collections.abc import Sequence

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.shards import layout, records


class Head:
  """UserError, DecodeError or UnicodeDecodeError if this is not the head of a record."""

  def __init__(self, head: bytes, behind: bytes = b''):
    """behind: what was read of the record along with its head, which is all or nothing."""
    self.behind = behind
    features = layout.features_of(head)
    version = one(features['schema_version'].int64_list, 'schema_version')
    if version != records.SCHEMA_VERSION:
      raise UserError(f'it has schema_version {version}, this code reads {records.SCHEMA_VERSION}')
    number = lambda name: one(features[name].int64_list, name)
    text = lambda name: one(features[name].bytes_list, name).decode()
    self.video_id, self.window_index = text('video/id'), number('window/index')
    self.start_ms, self.end_ms = number('window/start_ms'), number('window/end_ms')
    self.height, self.width = number('frames/height'), number('frames/width')
    self.transcript_timing = text('transcript/timing')
    self.frame_times_ms = np.array(features['frames/time_ms'].int64_list.value)
    self.words = Words(features['words/text'].bytes_list.value)
    self.word_starts_ms = np.array(features['words/start_ms'].int64_list.value)
    # Of each frame: where it begins behind the head, bytes, crc32c.
    self.table = [features[name].int64_list.value for name in (layout.OFFSET, layout.LENGTH, layout.CRC)]
    frames, *table, words, starts = map(len, (self.frame_times_ms, *self.table, self.words, self.word_starts_ms))
    if not frames or any(rows != frames for rows in table) or words != starts:
      raise UserError(f'it has {frames} frames with {table} places and {words} words with {starts} starts')
    if not 0 <= self.start_ms < self.end_ms < 1 << 40 or not (0 < self.height < 1 << 16 and 0 < self.width < 1 << 16):
      raise UserError(f'it is [{self.start_ms}, {self.end_ms}] ms of a video of {self.height}x{self.width} pixels')


class Words(Sequence):
  """Of a transcript; those that are asked for are decoded."""

  def __init__(self, words):
    self._words = words

  def __len__(self) -> int:
    return len(self._words)

  def __getitem__(self, which):
    words = self._words[which]
    return [word.decode() for word in words] if isinstance(which, slice) else words.decode()


def one(values, name: str):
  if len(values.value) != 1:
    raise UserError(f'{name} has {len(values.value)} values instead of one')
  return values.value[0]
