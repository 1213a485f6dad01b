"""How good a record is, in numbers: length, speech, silence, stills, usable windows."""

import dataclasses

import cv2
import numpy as np

from tvts_jax.media import pictures
from tvts_jax.shards.records import Record
from tvts_jax.shards.sampling import SamplingConfig, valid_starts

STILL_LEVELS = 1.0  # Two pictures are one if they differ less, in mean grey levels of 0..255.
PAIRS = 12  # Of neighbouring frames that are compared in a record.


@dataclasses.dataclass(frozen=True)
class Measures:
  """Of one record. Shares are 0..1; None where the question has no meaning, as for a caption."""

  video_s: float
  words_per_s: float | None
  silence: float | None  # Share of the window in which no word is being said.
  pause_s: float | None  # The longest such stretch.
  heard: float | None  # Share of windows of l seconds with enough words, over all places.
  usable: float | None  # Share of begins where all K windows have them.
  stills: float | None  # Share of neighbouring frames with the same picture.
  frame_kb: float
  short_side: int  # Of its frames, in pixels.
  kind: tuple[str, str, str]  # Source, timing and language of the transcript.


def measure(record: Record, config: SamplingConfig) -> Measures:
  window_ms = record.end_ms - record.start_ms
  heard = usable = speech = silence = pause = None
  if record.transcript_timing != 'caption':
    quiet = pauses_of(record)
    starts = sum(record.start_ms <= s <= record.end_ms for s in record.word_starts_ms)
    speech, silence, pause = starts / window_ms * 1000, sum(quiet) / window_ms, max(quiet) / 1000
    heard = share_of_begins(record, dataclasses.replace(config, transcripts=1))
    usable = share_of_begins(record, config)
  return Measures(
    video_s=record.duration_ms / 1000,
    words_per_s=speech,
    silence=silence,
    pause_s=pause,
    heard=heard,
    usable=usable,
    stills=stills_of(record),
    frame_kb=float(np.mean([len(f) for f in record.frames])) / 1000,
    short_side=min(record.height, record.width),
    kind=(record.transcript_source, record.transcript_timing, record.lang),
  )


def pauses_of(record: Record) -> list[int]:
  """Milliseconds of each stretch of the window without a word, the ones at its ends included."""
  said, pauses = record.start_ms, []
  for start, end in zip(record.word_starts_ms, record.word_ends_ms):
    pauses.append(max(0, start - said))
    said = max(said, end)
  return [*pauses, max(0, record.end_ms - said)]


def share_of_begins(record: Record, config: SamplingConfig) -> float | None:
  """Mean over the lengths l that fit into the window at all."""
  shares = []
  for l_ms in config.lengths_ms:
    places = record.end_ms - record.start_ms - config.span_ms(l_ms) + 1
    if places > 0:
      lo_J, hi_J = valid_starts(record.word_starts_ms, record.start_ms, record.end_ms, l_ms, config)
      shares.append(int((hi_J - lo_J + 1).sum()) / places)
  return float(np.mean(shares)) if shares else None


def stills_of(record: Record) -> float | None:
  if len(record.frames) < 2 or record.height * record.width > pictures.MAX_PIXELS:
    return None
  count = min(PAIRS, len(record.frames) - 1)
  same = []
  for i in np.linspace(0, len(record.frames) - 2, count).round().astype(int):
    a, b = (cv2.imdecode(np.frombuffer(f, np.uint8), size(record)) for f in record.frames[i : i + 2])
    if a is not None and b is not None:
      same.append(float(cv2.absdiff(a, b).mean()) < STILL_LEVELS)
  return float(np.mean(same)) if same else None


def size(record: Record) -> int:
  """Large frames are decoded at a quarter of their sides, which is cheap."""
  return cv2.IMREAD_GRAYSCALE if min(record.height, record.width) < 128 else cv2.IMREAD_REDUCED_GRAYSCALE_4
