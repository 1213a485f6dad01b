"""SVT (Ranasinghe et al., 2022): views of one clip learn to look alike, to a teacher that follows the student.

Two views hold the whole clip in time and most of it in space, the others an eighth of its time and a small part of its
space. The student sees all of them, the teacher, which is the running mean of the student's parameters, the first two;
the student learns what the teacher gives of the other view. Views are cut on the device, out of the batch: those of a
part have the frames that the clip has of it, where SVT's code decodes as many of a part as of the whole.

Shapes: B clips, T time slots, F frames, S places, P pixel values of a tubelet, V views, R = B·V, C prototypes.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.encoders.encoder import VideoConfig, patchify
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.objectives.objective import Objective

WHOLE = 2  # Views of the whole clip.
# Of views of the whole, and of a part: shares of the frame's area.
WHOLE_AREA, PART_AREA, ASPECT = (0.4, 1.0), (0.05, 0.4), (3 / 4, 4 / 3)
PART_TIME, PART_SIDE = 1 / 8, 96 / 224  # Of a clip's.
# How colours of a view change: the share of views that do, and how far; the share that turns grey.
CHANGED, BRIGHTNESS, CONTRAST, SATURATION, GREY = 0.8, 0.4, 0.4, 0.2, 0.2
LUMA = (0.299, 0.587, 0.114)


def svt(outputs, batch, *, temperature: float = 0.1, teacher_temperature: float = 0.04):
  """Cross-entropy of what the student gives of each view, toward what the teacher gives of another."""
  taught_BxWxC = jax.nn.softmax(batch['teacher/svt_whole'] / teacher_temperature)
  given_BxVxC = jnp.concatenate([outputs['svt_whole'], outputs['svt_parts']], axis=1) / temperature
  entropy_WxV = -jnp.einsum('bwc,bvc->wv', taught_BxWxC, jax.nn.log_softmax(given_BxVxC)) / len(given_BxVxC)
  other_WxV = ~np.eye(*entropy_WxV.shape, dtype=bool)
  mean_C = taught_BxWxC.mean(axis=(0, 1))
  # One prototype, or all alike: the teacher says nothing of a clip.
  metrics = {'sharpness': taught_BxWxC.max(axis=-1).mean(), 'prototypes': jnp.exp(jax.scipy.special.entr(mean_C).sum())}
  return jnp.where(other_WxV, entropy_WxV, 0.0).sum() / other_WxV.sum(), metrics


def check(settings) -> str | None:
  if settings['parts'] < 0:
    return f'parts={settings["parts"]} is a number of views: at least 0'
  for name in ('temperature', 'teacher_temperature'):
    if settings[name] <= 0:
      return f'{name}={settings[name]} must be above 0'
  return None


def frames_of(patches_BxNxP, config: VideoConfig):
  """The frames of whole clips, uint8 [B, F, Y, X, 3]."""
  if patches_BxNxP.shape[1] != config.slots * config.places:
    raise UserError(
      f'objective svt cuts its views out of whole clips of {config.slots * config.places} tubelets, and these have '
      f'{patches_BxNxP.shape[1]}; set input.mask_ratio=0 and leave input.keep out'
    )
  p, side = config.patch, config.image_size // config.patch
  sizes = dict(h=side, w=side, u=config.tubelet, p=p, q=p)
  return rearrange(patches_BxNxP, 'b (t h w) (u p q c) -> b (t u) (h p) (w q) c', **sizes)


def view(key, frames_FxYxXx3, side: int, area: tuple[float, float], flip: bool, colours: bool):
  """A random part of all frames, scaled to a square and changed alike, uint8 [F, side, side, 3]."""
  F, Y, X, _ = frames_FxYxXx3.shape
  of_area, of_aspect, of_top, of_left, of_flip, of_colours = jax.random.split(key, 6)
  share = jax.random.uniform(of_area, minval=area[0], maxval=area[1])
  aspect = jnp.exp(jax.random.uniform(of_aspect, minval=math.log(ASPECT[0]), maxval=math.log(ASPECT[1])))
  size_2 = jnp.minimum(jnp.sqrt(share * Y * X * jnp.stack([1 / aspect, aspect])), jnp.array([Y, X], jnp.float32))
  corner_2 = jnp.stack([jax.random.uniform(of_top), jax.random.uniform(of_left)]) * (jnp.array([Y, X]) - size_2)
  scale_2 = side / size_2
  made = jax.image.scale_and_translate(
    frames_FxYxXx3.astype(jnp.float32), (F, side, side, 3), (1, 2), scale_2, -corner_2 * scale_2, 'cubic'
  )
  if flip:
    made = jnp.where(jax.random.bernoulli(of_flip), made[:, :, ::-1], made)
  if colours:
    made = changed(of_colours, made)
  return made.round().clip(0, 255).astype(jnp.uint8)


def changed(key, frames_FxYxXx3):
  """Brightness, contrast and saturation of some, by factors around one, and others in grey."""
  *factors, which, grey = jax.random.split(key, 5)
  amounts = BRIGHTNESS, CONTRAST, SATURATION
  light, contrast, colour = (jax.random.uniform(k, minval=1 - a, maxval=1 + a) for k, a in zip(factors, amounts))
  luma = lambda x: jnp.einsum('fyxc,c->fyx', x, jnp.array(LUMA))[..., None]
  made = frames_FxYxXx3 * light
  middle = luma(made).mean()
  made = middle + contrast * (made - middle)
  made = luma(made) + colour * (made - luma(made))
  made = jnp.where(jax.random.bernoulli(which, CHANGED), made, frames_FxYxXx3).clip(0, 255)
  return jnp.where(jax.random.bernoulli(grey, GREY), luma(made), made)


def places_of(slots: int, side: int, config: VideoConfig) -> np.ndarray:
  """The position of each tubelet of a view, [slots · side²]: the nearest of those of a whole clip."""
  grid = config.image_size // config.patch
  time_t, place_s = np.arange(slots) * config.slots // slots, np.arange(side) * grid // side
  return (time_t[:, None, None] * config.places + place_s[:, None] * grid + place_s).ravel().astype(np.int32)


class Views(nn.Module):
  """Encodes the views of each clip, and compares each with prototypes, behind an MLP, as DINO does."""

  config: TVTSConfig
  parts: int = 8  # Views of a part of the clip.
  prototypes: int = 65536
  hidden: int = 2048
  bottleneck: int = 256
  flip: bool = True
  colours: bool = True

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train):
    video = self.config.video
    frames_BxFxYxXx3 = frames_of(batch['patches'], video)
    key = self.make_rng('dropout') if self.has_rng('dropout') else jax.random.key(0)
    of_whole, of_parts = jax.random.split(key)
    slots, side = max(1, round(video.slots * PART_TIME)), max(1, round(video.image_size // video.patch * PART_SIDE))
    compare = Comparison(self.config, self.prototypes, self.hidden, self.bottleneck, name='compare')

    def look(key, count: int, slots: int, side: int, area):
      B, F = frames_BxFxYxXx3.shape[0], slots * video.tubelet

      def one(key, frames_FxYxXx3):
        of_time, of_space = jax.random.split(key)
        first = jax.random.randint(of_time, (), 0, video.slots - slots + 1) * video.tubelet
        cut = jax.lax.dynamic_slice_in_dim(frames_FxYxXx3, first, F)
        return view(of_space, cut, side * video.patch, area, self.flip, self.colours)

      keys_BxV = jax.random.split(key, (B, count))
      frames_BxVxFxYxXx3 = jax.vmap(jax.vmap(one, (0, None)))(keys_BxV, frames_BxFxYxXx3)
      patches_RxNxP = patchify(rearrange(frames_BxVxFxYxXx3, 'b v ... -> (b v) ...'), video)
      positions_RxN = repeat(jnp.asarray(places_of(slots, side, video)), 'n -> r n', r=B * count)
      cls_RxD = encode_video(patches_RxNxP, positions_RxN, train, slots)['video_tokens'][:, 0]
      return rearrange(compare(cls_RxD), '(b v) c -> b v c', b=B)

    grid = video.image_size // video.patch
    whole_BxWxC = look(of_whole, WHOLE, video.slots, grid, WHOLE_AREA)
    if not self.parts:
      return {'svt_whole': whole_BxWxC, 'svt_parts': whole_BxWxC[:, :0]}
    return {'svt_whole': whole_BxWxC, 'svt_parts': look(of_parts, self.parts, slots, side, PART_AREA)}


class Comparison(nn.Module):
  config: TVTSConfig
  prototypes: int
  hidden: int
  bottleneck: int

  @nn.compact
  def __call__(self, x_RxD):
    """Cosines with the prototypes, float32 [R, C]."""
    types = [self.config.how[name] for name in ('dtype', 'param_dtype')]
    linear = lambda width, i: layers.Linear(width, layers.normal_init, *types, name=f'mlp{i}')
    x_RxD = linear(self.hidden, 0)(x_RxD)
    for i, width in enumerate((self.hidden, self.bottleneck), start=1):
      x_RxD = linear(width, i)(layers.gelu(x_RxD))
    table_DxC = self.param('prototypes', nn.initializers.normal(), (self.bottleneck, self.prototypes), types[1])
    unit = lambda x, axis: x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)
    x_RxD = unit(x_RxD.astype(layers.wide(x_RxD.dtype)), -1)
    low = (x.astype(types[0]) for x in (x_RxD, unit(table_DxC, 0)))
    return jnp.matmul(*low, preferred_element_type=x_RxD.dtype)


SVT = Objective(svt, ('svt_whole', 'svt_parts'), head=Views, taught=('svt_whole',), even=True, check=check)
