"""Two libraries, the same pixels."""

import itertools

import cv2
import numpy as np
import pytest

from tvts_jax.bench import synthetic
from tvts_jax.input import decoders

WIDTH, HEIGHT = 112, 80


@pytest.fixture(scope='module')
def jpegs():
  """Pictures with the texture and the edges of photographs, with halved chroma as data.build stores them."""
  found = synthetic.pictures(np.random.default_rng(0), (WIDTH, HEIGHT), np.arange(4.0))
  options = [cv2.IMWRITE_JPEG_QUALITY, 75, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
  return [cv2.imencode('.jpg', image, options)[1].tobytes() for image in found]


def pixels(name, jpegs, crop, side):
  frames = list(decoders.DECODERS[name](jpegs, np.array(crop, np.int32), side))
  assert all(frame.dtype == np.uint8 and frame.shape == (side, side, 3) for frame in frames)
  return np.stack(frames).astype(int)


def test_crops_are_equal_wherever_they_lie(jpegs):
  for top, left in itertools.product((0, 3, 16), (0, 5, 6, 16, 31, 32, 48)):
    tf, cv = (pixels(name, jpegs, (top, left, 64, 64), 64) for name in decoders.DECODERS)
    np.testing.assert_array_equal(tf, cv)


@pytest.mark.parametrize('crop', [(0, 8, 80, 80), (10, 20, 30, 50), (5, 5, 64, 64), (0, 16, 80, 96)])
@pytest.mark.parametrize('side', [32, 64, 96])
def test_scaled_frames_agree_within_rounding(jpegs, crop, side):
  tf, cv = (pixels(name, jpegs, crop, side) for name in decoders.DECODERS)
  assert np.abs(tf - cv).max() <= 1


@pytest.mark.parametrize('name', decoders.DECODERS)
def test_a_damaged_frame_is_named(jpegs, name):
  begin = jpegs[2].index(b'\xff\xc0') + 30
  broken = [*jpegs[:2], jpegs[2][:begin] + b'\xff\xd9', jpegs[3]]
  with pytest.raises(decoders.DamagedFrame, match='^frame 2 of the 4 drawn is a damaged JPEG'):
    list(decoders.DECODERS[name](broken, np.array([0, 0, 64, 64], np.int32), 64))


def test_auto_is_what_is_installed(monkeypatch):
  assert decoders.resolve('auto') == 'tf' and decoders.resolve('cv') == 'cv'
  monkeypatch.setitem(__import__('sys').modules, 'tensorflow', None)
  assert decoders.resolve('auto') == 'cv'
