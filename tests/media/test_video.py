"""Frames by real presentation time: test videos show their own index, so every frame can be called by its name."""

import bisect
import contextlib
import dataclasses
import functools
import io
import math
import os
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import media
from tvts_jax.media import container, pictures, video
from tvts_jax.media.errors import MediaError

OPEN_GOP = {'x264-params': 'bframes=3:open-gop=1:b-adapt=0:scenecut=0:b-pyramid=2:keyint=9:min-keyint=9'}
OPEN_HEVC = {
  'x265-params': 'open-gop=1:keyint=9:min-keyint=9:bframes=3:scenecut=0:log-level=none:pools=none:frame-threads=1'
}
UNEVEN = [0, 40, 80, 520, 540, 1400, 1433, 1466, 2900, 3000, 3010, 3020, 4400, 4440, 5200, 5900]

# name of the file → how it is made
KINDS = {
  'cfr.mp4': {'fps': 25},
  'ntsc.mp4': {'fps': Fraction(30000, 1001)},
  'b_frames.mp4': {'b_frames': 3},
  'b_frames.mkv': {'b_frames': 3},
  'open_gop.mp4': {'b_frames': 3, 'gop': 9, 'codec_options': OPEN_GOP},
  'open_gop.ts': {'b_frames': 3, 'gop': 9, 'codec_options': OPEN_GOP},
  'open_gop_hevc.mkv': {'codec': 'libx265', 'gop': 9, 'codec_options': OPEN_HEVC},
  'vfr.mp4': {'times_ms': UNEVEN, 'end_ms': 6000},
  'vfr_b_frames.mp4': {'times_ms': UNEVEN, 'end_ms': 6000, 'b_frames': 2},
  'vfr.mkv': {'times_ms': UNEVEN, 'end_ms': 6000, 'b_frames': 2},
  'turned_left.mp4': {'rotation': 90},
  'turned_right.mov': {'rotation': -90, 'b_frames': 2},
  'upside_down.mp4': {'rotation': 180},
  'mirrored.mp4': {'mirror': True},
  'mirrored_and_turned.mp4': {'mirror': True, 'rotation': 90},
  'flipped.mp4': {'mirror': True, 'rotation': 180},
  'mpeg4.avi': {'codec': 'mpeg4'},
  'mpeg4_b_frames.avi': {'codec': 'mpeg4', 'b_frames': 2, 'gop': 7},
  'h264_b_frames.avi': {'b_frames': 2, 'gop': 7},
  'h264_open_gop.avi': {'b_frames': 3, 'gop': 9, 'codec_options': OPEN_GOP},
  'skips.avi': {'codec': 'mpeg4', 'times_ms': UNEVEN, 'end_ms': 6000},
  'with_sound.avi': {'codec': 'mpeg4', 'b_frames': 2, 'audio': True},
  'with_sound.mp4': {'audio': True},
  'longer_sound.mp4': {'audio': True, 'audio_ms': 9000},
  'no_duration.mkv': {'options': {'live': '1'}},
  'fragments.mp4': {'options': {'movflags': 'frag_keyframe+empty_moov'}, 'b_frames': 2},
  'hevc_10_bit.mkv': {'codec': 'libx265', 'pix_fmt': 'yuv420p10le'},
  'colour_444.mp4': {'pix_fmt': 'yuv444p'},
  'full_range.mp4': {'full_range': True},
  'wide_pixels.mp4': {'sar': Fraction(4, 3)},
  'two_streams.mp4': {'video_streams': 2},
  'cover.mp4': {'cover': True},
  'vp9.webm': {'codec': 'libvpx-vp9'},
  'flash.flv': {'b_frames': 2},
  'windows_media.wmv': {'codec': 'wmv2', 'container': 'asf'},
  'vp8.ogv': {'codec': 'libvpx', 'container': 'ogg'},
  'mpeg2.mpg': {'codec': 'mpeg2video', 'b_frames': 2, 'fps': 25, 'frames': 250},
  'mpeg2.ts': {'codec': 'mpeg2video', 'b_frames': 2, 'fps': 25, 'frames': 250},
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('media')


@pytest.fixture(scope='module')
def kind(folder):
  """A file of KINDS and when its frames appear, made when it is first asked for."""
  made = {}

  def make(name):
    if name not in made:
      made[name] = media.make_video(folder / name, **{'frames': 60, **KINDS[name]})
    return str(folder / name), made[name]

  return make


def on_screen(times, start, end, fps):
  """Indices of the frames that a viewer sees at start + k / fps: from the list of times alone."""
  seen = []
  for k in range(10_000):
    moment = start + k * Fraction(1000) / Fraction(fps)
    if moment >= end:
      return seen
    i = bisect.bisect_right(times, moment) - 1
    if i >= 0 and i not in seen:
      seen.append(i)
  raise AssertionError('the grid never ends')


def shown(frame):
  image = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
  assert image.shape == (frame.height, frame.width, 3)
  return media.read_index(image)


def read(file, start=0, end=2000, fps=3.0, short_side=64, quality=75):
  keep = functools.partial(pictures.encode, quality=quality)
  return video.read_frames(file, start, end, fps=fps, short_side=short_side, keep=keep)


def code_of(call, *args, **kwargs):
  with pytest.raises(MediaError) as caught:
    call(*args, **kwargs)
  return caught.value.code


def probe_and_read(file):
  return read(file, 0, video.probe(file).duration_ms)


@pytest.mark.parametrize('name', KINDS)
def test_frames_are_those_that_were_on_screen(kind, name):
  path, times = kind(name)
  length = video.probe(path).duration_ms
  assert times[-1] < length
  if name != 'vfr_b_frames.mp4':  # MP4 knows how far apart pictures are decoded, not how long the last one stays
    assert length <= times[-1] + 110
  for start, end, fps in [(0, length, 3.0), (1234, 2222, 30), (1000, length, 3.5), (length - 500, length, 10)]:
    frames = read(path, start, end, fps)
    expected = on_screen(times, start, end, fps)
    assert [shown(f) for f in frames] == expected
    assert [f.time_ms for f in frames] == [math.floor(times[i]) for i in expected]


@given(
  gaps=st.lists(st.sampled_from([20, 33, 40, 400, 1700]), min_size=3, max_size=25),
  b_frames=st.integers(0, 3),
  window=st.tuples(st.floats(0, 0.9), st.floats(0.05, 1)),
  fps=st.sampled_from([1, 3.0, Fraction(10, 3), 24]),
)
@settings(max_examples=15, deadline=None)
def test_frames_of_any_variable_rate(gaps, b_frames, window, fps):
  file, times = io.BytesIO(), np.cumsum([0, *gaps]).tolist()
  media.make_video(file, times_ms=times, end_ms=times[-1] + 500, b_frames=b_frames, gop=5, container='matroska')
  length = video.probe(file).duration_ms
  start = int(window[0] * length)
  end = start + max(1, int(window[1] * (length - start)))
  expected = on_screen(times, start, end, fps)
  frames = read(file, start, end, fps)
  assert [(shown(f), f.time_ms) for f in frames] == [(i, times[i]) for i in expected]


def test_stamps_that_go_backwards_are_times_of_decoding(kind, tmp_path):
  path, times = kind('h264_b_frames.avi')
  with av.open(path) as source, av.open(str(tmp_path / 'copied.mkv'), 'w') as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
      if packet.size:
        packet.pts, packet.stream = packet.dts, stream
        target.mux(packet)
  frames = read(str(tmp_path / 'copied.mkv'), 700, 5000, 4)
  assert [(shown(f), f.time_ms) for f in frames] == [(i, times[i]) for i in on_screen(times, 700, 5000, 4)]


@pytest.mark.parametrize(
  'kwargs',
  [{}, {'codec_options': OPEN_GOP}, {'codec': 'mpeg2video'}, {'codec': 'libx265', 'codec_options': OPEN_HEVC}],
)
def test_a_recording_that_starts_anywhere(tmp_path, kwargs):
  path = tmp_path / 'a.ts'
  media.make_video(path, **{'frames': 150, 'fps': 25, 'gop': 9, 'b_frames': 3, 'noise': 20, **kwargs})
  data = path.read_bytes()
  path.write_bytes(data[len(data) // 3 // 188 * 188 :])
  frames = read(str(path), 0, video.probe(str(path)).duration_ms, 25)
  first, ahead = shown(frames[0]), frames[0].time_ms
  assert 0 < first < 75
  assert [shown(f) for f in frames] == list(range(first, 150))
  assert [f.time_ms - ahead for f in frames] == [40 * i for i in range(150 - first)]


def test_an_empty_packet_leaves_the_last_picture_on_screen(kind):
  path, _ = kind('mpeg4.avi')
  with open(path, 'rb') as file, container.opened(file) as whole:

    def demux(stream):
      for packet in whole.container.demux(stream):
        yield packet
        if packet.dts == 7:
          empty = av.Packet(b'')
          empty.pts = empty.dts = 7
          yield empty

    class Dropping:
      format = whole.container.format

    Dropping.demux = staticmethod(demux)
    frames = [f for f, _ in container.decode(dataclasses.replace(whole, container=Dropping))]
  assert [media.read_index(f.to_ndarray(format='rgb24')) for f in frames] == list(range(60))


def test_a_video_ends_where_its_edit_list_does(tmp_path):
  """As players trim an MP4: the headers say that it is shorter, and all the pictures stay."""
  path = tmp_path / 'trimmed.mp4'
  times = media.make_video(path, frames=60, b_frames=2, gop=60)
  data = bytearray(path.read_bytes())
  for box, at in ((b'mvhd', 20), (b'tkhd', 24), (b'elst', 12)):  # where version 0 of each has its duration, in ms
    at += data.index(box)
    assert struct.unpack_from('>I', data, at) == (6000,)
    struct.pack_into('>I', data, at, 3000)
  path.write_bytes(data)
  assert video.probe(str(path)).duration_ms == 3000
  assert [shown(f) for f in read(str(path), 0, 3000)] == on_screen(times, 0, 3000, 3)


def test_time_runs_from_where_sound_or_picture_begins(tmp_path):
  late = [500 + 100 * i for i in range(20)]
  media.make_video(tmp_path / 'silent.mp4', times_ms=late, end_ms=2500)
  frames = read(str(tmp_path / 'silent.mp4'), 0, 2000, 5)
  assert [(shown(f), f.time_ms) for f in frames] == [(i, 100 * i) for i in range(0, 20, 2)]
  media.make_video(tmp_path / 'talks_first.mp4', times_ms=late, end_ms=2500, audio=True)
  frames = read(str(tmp_path / 'talks_first.mp4'), 0, 2500, 5)
  assert [(shown(f), f.time_ms) for f in frames] == [(i, late[i]) for i in on_screen(late, 0, 2500, 5)]


def test_size_is_as_displayed_and_never_scaled_up(kind, tmp_path):
  def sizes(path, short_side):
    info, frame = video.probe(path), read(path, short_side=short_side)[0]
    return (info.width, info.height), (frame.width, frame.height)

  assert sizes(kind('cfr.mp4')[0], 32) == ((96, 64), (48, 32))
  assert sizes(kind('cfr.mp4')[0], 256) == ((96, 64), (96, 64))
  assert sizes(kind('wide_pixels.mp4')[0], 32) == ((128, 64), (64, 32))
  assert sizes(kind('turned_left.mp4')[0], 31) == ((96, 64), (46, 31))
  media.make_video(tmp_path / 'portrait.mp4', size=(64, 96), rotation=-90, sar=Fraction(3, 2))
  assert sizes(str(tmp_path / 'portrait.mp4'), 48) == ((64, 144), (48, 108))


def test_frames_are_baseline_jpeg_with_halved_chroma(kind):
  frames = {q: read(kind('cfr.mp4')[0], quality=q)[0].jpeg for q in (30, 95)}
  assert len(frames[30]) < len(frames[95])
  for jpeg in frames.values():
    at = jpeg.index(b'\xff\xc0')  # baseline, Huffman
    components, samplings = jpeg[at + 9], [jpeg[at + 11 + 3 * i] for i in range(3)]
    assert (components, samplings) == (3, [0x22, 0x11, 0x11])


def test_range_of_levels_is_undone(kind):
  for name in ('cfr.mp4', 'full_range.mp4', 'hevc_10_bit.mkv', 'colour_444.mp4'):
    image = cv2.imdecode(np.frombuffer(read(kind(name)[0])[0].jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.percentile(image, [10, 90]) == pytest.approx([media.BLACK, media.WHITE], abs=4), name


def test_same_bytes_every_time(kind):
  path, _ = kind('open_gop.mp4')
  assert read(path, 1000, 5000) == read(path, 1000, 5000)


def test_a_late_window_reads_little_of_a_long_file(tmp_path):
  class Counted(io.BytesIO):
    count = 0

    def read(self, n=-1):
      data = super().read(n)
      self.count += len(data)
      return data

  media.make_video(tmp_path / 'long.mkv', frames=1200, fps=1, gop=5, size=(32, 32), noise=30)
  data = (tmp_path / 'long.mkv').read_bytes()
  file = Counted(data)
  assert video.probe(file).duration_ms == 1_200_000
  assert [shown(f) for f in read(file, 1_150_000, 1_160_000, 0.5)] == [1150, 1152, 1154, 1156, 1158]
  assert file.count < len(data) / 3


@pytest.mark.parametrize('name', ['-rf.mp4', 'concat:a|b.mp4', 'http:x.mp4', 'pipe:0', '%03d.mp4', 'a\nb.mp4'])
def test_a_name_is_never_interpreted(tmp_path, monkeypatch, name):
  media.make_video(tmp_path / 'plain.mp4', frames=10)
  (tmp_path / 'plain.mp4').rename(tmp_path / name)
  monkeypatch.chdir(tmp_path)
  assert video.probe(name).duration_ms == 1000
  with open(name, 'rb') as file:
    assert len(read(file, 0, 1000)) == 3


def test_no_file(tmp_path):
  assert code_of(video.probe, str(tmp_path / 'none.mp4')) == 'missing_video'
  assert code_of(read, str(tmp_path)) == 'missing_video'


NO_VIDEOS = {
  'empty': b'',
  'a web page': b'<!DOCTYPE html><html><body>403 Forbidden</body></html>' * 20,
  'an answer': b'{"error": {"code": 404}}',
  'text': b'Four score and seven years ago. ' * 200,
  'noise': np.random.default_rng(0).bytes(20_000),
  'zeros': bytes(20_000),
  'a picture': cv2.imencode('.png', media.draw_index(7))[1].tobytes(),
}


@pytest.mark.parametrize('what', NO_VIDEOS)
def test_what_is_no_video(what):
  assert code_of(video.probe, io.BytesIO(NO_VIDEOS[what])) == 'not_a_video'


def test_playlists_open_no_other_file(tmp_path, monkeypatch):
  media.make_video(tmp_path / 'secret.ts', frames=10)
  monkeypatch.chdir(tmp_path)
  lists = {
    'list.m3u8': '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n',
    'list.ffconcat': 'ffconcat version 1.0\nfile secret.ts\n',
    'list.sdp': 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\na=control:secret.ts\n',
  }
  for name, text in lists.items():
    (tmp_path / name).write_text(text)
    assert code_of(video.probe, name) == 'not_a_video'


def test_the_name_has_no_say_in_what_a_file_is():
  errors = set()
  for name in ('x.mp4', 'x.ogg', 'x.mp3', 'x.m3u8'):
    file = io.BytesIO(NO_VIDEOS['noise'])
    file.name = name
    with pytest.raises(MediaError) as caught:
      video.probe(file)
    errors.add(str(caught.value))
  assert len(errors) == 1


def test_sound_only_and_unknown_codec(tmp_path):
  media.make_video(tmp_path / 'sound.mp4', frames=0, audio=True, audio_ms=2000)
  assert code_of(video.probe, str(tmp_path / 'sound.mp4')) == 'no_video_stream'
  media.make_video(tmp_path / 'cover.mp4', frames=0, audio=True, audio_ms=2000, cover=True)
  assert code_of(video.probe, str(tmp_path / 'cover.mp4')) == 'no_video_stream'
  media.make_video(tmp_path / 'new.mkv', frames=10, container='matroska')
  data = (tmp_path / 'new.mkv').read_bytes()
  assert data.count(b'V_MPEG4/ISO/AVC') == 1
  unknown = io.BytesIO(data.replace(b'V_MPEG4/ISO/AVC', b'V_MPEG9/ISO/XYZ'))
  assert code_of(video.probe, unknown) == 'unknown_codec'


def test_sizes_that_are_refused(tmp_path):
  def made(codec, size):
    file = io.BytesIO()
    media.make_video(file, frames=3, codec=codec, size=size, container='mov', pix_fmt='rgb24')
    return file

  assert code_of(video.probe, made('png', (1, 1))) == 'too_small'
  assert code_of(video.probe, made('png', (200, 15))) == 'too_small'
  assert video.probe(made('png', (200, 16))).height == 16
  assert code_of(video.probe, made('png', (16_400, 16))) == 'too_large'


def test_a_small_file_can_not_ask_for_much_memory():
  file = io.BytesIO()
  media.make_video(file, frames=3, codec='ffv1', size=(320, 256), container='matroska')
  width, height = b'\xb0\x82\x01\x40', b'\xba\x82\x01\0'
  data = file.getvalue()
  assert data.count(width) == data.count(height) == 1
  data = data.replace(width, b'\xb0\x82\x3e\x80').replace(height, b'\xba\x82\x3e\x80')  # 16000 x 16000
  assert code_of(video.probe, io.BytesIO(data)) == 'too_large'
  # The same inside the pictures, where only the decoder sees it.
  file = io.BytesIO()
  media.make_video(file, frames=3, codec='libvpx', size=(64, 48), container='webm')
  data = file.getvalue().replace(b'\x9d\x01\x2a\x40\0\x30\0', b'\x9d\x01\x2a\xff\x3f\xff\x3f')
  assert data != file.getvalue()
  assert code_of(video.probe, io.BytesIO(data)) == 'corrupt_video'


def test_too_long(kind, monkeypatch):
  file = io.BytesIO()
  media.make_video(file, container='matroska')
  data = file.getvalue()
  at = data.index(b'\x44\x89\x88') + 3  # the duration that the header states, a float
  for hours in (25, 2e9):
    stated = struct.pack('>d', hours * 3_600_000)
    assert code_of(video.probe, io.BytesIO(data[:at] + stated + data[at + 8 :])) == 'too_long'
  monkeypatch.setattr(video, 'MAX_HOURS', 1 / 3600)
  assert code_of(video.probe, kind('no_duration.mkv')[0]) == 'too_long'


def test_a_single_picture():
  file = io.BytesIO()
  media.make_video(file, frames=1, container='mp4')
  assert video.probe(file).duration_ms == 100
  assert [(shown(f), f.time_ms) for f in read(file, 0, 100, 30)] == [(0, 0)]


NOISY = {'noise': 20, 'frames': 60, 'size': (160, 112), 'b_frames': 2}


@pytest.mark.parametrize(
  ('name', 'kwargs', 'keep'),
  [
    ('index_last.mp4', {}, 0.6),
    ('index_first.mp4', {'options': {'movflags': 'faststart'}}, 0.56),
    ('index_first_sound.mp4', {'options': {'movflags': 'faststart'}, 'audio': True}, 0.9),
    ('cut.mkv', {}, 0.7),
    ('cut_without_duration.mkv', {'options': {'live': '1'}}, 0.7),
    ('cut.avi', {'codec': 'mpeg4'}, 0.6),
  ],
)
def test_cut_files(tmp_path, name, kwargs, keep):
  path = tmp_path / name
  media.make_video(path, **NOISY, **kwargs)
  video.probe(str(path))
  media.truncate(path, keep)
  assert code_of(video.probe, str(path)) == 'truncated_video'


@pytest.mark.parametrize('suffix', ['ts', 'flv', 'mkv', 'avi'])
def test_sound_that_goes_on_alone(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  media.make_video(path, codec='mpeg4' if suffix == 'avi' else 'libx264', audio=True, audio_ms=30_000)
  assert video.probe(str(path)).duration_ms == pytest.approx(3000, abs=50)  # some sound begins a little earlier


def test_a_window_past_the_last_picture(kind):
  path, _ = kind('longer_sound.mp4')
  assert video.probe(path).duration_ms == 6000
  assert code_of(read, path, 3000, 9000) == 'truncated_video'
  assert code_of(read, path, 1000, 1000) == 'no_frames'


@pytest.mark.parametrize(
  ('name', 'kwargs'), [('h264.mp4', {}), ('h264.mkv', {}), ('mpeg4.avi', {'codec': 'mpeg4'}), ('h264.ts', {})]
)
def test_bit_rot_is_found(tmp_path, name, kwargs):
  path = tmp_path / name
  media.make_video(path, **NOISY, **kwargs)
  whole = path.read_bytes()
  for seed in range(5):
    path.write_bytes(whole)
    media.rot(path, begin=0.2, end=0.8, flips=12, seed=seed)
    assert code_of(probe_and_read, str(path)) == 'corrupt_video'


LOSSES = [
  ('a.mkv', {}),
  ('a.webm', {'codec': 'libvpx', 'b_frames': 0}),
  ('a.flv', {}),
  ('mpeg4.ts', {'codec': 'mpeg4'}),
  ('hevc.ts', {'codec': 'libx265'}),
]


@pytest.mark.parametrize(('name', 'kwargs'), LOSSES)
def test_lost_pictures_are_found(tmp_path, name, kwargs):
  path = tmp_path / name
  media.make_video(path, **{**NOISY, **kwargs})
  whole = path.read_bytes()
  for share in (0.3, 0.5, 0.7):
    at = int(len(whole) * share) // 188 * 188
    path.write_bytes(whole[:at] + whole[at + 3008 :])
    assert code_of(read, str(path), 0, 5500) == 'corrupt_video'


@pytest.mark.parametrize('codec', ['libx264', 'libx265', 'mpeg2video'])
def test_a_picture_that_can_not_be_decoded_is_not_passed_over(tmp_path, codec):
  path = tmp_path / 'a.mp4'
  media.make_video(path, codec=codec, frames=30, fps=25, noise=20)
  with av.open(str(path)) as file:
    packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
  for junk in (b'\xff', b'\0'):
    data = bytearray(path.read_bytes())
    at, size = packets[15]
    data[at + 4 : at + size // 2] = junk * (size // 2 - 4)
    assert code_of(read, io.BytesIO(data), 0, 1200) == 'corrupt_video'


def test_only_damage_to_what_is_used_matters(tmp_path):
  path = tmp_path / 'a.mp4'
  times = media.make_video(path, **NOISY, gop=6)
  media.rot(path, begin=0.45, end=0.55, flips=10)
  assert [shown(f) for f in read(str(path), 0, 2000)] == on_screen(times, 0, 2000, 3)
  assert [shown(f) for f in read(str(path), 4500, 6000)] == on_screen(times, 4500, 6000, 3)
  assert code_of(read, str(path), 2000, 4000) == 'corrupt_video'


def test_logging_of_the_process_is_left_as_it_was(kind):
  before = av.logging.get_level(), av.logging.get_skip_repeated()
  read(kind('cfr.mp4')[0])
  code_of(video.probe, io.BytesIO(b'x'))
  assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before


def test_files_that_are_open_at_once_share_the_log_level(kind):
  levels = lambda: (av.logging.get_level(), av.logging.get_skip_repeated())
  before, path = levels(), kind('cfr.mp4')[0]
  first, second = contextlib.ExitStack(), contextlib.ExitStack()
  with open(path, 'rb') as a, open(path, 'rb') as b:
    first.enter_context(container.opened(a))
    second.enter_context(container.opened(b))
    first.close()
    assert levels() == (av.logging.ERROR, False)
    second.close()
  assert levels() == before


def test_lack_of_memory_is_not_the_file_s_fault():
  with pytest.raises(MemoryError), container.named(lambda: MediaError('corrupt_video', '')):
    raise av.error.MemoryError(12, 'Cannot allocate memory')


def image_file(suffix, picture, orientation=None):
  data = cv2.imencode(suffix, picture)[1].tobytes()
  if orientation:
    tiff = b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01' + orientation.to_bytes(2, 'big') + bytes(6)
    data = data[:2] + b'\xff\xe1' + (len(tiff) + 8).to_bytes(2, 'big') + b'Exif\0\0' + tiff + data[2:]
  return data


def test_images_of_every_kind(monkeypatch):
  picture = media.draw_index(321, (120, 80))
  for suffix in ('.jpg', '.png', '.webp'):
    image = pictures.read_image(io.BytesIO(image_file(suffix, picture)), short_side=40)
    assert (media.read_index(image), image.shape) == (321, (40, 60, 3))
  grey = pictures.read_image(io.BytesIO(image_file('.jpg', picture[..., 0])), short_side=256)
  assert (media.read_index(grey), grey.shape) == (321, (80, 120, 3))


# What a camera writes about how it was held, and the picture that it then stores for an upright scene.
@pytest.mark.parametrize(
  ('orientation', 'stored'),
  [(1, lambda x: x), (2, np.fliplr), (3, lambda x: np.rot90(x, 2)), (4, np.flipud), (6, np.rot90)],
)
def test_images_are_turned_upright(orientation, stored):
  data = image_file('.jpg', np.ascontiguousarray(stored(media.draw_index(77, (120, 80)))), orientation)
  image = pictures.read_image(io.BytesIO(data), short_side=64)
  assert (media.read_index(image), image.shape) == (77, (64, 96, 3))


def with_size(jpeg, width, height):
  at = jpeg.index(b'\xff\xc0')
  return jpeg[: at + 5] + height.to_bytes(2, 'big') + width.to_bytes(2, 'big') + jpeg[at + 9 :]


def test_damaged_images_are_refused():
  jpeg = image_file('.jpg', media.draw_index(5, (64, 64), noise=30))
  png = image_file('.png', media.draw_index(5, (64, 64), noise=30))

  def code(data):
    return code_of(pictures.read_image, io.BytesIO(data), short_side=64)

  assert code(b'') == code(b'<html>') == code(b'GIF89a') == code(b'RIFF\0\0\0\0AVI ') == 'not_an_image'
  assert code(jpeg[: len(jpeg) // 2]) == code(png[: len(png) // 2]) == 'corrupt_image'
  assert code(with_size(jpeg, 8000, 8000)) == code(with_size(jpeg, 72, 72)) == 'corrupt_image'
  assert code(png.replace(b'IDAT', b'IDAT'[::-1])) == 'corrupt_image'
  assert code(png[:16] + (60_000).to_bytes(4, 'big') * 2 + png[24:]) == 'corrupt_image'
  assert code(image_file('.png', np.zeros((8, 400, 3), np.uint8))) == 'too_small'
  assert code(image_file('.png', np.zeros((20, 16_500, 3), np.uint8))) == 'too_large'


def test_the_bar_code_itself():
  for index in (0, 1, 1023, 4095):
    picture = media.draw_index(index, (97, 61))
    assert media.read_index(picture) == index
    for changed in (np.fliplr, np.flipud, np.rot90, lambda x: np.rot90(x, 2), lambda x: x * 0, lambda x: 255 - x):
      with pytest.raises(ValueError):
        media.read_index(changed(picture))
  with pytest.raises(ValueError):
    media.read_index((media.draw_index(3).astype(int) + media.draw_index(500)) // 2)


def test_files_on_disk_and_in_memory_are_the_same(kind):
  path, _ = kind('mpeg4_b_frames.avi')
  with open(path, 'rb') as file:
    file.seek(os.path.getsize(path) // 2)
    assert video.probe(file) == video.probe(path)
    assert read(file, 300, 2000) == read(path, 300, 2000)
