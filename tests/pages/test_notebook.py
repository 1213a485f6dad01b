"""Strips of frames for notebooks: each frame in its place, in a picture that needs nothing to be shown."""

import cv2
import numpy as np

from tvts_jax.pages.notebook import strip


def test_each_frame_has_its_place():
  rng = np.random.default_rng(0)
  clips_CxFxYxXx3 = np.repeat(np.repeat(rng.integers(0, 256, (2, 3, 1, 1, 3)), 40, 2), 60, 3).astype(np.uint8)
  picture = cv2.imdecode(
    np.frombuffer(strip(*clips_CxFxYxXx3, height=80)._repr_jpeg_(), np.uint8), cv2.IMREAD_COLOR_RGB
  )
  assert picture.shape == (2 * (80 + 4), 3 * (120 + 4), 3)
  for row in range(2):
    for column in range(3):
      middle = picture[row * 84 + 40, column * 124 + 60].astype(int)
      assert np.abs(middle - clips_CxFxYxXx3[row, column, 0, 0]).max() < 12
  assert (picture[81:83].min(axis=(1, 2)) > 200).all()
