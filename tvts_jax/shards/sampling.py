"""One training sample out of one record: K transcripts and M frames (paper section 3.1).

All times are integer milliseconds of the video. Window k of K is [S_k, E_k] with S_k = begin + k (l + gap)
and E_k = S_k + l; a transcript is made of the words that *start* in its window.
"""

import dataclasses
from typing import Protocol

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.roles import setting

# Named departures from the paper; each first name is the paper's rule, the others are what its code does.
WINDOWS = {
  'closed': 'S_k <= word start <= E_k',
  'open': 'S_k < word start < E_k',
}
ORDERS = {
  'shuffled': 'the K transcripts are given in random order',
  'identity': 'they are given in their true order in training; the sorter cannot tell the difference',
}
SEGMENTS = {
  'whole': 'each of the M segments may give any of its frames',
  'not_last': 'the last frame of a segment is never taken while there is another',
}
PICKS = {
  'random': 'l, begin and frames are drawn at random',
  'center': 'the middle l, the middle valid begin, and the frame on screen at the centre of each segment',
}
SPREADS = {
  'interleaved': 'each clip spans the whole, and shows one of `clips` equal parts of each segment',
  'parts': 'each clip spans one of `clips` equal parts of the whole',
}


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """How transcripts and frames are drawn; `min_words=0` accepts every begin, as the reference does."""

  transcripts: int = setting(4, 'alike', follows='model.transcripts')
  seconds: tuple[float, ...] = (3, 4, 5)
  gap_s: float = 1.0
  min_words: int = 3
  frames: int = setting(16, 'alike', follows='model.video.frames')
  windows: str = 'closed'
  order: str = setting('shuffled', 'training')  # In evaluation, transcripts that tie would count as right.
  segments: str = 'whole'
  pick: str = setting('random', 'views')
  # With pick='center', the clip-th of as many clips of one sample: views of a video, for evaluation.
  clips: int = 1
  clip: int = setting(0, 'views')
  spread: str = 'interleaved'

  def __post_init__(self):
    object.__setattr__(self, 'seconds', tuple(self.seconds))
    tables = {'windows': WINDOWS, 'order': ORDERS, 'segments': SEGMENTS, 'pick': PICKS, 'spread': SPREADS}
    for name, table in tables.items():
      if getattr(self, name) not in table:
        raise UserError(f'{name}={getattr(self, name)!r} is unknown; known: {", ".join(table)}')
    if self.transcripts < 1 or self.frames < 1 or self.min_words < 0 or self.gap_s < 0:
      raise UserError('transcripts and frames must be at least 1, min_words and gap_s at least 0')
    if not 0 <= self.clip < self.clips:
      raise UserError(f'clip={self.clip} must be at least 0 and below clips={self.clips}')
    if self.clips > 1 and self.pick != 'center':
      raise UserError(f"clips={self.clips} needs pick='center'; random frames differ from draw to draw anyway")
    if not self.seconds or min(self.seconds) <= 0:
      raise UserError(f'seconds={self.seconds} must name at least one positive transcript length')

  def span_ms(self, l_ms: int) -> int:
    """Milliseconds from S_1 to E_K."""
    return self.transcripts * (l_ms + self.gap_ms) - self.gap_ms

  @property
  def gap_ms(self) -> int:
    return round(self.gap_s * 1000)

  @property
  def lengths_ms(self) -> list[int]:
    return [round(s * 1000) for s in self.seconds]


class Timed(Protocol):
  """The part of a record that sampling looks at; words and frames are sorted by time."""

  start_ms: int
  end_ms: int
  words: list[str]
  word_starts_ms: list[int]
  frame_times_ms: list[int]
  transcript_timing: str


@dataclasses.dataclass(frozen=True)
class Draw:
  """One sample: `order[i]` is the true place of `texts[i]`; `frames` are indices into the record's frames."""

  texts: list[str]
  order: np.ndarray  # int32 [K].
  frames: np.ndarray  # int64 [M].
  windows_ms: list[tuple[int, int]]  # [S_k, E_k] in true order.


def valid_starts(word_starts_ms, start_ms: int, end_ms: int, l_ms: int, config: SamplingConfig):
  """Every integer begin in [start_ms, end_ms] whose K windows fit and hold min_words word starts each.

  Returns disjoint closed intervals as (lo_J, hi_J), int64, in increasing order. `word_starts_ms` must be sorted.
  """
  last, none = end_ms - config.span_ms(l_ms), np.zeros(0, np.int64)
  if last < start_ms:
    return none, none
  if config.min_words == 0:
    return np.array([start_ms]), np.array([last])
  # A window from S holds words i .. i+m-1 when w[i+m-1] - l <= S <= w[i] (one less at each end if open).
  word_W = np.asarray(word_starts_ms, np.int64)
  shrink = int(config.windows == 'open')
  lo = word_W[config.min_words - 1 :] - l_ms + shrink
  hi = word_W[: len(lo)] - shrink
  fits = lo <= hi
  lo, hi = lo[fits], hi[fits]
  if not len(lo):
    return none, none
  # Both ends rise with i, so overlapping and adjacent intervals merge by comparing neighbours.
  apart = np.ones(len(lo) + 1, bool)
  apart[1:-1] = lo[1:] > hi[:-1] + 1
  lo, hi = lo[apart[:-1]], hi[apart[1:]]
  # begin is valid when it lies in all K shifted copies of that set: count them along a sweep over the ends. The lowest
  # bit of each says which end it is.
  shift_K1 = np.arange(config.transcripts)[:, None] * (l_ms + config.gap_ms)
  edge = np.stack([2 * (lo - shift_K1) + 1, 2 * (hi + 1 - shift_K1)]).ravel()
  edge.sort()
  full = np.flatnonzero(np.cumsum((edge & 1) * 2 - 1) == config.transcripts)
  lo, hi = np.maximum(edge[full] >> 1, start_ms), np.minimum((edge[full + 1] >> 1) - 1, last)
  some = lo <= hi
  return lo[some], hi[some]


