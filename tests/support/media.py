"""Real media files for tests: every frame shows its own index, so a test can see which frame it was given."""

from fractions import Fraction

import av
import numpy as np

ROWS, COLUMNS = 4, 6
HEADER = (1, 0, 1, 1, 0, 0)  # the top row; no turn or mirror image of the code starts with it
INDEX_BITS, CHECK_BITS = 12, 6
BLACK, WHITE = 24, 232


def draw_index(index, size=(96, 64), noise=0):
  """uint8 [height, width, 3]: black and white blocks that spell `index` (below 4096), under seeded noise."""
  width, height = size
  bits = np.array([*HEADER, *_bits(index, INDEX_BITS), *_bits(_check(index), CHECK_BITS)]).reshape(ROWS, COLUMNS)
  row_of_H = np.arange(height) * ROWS // height
  column_of_W = np.arange(width) * COLUMNS // width
  grey_HxW = np.where(bits[row_of_H[:, None], column_of_W[None]], WHITE, BLACK).astype(np.int64)
  if noise:
    grey_HxW += np.random.default_rng(index).integers(-noise, noise + 1, grey_HxW.shape)
  return np.repeat(np.clip(grey_HxW, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def read_index(image):
  """The index that a picture [height, width, 3] (or [height, width]) shows, of any size, upright and not mirrored.

  ValueError if it shows none: turned, mirrored, mixed with another frame, damaged, or no test picture at all.
  """
  grey_HxW = np.asarray(image, np.float64)
  grey_HxW = grey_HxW.mean(-1) if grey_HxW.ndim == 3 else grey_HxW
  height, width = grey_HxW.shape
  if height < 2 * ROWS or width < 2 * COLUMNS:
    raise ValueError(f'{width}x{height} is too small to show an index')
  cells = np.empty((ROWS, COLUMNS))
  for r in range(ROWS):
    for c in range(COLUMNS):
      # The middle half of each block: scaling and compression blur its edges.
      top, left = (4 * r + 1) * height // (4 * ROWS), (4 * c + 1) * width // (4 * COLUMNS)
      bottom, right = -(-(4 * r + 3) * height // (4 * ROWS)), -(-(4 * c + 3) * width // (4 * COLUMNS))
      cells[r, c] = grey_HxW[top:bottom, left:right].mean()
  if np.any((cells > 90) & (cells < 166)):
    raise ValueError('a block is neither black nor white')
  bits = (cells > 128).astype(int).ravel().tolist()
  header, index, check = bits[:COLUMNS], _number(bits[COLUMNS:-CHECK_BITS]), _number(bits[-CHECK_BITS:])
  if tuple(header) != HEADER or check != _check(index):
    raise ValueError(f'blocks {bits} spell no index')
  return index


def make_video(
  path,
  frames=30,
  fps=10,
  times_ms=None,
  end_ms=None,
  size=(96, 64),
  codec='libx264',
  container=None,
  gop=12,
  b_frames=0,
  rotation=0,
  mirror=False,
  sar=None,
  pix_fmt='yuv420p',
  full_range=False,
  audio=False,
  audio_ms=None,
  video_streams=1,
  cover=False,
  noise=0,
  first_index=0,
  codec_options=None,
  options=None,
):
  """Write a video to a path or file object; returns when each frame appears, in ms (exact: int or Fraction).

  Frame i shows `first_index + i` (the second stream of several 1000 more, and so on).
  times_ms: when each frame appears, for a variable rate; then the last one stays until end_ms.
  size: (width, height) of the upright picture in stored pixels; sar: their aspect, e.g. Fraction(4, 3).
  rotation (degrees counter-clockwise), then mirror (left to right): what a player must do to show it upright.
  audio: add a tone as long as the video, or audio_ms; frames=0 writes audio only. cover: add a cover picture.
  container: the format's name if the path has no telling suffix; options: of the muxer.
  """
  times = [Fraction(1000 * i, 1) / Fraction(fps) for i in range(frames)] if times_ms is None else list(times_ms)
  base = 1 / Fraction(fps) if times_ms is None else Fraction(1, 1000)
  end = end_ms if end_ms is not None else times[-1] + Fraction(1000) / Fraction(fps) if times else audio_ms
  stops = [*times[1:], end]
  with av.open(path if hasattr(path, 'write') else str(path), 'w', format=container, options=options or {}) as out:
    streams = []
    for _ in range(video_streams if times else 0):
      stream = out.add_stream(codec, rate=Fraction(fps), options=_codec_options(codec, b_frames, codec_options))
      turned = rotation % 180 == 90
      stream.width, stream.height = size[::-1] if turned else size
      stream.pix_fmt = pix_fmt
      stream.codec_context.time_base = base
      stream.codec_context.gop_size = gop
      stream.codec_context.max_b_frames = b_frames
      if sar is not None:
        stream.codec_context.sample_aspect_ratio = sar
      if full_range:
        stream.codec_context.color_range = 2
      if rotation or mirror:
        stream.set_display_rotation(rotation, hflip=mirror)
      streams.append(stream)
    sound = (
      out.add_stream('mp2' if out.format.name in ('avi', 'mpegts', 'mpeg') else 'aac', rate=32000) if audio else None
    )
    if cover:
      _add_cover(out, size)
    for n, stream in enumerate(streams):
      durations = {}
      for i, (time, stop) in enumerate(zip(times, stops)):
        pts = round(time / 1000 / base)
        durations[pts] = round(stop / 1000 / base) - pts
        picture = draw_index(first_index + 1000 * n + i, size, noise)
        # What is stored is what the player's turn and mirroring will undo.
        stored = np.rot90(picture[:, ::-1] if mirror else picture, -rotation // 90)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format='rgb24')
        frame = frame.reformat(format=pix_fmt, dst_color_range=2 if full_range else 1)
        frame.pts, frame.time_base = pts, base
        _mux(out, stream.encode(frame), durations)
      _mux(out, stream.encode(None), durations)
    if sound:
      _add_tone(out, sound, audio_ms if audio_ms is not None else end)
  return times


def truncate(path, keep):
  """Cut a file after that share of its bytes."""
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * keep)])


def rot(path, begin=0.3, end=0.9, flips=20, seed=0):
  """Flip single bits at seeded places between two shares of a file's bytes."""
  data = bytearray(path.read_bytes())
  rng = np.random.default_rng(seed)
  for at in rng.integers(int(len(data) * begin), int(len(data) * end), flips).tolist():
    data[at] ^= 1 << int(rng.integers(8))
  path.write_bytes(bytes(data))


def _bits(number, count):
  return [number >> i & 1 for i in reversed(range(count))]


def _number(bits):
  return int(''.join(map(str, bits)), 2)


def _check(index):
  return (index * 37 + 11) % (1 << CHECK_BITS)


def _codec_options(codec, b_frames, extra):
  # Few threads and little search: tests make many small files on small machines.
  fast = {'libx264': {'preset': 'veryfast', 'threads': '1', 'x264-params': f'bframes={b_frames}:b-adapt=0:scenecut=0'}}
  fast['libx265'] = {'preset': 'ultrafast', 'x265-params': 'log-level=none:pools=none:frame-threads=1'}
  fast['libvpx-vp9'] = fast['libvpx'] = {'deadline': 'realtime', 'cpu-used': '8', 'crf': '20', 'b': '1M'}
  return {**fast.get(codec, {'qscale': '3'}), **(extra or {})}


def _mux(out, packets, durations):
  for packet in packets:
    packet.duration = durations.get(packet.pts, packet.duration)
    out.mux(packet)


def _add_tone(out, stream, ms):
  rate, block = 32000, 1152
  for begin in range(0, int(ms * rate / 1000), block):
    wave = (8000 * np.sin(np.arange(begin, begin + block) * (2 * np.pi * 440 / rate))).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave[None], format='s16', layout='mono')
    frame.rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
    out.mux(stream.encode(frame))
  out.mux(stream.encode(None))


def _add_cover(out, size):
  cover = out.add_stream('mjpeg', rate=1)
  cover.width, cover.height, cover.pix_fmt = *size, 'yuvj420p'
  cover.disposition = av.stream.Disposition.attached_pic
  frame = av.VideoFrame.from_ndarray(draw_index(4095, size), format='rgb24').reformat(format='yuvj420p')
  frame.pts = 0
  out.mux([*cover.encode(frame), *cover.encode(None)])
