"""Cuts a video into windows where somebody talks, and an item of a source into records."""

import functools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from data.builder import quality
from data.outcomes import ItemError
from data.sources.items import Item
from data.transcripts import formats
from data.transcripts.formats import Transcript, Word
from tvts_jax.errors import UserError
from tvts_jax.media import paths, pictures, uniform, video
from tvts_jax.media.pictures import Frame
from tvts_jax.shards.records import Record
from tvts_jax.shards.sampling import SamplingConfig, valid_starts

MIN_STEP_MS = 1_000  # Between the windows of windows_per_video=0.


@dataclass(frozen=True)
class WindowConfig:
  """What to keep of a video. transcripts, seconds, gap_s and min_words are what sampling may ask for later."""

  window_s: float = 64.0
  windows_per_video: int = 1  # Those with the most words, none overlapping; 0: all, overlapping by one sample.
  fps: float = 3.0
  short_side: int = 256
  quality: int = 75
  transcripts: int = 4
  seconds: tuple[float, ...] = (3, 4, 5)
  gap_s: float = 1.0
  min_words: int = 3
  interpolate: bool = False  # Accept transcripts that time lines only, and mark them.
  caption_frames: int = 4  # Of a video that has a caption instead of a transcript.

  def __post_init__(self):
    object.__setattr__(self, 'seconds', tuple(self.seconds))
    if not all(math.isfinite(value) for value in (self.window_s, self.fps, self.gap_s, *self.seconds)):
      raise UserError('window_s, fps, gap_s and seconds must be finite numbers.')
    if min(self.window_s, self.fps) <= 0 or self.windows_per_video < 0 or self.caption_frames < 1:
      raise UserError('window_s, fps and caption_frames must be above 0, windows_per_video at least 0.')
    if not 1 <= self.quality <= 100 or self.short_side < pictures.MIN_SIDE:
      raise UserError(f'quality must be 1 to 100, and short_side at least {pictures.MIN_SIDE}.')
    if self.window_ms < self.span_ms:
      raise UserError(
        f'window_s={self.window_s:g} is shorter than the {self.span_ms / 1000:g} s of {self.transcripts} transcripts '
        f'of {max(self.seconds):g} s with gaps of {self.gap_s:g} s; take longer windows or shorter transcripts.'
      )
    if self.windows_per_video == 0 and self.window_ms - self.span_ms < MIN_STEP_MS:
      raise UserError(
        f'window_s={self.window_s:g} is too short for windows_per_video=0, whose windows overlap by the '
        f'{self.span_ms / 1000:g} s of a sample; take {(self.span_ms + MIN_STEP_MS) / 1000:g} s or more.'
      )

  @property
  def sampling(self) -> SamplingConfig:
    return SamplingConfig(
      transcripts=self.transcripts, seconds=self.seconds, gap_s=self.gap_s, min_words=self.min_words
    )

  @property
  def for_shorter(self) -> str:
    """Which settings let shorter videos in."""
    return (
      f'a sample spans {self.span_ms / 1000:g} s: {self.transcripts} transcripts of up to {max(self.seconds):g} s with '
      f'gaps of {self.gap_s:g} s; for shorter videos build into another --out with shorter --seconds, such as 2, a '
      'smaller --gap-s or fewer --transcripts, and set input.seconds, input.gap_s, model.transcripts of the run alike'
    )

  @property
  def window_ms(self) -> int:
    return round(self.window_s * 1000)

  @property
  def span_ms(self) -> int:
    """Of the longest sample."""
    return self.sampling.span_ms(max(self.sampling.lengths_ms))


@dataclass(frozen=True)
class Window:
  """[start_ms, end_ms] of a video."""

  index: int
  start_ms: int
  end_ms: int


def choose(words: Sequence[Word], duration_ms: int, config: WindowConfig) -> list[Window]:
  """Windows that hold a valid sample of every length, words sorted by start; ItemError if there is none.

  Some windows: the first has the most words, each next one the most of what is left, the earliest of equals;
  so asking for more only adds to them. All windows: by time, and what any sample spans lies whole in one.
  A video shorter than a window is one window.
  """
  if duration_ms < config.span_ms:
    raise ItemError('too_short', f'{duration_ms / 1000:.1f} s; one sample is {config.span_ms / 1000:.1f} s long')
  length = min(config.window_ms, duration_ms)
  word_starts = [word.start_ms for word in words]
  begins = Begins(word_starts, duration_ms, config.sampling)
  last = duration_ms - length
  if config.windows_per_video == 0:
    step = max(1, length - config.span_ms)
    places = [s for s in (*range(0, last, step), last) if begins.all_within(s, s + length)]
  else:
    places = densest(word_starts, length, last, config.windows_per_video, begins)
  if not places:
    raise ItemError(
      'too_few_words',
      f'{len(words)} words in {duration_ms / 1000:.1f} s, and nowhere {config.transcripts} transcripts of each of '
      f'{", ".join(f"{s:g}" for s in config.seconds)} s with {config.min_words} words or more',
    )
  return [Window(i, s, s + length) for i, s in enumerate(places)]


