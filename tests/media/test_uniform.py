"""Frames of a whole video: what is on screen in the middles of equal parts, as the data builder keeps them."""

import functools
import io

import cv2
import numpy as np
import pytest

from data.builder import windows
from data.sources.items import Item
from tests.support import media
from tvts_jax.media import pictures, uniform
from tvts_jax.media.errors import MediaError


def read(file, count, short_side=64):
  return uniform.read(file, count, short_side=short_side, keep=lambda image, time_ms: (time_ms, image))


def test_middles_of_equal_parts_each_picture_once(tmp_path):
  times = [0, 70, 900, 1500]
  media.make_video(tmp_path / 'a.mp4', times_ms=times, end_ms=2000)
  for count, expected in ((1, [2]), (2, [1, 3]), (4, [1, 2, 3]), (40, [0, 1, 2, 3])):
    with open(tmp_path / 'a.mp4', 'rb') as file:
      duration_ms, frames = read(file, count, short_side=32)
    assert duration_ms == 2000
    assert [(time_ms, media.read_index(image)) for time_ms, image in frames] == [(times[n], n) for n in expected]
    assert {image.shape for _, image in frames} == {(32, 48, 3)} and frames[0][1].dtype == np.uint8


def test_an_image_is_a_video_of_one_frame():
  file = io.BytesIO(cv2.imencode('.png', media.draw_index(9))[1].tobytes())
  duration_ms, [(time_ms, image)] = read(file, 16)
  assert (duration_ms, time_ms, media.read_index(image)) == (1, 0, 9)


def test_captioned_videos_have_the_same_frames_in_shards(tmp_path):
  media.make_video(tmp_path / 'a.mp4', frames=25, noise=20)
  config = windows.WindowConfig(short_side=48, quality=90, caption_frames=5)
  [record], _ = windows.records(Item('a', str(tmp_path / 'a.mp4'), None, None, '', '', 'a code'), config)
  with open(tmp_path / 'a.mp4', 'rb') as file:
    _, frames = uniform.read(file, 5, short_side=48, keep=functools.partial(pictures.encode, quality=90))
  assert record.frames == [frame.jpeg for frame in frames] and len(frames) == 5
  assert record.frame_times_ms == [frame.time_ms for frame in frames]


def test_what_is_broken_is_refused(tmp_path):
  media.make_video(tmp_path / 'a.mp4')
  media.truncate(tmp_path / 'a.mp4', 0.5)
  for data, code in (
    (b'', 'not_a_video'),
    (b'<html>', 'not_a_video'),
    ((tmp_path / 'a.mp4').read_bytes(), 'truncated'),
  ):
    with pytest.raises(MediaError, match=code):
      read(io.BytesIO(data), 4)
