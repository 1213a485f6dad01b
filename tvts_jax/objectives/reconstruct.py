"""Reconstruction of the pixels that are masked, as VideoMAE does it.

Shapes: B clips, N visible tubelets, M masked ones, G of them all, P pixel values of a tubelet, D width of the encoder,
E width of the decoder.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.objectives.objective import Objective


def reconstruct(outputs, batch):
  """Mean squared error of the masked pixels, each tubelet's normalised."""
  return outputs['reconstruct_error'].mean(), {}


def normalised(patches_BxMxP):
  """Each colour of each tubelet with mean 0 and variance 1, float32 [B, M, P]: what there is to see, not how bright."""
  colours_BxMxQx3 = rearrange(patches_BxMxP.astype(jnp.float32) / 255, 'b m (q c) -> b m q c', c=3)
  centred_BxMxQx3 = colours_BxMxQx3 - colours_BxMxQx3.mean(axis=2, keepdims=True)
  centred_BxMxQx3 /= jnp.std(colours_BxMxQx3, axis=2, ddof=1, keepdims=True) + 1e-6
  return rearrange(centred_BxMxQx3, 'b m q c -> b m (q c)')


def waves(count: int, width: int) -> np.ndarray:
  """Fixed positions, float32 [count, width]: sines of falling frequency at even columns, their cosines at odd ones."""
  column_E = np.arange(width)
  angle_GxE = np.arange(count)[:, None] / 10_000 ** (column_E // 2 * 2 / width)
  return np.where(column_E % 2, np.cos(angle_GxE), np.sin(angle_GxE)).astype(np.float32)


class Decoder(nn.Module):
  """A small transformer from the tokens of visible tubelets to the pixels of masked ones."""

  config: TVTSConfig
  depth: int = 4
  width: int | None = None  # Half that of the encoder. Its heads are as wide as those of the encoder.

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train):
    """The mean squared error of each clip, [B]: predictions themselves would be too large to keep."""
    config, how = self.config, self.config.how
    types = (how['dtype'], how['param_dtype'])
    D, E = config.video.width, self.width or config.video.width // 2
    heads, rest = divmod(E * config.video.heads, D)
    if rest or not heads:
      raise UserError(
        f'objectives.reconstruct.width={E} holds no whole heads of {D // config.video.heads}, the width of those of '
        'the video encoder; choose a multiple of that'
      )
    linear = lambda features, name: layers.Linear(features, how['start'].blocks, *types, name=name)
    block = layers.PreNormBlock(heads, 4 * E, how['start'].blocks, *types, parent=None)
    blocks = self.param('blocks', layers.init_blocks, block, self.depth, E)
    mask_E = self.param('mask', nn.initializers.normal(0.02), (E,), how['param_dtype'])
    table_GxE = jnp.asarray(waves(config.video.slots * config.video.places, E), how['dtype'])

    seen_BxNxE = linear(E, 'seen')(outputs['video_tokens'][:, 1:])
    seen_BxNxE += table_GxE[batch['positions']]
    hidden_BxMxE = mask_E.astype(how['dtype'])[None, None] + table_GxE[batch['masked_positions']]
    # Masked tubelets come first, for they alone are read.
    read, x_BxGxE = hidden_BxMxE.shape[1], jnp.concatenate([hidden_BxMxE, seen_BxNxE], axis=1)
    options = dict(train=train, scan=how['scan'], remat=how['remat'])
    x_BxMxE = layers.apply_blocks(block, blocks, x_BxGxE, read=read, **options)
    pixels_BxMxP = linear(config.video.pixels, 'pixels')(layers.LayerNorm(1e-6, *types, name='norm')(x_BxMxE))
    error_BxMxP = pixels_BxMxP.astype(layers.wide(how['dtype'])) - normalised(batch['masked_patches'])
    return {'reconstruct_error': jnp.square(error_BxMxP).mean(axis=(1, 2))}


RECONSTRUCT = Objective(reconstruct, ('reconstruct_error',), fields=('masked',), head=Decoder, even=True)