def draw(record: Timed, config: SamplingConfig, rng: np.random.Generator) -> Draw:
  """Draw K transcripts and M frames; a caption is one transcript: all its words, over the whole clip."""
  if record.transcript_timing == 'caption':
    if config.transcripts != 1:
      raise UserError(f'a caption holds one transcript, not {config.transcripts}; set transcripts=1')
    windows, texts = [(record.start_ms, record.end_ms)], [' '.join(record.words)]
  else:
    lengths = sorted(config.lengths_ms) if config.pick == 'center' else config.lengths_ms
    l_ms = lengths[len(lengths) // 2 if config.pick == 'center' else rng.integers(len(lengths))]
    begin = choose_begin(record, l_ms, config, rng)
    begin_K = begin + np.arange(config.transcripts) * (l_ms + config.gap_ms)
    windows = [(s, s + l_ms) for s in begin_K.tolist()]
    closed = config.windows == 'closed'
    first_K = np.searchsorted(record.word_starts_ms, begin_K, 'left' if closed else 'right')
    stop_K = np.searchsorted(record.word_starts_ms, begin_K + l_ms, 'right' if closed else 'left')
    texts = [' '.join(record.words[a:b]) for a, b in zip(first_K.tolist(), stop_K.tolist())]
  order = np.arange(config.transcripts, dtype=np.int32)
  if config.order == 'shuffled':
    order = rng.permutation(order)
  frames = choose_frames(record.frame_times_ms, windows[0][0], windows[-1][1], config, rng)
  return Draw([texts[o] for o in order], order, frames, windows)


def choose_frames(frame_times_ms, begin_ms: int, end_ms: int, config: SamplingConfig, rng) -> np.ndarray:
  """int64 [M]: one stored frame from each of M equal segments of [begin_ms, end_ms], by real frame time.

  Frames are stored only when the picture changes: a segment without one shows the latest frame before it.
  """
  if config.spread == 'parts':
    length_ms = end_ms - begin_ms
    begin_ms, end_ms = (begin_ms + nth * length_ms // config.clips for nth in (config.clip, config.clip + 1))
  time_F = np.asarray(frame_times_ms, np.int64) * config.frames  # In units of 1/M ms all segment ends are whole.
  edge = begin_ms * config.frames + np.arange(config.frames + 1) * (end_ms - begin_ms)
  if config.pick == 'center':
    halves, parts = (1, 2) if config.spread == 'parts' else (2 * config.clip + 1, 2 * config.clips)
    centre = edge[:-1] + halves * (end_ms - begin_ms) // parts
    return np.maximum(np.searchsorted(time_F, centre, 'right') - 1, 0)
  edge[-1] += 1  # The last segment is closed.
  cut = np.searchsorted(time_F, edge, 'left')
  first_M, count_M = cut[:-1], np.diff(cut)
  choices_M = np.maximum(count_M - 1, np.minimum(count_M, 1)) if config.segments == 'not_last' else count_M
  picked_M = first_M + (rng.random(config.frames) * choices_M).astype(np.int64)
  return np.where(count_M > 0, picked_M, np.maximum(first_M - 1, 0))


def shortfall(guaranteed: SamplingConfig, asked: SamplingConfig) -> str:
  """Why records built for `guaranteed` may hold no valid begin for `asked`, or '' if they always do."""
  if asked.transcripts > guaranteed.transcripts:
    return f'they hold {guaranteed.transcripts} transcripts, and transcripts={asked.transcripts} is set'
  extra = set(asked.lengths_ms) - set(guaranteed.lengths_ms)
  if extra:
    known = ', '.join(f'{s:g}' for s in guaranteed.seconds)
    return f'they hold transcripts of {known} s, and seconds has {min(extra) / 1000:g}'
  if asked.transcripts > 1 and asked.gap_ms != guaranteed.gap_ms:
    return f'they hold gaps of {guaranteed.gap_s:g} s, and gap_s={asked.gap_s:g} is set'
  if asked.min_words > guaranteed.min_words:
    return f'they hold {guaranteed.min_words} words a transcript, and min_words={asked.min_words} is set'
  if asked.windows == 'open' and asked.min_words > 0:
    return "they count words in closed windows; windows='open' needs min_words=0"
  return ''


def choose_begin(record: Timed, l_ms: int, config: SamplingConfig, rng) -> int:
  """Uniform over the integer milliseconds of the valid set, or its middle one."""
  lo_J, hi_J = valid_starts(record.word_starts_ms, record.start_ms, record.end_ms, l_ms, config)
  if not len(lo_J):
    raise UserError(
      f'no begin in [{record.start_ms}, {record.end_ms}] ms gives {config.transcripts} transcripts of {l_ms} '
      f'ms with {config.min_words} words each; rebuild the shards for this sampling or ask for fewer words'
    )
  sizes_J = np.cumsum(hi_J - lo_J + 1)
  total = int(sizes_J[-1])
  nth = total // 2 if config.pick == 'center' else int(rng.integers(total))
  i = sizes_J.searchsorted(nth, 'right')
  return int(hi_J[i] - (sizes_J[i] - 1 - nth))
