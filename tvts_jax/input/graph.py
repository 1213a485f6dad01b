"""JPEGs to the tubelets that are visible: the part of the pipeline that a TF graph does."""

from collections.abc import Sequence

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.input import augment, masks, spliced
from tvts_jax.input.batches import Batches, Stream
from tvts_jax.input.examples import Example, Examples
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.input.settings import InputConfig
from tvts_jax.input.source import Source, example_spec
from tvts_jax.machine import cores

PREFETCH = 2  # Batches made ahead.
ENDLESS = 2**62


class GraphSource(Source):
  def __init__(self, *args):
    super().__init__(*args)
    self._failures: dict[int, UserError | OSError] = {}  # By step.
    self._graph = self._make_graph()

  def _kind(self) -> type[Examples]:
    return spliced.SplicedExamples if self.config.splice else Examples

  def _iterate(self, start: int, stop: int | None, rows: Sequence[int] | None) -> Stream:
    mine = np.arange(self.config.batch) if rows is None else np.asarray(rows)
    tf = tensorflow()
    size = len(mine)
    threads = self.config.threads or cores()

    def make(first):
      data = tf.data.Dataset.range(first * size, ENDLESS if stop is None else stop * size)
      data = data.map(lambda i: (i // size, tf.gather(mine, i % size)))
      data = data.map(self._graph, num_parallel_calls=threads, deterministic=True)
      data = data.batch(size, drop_remainder=True)
      if stop != start + 1:
        data = data.prefetch(PREFETCH)
      options = tf.data.Options()
      options.threading.private_threadpool_size = threads
      return data.with_options(options)

    return Batches(make, start, lambda step, message: self._repair(step, mine, message))

  def _repair(self, step: int, mine: np.ndarray, message: str) -> None:
    """Makes the examples of a failed batch again, one by one, to find one whose frames do not decode.

    Nowhere else are frames tried before they are used, which would double the work.
    """
    if step in self._failures:
      raise self._failures.pop(step)
    for place in mine.tolist():
      part, row, example, _ = self._take(step, place)
      if what := damage(example, self.config):
        part.remember(row, self._places(step)[place].epoch, what)
        return
    raise UserError(f'the batch of step {step} failed, and did not fail again: {message}')

  def _make_graph(self):
    """A traced (step, place) → example, of which every pipeline of this source is made."""
    tf = tensorflow()
    config, spec = self.config, example_spec(self.config)
    numpy_names = [name for name in spec if not name.endswith('patches')]

    def load(step, place):
      try:
        _, _, example, valid = self._take(int(step), int(place))
      except (UserError, OSError) as e:  # Of which TensorFlow would leave no more than its text.
        self._failures[int(step)] = e
        raise
      values = {**vars(example), **example.more, 'valid': np.bool_(valid)}
      epoch = self._places(int(step))[int(place)].epoch
      return [np.array(example.jpegs, object), example.crop, np.int64(epoch), *(values[name] for name in numpy_names)]

    def evened(positions_N):
      return masks.evened(positions_N, config.slices, config.grid, config.visible)

    def augmented(clip, epoch, example_id):
      return augment.augment(clip, config, int(epoch), int(example_id))

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)] * 2)
    def graph(step, place):
      dtypes = [tf.string, tf.int32, tf.int64, *(tf.as_dtype(spec[name][1]) for name in numpy_names)]
      jpegs, crop, epoch, *values = tf.numpy_function(load, [step, place], dtypes)
      made = {name: tf.ensure_shape(v, spec[name][0]) for name, v in zip(numpy_names, values)}
      pixels = {name: made[name.removesuffix('patches') + 'positions'] for name in spec if name not in made}
      if config.splice:
        jpegs = tf.unstack(jpegs, len(pixels))
        return {name: spliced.decode(jpeg, spec[name][0]) for name, jpeg in zip(pixels, jpegs)} | made
      jpegs, crop = tf.ensure_shape(jpegs, [config.frames]), tf.ensure_shape(crop, [4])
      change = lambda clip: tf.numpy_function(augmented, [clip, epoch, made['example_id']], tf.uint8)
      change = change if config.augmented else None
      if config.keep is None:
        return dict(zip(pixels, visible(jpegs, crop, list(pixels.values()), config, change))) | made
      # Pictures are looked up as many times in each slice; what was repeated for that is left out again.
      even = tf.ensure_shape(tf.numpy_function(evened, [made['positions']], tf.int32), [config.slices * config.visible])
      (found,) = visible(jpegs, crop, [even], config, change)
      return {'patches': tf.gather(found, tf.searchsorted(even, made['positions']))} | made

    return graph


def damage(example: Example, config: InputConfig) -> str | None:
  """Tries all pictures of an example one by one: what is wrong with the first that is damaged."""
  tf = tensorflow()
  for i, jpeg in enumerate(example.jpegs):
    try:
      spliced.decode(jpeg, None) if config.splice else decode(jpeg, example.crop, config)
    except tf.errors.InvalidArgumentError as e:
      which = f'one of the {config.frames} frames' if config.splice else f'frame {i} of the {len(example.jpegs)}'
      return f'{which} drawn is a damaged JPEG ({e.message})'
  return None


def decode(jpeg, crop, config: InputConfig):
  """One JPEG → uint8 [image_size, image_size, 3], where `crop` int32 [4] is top, left, height, width."""
  tf = tensorflow()
  # The accurate transform is what other readers of JPEGs use, and costs the same.
  picture = tf.io.decode_and_crop_jpeg(jpeg, crop, channels=3, dct_method='INTEGER_ACCURATE')

  def scaled():
    made = tf.image.resize(picture, [config.image_size, config.image_size], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(made), 0, 255), tf.uint8)

  if config.resize is not None or config.crop == 'resized':
    return scaled()
  # A crop of stored pixels is one, unless the frame was too small for it.
  return tf.cond(tf.equal(crop[2], config.image_size), lambda: picture, scaled)


def visible(jpegs, crop, positions: list, config: InputConfig, change=None) -> list:
  """M JPEGs → uint8 [T V, P], the tubelets at `positions` int32 [T V], for each of a list of such.

  `change`, if there is one, turns the clip, uint8 [M, image_size, image_size, 3], into another one.

  A row of a patch is a run of bytes in a row of the picture, so gathering rows is nearly free, and whole pictures
  are never turned around in memory.
  """
  tf = tensorflow()
  p, wide = config.patch, config.image_size // config.patch
  pictures, made = [decode(jpegs[m], crop, config) for m in range(config.frames)], []
  if change is not None:
    pictures = tf.unstack(change(tf.stack(pictures)), config.frames)
  pictures = [tf.reshape(picture, [-1, p * 3]) for picture in pictures]
  for positions_N in positions:
    V = positions_N.shape[0] // config.slices
    place_TxV = tf.reshape(positions_N, [config.slices, V]) % config.grid
    top_TxV, left_TxV = place_TxV // wide * p, place_TxV % wide
    row_TxVxp = (top_TxV[:, :, None] + tf.range(p)) * wide + left_TxV[:, :, None]
    kept = [tf.gather(rows, row_TxVxp[m // config.tubelet]) for m, rows in enumerate(pictures)]
    patches = tf.reshape(tf.stack(kept), [config.slices, config.tubelet, V, p * p * 3])
    made.append(tf.reshape(tf.transpose(patches, [0, 2, 1, 3]), [config.slices * V, -1]))
  return made
