"""JPEGs to the tubelets of a clip: one interface, whichever library decodes.

  decode(*clip)

decodes the JPEGs of a Clip and writes its tubelets. tf_stream does so for many clips as a pipeline of tf.data.

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
  tf, values = tensorflow(), tf_values(*clip)
  try:
    made = tf_graph(*clip)(*map(tf.constant, values))
  except tf.errors.InvalidArgumentError as e:
    raise tf_damage(values, e) from e
  tf_write(made, *clip)


def tf_stream(clips: Iterable[tuple[Clip, tuple]], like: Clip, parallel: int) -> Iterator[Exception | None]:
  """Decodes clips, each given with its tf_values, so many at a time → in their order, what each failed of, or None.

  like: one whose graph serves for all.
  """
  tf, graph, begun = tensorflow(), tf_graph(*like), deque()

  def values() -> Iterator[tuple]:
    for clip in clips:
      begun.append(clip)
      yield clip[1]

  data = tf.data.Dataset.from_generator(values, output_signature=tuple(graph.structured_input_signature[0]))
  data = data.map(graph, num_parallel_calls=parallel, deterministic=True)
  options = tf.data.Options()
  options.threading.private_threadpool_size = parallel + 1  # Idle threads spin.
  options.threading.max_intra_op_parallelism = 1
  decoded = iter(data.with_options(options))
  while True:
    error = made = None
    try:
      made = next(decoded)
    except StopIteration:
      return
    except tf.errors.InvalidArgumentError as e:  # The clip that is next has a damaged frame; the others go on.
      error = e
    clip, given = begun.popleft()
    try:
      if error is not None:
        raise tf_damage(given, error) from error
      tf_write(made, *clip)
    except Exception as e:  # noqa: BLE001 — whoever takes the clip raises it.
      error = e
    yield error


def tf_values(jpegs, crop, config, pixels, change=None) -> tuple[np.ndarray, ...]:
  """What the graph takes of a clip: JPEGs; the window to decode, where the crop begins in it and its width; positions.

  Columns beside the crop are decoded as well, where there are any, for the chroma of its own to be blended with.
  """
  top, left, height, width = crop.tolist()
  before, after = min(1, left), min(1, records.jpeg_size(jpegs[0])[1] - left - width)
  window = np.array([top, left - before, height, before + width + after, before, width], np.int32)
  return np.array(jpegs, object), window, *([] if change else [position_N for position_N, _ in pixels])


def tf_graph(jpegs, crop, config, pixels, change=None):
  return tf_graph_of(len(jpegs), config.image_size, config.patch, config.tubelet, 0 if change else len(pixels))


@functools.cache
def tf_graph_of(count: int, side: int, patch: int, tubelet: int, cuts: int):
  """tf_values → the tubelets at each of so many positions; without positions, M frames. One call for all, since calls
  are expensive.

  A row of a patch is a run of bytes in a row of the picture, so gathering rows is nearly free.
  """
  tf = tensorflow()
  wide = side // patch
  signature = [tf.TensorSpec([count], tf.string), tf.TensorSpec([6], tf.int32)]

  @tf.function(input_signature=[*signature, *[tf.TensorSpec([None], tf.int32)] * cuts])
  def graph(jpegs, window, *positions):
    before, width = window[4], window[5]
    frames = [tf.io.decode_and_crop_jpeg(jpegs[m], window[:4], **TF_HOW) for m in range(count)]
    frames = tuple(frame[:, before : before + width] for frame in frames)

    def scaled():
      sized = [tf.image.resize(frame, [side, side], antialias=True) for frame in frames]
      return tuple(tf.cast(tf.clip_by_value(tf.round(frame), 0, 255), tf.uint8) for frame in sized)

    frames = tf.cond((window[2] == side) & (width == side), lambda: frames, scaled)
    if not cuts:
      return frames
    made, runs = [], [tf.reshape(frame, [-1, 3 * patch]) for frame in frames]
    for position_N in positions:
      place_N = position_N % wide**2
      run_Nxp = ((place_N // wide * patch)[:, None] + tf.range(patch)) * wide + (place_N % wide)[:, None]
      edge = tf.searchsorted(position_N, tf.range(count // tubelet + 1) * wide**2)
      edges = [(edge[m // tubelet], edge[m // tubelet + 1]) for m in range(count)]
      parts = [tf.gather(run, run_Nxp[first:stop]) for run, (first, stop) in zip(runs, edges)]
      parts = [tf.reshape(part, [-1, 3 * patch**2]) for part in parts]
      slices = [tf.concat(parts[m : m + tubelet], axis=1) for m in range(0, count, tubelet)]
      made.append(tf.concat(slices, axis=0))
    return tuple(made)

  return graph.get_concrete_function()


def tf_write(made, jpegs, crop, config, pixels, change=None) -> None:
  """What the graph has made, in its places."""
  if change:
    cut(change(np.stack([np.asarray(memoryview(frame)) for frame in made])), pixels, config)
    return
  for (_, patch_NxP), taken in zip(pixels, made):
    patch_NxP[...] = memoryview(taken)


def tf_damage(values: tuple, error: Exception) -> Exception:
  """Which frame is damaged; the error itself if none is."""
  tf = tensorflow()
  jpegs, window = values[:2]
  for nth, jpeg in enumerate(jpegs):
    try:
      tf.io.decode_and_crop_jpeg(jpeg, window[:4], **TF_HOW)
    except tf.errors.InvalidArgumentError as e:
      return DamagedFrame(nth, len(jpegs), e.message)
  return error


def cv_decode(jpegs: Sequence[bytes], crop: np.ndarray, config: InputConfig, pixels: list[tuple], change=None) -> None:
  frames = cv_frames(jpegs, crop, config.image_size)
  cut(change(np.stack(list(frames))) if change else frames, pixels, config)


def cv_frames(jpegs: Sequence[bytes], crop: np.ndarray, side: int) -> Iterator[np.ndarray]:
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
