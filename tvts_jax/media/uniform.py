"""Frames that are spread evenly over the whole of a video; an image is a video of one frame."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from tvts_jax.media import pictures, video

IMAGE_MS = 1  # How long an image lasts: the shortest that a record can hold.


def spread(count: int, wanted: int) -> list[int]:
  """`wanted` of `count` numbers, evenly apart; repeated where there are fewer."""
  return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def read(file: BinaryIO, count: int, *, short_side: int, keep: Callable[[np.ndarray, int], Any]) -> tuple[int, list]:
  """(duration in ms, the pictures on screen in the middles of `count` equal parts, each once).

  MediaError if the file cannot be read whole. `short_side` and `keep` are as in `video.read_frames`.
  """
  file.seek(0)
  if pictures.image_codec(file.read(16)):
    return IMAGE_MS, [keep(pictures.read_image(file, short_side), 0)]
  duration_ms = video.probe(file).duration_ms
  step = Fraction(duration_ms, count)
  return duration_ms, video.read_frames(file, step / 2, duration_ms, fps=1000 / step, short_side=short_side, keep=keep)
