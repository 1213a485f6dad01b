"""How alike two pictures are, whatever was done to them: hashes of frames, and the bits in which they differ.

Mirror images and middle squares, as others crop them, are views of their own.

Shapes: N frames, F of a downstream record, V views, W words of a hash.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.media.uniform import spread
from tvts_jax.shards import records

FRAMES = 16  # Of a downstream record.
SIDE = 32  # Of the picture that is hashed.
# The frequencies that are kept of it, each way: the coarse ones fill the first word of a hash, all are in its WORDS.
COARSE, LOW, WORDS = 8, 12, 3
BITS = LOW * LOW - 1  # Without the mean, which is brightness.
EMPTY_LEVELS = 4.0  # A frame whose grey levels deviate less shows nothing.
# Sizes are divided while decoding, which is far cheaper than after it.
REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
SQUARE = 1.15  # Frames of less extreme sides are cropped to MIDDLE of them, others to their middle square.
MIDDLE = 7 / 8


def grey(jpeg: bytes) -> np.ndarray | None:
  """[Y, X], large enough to be hashed; None if it cannot be decoded."""
  short = min(records.jpeg_size(jpeg))
  flags = next((flags for by, flags in REDUCED.items() if short >= by * 2 * SIDE), cv2.IMREAD_GRAYSCALE)
  return cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)


def middle(image: np.ndarray) -> np.ndarray:
  """What is left of [Y, X, ...] where others crop it."""
  high, wide = image.shape[:2]
  side = min(high, wide)
  if max(high, wide) < SQUARE * side:
    high_, wide_ = round(MIDDLE * high), round(MIDDLE * wide)
  else:
    high_ = wide_ = side
  top, left = (high - high_) // 2, (wide - wide_) // 2
  return image[top : top + high_, left : left + wide_]


def views(image: np.ndarray, mirrored: bool) -> list[np.ndarray]:
  """The whole, its middle, and the mirror images of both."""
  both = [image, middle(image)]
  return both + [view[:, ::-1] for view in both] if mirrored else both


# The pairs of views, downstream and for pre-training, that are compared: all but the middles of both.
COMPARED = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (2, 1))


def bit_places() -> list[np.ndarray]:
  """For each word of a hash the flat places in [LOW, LOW] of the frequencies that it tells of."""
  y, x = np.divmod(np.arange(1, LOW * LOW), LOW)
  coarse = np.maximum(y, x) < COARSE
  fine = np.flatnonzero(~coarse) + 1
  return [np.flatnonzero(coarse) + 1, *np.array_split(fine, WORDS - 1)]


PLACES = bit_places()


def hashes(pictures_NxYxX: np.ndarray) -> np.ndarray:
  """uint64 [WORDS, N] of pictures [N, SIDE, SIDE]: the signs of their lowest waves, by a discrete cosine transform."""
  waves_LxS = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5)).astype(np.float32)
  low_NxLxL = waves_LxS @ pictures_NxYxX.astype(np.float32) @ waves_LxS.T
  sign_NxC = low_NxLxL.reshape(len(low_NxLxL), -1) > 0
  word = lambda places: (sign_NxC[:, places] * (np.uint64(1) << np.arange(len(places), dtype=np.uint64))[None]).sum(1)
  return np.stack([word(places) for places in PLACES]).astype(np.uint64)


def hash_frames(frames: list[bytes], numbers: Iterable[int], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
  """(number [n], hash [V, WORDS, n]) of those frames that show something; UserError if one does not decode."""
  kept, pictures = [], []
  for i in numbers:
    image = grey(frames[i])
    if image is None:
      raise UserError(f'frame {i} cannot be decoded')
    small = [cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for view in views(image, mirrored)]
    if small[0].std() >= EMPTY_LEVELS:
      kept.append(i)
      pictures += small
  hash_WxM = hashes(np.stack(pictures)) if kept else np.zeros((WORDS, 0), np.uint64)
  hash_VxWxN = hash_WxM.reshape(WORDS, len(kept), 4 if mirrored else 2).transpose(2, 0, 1)
  return np.array(kept, np.int32), hash_VxWxN


def frame_distances(down_VxWxF: np.ndarray, pre_VxWxN: np.ndarray) -> np.ndarray:
  """uint8 [F, N]: the bits in which frames differ, in those views that are most alike."""
  shape = down_VxWxF.shape[2], pre_VxWxN.shape[2]
  best_FxN, sum_FxN, count_FxN = np.full(shape, 255, np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
  differ_FxN = np.empty(shape, np.uint64)
  for theirs, ours in COMPARED:
    sum_FxN[:] = 0
    for theirs_F, ours_N in zip(down_VxWxF[theirs], pre_VxWxN[ours]):
      np.bitwise_xor(theirs_F[:, None], ours_N[None], out=differ_FxN)
      sum_FxN += np.bitwise_count(differ_FxN, out=count_FxN)
    np.minimum(best_FxN, sum_FxN, out=best_FxN)
  return best_FxN


def fitting(hash_VxWxN: np.ndarray) -> np.ndarray:
  """[V, W, FRAMES] of how ever many frames there are."""
  return hash_VxWxN[..., spread(hash_VxWxN.shape[2], FRAMES)]
