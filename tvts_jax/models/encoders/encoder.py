"""What all video encoders share, and all that the code above asks of one: it never tests for a name.

A new encoder is a file beside this one and a line in ENCODERS of models/tvts.py. The file has a VideoConfig, whose
`module` is called with (patches [B, N, P], positions [B, N], train, slots) and gives two arrays: tokens [B, 1+N, D],
the first of which stands for the whole clip, and those that the sorter reads, which may be the same. `slots` is None,
or the number of time slots that the tubelets fill, if they are a part of a clip. Its blocks are stacked in `blocks`,
and `norm` stands behind them: learning rates by layer go by these two names, and what has another stands before the
blocks.

Shapes: B clips, N visible tubelets, P pixel values of a tubelet, D width, T time slots, S places of the spatial grid. A
tubelet's position is t·S + s, and its pixels lie in the order (frame, y, x, channel).
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.roles import setting

MIDDLE = 128  # Of raw pixels, about.

# Mean and standard deviation of red, green and blue, in [0, 1], that weights are made for.
STATISTICS = {
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  'clip': ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
  'slowfast': ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
  'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


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
  statistics: str = 'imagenet'  # Of pixels; one of STATISTICS.

  SAME_PLACES: ClassVar[bool] = False  # Whether all time slots must show the same places: mask='tube', or none.
  SIZES: ClassVar[dict[str, dict]] = {}  # Settings by the names of sizes.

  @classmethod
  def named(cls, size: str, **changes) -> 'VideoConfig':
    if size not in cls.SIZES:
      raise UserError(f'video.size={size!r} is unknown; known sizes: {", ".join(cls.SIZES)}')
    return cls(**{**cls.SIZES[size], **changes})

  def __post_init__(self):
    for big, small in (('image_size', 'patch'), ('frames', 'tubelet'), ('width', 'heads')):
      if getattr(self, big) % getattr(self, small) or getattr(self, big) < 1:
        raise UserError(
          f'video.{big}={getattr(self, big)} is not a multiple of video.{small}={getattr(self, small)}; '
          f'change one of the two'
        )
    if not 0 <= self.drop_path < 1:
      raise UserError(f'video.drop_path={self.drop_path} must be at least 0 and below 1')
    self.known('statistics', STATISTICS)

  def known(self, name: str, table) -> None:
    if getattr(self, name) not in table:
      raise UserError(f'video.{name}={getattr(self, name)!r} is unknown; known: {", ".join(table)}')

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

  @property
  def pixel_mean(self) -> tuple[float, ...]:
    return STATISTICS[self.statistics][0]

  @property
  def pixel_std(self) -> tuple[float, ...]:
    return STATISTICS[self.statistics][1]

  def module(self, **how) -> nn.Module:
    """The Flax module. how: as TVTSConfig.how."""
    raise NotImplementedError

  def flops(self, visible: int) -> float:
    """Forward FLOPs of a clip, behind the projection of its tubelets."""
    raise NotImplementedError

  def resized(self, params, old: 'VideoConfig'):
    """Parameters of `old`, a config for another clip length or image size, as those of this one."""
    raise NotImplementedError

  def shapes(self):
    """The shape and type of each parameter."""
    clip = jnp.zeros((1, self.slots, self.pixels), jnp.uint8), jnp.zeros((1, self.slots), jnp.int32)
    return jax.eval_shape(self.module().init, jax.random.key(0), *clip)['params']


def patchify(video_BxFxYxXx3, config: VideoConfig):
  """All tubelets of a clip, [B, T·S, P]; F frames of Y×X pixels."""
  sizes = dict(u=config.tubelet, p=config.patch, q=config.patch)
  return rearrange(video_BxFxYxXx3, 'b (t u) (h p) (w q) c -> b (t h w) (u p q c)', **sizes)


def normalise(patches_BxNxP, config: VideoConfig):
  """Raw uint8 pixels → zero mean and unit variance, float32. Floats are taken as normalised already."""
  if patches_BxNxP.dtype != jnp.uint8:
    return patches_BxNxP
  colours = jnp.arange(patches_BxNxP.shape[-1]) % 3
  mean_P = jnp.take(jnp.array(config.pixel_mean, jnp.float32), colours)
  std_P = jnp.take(jnp.array(config.pixel_std, jnp.float32), colours)
  return (patches_BxNxP.astype(jnp.float32) / 255 - mean_P[None, None]) / std_P[None, None]


def folded(kernel_PxD, bias_D, config: VideoConfig):
  """Weights that make of pixels - MIDDLE what the given ones make of normalised pixels.

  Pixels around zero are exact in bfloat16, and rounding the weights costs no more there than it does with normalised
  ones: the mean of a picture would multiply it.
  """
  colours = np.arange(kernel_PxD.shape[0]) % 3
  of_pixel = lambda values: np.array(values)[colours].astype(kernel_PxD.dtype)
  std_P, mean_P = of_pixel(config.pixel_std), of_pixel(config.pixel_mean)
  return kernel_PxD / (255 * std_P)[:, None], bias_D + ((MIDDLE / 255 - mean_P) / std_P) @ kernel_PxD


def check_slots(slots: int, tubelets: int) -> None:
  """UserError unless all time slots may have as many tubelets."""
  if tubelets % slots:
    raise UserError(
      f'{tubelets} tubelets are not as many in each of {slots} time slots, which this encoder needs; set '
      f'input.mask="tube" and model.video.frames to those of the clips'
    )


class Embedding(layers.Module):
  """The projection of tubelets, as a linear layer over normalised pixels; raw ones, uint8, are normalised by it."""

  config: VideoConfig
  initial: layers.Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype
  biased: bool = True

  @nn.compact
  def __call__(self, patches_BxNxP):
    config, (N, P) = self.config, patches_BxNxP.shape[1:]
    if config.pixels != P:
      raise UserError(
        f'patches have {P} values each, but the model embeds tubelets of {config.tubelet} frames of '
        f'{config.patch}×{config.patch} pixels, which have {config.pixels}; make the input with the same patch and '
        f'tubelet'
      )
    if config.slots * config.places < N:
      raise UserError(
        f'{N} tubelets a clip do not fit {config.frames} frames of {config.image_size} pixels, which have '
        f'{config.slots * config.places}; resize the embeddings (VideoConfig.resized)'
      )
    kernel_init, bias_init = self.initial(P)
    kernel_PxD = self.param('kernel', kernel_init, (P, config.width), self.param_dtype)
    bias_D = jnp.zeros(config.width, self.param_dtype)
    if self.biased:
      bias_D = self.param('bias', bias_init, (config.width,), self.param_dtype)
    if patches_BxNxP.dtype == jnp.uint8:
      patches_BxNxP = patches_BxNxP.astype(self.dtype) - MIDDLE
      kernel_PxD, bias_D = folded(kernel_PxD, bias_D, config)
    return layers.affine(patches_BxNxP, kernel_PxD, bias_D, self.dtype)
