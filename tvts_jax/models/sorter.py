"""The sort transformer: where in the true order does each transcript belong?

Shapes: B clips, V video tokens, K transcripts, D width of the video tokens.
Text tokens carry no position: any would give the answer away. So permuted transcripts give permuted logits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvts_jax.models import layers


class Sorter(layers.Module):
  transcripts: int  # K.
  width: int
  heads: int
  depth: int = 2
  mlp_ratio: int = 4
  stop_gradient: bool = True  # Toward the text features: else the text encoder learns to sort by itself.
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  scan: bool = True
  remat: str = 'none'
  start: layers.Start = layers.Start()

  def setup(self):
    types = (self.dtype, self.param_dtype)
    linear = lambda features, name: layers.Linear(features, self.start.sorter, *types, name=name)
    zeros = nn.initializers.zeros
    self.text_type = self.param('text_type', zeros, (self.width,), self.param_dtype)
    self.video_type = self.param('video_type', zeros, (self.width,), self.param_dtype)
    self.text_in = linear(self.width, 'text_in')  # Has parameters only where the two widths differ.
    self.block = layers.PreNormBlock(self.heads, self.mlp_ratio * self.width, self.start.sorter, *types, parent=None)
    self.blocks = self.param('blocks', layers.init_blocks, self.block, self.depth, self.width)
    self.norm = layers.LayerNorm(1e-6, *types, name='norm')
    self.head = linear(self.transcripts, 'head')

  def embed(self, video_BxVxD, text_BxKxE):
    """Text tokens, then video tokens, each with its type embedding, [B, K+V, D]."""
    if self.stop_gradient:
      text_BxKxE = jax.lax.stop_gradient(text_BxKxE)
    text_BxKxD = text_BxKxE if text_BxKxE.shape[-1] == self.width else self.text_in(text_BxKxE)
    types = [jnp.broadcast_to(t.astype(self.dtype), (1, 1, self.width)) for t in (self.text_type, self.video_type)]
    return jnp.concatenate([text_BxKxD + types[0], video_BxVxD + types[1]], axis=1)

  def tokens(self, video_BxVxD, text_BxKxE, train: bool = False):
    """What it makes of each transcript given, [B, K, D], for whatever tells an order from that."""
    x_BxKxD = layers.apply_blocks(
      self.block,
      self.blocks,
      self.embed(video_BxVxD, text_BxKxE),
      read=text_BxKxE.shape[1],  # Nothing reads the video tokens.
      train=train,
      scan=self.scan,
      remat=self.remat,
      initializing=self.is_initializing(),
    )
    return self.norm(x_BxKxD)

  def place(self, x_BxKxD):
    """[B, K, K]: row i holds the logits of the places that the i-th transcript given may have."""
    return self.head(x_BxKxD).astype(layers.wide(self.dtype))
