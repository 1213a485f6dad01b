"""JPEGs to the tubelets of a clip: one interface, whichever library decodes.

  decode(*clip)

decodes the JPEGs of a Clip and writes its tubelets. Stream does so for many clips as a pipeline of tf.data.

The pixels of a crop are those of the whole frame, decoded with the accurate transform and with chroma that is blended
over neighbours: `tf` and `cv` agree to the bit, and within rounding where frames are scaled. `tf` crops while it
decodes, which spares a part of the work. `cv` decodes whole frames and serves where TensorFlow is not installed; it
does not notice a scan that is cut short, but the checksums of the records do.
"""

import functools
import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.input.settings import InputConfig
from tvts_jax.shards import records

# The accurate transform is what other readers of JPEGs use, and costs the same.
TF_HOW = dict(channels=3, dct_method='INTEGER_ACCURATE')


class Clip(NamedTuple):
  """What to decode, and where to write it."""

  jpegs: Sequence[bytes]  # [M].
  crop: np.ndarray  # int32 [4]: top, left, height, width; it is scaled if that is not image_size.
  config: InputConfig
  pixels: list[tuple[np.ndarray, np.ndarray]]  # Rising positions, int32 [N], and their tubelets, uint8 [N, P].
  change: Callable | None = None  # Makes another clip of the clip, uint8 [M, image_size, image_size, 3].


class DamagedFrame(UserError):
  """A JPEG that does not decode."""

  def __init__(self, nth: int, frames: int, why: str):
    super().__init__(f'frame {nth} of the {frames} drawn is a damaged JPEG ({why})')


def tf_decode(*clip) -> None:
  tf, values = tensorflow(), tf_values([clip])
  try:
    made = tf_graph(*clip)(*map(tf.constant, values))
  except tf.errors.InvalidArgumentError as e:
    raise tf_damage(*values[:2], e) from e
  tf_write(made, [clip])


