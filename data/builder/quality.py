"""How good a set of records is, in numbers and small plots: length, speech, silence, stills, usable windows."""

import collections
import dataclasses

import cv2
import numpy as np

from tvts_jax.pages import kit
from tvts_jax.shards.index import Manifest
from tvts_jax.shards.records import Record
from tvts_jax.shards.sampling import SamplingConfig, valid_starts

STILL_LEVELS = 1.0  # two pictures are one if they differ less, in mean grey levels of 0..255
PAIRS = 12  # of neighbouring frames that are compared in a record


@dataclasses.dataclass(frozen=True)
class Measures:
  """Of one record. Shares are 0..1; None where the question has no meaning, as for a caption."""

  video_s: float
  words_per_s: float | None
  silence: float | None  # share of the window in which no word is being said
  pause_s: float | None  # the longest such stretch
  heard: float | None  # share of windows of l seconds with enough words, over all places
  usable: float | None  # share of begins where all K windows have them
  stills: float | None  # share of neighbouring frames with the same picture
  frame_kb: float
  kind: tuple[str, str, str]  # source, timing and language of the transcript


# field -> (title, unit, factor, what it says)
_PLOTS = {
  'video_s': ('Duration', 's', 1, 'whole videos, not windows'),
  'words_per_s': ('Speech', 'words/s', 1, 'words that start in the window, by its length'),
  'silence': ('Silence', '%', 100, 'of the window without a word being said'),
  'pause_s': ('Longest pause', 's', 1, 'in each window'),
  'heard': ('Windows with enough words', '%', 100, 'one transcript placed anywhere in the window'),
  'usable': ('Usable begins', '%', 100, 'all K transcripts have enough words; training draws among these'),
  'stills': ('Stills', '%', 100, 'of neighbouring frames show the same picture'),
  'frame_kb': ('Frame size', 'kB', 1, 'JPEG bytes, mean of a record'),
}


def measure(record: Record, config: SamplingConfig) -> Measures:
  window_ms = record.end_ms - record.start_ms
  heard = usable = speech = silence = pause = None
  if record.transcript_timing != 'caption':
    quiet = _pauses(record)
    starts = sum(record.start_ms <= s <= record.end_ms for s in record.word_starts_ms)
    speech, silence, pause = starts / window_ms * 1000, sum(quiet) / window_ms, max(quiet) / 1000
    heard = _share_of_begins(record, dataclasses.replace(config, transcripts=1))
    usable = _share_of_begins(record, config)
  return Measures(
    video_s=record.duration_ms / 1000,
    words_per_s=speech,
    silence=silence,
    pause_s=pause,
    heard=heard,
    usable=usable,
    stills=_stills(record),
    frame_kb=float(np.mean([len(f) for f in record.frames])) / 1000,
    kind=(record.transcript_source, record.transcript_timing, record.lang),
  )


def _pauses(record: Record) -> list[int]:
  """Milliseconds of each stretch of the window without a word, the ones at its ends included."""
  said, pauses = record.start_ms, []
  for start, end in zip(record.word_starts_ms, record.word_ends_ms):
    pauses.append(max(0, start - said))
    said = max(said, end)
  return [*pauses, max(0, record.end_ms - said)]


def _share_of_begins(record: Record, config: SamplingConfig) -> float | None:
  """Mean over the lengths l that fit into the window at all."""
  shares = []
  for l_ms in config.lengths_ms:
    places = record.end_ms - record.start_ms - config.span_ms(l_ms) + 1
    if places > 0:
      valid = valid_starts(record.word_starts_ms, record.start_ms, record.end_ms, l_ms, config)
      shares.append(sum(hi - lo + 1 for lo, hi in valid) / places)
  return float(np.mean(shares)) if shares else None


def _stills(record: Record) -> float | None:
  if len(record.frames) < 2 or record.height * record.width > kit.MAX_PIXELS:
    return None
  count = min(PAIRS, len(record.frames) - 1)
  same = []
  for i in np.linspace(0, len(record.frames) - 2, count).round().astype(int):
    a, b = (cv2.imdecode(np.frombuffer(f, np.uint8), _size(record)) for f in record.frames[i : i + 2])
    if a is not None and b is not None:
      same.append(float(cv2.absdiff(a, b).mean()) < STILL_LEVELS)
  return float(np.mean(same)) if same else None


def _size(record: Record) -> int:
  """Large frames are decoded at a quarter of their sides, which is cheap."""
  return cv2.IMREAD_GRAYSCALE if min(record.height, record.width) < 128 else cv2.IMREAD_REDUCED_GRAYSCALE_4


def report(measures: list[Measures], manifest: Manifest, config: SamplingConfig) -> str:
  """HTML."""
  cards = []
  for field, (title, unit, factor, meaning) in _PLOTS.items():
    values = [v * factor for m in measures if (v := getattr(m, field)) is not None]
    if values:
      ends = (0, 100) if unit == '%' else None
      cards.append(
        f'<div class="card"><h4 style="margin-top: 0">{title}</h4><div class="big">{np.median(values):.3g} '
        f'{unit}</div><p class="soft">median; {meaning}</p>{kit.histogram(values, unit, ends)}</div>'
      )
  seconds = ', '.join(f'{s:g}' for s in config.seconds)
  kinds = collections.Counter(' \u00b7 '.join(k or '?' for k in m.kind) for m in measures)
  cards.append(_table('Transcripts', 'format \u00b7 timing \u00b7 language', kinds))
  cards.append(_table('Items', 'what became of each when the data was built', manifest.outcomes))
  asked = (
    f'{config.transcripts} transcripts of {seconds} s, {config.gap_s:g} s apart, each with {config.min_words} words '
    f'or more; {config.frames} frames'
  )
  return f'<p class="soft">Sampling: {asked}</p><div class="grid">{"".join(cards)}</div>'


def _table(title: str, meaning: str, counts: dict[str, int]) -> str:
  total = max(1, sum(counts.values()))
  rows = ''.join(
    f'<tr><td>{kit.text(name, 60)}</td><td>{n}</td><td>{n / total:.1%}</td></tr>'
    for name, n in sorted(counts.items(), key=lambda item: -item[1])[:12]
  )
  return (
    f'<div class="card"><h4 style="margin-top: 0">{title}</h4><p class="soft">{meaning}</p><table>{rows}</table></div>'
  )
