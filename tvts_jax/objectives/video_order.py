"""Sorting the video instead of the words: K shuffled frames beside ordered transcripts (MERLOT), or K clips (VCOP).

Shapes: B clips, K parts of each, as many as it has transcripts, T time slots, V visible tubelets of a slot, S places of
a slot, P pixel values of a tubelet, D width. Labels part_order_BxK: the true place of the i-th part given.
Each part is encoded by itself, at positions that are the same for all: no position tells of the order.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from tvts_jax.errors import UserError
from tvts_jax.models.sorter import Sorter
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.objectives import orders
from tvts_jax.objectives.objective import Objective


def slotted(config: TVTSConfig, batch):
  """Patches [B, T, V, P] and positions [B, T, V] of a clip's slots."""
  by_slot = lambda name: rearrange(batch[name], 'b (t v) ... -> b t v ...', t=config.video.slots)
  return by_slot('patches'), by_slot('positions')


def encode_frames(config: TVTSConfig, batch, order_BxK, encode_video, train):
  """What encode_video makes, for [B·K], of a frame from the middle of each of K equal parts of a clip, in an order.

  A frame is a picture, encoded as pictures are: as a clip that stands still in the first slot.
  """
  K, T, S = order_BxK.shape[1], config.video.slots, config.video.places
  if T < K:
    raise UserError(f'{T} time slots of a clip do not have {K} different frames; choose more model.video.frames')
  patches_BxTxVxP, positions_BxTxV = slotted(config, batch)
  middle_K = (2 * np.arange(K) + 1) * T // (2 * K)
  slot_BxK = jnp.asarray(middle_K)[order_BxK]
  take = lambda x: jnp.take_along_axis(x, jnp.expand_dims(slot_BxK, range(2, x.ndim)), axis=1)
  frame_BxKxVxF = take(patches_BxTxVxP)[..., : config.video.pixels // config.video.tubelet]
  patches_BxKxVxP = jnp.tile(frame_BxKxVxF, config.video.tubelet)
  join = lambda x: rearrange(x, 'b k v ... -> (b k) v ...')
  return encode_video(join(patches_BxKxVxP), join(take(positions_BxTxV) % S), train, 1)


def encode_clips(config: TVTSConfig, batch, order_BxK, encode_video, train):
  """What encode_video makes, for [B·K], of each of K equal parts of a clip, in an order."""
  K, T, S = order_BxK.shape[1], config.video.slots, config.video.places
  if T % K:
    raise UserError(f'{T} time slots of a clip are not {K} equal parts; choose model.video.frames that K divides')
  # Its slots count anew in every part.
  patches_BxTxVxP, positions_BxTxV = slotted(config, batch)
  positions_BxTxV -= jnp.asarray(np.arange(T) // (T // K) * (T // K) * S)[None, :, None]
  take = lambda x, order: jnp.take_along_axis(x, jnp.expand_dims(order, range(2, x.ndim)), axis=1)
  shuffle = lambda x: take(rearrange(x, 'b (k t) v ... -> b k (t v) ...', k=K), order_BxK)
  join = lambda x: rearrange(shuffle(x), 'b k n ... -> (b k) n ...')
  return encode_video(join(patches_BxTxVxP), join(positions_BxTxV), train, T // K)


def cls_of(video, K: int):
  """[CLS] of each part, [B, K, D]."""
  return rearrange(video['video_tokens'][:, 0], '(b k) d -> b k d', k=K)


def sorts(learn, output: str, head: type[nn.Module], chance) -> Objective:
  """The objective that learns the order of the parts given (`learn`, of orders.py) out of what its head makes."""
  loss = lambda outputs, batch: learn(outputs[output], batch['part_order'])
  return Objective(loss, (output,), head=head, fields=('part_order',), even=True, chance=chance)


class Joint(nn.Module):
  """A second sorter, which is given the transcripts in order and sorts frames by them."""

  config: TVTSConfig

  def setup(self):
    config = self.config
    self.told = orders.linear(config, config.video.width, 'told')
    start = nn.initializers.normal(config.how['start'].space)
    shape = (config.transcripts, config.video.width)
    self.told_position = self.param('told_position', start, shape, config.how['param_dtype'])
    self.sorter = Sorter(
      config.transcripts,
      config.video.width,
      config.sort_heads or config.video.heads,
      config.sort_depth,
      stop_gradient=False,  # Toward the frames, which are what it sorts.
      **config.how,
    )

  def tokens(self, outputs, batch, encode_video, train):
    """What the sorter makes of each frame given, [B, K, D]."""
    order_BxK, text_BxKxE = batch['part_order'], outputs['text_cls']
    frames = encode_frames(self.config, batch, order_BxK, encode_video, train)
    if self.config.stop_gradient:
      text_BxKxE = jax.lax.stop_gradient(text_BxKxE)
    told_BxKxD = self.told(text_BxKxE)
    told_BxKxD += self.told_position.astype(told_BxKxD.dtype)[batch['order']]
    return self.sorter.tokens(told_BxKxD, cls_of(frames, order_BxK.shape[1]), train)


class MerlotSortHead(Joint):
  def __call__(self, outputs, batch, encode_video, train):
    return {'merlot_logits': self.sorter.place(self.tokens(outputs, batch, encode_video, train))}


MERLOT_SORT = sorts(orders.learn_places, 'merlot_logits', MerlotSortHead, orders.PLACES_CHANCE)


class MerlotPairsHead(Joint):
  def setup(self):
    super().setup()
    self.pairs = orders.Pairs(self.config)

  def __call__(self, outputs, batch, encode_video, train):
    return {'merlot_pairs': self.pairs(self.tokens(outputs, batch, encode_video, train))}


MERLOT_PAIRS = sorts(orders.learn_pairs, 'merlot_pairs', MerlotPairsHead, orders.PAIRS_CHANCE)


class VcopHead(nn.Module):
  config: TVTSConfig

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train):
    order_BxK = batch['part_order']
    clips = encode_clips(self.config, batch, order_BxK, encode_video, train)
    layouts = orders.PairLayouts(self.config, name='layouts')
    return {'vcop_orders': layouts(cls_of(clips, order_BxK.shape[1]))}


VCOP = sorts(orders.learn_whole, 'vcop_orders', VcopHead, orders.WHOLE_CHANCE)
