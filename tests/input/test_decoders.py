"""Two libraries, the same pixels."""

import itertools

import cv2
import numpy as np
import pytest

from tvts_jax.bench import synthetic
from tvts_jax.input import decoders
from tvts_jax.input.settings import InputConfig

WIDTH, HEIGHT = 112, 80


@pytest.fixture(scope='module')
def jpegs():
  """Pictures with the texture and the edges of photographs, with halved chroma as data.build stores them."""
  found = synthetic.pictures(np.random.default_rng(0), (WIDTH, HEIGHT), np.arange(4.0))
  options = [cv2.IMWRITE_JPEG_QUALITY, 75, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
  return [cv2.imencode('.jpg', image, options)[1].tobytes() for image in found]


def pixels(name, jpegs, crop, side, resample='linear'):
  """Whole frames: tubelets that are as large."""
  config = InputConfig(frames=len(jpegs), image_size=side, patch=side, tubelet=1, mask_ratio=0.0, resample=resample)
  found = np.zeros((len(jpegs), side * side * 3), np.uint8)
  decoders.DECODERS[name](jpegs, np.array(crop, np.int32), config, [(np.arange(len(jpegs), dtype=np.int32), found)])
  return found.reshape(-1, side, side, 3).astype(int)


def test_crops_are_equal_wherever_they_lie(jpegs):
  for top, left in itertools.product((0, 3, 16), (0, 5, 6, 16, 31, 32, 48)):
    tf, cv = (pixels(name, jpegs, (top, left, 64, 64), 64) for name in decoders.DECODERS)
    np.testing.assert_array_equal(tf, cv)


@pytest.mark.parametrize('crop', [(0, 8, 80, 80), (10, 20, 30, 50), (5, 5, 64, 64), (0, 16, 80, 96)])
@pytest.mark.parametrize('side', [32, 64, 96])
def test_scaled_frames_agree_within_rounding(jpegs, crop, side):
  tf, cv = (pixels(name, jpegs, crop, side) for name in decoders.DECODERS)
  assert np.abs(tf - cv).max() <= 1


@pytest.mark.parametrize('side', [32, 96])
def test_the_nearest_pixels_are_those_of_the_frame(jpegs, side):
  whole = pixels('cv', jpegs, (10, 20, 48, 48), 48)
  for name in decoders.DECODERS:
    nearest = np.arange(side) * 48 // side
    np.testing.assert_array_equal(
      pixels(name, jpegs, (10, 20, 48, 48), side, 'nearest'), whole[:, nearest][:, :, nearest]
    )


@pytest.mark.parametrize('name', decoders.DECODERS)
def test_tubelets_are_the_parts_of_the_frames_and_may_be_unequal_in_number(jpegs, name):
  config = InputConfig(frames=4, image_size=64, patch=16, tubelet=2, mask_ratio=0.0)
  few, others = np.array([0, 3, 5, 9, 17, 31], np.int32), np.array([20], np.int32)
  crop, sizes = np.array([3, 5, 64, 64], np.int32), (len(few), len(others))
  found = [np.zeros((size, 2 * 16 * 16 * 3), np.uint8) for size in sizes]
  decoders.DECODERS[name](jpegs, crop, config, list(zip((few, others), found)))
  frames = pixels('cv', jpegs, (3, 5, 64, 64), 64)
  darker = [np.zeros_like(value) for value in found]
  decoders.DECODERS[name](jpegs, crop, config, list(zip((few, others), darker)), lambda clip: clip // 2)
  for position_N, patch_NxP, dark_NxP in zip((few, others), found, darker):
    for position, patch, dark in zip(position_N.tolist(), patch_NxP, dark_NxP):
      nth, place = divmod(position, 16)
      y, x = 16 * (place // 4), 16 * (place % 4)
      expected = frames[2 * nth : 2 * nth + 2, y : y + 16, x : x + 16]
      np.testing.assert_array_equal(patch.reshape(expected.shape), expected)
      np.testing.assert_array_equal(dark.reshape(expected.shape), expected // 2)


@pytest.mark.parametrize('name', decoders.DECODERS)
def test_a_damaged_frame_is_named(jpegs, name):
  begin = jpegs[2].index(b'\xff\xc0') + 30
  broken = [*jpegs[:2], jpegs[2][:begin] + b'\xff\xd9', jpegs[3]]
  with pytest.raises(decoders.DamagedFrame, match='^frame 2 of the 4 drawn is a damaged JPEG'):
    pixels(name, broken, (0, 0, 64, 64), 64)


def test_auto_is_what_is_installed(monkeypatch):
  assert decoders.resolve('auto') == 'tf' and decoders.resolve('cv') == 'cv'
  monkeypatch.setitem(__import__('sys').modules, 'tensorflow', None)
  assert decoders.resolve('auto') == 'cv'
