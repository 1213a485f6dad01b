"""Clips as pictures that a notebook shows, with nothing installed for it."""

import cv2
import numpy as np


class Picture(bytes):
  """A JPEG, which a notebook asks the last value of a cell for."""

  def _repr_jpeg_(self) -> bytes:
    return bytes(self)


def strip(*clips_FxYxXx3: np.ndarray, height: int = 72, gap: int = 4) -> Picture:
  """A row of frames for each clip, uint8; all clips have frames of one size."""
  rows = []
  for clip_FxYxXx3 in clips_FxYxXx3:
    wide = round(height * clip_FxYxXx3.shape[2] / clip_FxYxXx3.shape[1])
    # Small frames are shown as the pixels that they are.
    how = cv2.INTER_NEAREST if clip_FxYxXx3.shape[1] < height else cv2.INTER_AREA
    frames = [cv2.resize(frame, (wide, height), interpolation=how) for frame in clip_FxYxXx3]
    rows.append(
      np.concatenate([np.pad(frame, ((0, gap), (0, gap), (0, 0)), constant_values=255) for frame in frames], 1)
    )
  ok, data = cv2.imencode('.jpg', np.concatenate(rows)[..., ::-1])
  if not ok:
    raise RuntimeError(f'OpenCV cannot encode frames of shape {rows[0].shape}')
  return Picture(data.tobytes())
