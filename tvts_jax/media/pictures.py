"""One picture: upright, with square pixels, no larger than asked for, as JPEG."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from tvts_jax.media.errors import MediaError

MIN_SIDE = 16
MAX_SIDE = 16384
MAX_PIXELS = 1 << 26
IMAGE_BYTES = 64 << 20  # The largest image file that is read.

# For a decoder of FFmpeg: nothing larger than this is ever allocated, and damage is an error.
STRICT = {'err_detect': 'crccheck+explode', 'max_pixels': str(MAX_PIXELS)}

# Decoder → how its files begin.
IMAGES = {'mjpeg': rb'\xff\xd8\xff', 'png': rb'\x89PNG\r\n\x1a\n', 'webp': rb'RIFF....WEBP'}


@dataclass(frozen=True)
class Frame:
  """A picture as JPEG, and when it appears."""

  jpeg: bytes
  time_ms: int
  height: int
  width: int


def encode(image_HxWx3: np.ndarray, time_ms: int, quality: int) -> Frame:
  """Baseline JPEG with halved chroma out of uint8 BGR: here and nowhere else is decided how frames are stored."""
  options = {
    cv2.IMWRITE_JPEG_QUALITY: quality,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_OPTIMIZE: 1,
  }
  done, data = cv2.imencode('.jpg', image_HxWx3, [n for option in options.items() for n in option])
  if not done:
    raise RuntimeError(f'OpenCV cannot encode an image of shape {image_HxWx3.shape}')
  return Frame(data.tobytes(), time_ms, *image_HxWx3.shape[:2])


def check_size(width: int, height: int) -> None:
  """MediaError if a picture is smaller or larger than any that training has a use for."""
  if min(width, height) < MIN_SIDE:
    raise MediaError('too_small', f'{width}x{height} pixels; at least {MIN_SIDE} either way')
  if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
    raise MediaError('too_large', f'{width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all')


class Display:
  """How the pictures of one stream are shown: `width` x `height`, after turning, mirroring and squaring pixels."""

  def __init__(self, frame: av.VideoFrame, pixel_aspect: Fraction):
    a, b, c, d = orientation(frame)
    self._sideways = abs(b) > abs(a)
    self._mirrored, self._upended = (c < 0, b < 0) if self._sideways else (a < 0, d < 0)
    size = round(frame.width * pixel_aspect), frame.height
    self.width, self.height = size[::-1] if self._sideways else size
    self._reformatter = VideoReformatter()
    check_size(self.width, self.height)

  def show(self, frame: av.VideoFrame, short_side: int) -> np.ndarray:
    """uint8 BGR [height, width, 3], scaled down until the shorter side is `short_side`; never up."""
    size = fit(self.width, self.height, short_side)
    stored = size[::-1] if self._sideways else size
    image = self._reformatter.reformat(frame, *stored, 'bgr24', interpolation='AREA', threads=1).to_ndarray()
    image = image.transpose(1, 0, 2) if self._sideways else image
    image = image[:: -1 if self._upended else 1, :: -1 if self._mirrored else 1]
    return np.ascontiguousarray(image)


def read_image(file: BinaryIO, short_side: int) -> np.ndarray:
  """uint8 BGR of a JPEG, PNG or WebP file, scaled down until the shorter side is `short_side`; never up.

  MediaError if it is none of these, damaged, or of a size that is refused. FFmpeg reads it first, because it sees
  damage; OpenCV then, because it knows how cameras say what is up.
  """
  codec, data = image_file(file)
  decoder = av.CodecContext.create(codec, 'r')
  decoder.options, decoder.thread_count = STRICT, 1
  try:
    frames = decoder.decode(av.Packet(data))
  except MemoryError:
    raise
  except av.FFmpegError as e:
    raise MediaError('corrupt_image', f'{codec} data of {len(data)} bytes: {e.strerror}') from e
  if not frames or frames[0].is_corrupt:
    raise MediaError('corrupt_image', f'{codec} data of {len(data)} bytes without a whole picture')
  check_size(frames[0].width, frames[0].height)
  image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  if image is None:
    raise MediaError('corrupt_image', f'OpenCV cannot read {codec} data of {len(data)} bytes')
  size = fit(image.shape[1], image.shape[0], short_side)
  return image if size == image.shape[1::-1] else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def image_file(file: BinaryIO) -> tuple[str, bytes]:
  """(The decoder for an open file, all of its bytes); MediaError if it is larger than any image, or not an image."""
  file.seek(0)
  data = file.read(IMAGE_BYTES + 1)
  if len(data) > IMAGE_BYTES:
    raise MediaError('oversized_video', f'an image file of more than {IMAGE_BYTES} bytes')
  codec = image_codec(data[:16])
  if codec is None:
    found = f'neither JPEG, PNG nor WebP begins with {data[:16]!r}' if data else 'the file is empty'
    raise MediaError('not_an_image', found)
  return codec, data


def image_codec(head: bytes) -> str | None:
  """The decoder for a file that begins like this, if it holds a single picture."""
  return next((name for name, begin in IMAGES.items() if re.match(begin, head, re.DOTALL)), None)


def fit(width, height, short_side):
  scale = min(1, Fraction(short_side, min(width, height)))
  return round(width * scale), round(height * scale)


def orientation(frame):
  """(a, b, c, d): the stored point (x, y) is shown at (ax + cy, bx + dy), up to scale and shift; y points down."""
  try:
    matrix = frame.side_data.get('DISPLAYMATRIX')
  except ValueError:
    # PyAV lists no side data at all if one kind is newer than it; then mirroring goes unseen.
    turn = math.radians(frame.rotation)
    return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
  if matrix is None:
    return 1, 0, 0, 1
  a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
  return a, b, c, d