def records(item: Item, config: WindowConfig) -> tuple[list[Record], dict[str, float]]:
  """All records of an item, and their quality: means of `data.builder.quality.Measures` over them. ItemError if none.

  Depends on nothing but the item's files and the configuration.
  """
  with paths.open_media(item.video) as file:
    duration_ms, transcript, clips = read(file, item, config)
    sha256 = paths.sha256(file)
  made = []
  for window, frames in clips:
    a, b = window.start_ms, window.end_ms
    words = [w for w in transcript.words if a <= w.start_ms <= b or w.start_ms < a < w.end_ms]
    made.append(
      Record(
        video_id=item.id,
        window_index=window.index,
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        duration_ms=duration_ms,
        frames=[f.jpeg for f in frames],
        frame_times_ms=[f.time_ms for f in frames],
        height=frames[0].height,
        width=frames[0].width,
        words=[w.text for w in words],
        word_starts_ms=[w.start_ms for w in words],
        word_ends_ms=[w.end_ms for w in words],
        lang=transcript.lang or item.lang,
        transcript_source=transcript.source,
        transcript_timing=transcript.timing,
        source_sha256=sha256,
      )
    )
  return made, mean_quality(made, config.sampling)


class Begins:
  """Where samples of each length may begin in a video."""

  def __init__(self, word_starts, duration_ms, sampling):
    self._lengths = [
      (sampling.span_ms(l_ms), *(ends.tolist() for ends in valid_starts(word_starts, 0, duration_ms, l_ms, sampling)))
      for l_ms in sampling.lengths_ms
    ]

  def latest(self) -> list[int]:
    """The last begin of each stretch of valid ones, of every length."""
    return [high for *_, highs in self._lengths for high in highs]

  def all_within(self, start_ms, end_ms) -> bool:
    """Whether a sample of every length lies in a window."""
    return all(self._one_within(start_ms, end_ms - span_ms, *valid) for span_ms, *valid in self._lengths)

  def _one_within(self, first_ms, last_ms, lows, highs):
    i = bisect_left(highs, first_ms)
    return i < len(highs) and max(lows[i], first_ms) <= last_ms


def densest(word_starts, length, last, count, begins):
  """Starts of up to `count` windows apart from each other, by the number of words that start in them."""
  word_W = np.asarray(word_starts, np.int64)
  # A window with the most words can as well start with a word, one that holds a sample with its latest begin,
  # and either may have to end with the video.
  place_P = np.unique(np.minimum(np.concatenate([word_W, begins.latest(), [last]]), last))
  words_P = np.searchsorted(word_W, place_P + length, 'right') - np.searchsorted(word_W, place_P, 'left')
  chosen = []
  for place in place_P[np.lexsort((place_P, -words_P))].tolist():
    if all(abs(place - other) >= length for other in chosen) and begins.all_within(place, place + length):
      chosen.append(place)
      if len(chosen) == count:
        break
  return chosen


def read(file, item: Item, config: WindowConfig) -> tuple[int, Transcript, list[tuple[Window, list[Frame]]]]:
  """(Duration in ms, the transcript of the whole video, the frames of each window)."""
  encode = functools.partial(pictures.encode, quality=config.quality)
  if item.caption is not None:
    duration_ms, frames = uniform.read(file, config.caption_frames, short_side=config.short_side, keep=encode)
    return duration_ms, formats.caption(item.caption, duration_ms), [(Window(0, 0, duration_ms), frames)]
  if pictures.image_codec(file.read(16)):
    raise uncaptioned(item)
  duration_ms = video.probe(file).duration_ms
  if item.transcript is None:
    raise ItemError('missing_transcript', 'the item has neither a transcript nor a caption')
  transcript = formats.read(
    item.transcript, fmt=item.fmt, duration_ms=duration_ms, interpolate=config.interpolate, lang=item.lang
  )
  shape = {'fps': config.fps, 'short_side': config.short_side, 'keep': encode}
  windows = choose(transcript.words, duration_ms, config)
  return duration_ms, transcript, [(w, video.read_frames(file, w.start_ms, w.end_ms, **shape)) for w in windows]


def uncaptioned(item) -> ItemError:
  if not item.transcript:
    return ItemError('missing_transcript', 'an image needs a caption')
  try:  # It may have been meant as one.
    formats.read(item.transcript, fmt=item.fmt, interpolate=True)
  except ItemError as error:
    return ItemError(error.code, f'an image needs a caption; {item.transcript}: {error.detail}')
  return ItemError('missing_transcript', f'an image needs a caption, and {item.transcript} is none')


def mean_quality(made: list[Record], sampling: SamplingConfig) -> dict[str, float]:
  measured = [asdict(quality.measure(record, sampling)) for record in made]
  values = {name: [m[name] for m in measured] for name in measured[0]}
  return {
    name: float(np.mean(v))
    for name, v in values.items()
    if all(isinstance(x, int | float) and math.isfinite(x) for x in v)
  }
