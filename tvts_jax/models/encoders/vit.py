"""The video encoder: a ViT over the visible tubelets of a clip, with joint space-time attention.

Shapes: B clips, T time slots (frames / tubelet), S places of the spatial grid, N visible tubelets, P pixel
values of a tubelet, D width. A tubelet's position is t·S + s, and its pixels lie in the order (frame, y, x, channel).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from einops import rearrange

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.roles import setting

# Width, depth, heads and patch of each size by name.
SIZES = {
  'tiny': dict(width=64, depth=4, heads=4, patch=16),
  'S/16': dict(width=384, depth=12, heads=6, patch=16),
  'B/16': dict(width=768, depth=12, heads=12, patch=16),
  'L/16': dict(width=1024, depth=24, heads=16, patch=16),
  'H/14': dict(width=1280, depth=32, heads=16, patch=14),
  'g/14': dict(width=1408, depth=40, heads=16, patch=14),  # A billion parameters.
}

# The statistics of ImageNet, channels red, green, blue, of pixels in [0, 1].
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
MIDDLE = 128  # Of raw pixels, about.


@dataclasses.dataclass(frozen=True)
class VideoConfig:
  width: int
  depth: int
  heads: int
  patch: int
  image_size: int = setting(224, 'loads')  # Positions are resized.
  frames: int = setting(16, 'loads')
  tubelet: int = 2
  mlp_ratio: int = 4
  # The share of clips that go past the attention, and past the MLP, of the last block in training; none do of the
  # first, and between them it rises evenly.
  drop_path: float = setting(0.0, 'loads')

  @classmethod
  def named(cls, size: str, **changes) -> 'VideoConfig':
    if size not in SIZES:
      raise UserError(f'video.size={size!r} is unknown; known sizes: {", ".join(SIZES)}')
    return cls(**{**SIZES[size], **changes})

  def __post_init__(self):
    for big, small in (('image_size', 'patch'), ('frames', 'tubelet'), ('width', 'heads')):
      if getattr(self, big) % getattr(self, small) or getattr(self, big) < 1:
        raise UserError(
          f'video.{big}={getattr(self, big)} is not a multiple of video.{small}={getattr(self, small)}; '
          f'change one of the two'
        )
    if not 0 <= self.drop_path < 1:
      raise UserError(f'video.drop_path={self.drop_path} must be at least 0 and below 1')

  @property
  def slots(self) -> int:
    """T, the number of time slots."""
    return self.frames // self.tubelet

  @property
  def places(self) -> int:
    """S, the number of places of the spatial grid."""
    return (self.image_size // self.patch) ** 2

  @property
  def pixels(self) -> int:
    """P, the number of pixel values of one tubelet."""
    return self.tubelet * self.patch**2 * 3


def patchify(video_BxFxYxXx3, config: VideoConfig):
  """All tubelets of a clip, [B, T·S, P]; F frames of Y×X pixels."""
  sizes = dict(u=config.tubelet, p=config.patch, q=config.patch)
  return rearrange(video_BxFxYxXx3, 'b (t u) (h p) (w q) c -> b (t h w) (u p q c)', **sizes)


def normalise(patches_BxNxP):
  """Raw uint8 pixels → zero mean and unit variance, float32. Floats are taken as normalised already."""
  if patches_BxNxP.dtype != jnp.uint8:
    return patches_BxNxP
  colours = jnp.arange(patches_BxNxP.shape[-1]) % 3
  mean_P = jnp.take(jnp.array(PIXEL_MEAN, jnp.float32), colours)
  std_P = jnp.take(jnp.array(PIXEL_STD, jnp.float32), colours)
  return (patches_BxNxP.astype(jnp.float32) / 255 - mean_P[None, None]) / std_P[None, None]


def folded(kernel_PxD, bias_D):
  """Weights that make of pixels - MIDDLE what the given ones make of normalised pixels.

  Pixels around zero are exact in bfloat16, and rounding the weights costs no more there than it does with normalised
  ones: the mean of a picture would multiply it.
  """
  colours = np.arange(kernel_PxD.shape[0]) % 3
  std_P, mean_P = (np.array(values)[colours].astype(kernel_PxD.dtype) for values in (PIXEL_STD, PIXEL_MEAN))
  return kernel_PxD / (255 * std_P)[:, None], bias_D + ((MIDDLE / 255 - mean_P) / std_P) @ kernel_PxD


class Embedding(layers.Module):
  """The projection of tubelets, as a linear layer over normalised pixels; raw ones, uint8, are normalised by it."""

  features: int
  initial: layers.Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, patches_BxNxP):
    P = patches_BxNxP.shape[-1]
    kernel_init, bias_init = self.initial(P)
    kernel_PxD = self.param('kernel', kernel_init, (P, self.features), self.param_dtype)
    bias_D = self.param('bias', bias_init, (self.features,), self.param_dtype)
    if patches_BxNxP.dtype == jnp.uint8:
      patches_BxNxP = patches_BxNxP.astype(self.dtype) - MIDDLE
      kernel_PxD, bias_D = folded(kernel_PxD, bias_D)
    return layers.affine(patches_BxNxP, kernel_PxD, bias_D, self.dtype)


class VideoEncoder(layers.Module):
  """[CLS] and the visible tubelets → their tokens, [B, 1+N, D], after the final norm."""

  config: VideoConfig
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  scan: bool = True
  remat: str = 'none'
  start: layers.Start = layers.Start()

  def setup(self):
    config, start, D = self.config, self.start, self.config.width
    types = (self.dtype, self.param_dtype)
    normal = lambda std: nn.initializers.normal(std, self.param_dtype)
    self.embedding = Embedding(D, start.cubes, *types, name='embed')
    self.cls = self.param('cls', normal(0.02), (D,))
    self.cls_position = self.param('cls_position', normal(0.02), (D,))
    self.space_position = self.param('space_position', normal(start.space), (config.places, D))
    self.time_position = self.param('time_position', normal(start.time), (config.slots, D))
    self.block = layers.PreNormBlock(config.heads, config.mlp_ratio * D, start.blocks, *types, parent=None)
    self.blocks = self.param('blocks', layers.init_blocks, self.block, config.depth, D)
    self.norm = layers.layer_norm(1e-6, *types, name='norm')

  def embed(self, patches_BxNxP, positions_BxN):
    """Tokens with their positions, [B, 1+N, D]. Masked tubelets never come here, so they cost nothing."""
    B, N, P = patches_BxNxP.shape
    if self.config.pixels != P:
      raise UserError(
        f'patches have {P} values each, but the model embeds tubelets of {self.config.tubelet} frames of '
        f'{self.config.patch}×{self.config.patch} pixels, which have {self.config.pixels}; '
        f'make the input with the same patch and tubelet'
      )
    if self.config.slots * self.config.places < N:
      raise UserError(
        f'{N} tubelets a clip do not fit {self.config.frames} frames of {self.config.image_size} pixels, which '
        f'have {self.config.slots * self.config.places}; resize the embeddings (models.video.resize_positions)'
      )
    tokens_BxNxD = self.embedding(patches_BxNxP)
    # A position outside the grid reads NaN, which the loss shows at once, and not its neighbour's embedding.
    look_up = lambda table, index: jnp.take(table, index, axis=0, mode='fill').astype(self.dtype)
    tokens_BxNxD += look_up(self.space_position, positions_BxN % self.config.places)
    tokens_BxNxD += look_up(self.time_position, positions_BxN // self.config.places)
    cls_D = (self.cls + self.cls_position).astype(self.dtype)
    return jnp.concatenate([jnp.broadcast_to(cls_D, (B, 1, cls_D.shape[0])), tokens_BxNxD], axis=1)

  def __call__(self, patches_BxNxP, positions_BxN, train: bool = False):
    x_BxNxD = self.embed(patches_BxNxP, positions_BxN)
    dropped = {}
    if train and self.config.drop_path:
      drop_L = np.linspace(0, self.config.drop_path, self.config.depth, dtype=np.float32)
      dropped = {'rng': self.make_rng('dropout'), 'drop_L': drop_L}
    x_BxNxD = layers.apply_blocks(
      self.block,
      self.blocks,
      x_BxNxD,
      train=train,
      scan=self.scan,
      remat=self.remat,
      initializing=self.is_initializing(),
      **dropped,
    )
    return self.norm(x_BxNxD)


def resize_positions(video_params, old: VideoConfig, new: VideoConfig):
  """Position embeddings for another clip length or resolution, by linear (time) and cubic (space) interpolation."""
  D = old.width
  old_grid, new_grid = old.image_size // old.patch, new.image_size // new.patch
  if (old_grid, old.slots) != (new_grid, new.slots):
    sizes = old.frames, old.image_size, new.frames, new.image_size
    logging.info('positions of %d frames of %d pixels are resized to those of %d frames of %d pixels', *sizes)
  space_SxD = video_params['space_position']
  if new_grid != old_grid:
    space_YxXxD = space_SxD.reshape(old_grid, old_grid, D)
    space_SxD = jax.image.resize(space_YxXxD, (new_grid, new_grid, D), 'cubic').reshape(-1, D)
  time_TxD = video_params['time_position']
  if new.slots != old.slots:
    time_TxD = jax.image.resize(time_TxD, (new.slots, D), 'linear')
  return {**video_params, 'space_position': space_SxD, 'time_position': time_TxD}
