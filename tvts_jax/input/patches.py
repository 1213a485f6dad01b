"""JPEGs to the tubelets that are visible: the part of the pipeline that a TF graph does."""

from tvts_jax.input.config import InputConfig
from tvts_jax.input.host_tf import tensorflow


def decode(jpeg, crop, config: InputConfig):
  """One JPEG -> uint8 [image_size, image_size, 3], where `crop` int32 [4] is top, left, height, width."""
  tf = tensorflow()
  # The accurate transform is what other readers of JPEGs use, and costs the same.
  picture = tf.io.decode_and_crop_jpeg(jpeg, crop, channels=3, dct_method='INTEGER_ACCURATE')
  if config.resize is None:
    return picture
  scaled = tf.image.resize(picture, [config.image_size, config.image_size], antialias=True)
  return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)


def visible(jpegs, crop, positions, config: InputConfig):
  """M JPEGs -> uint8 [T V, P], the tubelets at `positions` int32 [T V].

  A row of a patch is a run of bytes in a row of the picture, so gathering rows is nearly free, and whole pictures
  are never turned around in memory.
  """
  tf = tensorflow()
  p, wide = config.patch, config.image_size // config.patch
  place_TxV = tf.reshape(positions, [config.slices, config.visible]) % config.grid
  top_TxV, left_TxV = place_TxV // wide * p, place_TxV % wide
  row_TxVxp = (top_TxV[:, :, None] + tf.range(p)) * wide + left_TxV[:, :, None]
  kept = []
  for m in range(config.frames):
    rows = tf.reshape(decode(jpegs[m], crop, config), [config.image_size * wide, p * 3])
    kept.append(tf.gather(rows, row_TxVxp[m // config.tubelet]))
  patches = tf.reshape(tf.stack(kept), [config.slices, config.tubelet, config.visible, p * p * 3])
  return tf.reshape(tf.transpose(patches, [0, 2, 1, 3]), [config.slices * config.visible, -1])
