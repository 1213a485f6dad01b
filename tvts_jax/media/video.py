"""Which picture of a video was on screen when, by the file's own time stamps and never by counting.

Times are milliseconds from where the sound or the picture of a file begins, as a player counts them and as
speech recognition hears them.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np

from tvts_jax.media.container import Media, decode, opened, packets
from tvts_jax.media.errors import MediaError
from tvts_jax.media.pictures import Display

MAX_HOURS = 24
SLACK_MS = 500  # A file may end this much before its header says: durations are rounded, sound is padded.
LEADS_MS = (0, 5_000, 30_000)  # Where to enter a file before a wanted time: the first that is early enough.


@dataclass(frozen=True)
class VideoInfo:
  """Size as displayed: turned upright, pixels made square. duration_ms: until the last picture goes."""

  duration_ms: int
  width: int
  height: int


def probe(file: str | BinaryIO) -> VideoInfo:
  """Decodes the first picture and looks for the last one; MediaError if this is no whole, sane video."""
  with binary(file) as f, opened(f) as media:
    frame = next((frame for frame, _ in decode(media)), None)
    if frame is None:
      raise MediaError('no_frames', 'the video stream holds no picture')
    display = Display(frame, media.pixel_aspect)
    return VideoInfo(read_duration_ms(f, media), display.width, display.height)


def read_frames(
  file: str | BinaryIO,
  start_ms: int | Fraction,
  end_ms: int | Fraction,
  *,
  fps: float | Fraction,
  short_side: int,
  keep: Callable[[np.ndarray, int], Any],
) -> list:
  """The pictures on screen at start_ms + k * 1000 / fps before end_ms, each once, by time.

  The first may have appeared before start_ms; before the first picture of a file, none is on screen.
  MediaError if what was decoded from the last key frame before start_ms on is damaged, or if the pictures end
  before end_ms.

  Args:
    short_side: larger pictures are scaled down to it.
    keep: (uint8 BGR [height, width, 3], time_ms) → what is kept of a picture, e.g. by `pictures.encode`.
  """
  step = 1000 / Fraction(fps)
  grid = [start_ms + k * step for k in range(math.ceil((end_ms - start_ms) / step))]
  with binary(file) as f:
    try:
      frames, stop = sample(by_stamp(f, start_ms), grid, short_side, keep)
    except Disorder:
      frames, stop = sample(by_order(f), grid, short_side, keep)
  if not frames:
    raise MediaError('no_frames', f'no picture on screen between {s(start_ms)} and {s(end_ms)}')
  if stop < end_ms - SLACK_MS:
    raise MediaError('truncated_video', f'pictures end at {s(stop)}, {s(end_ms)} expected')
  return frames


class Disorder(Exception):
  """Pictures without time stamps, or with stamps that go backwards."""


class Shown(NamedTuple):
  appears: Fraction  # Ms.
  goes: Fraction  # Ms, if nothing else appears before.
  frame: av.VideoFrame
  media: Media


def sample(shown: Iterator[Shown], grid, short_side, keep: Callable) -> tuple[list, float | Fraction]:
  """What is on screen at the times of the grid, and when the pictures end (inf: after the grid)."""
  frames, latest_ms, display, now, k = [], -math.inf, None, None, 0
  with contextlib.closing(shown):
    while k < len(grid):
      then = next(shown, None)
      due = k
      while k < len(grid) and (then is None or grid[k] < then.appears):
        k += 1
      if now and k > due:
        # Down to whole ms, so that no picture is later than the moment it was on screen.
        time_ms = math.floor(now.appears)
        if time_ms > latest_ms:
          latest_ms, display = time_ms, display or Display(now.frame, now.media.pixel_aspect)
          frames.append(keep(display.show(now.frame, short_side), time_ms))
      if then is None:
        return frames, now.goes if now else -math.inf
      now = then
  return frames, math.inf


def by_stamp(file, start_ms) -> Iterator[Shown]:
  """Pictures from the one on screen at start_ms, or from an earlier one, or from the file's first."""
  for lead_ms in (*LEADS_MS, math.inf):
    begin = start_ms - lead_ms
    with opened(file) as media:
      if media.tells_order_only:
        raise Disorder
      if begin > 0 and not media.seek(begin):
        continue
      last = None
      for frame, _ in decode(media):
        if frame.pts is None or last is not None and frame.pts < last:
          raise Disorder
        if last is None and begin > 0 and media.ms(frame.pts) > start_ms:
          break
        last = frame.pts
        yield Shown(media.ms(last), media.ms(last + frame.duration), frame, media)
      if last is not None or begin <= 0:
        return


def by_order(file) -> Iterator[Shown]:
  """Pictures from the file's first, for stamps that tell when to decode: the n-th appears at the n-th of them."""
  with opened(file) as media:
    first = last = None
    for frame, stamp in decode(media):
      if stamp is None or last is not None and stamp < last:
        raise MediaError('bad_timestamps', 'the pictures have no time stamps, or none in any order')
      first = stamp if first is None else first
      last = stamp
      at = (media.stream.start_time or 0) + stamp - first
      yield Shown(media.ms(at), media.ms(at + frame.duration), frame, media)


def read_duration_ms(file, media: Media) -> int:
  """When the last picture goes, by the last packets; MediaError if the file ends long before it says."""
  stated = (media.container.duration or 0) / 1000
  check_length(stated)
  if stated:
    media.seek(max(0, stated - LEADS_MS[1]))  # If it cannot, everything is read.
  end, reach = last_packets(media)
  if end is None:
    with opened(file) as again:
      end, reach = last_packets(again)
  if end is None:
    raise MediaError('bad_timestamps', 'no picture has a time stamp')
  if reach < stated - SLACK_MS:
    raise MediaError('truncated_video', f'ends at {s(reach)}, its header says {s(stated)}')
  if media.stream.duration:  # Not every packet says how long its picture stays.
    own = media.ms((media.stream.start_time or 0) + media.stream.duration)
    end = own if end < own < end + SLACK_MS else end
  check_length(end)
  return max(1, math.floor(end))


def check_length(ms):
  if ms > MAX_HOURS * 3_600_000:
    raise MediaError('too_long', f'{float(ms) / 3_600_000:.1f} hours; at most {MAX_HOURS}')


def last_packets(media: Media) -> tuple[Fraction | None, Fraction]:
  """From where the file stands: ms at which pictures end (None if there are none), and any stream."""
  end, reach = None, Fraction(0)
  for packet in packets(media):
    video = packet.stream is media.stream
    stamp = packet.dts if video and media.tells_order_only else packet.pts
    if stamp is None or packet.is_discard:  # As beyond the end of an edit list: no picture of it is ever shown.
      continue
    goes = ((stamp + (packet.duration or 0)) * packet.time_base - media.origin) * 1000
    reach = max(reach, goes)
    if video:
      end = goes if end is None else max(end, goes)
  return end, reach


def binary(file):
  if not isinstance(file, str):
    return contextlib.nullcontext(file)
  try:
    return open(file, 'rb')
  except OSError as e:
    raise MediaError('missing_video', f'{file} cannot be opened: {e.strerror}') from e


def s(ms):
  return f'{float(ms) / 1000:.2f} s'
