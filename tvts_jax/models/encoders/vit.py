"""The video encoder of the paper: a ViT over the visible tubelets, with attention over space and time at once.

Shapes: as in encoder.py.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from tvts_jax.models import layers
from tvts_jax.models.encoders import encoder

POSITIONS = {
  'learned': 'one for each place and one for each time slot, added',
  'sincos': 'fixed waves over the numbers of all tubelets, as VideoMAE has them',
}
POOLS = {
  'cls': 'the token [CLS]',
  'mean': 'the mean of all tokens, each normed',
  'norm_of_mean': 'the norm of the mean of all tokens, as VideoMAE is fine-tuned',
}
SORTS = {
  'tokens': 'all tokens, normed',
  'bare': 'the tokens of tubelets, not normed, as TVTSv2-H has it',
}


@dataclasses.dataclass(frozen=True)
class ViTConfig(encoder.VideoConfig):
  # What the weights of others ask for.
  pre_norm: bool = False  # A norm before the blocks.
  patch_bias: bool = True
  activation: str = 'gelu'
  eps: float = 1e-6  # Of the norms.
  positions: str = 'learned'
  pool: str = 'cls'  # What stands for the clip.
  sorts: str = 'tokens'  # What the sorter reads.

  SIZES: ClassVar[dict[str, dict]] = {
    'tiny': dict(width=64, depth=4, heads=4, patch=16),
    'S/16': dict(width=384, depth=12, heads=6, patch=16),
    'B/16': dict(width=768, depth=12, heads=12, patch=16),
    'L/16': dict(width=1024, depth=24, heads=16, patch=16),
    'H/14': dict(width=1280, depth=32, heads=16, patch=14),
    'g/14': dict(width=1408, depth=40, heads=16, patch=14),  # A billion parameters.
  }

  def __post_init__(self):
    super().__post_init__()
    for name, table in dict(activation=layers.ACTIVATIONS, positions=POSITIONS, pool=POOLS, sorts=SORTS).items():
      self.known(name, table)

  @property
  def timed(self) -> bool:
    """Whether time slots have learned positions."""
    return self.positions == 'learned'

  def module(self, **how) -> nn.Module:
    return ViT(self, **how)

  def block(self, initial, dtype, param_dtype) -> nn.Module:
    return layers.PreNormBlock(*self.block_settings(initial, dtype, param_dtype), parent=None)

  def block_settings(self, initial, dtype, param_dtype) -> tuple:
    return self.heads, self.mlp_ratio * self.width, initial, dtype, param_dtype, self.eps, self.activation

  def flops(self, visible: int) -> float:
    tokens = visible + (self.pool == 'cls')
    return layers.flops_of_blocks(tokens, self.width, self.mlp_ratio * self.width, self.depth)

  def resized(self, params, old: 'ViTConfig'):
    """Position embeddings by linear (time) and cubic (space) interpolation."""
    if self.positions != 'learned':
      return params
    D, old_grid, new_grid = self.width, old.image_size // old.patch, self.image_size // self.patch
    if (old_grid, old.slots) != (new_grid, self.slots):
      sizes = old.frames, old.image_size, self.frames, self.image_size
      logging.info('positions of %d frames of %d pixels are resized to those of %d frames of %d pixels', *sizes)
    space_SxD = params['space_position']
    if new_grid != old_grid:
      space_YxXxD = space_SxD.reshape(old_grid, old_grid, D)
      space_SxD = self.resize(space_YxXxD, (new_grid, new_grid, D), 'cubic').reshape(-1, D)
    resized = {'space_position': space_SxD}
    if self.timed:
      resized['time_position'] = params['time_position']
      if self.slots != old.slots:
        resized['time_position'] = self.resize(params['time_position'], (self.slots, D), 'linear')
    return {**params, **resized}

  def resize(self, table, shape, method: str):
    return jax.image.resize(table, shape, method)


def sincos(config: ViTConfig) -> np.ndarray:
  """[T·S, D], the sine and the cosine by turns, of ever longer waves over the number of a tubelet."""
  wave_D = np.arange(config.width) // 2 * 2 / config.width
  angle_NxD = np.arange(config.slots * config.places)[:, None] / 10000**wave_D
  return np.where(np.arange(config.width) % 2, np.cos(angle_NxD), np.sin(angle_NxD)).astype(np.float32)


class ViT(layers.Module):
  """The visible tubelets → their tokens after the final norm, [B, 1+N, D], behind one for the clip."""

  config: ViTConfig
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  scan: bool = True
  remat: str = 'none'
  start: layers.Start = layers.Start()

  def setup(self):
    config, start, D = self.config, self.start, self.config.width
    types = (self.dtype, self.param_dtype)
    normal = lambda std: nn.initializers.normal(std, self.param_dtype)
    self.embedding = encoder.Embedding(config, start.cubes, *types, config.patch_bias, name='embed')
    if config.pool == 'cls':
      self.cls = self.param('cls', normal(0.02), (D,))
    if config.positions == 'learned':
      self.space_position = self.param('space_position', normal(start.space), (config.places, D))
      if config.pool == 'cls':
        self.cls_position = self.param('cls_position', normal(0.02), (D,))
    if config.timed:
      self.time_position = self.param('time_position', normal(start.time), (config.slots, D))
    if config.pre_norm:
      self.pre_norm = layers.LayerNorm(config.eps, *types, name='pre_norm')
    self.block = config.block(start.blocks, *types)
    self.blocks = self.param('blocks', layers.init_blocks, self.block, config.depth, D)
    self.norm = layers.LayerNorm(config.eps, *types, name='norm')

  def embed(self, patches_BxNxP, positions_BxN):
    """Tokens with their positions, [B, N, D], and [CLS] if any before them. Masked tubelets never come here, so they
    cost nothing."""
    config, tokens_BxNxD = self.config, self.embedding(patches_BxNxP)
    # A position outside the grid reads NaN, which the loss shows at once, and not its neighbour's embedding.
    look_up = lambda table, index: jnp.take(table, index, axis=0, mode='fill').astype(self.dtype)
    if config.positions == 'sincos':
      tokens_BxNxD += look_up(jnp.asarray(sincos(config), self.param_dtype), positions_BxN)
    else:
      tokens_BxNxD += look_up(self.space_position, positions_BxN % config.places)
    if config.timed:
      tokens_BxNxD += look_up(self.time_position, positions_BxN // config.places)
    if config.pool != 'cls':
      return tokens_BxNxD
    cls_D = self.cls + self.cls_position if config.positions == 'learned' else self.cls
    cls_Bx1xD = jnp.broadcast_to(cls_D.astype(self.dtype), (tokens_BxNxD.shape[0], 1, config.width))
    return jnp.concatenate([cls_Bx1xD, tokens_BxNxD], axis=1)

  def __call__(self, patches_BxNxP, positions_BxN, train: bool = False, slots: int | None = None):
    block = self.block_of(slots or self.config.slots, positions_BxN.shape[1])
    x_BxNxD = self.embed(patches_BxNxP, positions_BxN)
    if self.config.pre_norm:
      x_BxNxD = self.pre_norm(x_BxNxD)
    return self.pooled(self.run(block, x_BxNxD, train))

  def block_of(self, slots: int, tubelets: int) -> nn.Module:
    """The block for so many tubelets of so many time slots."""
    del slots, tubelets
    return self.block

  def run(self, block: nn.Module, x_BxNxD, train: bool):
    dropped = {}
    if train and self.config.drop_path:
      drop_L = np.linspace(0, self.config.drop_path, self.config.depth, dtype=np.float32)
      dropped = {'rng': self.make_rng('dropout'), 'drop_L': drop_L}
    return layers.apply_blocks(
      block,
      self.blocks,
      x_BxNxD,
      train=train,
      scan=self.scan,
      remat=self.remat,
      initializing=self.is_initializing(),
      **dropped,
    )

  def pooled(self, x_BxNxD):
    """Tokens behind the one that stands for the clip, and what the sorter reads."""
    pool = self.config.pool
    bare_BxNxD = x_BxNxD[:, 1:] if pool == 'cls' else x_BxNxD
    tokens_BxVxD = x_BxNxD if pool == 'norm_of_mean' else self.norm(x_BxNxD)
    if pool != 'cls':
      mean_Bx1xD = tokens_BxVxD.mean(axis=1, keepdims=True)
      mean_Bx1xD = self.norm(mean_Bx1xD) if pool == 'norm_of_mean' else mean_Bx1xD
      tokens_BxVxD = jnp.concatenate([mean_Bx1xD, tokens_BxVxD], axis=1)
    return tokens_BxVxD, bare_BxNxD if self.config.sorts == 'bare' else tokens_BxVxD


class SlottedViT(ViT):
  """One whose blocks need as many tubelets in each time slot."""

  def block_of(self, slots: int, tubelets: int) -> nn.Module:
    encoder.check_slots(slots, tubelets)
    return self.block.clone(slots=slots)
