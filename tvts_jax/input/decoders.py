"""JPEGs to pixels: one interface, whichever library decodes.

The pixels of a crop are those of the whole frame, decoded with the accurate transform and with chroma that is blended
over neighbours: `tf` and `cv` agree to the bit, and within rounding where frames are scaled. `tf` crops while it
decodes, which spares a part of the work. `cv` decodes whole frames and serves where TensorFlow is not installed; it
does not notice a scan that is cut short, but the checksums of the records do.
"""

import functools
import importlib.util
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.shards import records

# The accurate transform is what other readers of JPEGs use, and costs the same.
TF_HOW = dict(channels=3, dct_method='INTEGER_ACCURATE')


class DamagedFrame(UserError):
  """A JPEG that does not decode."""

  def __init__(self, nth: int, frames: int, why: str):
    super().__init__(f'frame {nth} of the {frames} drawn is a damaged JPEG ({why})')


def tf_frames(jpegs: Sequence[bytes], crop: np.ndarray, side: int) -> Iterable[np.ndarray]:
  tf = tensorflow()
  top, left, height, width = crop.tolist()
  # Columns beside the crop are decoded as well, where there are any, for the chroma of its own to be blended with.
  before, after = min(1, left), min(1, records.jpeg_size(jpegs[0])[1] - left - width)
  window = tf.constant([top, left - before, height, before + width + after])
  scaled = (height, width) != (side, side)
  try:
    frames = tf_graph(len(jpegs), side, scaled)(tf.constant(jpegs), window, tf.constant(before), tf.constant(width))
  except tf.errors.InvalidArgumentError:
    for nth, jpeg in enumerate(jpegs):
      try:
        tf.io.decode_and_crop_jpeg(jpeg, window, **TF_HOW)
      except tf.errors.InvalidArgumentError as e:
        raise DamagedFrame(nth, len(jpegs), e.message) from e
    raise
  frames = [np.asarray(memoryview(frame)) for frame in frames]
  return frames if scaled else [frame[:, before : before + width] for frame in frames]


@functools.cache
def tf_graph(count: int, side: int, scaled: bool):
  """(JPEGs, window, where the crop begins in it, its width) → frames. One call for all, since calls are expensive."""
  tf = tensorflow()
  number = tf.TensorSpec([], tf.int32)

  @tf.function(input_signature=[tf.TensorSpec([count], tf.string), tf.TensorSpec([4], tf.int32), number, number])
  def graph(jpegs, window, before, width):
    frames = [tf.io.decode_and_crop_jpeg(jpegs[m], window, **TF_HOW) for m in range(count)]
    if scaled:
      frames = [frame[:, before : before + width] for frame in frames]
      frames = [tf.image.resize(frame, [side, side], antialias=True) for frame in frames]
      frames = [tf.cast(tf.clip_by_value(tf.round(frame), 0, 255), tf.uint8) for frame in frames]
    return frames

  return graph.get_concrete_function()


def cv_frames(jpegs: Sequence[bytes], crop: np.ndarray, side: int) -> Iterable[np.ndarray]:
  top, left, height, width = crop.tolist()
  for nth, jpeg in enumerate(jpegs):
    frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    if frame is None:
      raise DamagedFrame(nth, len(jpegs), 'OpenCV cannot decode it')
    frame = frame[top : top + height, left : left + width]
    if (height, width) != (side, side):
      rows = triangles(height, side) @ frame.astype(np.float32).reshape(height, -1)
      columns = triangles(width, side) @ rows.reshape(side, width, 3)
      frame = columns.round().clip(0, 255).astype(np.uint8)
    yield frame


# Name → (JPEGs [M]; crop, int32 [4]: top, left, height, width; side) → M frames, uint8 [side, side, 3], one by one.
DECODERS = {'tf': tf_frames, 'cv': cv_frames}


def load(name: str) -> None:
  """Imports what a decoder needs."""
  if name == 'tf':
    tensorflow()


def resolve(name: str) -> str:
  """What 'auto' stands for on this machine."""
  if name == 'auto':
    return 'tf' if importlib.util.find_spec('tensorflow') else 'cv'
  return name


@functools.lru_cache(maxsize=64)
def triangles(size: int, side: int) -> np.ndarray:
  """float32 [side, size]: the weights of a triangle filter that scales `size` pixels to `side` without aliasing."""
  scale = size / side
  centre_S = (np.arange(side) + 0.5) * scale
  distance_SxN = np.abs(np.arange(size) + 0.5 - centre_S[:, None]) / max(scale, 1.0)
  weight_SxN = np.maximum(0, 1 - distance_SxN)
  return (weight_SxN / weight_SxN.sum(1, keepdims=True)).astype(np.float32)
