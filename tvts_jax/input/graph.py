"""JPEGs to the tubelets that are visible: the part of the pipeline that a TF graph does."""

from tvts_jax.input.host_tf import tensorflow
from tvts_jax.input.settings import InputConfig


def decode(jpeg, crop, config: InputConfig):
  """One JPEG -> uint8 [image_size, image_size, 3], where `crop` int32 [4] is top, left, height, width."""
  tf = tensorflow()
  # The accurate transform is what other readers of JPEGs use, and costs the same.
  picture = tf.io.decode_and_crop_jpeg(jpeg, crop, channels=3, dct_method='INTEGER_ACCURATE')
  if config.resize is None and config.crop != 'resized':
    return picture
  scaled = tf.image.resize(picture, [config.image_size, config.image_size], antialias=True)
  return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)


def visible(jpegs, crop, positions: list, config: InputConfig, change=None) -> list:
  """M JPEGs -> uint8 [T V, P], the tubelets at `positions` int32 [T V], for each of a list of such.

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