class Stream:
  """tf.data decodes chunks of clips, so many of them at a time: steps between Python and TensorFlow, and caches that
  each finds full of what the other left there, would else cost a fifth of the time."""

  def __init__(self, like: Clip, parallel: int):
    """like: one whose graph serves for all."""
    tf, graph = tensorflow(), tf_graph(*like)
    signature = graph.structured_input_signature[0]
    # A generator would be called through Python, and makes TensorFlow give memory back to the system at every chunk.
    self._queue, self._chunks = tf.queue.FIFOQueue(2 * parallel, [spec.dtype for spec in signature]), deque()
    shaped = lambda values: tuple(tf.ensure_shape(value, spec.shape) for value, spec in zip(values, signature))
    data = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: shaped(self._queue.dequeue()))
    data = data.map(graph, num_parallel_calls=parallel, deterministic=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = parallel + 1  # Idle threads spin.
    options.threading.max_intra_op_parallelism = 1
    self._decoded = iter(data.with_options(options))

  def put(self, clips: list[Clip]) -> None:
    self._chunks.append(clips)
    self._queue.enqueue(tf_values(clips))

  def take(self) -> None:
    """Writes the clips of the chunk that was put first; raises what one of them fails of, and goes on with the next."""
    clips = self._chunks.popleft()
    tf_write(next(self._decoded), clips)

  def close(self) -> None:
    self._queue.close(cancel_pending_enqueues=True)


def tf_values(clips: Sequence[tuple]) -> tuple[np.ndarray, ...]:
  """What the graph takes of clips: JPEGs; windows; positions at each place in `pixels`, unless the clips change."""
  jpegs_CxM = np.array([jpegs for jpegs, *_ in clips], object)
  window_Cx6 = np.stack([tf_window(jpegs, crop) for jpegs, crop, *_ in clips])
  cuts = [[position_N for position_N, _ in pixels] for _, _, _, pixels, *change in clips if not any(change)]
  return jpegs_CxM, window_Cx6, *map(np.stack, zip(*cuts))


def tf_window(jpegs: Sequence[bytes], crop: np.ndarray) -> np.ndarray:
  """int32 [6]: the window to decode, where the crop begins in it and its width.

  Columns beside the crop are decoded as well, where there are any, for the chroma of its own to be blended with.
  """
  top, left, height, width = crop.tolist()
  before, after = min(1, left), min(1, records.jpeg_size(jpegs[0])[1] - left - width)
  return np.array([top, left - before, height, before + width + after, before, width], np.int32)


def tf_graph(jpegs, crop, config, pixels, change=None):
  cuts = 0 if change else len(pixels)
  return tf_graph_of(len(jpegs), config.image_size, config.patch, config.tubelet, cuts, config.resample)


@functools.cache
def tf_graph_of(count: int, side: int, patch: int, tubelet: int, cuts: int, resample: str):
  """tf_values → the tubelets at each of so many positions, [C, N, P]; without positions, frames [C, M, side, side, 3].

  A row of a patch is a run of bytes in a row of the picture, so gathering rows is nearly free.
  """
  tf = tensorflow()
  wide = side // patch

  def decode(jpegs, window, *positions):
    before, width = window[4], window[5]
    frames = [tf.io.decode_and_crop_jpeg(jpegs[m], window[:4], **TF_HOW) for m in range(count)]
    frames = tuple(frame[:, before : before + width] for frame in frames)

    def nearest(frame, axis):
      return tf.gather(frame, tf.range(side) * tf.shape(frame)[axis] // side, axis=axis)

    def scaled():
      if resample == 'nearest':
        return tuple(nearest(nearest(frame, 0), 1) for frame in frames)
      sized = [tf.image.resize(frame, [side, side], antialias=True) for frame in frames]
      return tuple(tf.cast(tf.clip_by_value(tf.round(frame), 0, 255), tf.uint8) for frame in sized)

    frames = tf.cond((window[2] == side) & (width == side), lambda: frames, scaled)
    if not cuts:
      return (tf.stack(frames),)
    made, runs = [], [tf.reshape(frame, [-1, 3 * patch]) for frame in frames]
    for position_N in positions:
      place_N = position_N % wide**2
      run_Nxp = ((place_N // wide * patch)[:, None] + tf.range(patch)) * wide + (place_N % wide)[:, None]
      edge = tf.searchsorted(position_N, tf.range(count // tubelet + 1) * wide**2)
      slices = []
      for t in range(count // tubelet):
        run_nxp = run_Nxp[edge[t] : edge[t + 1]]
        parts = [tf.gather(run, run_nxp) for run in runs[t * tubelet : (t + 1) * tubelet]]
        slices.append(tf.concat([tf.reshape(part, [-1, 3 * patch**2]) for part in parts], axis=1))
      made.append(tf.concat(slices, axis=0))
    return tuple(made)

  signature = [tf.TensorSpec([None, count], tf.string), tf.TensorSpec([None, 6], tf.int32)]

  @tf.function(input_signature=[*signature, *[tf.TensorSpec([None, None], tf.int32)] * cuts])
  def graph(*values):
    pixels = (tf.uint8,) * max(1, cuts)
    return tf.map_fn(lambda clip: decode(*clip), values, fn_output_signature=pixels, parallel_iterations=1)

  return graph.get_concrete_function()


def tf_write(made, clips: Sequence[tuple]) -> None:
  """What the graph has made, in its places."""
  made = [np.asarray(memoryview(pixels)) for pixels in made]
  for (_, _, config, pixels, *change), *of_clip in zip(clips, *made):
    if any(change):
      cut(change[0](*of_clip), pixels, config)
      continue
    for (_, patch_NxP), taken_NxP in zip(pixels, of_clip):
      patch_NxP[...] = taken_NxP


def tf_damage(jpegs_1xM: np.ndarray, window_1x6: np.ndarray, error: Exception) -> Exception:
  """Which frame is damaged; the error itself if none is."""
  tf = tensorflow()
  for nth, jpeg in enumerate(jpegs_1xM[0]):
    try:
      tf.io.decode_and_crop_jpeg(jpeg, window_1x6[0, :4], **TF_HOW)
    except tf.errors.InvalidArgumentError as e:
      return DamagedFrame(nth, jpegs_1xM.shape[1], e.message)
  return error


def cv_decode(jpegs: Sequence[bytes], crop: np.ndarray, config: InputConfig, pixels: list[tuple], change=None) -> None:
  frames = cv_frames(jpegs, crop, config.image_size, config.resample)
  cut(change(np.stack(list(frames))) if change else frames, pixels, config)


def cv_frames(jpegs: Sequence[bytes], crop: np.ndarray, side: int, resample: str) -> Iterator[np.ndarray]:
  top, left, height, width = crop.tolist()
  for nth, jpeg in enumerate(jpegs):
    frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    if frame is None:
      raise DamagedFrame(nth, len(jpegs), 'OpenCV cannot decode it')
    frame = frame[top : top + height, left : left + width]
    if (height, width) != (side, side) and resample == 'nearest':
      frame = frame[(np.arange(side) * height // side)[:, None], np.arange(side) * width // side]
    elif (height, width) != (side, side):
      rows = triangles(height, side) @ frame.astype(np.float32).reshape(height, -1)
      columns = triangles(width, side) @ rows.reshape(side, width, 3)
      frame = columns.round().clip(0, 255).astype(np.uint8)
    yield frame


DECODERS = {'tf': tf_decode, 'cv': cv_decode}


def cut(frames: Iterable[np.ndarray], pixels: list[tuple[np.ndarray, np.ndarray]], config: InputConfig) -> None:
  """Copies tubelets out of frames; no other pixel is touched."""
  p, wide = config.patch, config.image_size // config.patch
  where = []
  for position_N, patch_NxP in pixels:
    row_N, column_N = np.divmod(position_N % config.grid, wide)
    cubes = patch_NxP.reshape(-1, config.tubelet, p, 3 * p)
    where.append((edges_of(position_N, config), row_N, column_N, cubes))
  for m, frame in enumerate(frames):
    nth, depth = divmod(m, config.tubelet)
    blocks = frame.reshape(wide, p, wide, 3 * p)
    for edges, row_N, column_N, cubes in where:
      here = slice(edges[nth], edges[nth + 1])
      cubes[here, depth] = blocks[row_N[here], :, column_N[here]]


def edges_of(position_N: np.ndarray, config: InputConfig) -> list[int]:
  """Where the positions of each time slice begin and end."""
  return np.searchsorted(position_N, np.arange(config.slices + 1) * config.grid).tolist()


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
