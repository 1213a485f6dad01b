"""Opens a video file and decodes it, as suspicious of it as FFmpeg (through PyAV) can be made.

FFmpeg is handed an open file, never a name, and only containers that cannot refer to other files. Damage
that it sees is a MediaError, never a grey picture. It sees what breaks a container's structure and most of
what breaks H.264, MPEG-2 and MPEG-4 pictures; the codes of HEVC, VP8 and VP9 leave little to be seen.
"""

import contextlib
import functools
import math
import re
import threading
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av

from tvts_jax.media.errors import MediaError
from tvts_jax.media.pictures import STRICT, check_size

CONTAINERS = 'mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg'  # As FFmpeg calls them.

BEGINNINGS = re.compile(rb'\x1aE\xdf\xa3|RIFF....AVI |FLV|OggS|0&\xb2u|\x00\x00\x01\xba', re.DOTALL)
FIRST_BOXES = (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip')
# Metadata need not be UTF-8: PyAV 19 keeps every byte and has lost the argument, which 18 needs.
ANY_METADATA = {} if int(av.__version__.split('.')[0]) > 18 else {'metadata_errors': 'replace'}
NOT_VIDEO = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


@dataclass(frozen=True)
class Media:
  """An open file and its video stream."""

  container: av.container.InputContainer
  stream: av.VideoStream
  origin: Fraction  # Seconds on the file's clock, where its sound or picture begins.
  pixel_aspect: Fraction  # Width by height.
  log: list[tuple[int, str, str]]  # FFmpeg's errors so far: level, who, what.

  def ms(self, stamp: int) -> Fraction:
    """Milliseconds from the origin, of a stamp in the stream's time base."""
    return (stamp * self.stream.time_base - self.origin) * 1000

  def seek(self, ms: float | Fraction) -> bool:
    """To the last key frame before a time, or about there; False if the container cannot."""
    if self.container.format.name == 'mpeg':
      return False  # Not every picture has a stamp, and those between are only right from the start on.
    stamp = (Fraction(ms) / 1000 + self.origin) / self.stream.time_base
    try:
      self.container.seek(math.floor(stamp), stream=self.stream)
    except MemoryError:
      raise
    except av.FFmpegError:
      return False
    return True

  @property
  def tells_order_only(self) -> bool:
    """AVI has no times of appearance, and what FFmpeg makes up for B-frames is late or in disorder."""
    return self.container.format.name == 'avi' and self.stream.codec_context.reorder_depth > 0


@contextlib.contextmanager
def opened(file: BinaryIO) -> Iterator[Media]:
  """The first stream of moving pictures; MediaError if there is none, or none of a size that is accepted."""
  file.seek(0)
  options = {'format_whitelist': CONTAINERS}
  with errors_logged, av.logging.Capture() as log, contextlib.ExitStack() as stack:
    # What FFmpeg needs of a file; its name would be one more thing to interpret.
    unnamed = types.SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
    with named(lambda: unreadable(file)):
      container = stack.enter_context(av.open(unnamed, 'r', options=options, **ANY_METADATA))
    stream = next((s for s in container.streams.video if not s.disposition & NOT_VIDEO), None)
    if stream is None:
      kinds = ', '.join(sorted({s.type for s in container.streams})) or 'nothing'
      raise MediaError('no_video_stream', f'the {container.format.name} file holds {kinds}')
    codec = stream.codec_context
    if codec is None:
      raise MediaError('unknown_codec', 'there is no decoder for the video stream')
    if codec.width and codec.height:
      check_size(codec.width, codec.height)
    codec.options, codec.thread_count = STRICT, 1  # The builder has one process a core.
    if codec.name == 'h264':
      # It marks the pictures that it could not make whole, and would take every open GOP that a file is entered
      # at for damage.
      codec.options = STRICT | {'err_detect': 'crccheck'}
    begins = [s.start_time * s.time_base for s in (stream, *container.streams.audio) if s.start_time is not None]
    pixel_aspect = Fraction(stream.sample_aspect_ratio or 1)
    yield Media(container, stream, min(begins, default=Fraction(0)), pixel_aspect, log)


def decode(media: Media) -> Iterator[tuple[av.VideoFrame, int | None]]:
  """Pictures from the next key frame on, in order of appearance, the n-th with the stamp of the n-th packet."""
  begun, stamps = False, deque()
  for packet in packets(media, media.stream):
    if packet.size:
      begun = begun or packet.is_keyframe
      if not begun:
        continue
      stamps.append(packet.dts if media.tells_order_only else packet.pts)
    elif packet.dts is not None:  # Nothing new: the last picture stays on screen.
      continue
    damage = functools.partial(damage_of, media, packet)
    if packet.is_corrupt:
      raise damage()
    with named(damage):
      frames = packet.decode()
    for frame in frames:
      if frame.is_corrupt:
        raise damage()
      yield frame, stamps.popleft() if stamps else None


def packets(media: Media, *streams: av.stream.Stream) -> Iterator[av.Packet]:
  """From where the file stands to its end, of some streams, or of all if none is given."""

  def complaint():
    # Containers pass over what they cannot make sense of, and say so nowhere but in the log.
    return next((what.strip() for _, who, what in media.log if who == media.container.format.name), None)

  with named(lambda: MediaError('corrupt_video', complaint() or 'damaged between its pictures')):
    for packet in media.container.demux(*streams):
      if packet.size and complaint():
        raise MediaError('corrupt_video', complaint())
      yield packet
  if complaint():
    raise MediaError('truncated_video', complaint())


@contextlib.contextmanager
def named(describe):
  """Turns FFmpeg's errors into the MediaError that `describe()` makes; lack of memory is not the file's fault."""
  try:
    yield
  except MemoryError:
    raise
  except av.FFmpegError as e:
    error = describe()
    raise MediaError(error.code, f'{error.detail} ({e.strerror})') from e


class ErrorsLogged:
  """PyAV's log level is of the whole process: the first of the files that are open sets it, the last puts it back."""

  def __init__(self):
    self._lock, self._open = threading.Lock(), 0

  def __enter__(self):
    with self._lock:
      if not self._open:
        self._before = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
      self._open += 1

  def __exit__(self, *_):
    with self._lock:
      self._open -= 1
      if not self._open:
        level, skip = self._before
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)


errors_logged = ErrorsLogged()


def damage_of(media, packet):
  stamp = packet.pts if packet.pts is not None else packet.dts
  where = 'its end' if stamp is None else f'{float(media.ms(stamp)) / 1000:.2f} s'
  return MediaError('corrupt_video', f'damaged near {where}')


def unreadable(file):
  file.seek(0)
  head = file.read(32)
  if head[4:8] in FIRST_BOXES and b'moov' not in boxes(file):
    return MediaError('truncated_video', 'an MP4 file without its index')
  if head[4:8] in FIRST_BOXES or BEGINNINGS.match(head):
    return MediaError('corrupt_video', 'the header is damaged')
  return MediaError('not_a_video', f'no known container begins with {head!r}' if head else 'the file is empty')


def boxes(file):
  """Names of the outermost boxes of an MP4 file, as far as it goes."""
  at, names = 0, set()
  file.seek(0)
  while len(header := file.read(16)) >= 8:
    size = int.from_bytes(header[:4], 'big')
    names.add(header[4:8])
    if size == 1:
      size = int.from_bytes(header[8:], 'big')
    if size < 8:  # 0: up to the end of the file.
      break
    at += size
    file.seek(at)
  return names
