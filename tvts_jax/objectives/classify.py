"""Recognition: which class does the clip belong to? The loss, and the head that is trained with it.

Shapes: B clips of the batch, N tubelets, P pixel values of one, D width of the video tokens, K classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.encoders.encoder import normalise
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.objectives.objective import Objective

# What stands for a clip.
POOLS = {
  'cls': '[CLS] after the last norm, as the code of TVTS has it',
  'mean': 'the mean of all other tokens, normed once more, as VideoMAE has it',
}


def check(settings) -> str | None:
  pool, classes, smoothing = (settings[name] for name in ('pool', 'classes', 'smoothing'))
  if not 0 <= smoothing < 1:
    return f'smoothing={smoothing!r} must be from 0 to below 1'
  if pool not in POOLS:
    return f'pool={pool!r} is unknown; known: {", ".join(POOLS)}'
  if type(classes) is not int or classes < 2:
    return f'classes={classes!r} must say how many classes there are'
  for name in ('mixup', 'cutmix'):
    if settings[name] < 0:
      return f'{name}={settings[name]!r} must be at least 0'
  if not 0 <= settings['switch'] <= 1:
    return f'switch={settings["switch"]!r} must be from 0 to 1'
  return None


def classify(outputs, batch, *, smoothing: float = 0.0):
  """Cross-entropy against soft targets, of which `smoothing` is spread evenly over all classes."""
  logits_BxK, targets_BxK = outputs['class_logits'], outputs['class_targets']
  smooth_BxK = (1 - smoothing) * targets_BxK + smoothing / targets_BxK.shape[1]
  loss = -(smooth_BxK * jax.nn.log_softmax(logits_BxK)).sum(-1).mean()
  return loss, {'top1': (logits_BxK.argmax(-1) == targets_BxK.argmax(-1)).mean()}


class Classifier(nn.Module):
  """Logits of all classes; in training of clips that are mixed with one another, and what each is a mixture of."""

  config: TVTSConfig
  classes: int = 0  # K.
  pool: str = 'cls'
  # Each clip is mixed with the one before it in the batch by one of two: by `mixup` all its pixels, in a proportion
  # drawn from Beta(mixup, mixup); by `cutmix` a box of it is replaced, whose share is drawn likewise. 0 leaves one out.
  # The one before is another at each step, for input/order.py deals the clips of a batch in random order. To draw a
  # partner here, each device would have to gather the global batch.
  mixup: float = 0.0
  cutmix: float = 0.0
  switch: float = 0.5  # The share of clips that are cut where there are both.

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train: bool = False):
    types = (jnp.dtype(self.config.dtype), jnp.dtype(self.config.param_dtype))
    tokens_BxVxD, targets_BxK = outputs['video_tokens'], None
    if train:
      targets_BxK = one_hot(batch['label'], self.classes)
      if self.mixup or self.cutmix:
        patches_BxNxP, share_B = self.mix(batch['patches'], batch['positions'])
        share_Bx1 = share_B[:, None]
        targets_BxK = share_Bx1 * targets_BxK + (1 - share_Bx1) * jnp.roll(targets_BxK, 1, axis=0)
        tokens_BxVxD = encode_video(patches_BxNxP, batch['positions'], train, None)['video_tokens']
    if self.pool == 'cls':
      pooled_BxD = tokens_BxVxD[:, 0]
    else:
      pooled_BxD = layers.LayerNorm(1e-6, *types, name='norm')(tokens_BxVxD[:, 1:].mean(axis=1))
    logits_BxK = layers.Linear(self.classes, layers.normal_init, *types, name='linear')(pooled_BxD)
    found = {'class_logits': logits_BxK.astype(layers.wide(logits_BxK.dtype))}
    return found if targets_BxK is None else {**found, 'class_targets': targets_BxK}

  def mix(self, patches_BxNxP, positions_BxN):
    """Pixels, normalised, and the share [B] of each clip in what it has become."""
    B, N, P = patches_BxNxP.shape
    video = self.config.video
    if video.slots * video.places != N:
      raise UserError(
        f'objectives.classify mixes whole clips of {video.slots * video.places} tubelets, and these have {N}; set '
        'input.mask_ratio=0 and as many frames as the model has, or mixup=0 and cutmix=0'
      )
    which, mixes, sizes, places = jax.random.split(self.make_rng('dropout'), 4)
    share = lambda key, of: jax.random.beta(key, of, of, (B,)) if of else jnp.ones(B)
    cut_B = jax.random.bernoulli(which, self.switch if self.mixup and self.cutmix else float(not self.mixup), (B,))
    box_Bx4 = boxes(places, share(sizes, self.cutmix), video.image_size)
    inside_BxNxP = in_box(box_Bx4, positions_BxN, video)
    area_B = (box_Bx4[:, 1] - box_Bx4[:, 0]) * (box_Bx4[:, 3] - box_Bx4[:, 2]) / video.image_size**2
    share_B = share(mixes, self.mixup)
    own_BxNxP = jnp.where(cut_B[:, None, None], ~inside_BxNxP, share_B[:, None, None])
    pixels_BxNxP = normalise(patches_BxNxP, video)
    mixed_BxNxP = own_BxNxP * pixels_BxNxP + (1 - own_BxNxP) * jnp.roll(pixels_BxNxP, 1, axis=0)
    return mixed_BxNxP, jnp.where(cut_B, 1 - area_B, share_B)


CLASSIFY = Objective(classify, ('class_logits', 'class_targets'), fields=('label',), head=Classifier, check=check)


def one_hot(label_B, classes: int):
  """[B, K]. A label beyond the classes reads NaN, which the loss shows at once."""
  known_Bx1 = (label_B[:, None] >= 0) & (label_B[:, None] < classes)
  return jnp.where(known_Bx1, jax.nn.one_hot(label_B, classes), jnp.nan)


def boxes(rng, share_B, side: int):
  """Top, bottom, left, right in pixels, [B, 4], of squares of 1 - share of a picture; what is outside is cut off."""
  B, half_B = share_B.shape[0], side * jnp.sqrt(1 - share_B) / 2
  centre_Bx2 = jax.random.randint(rng, (B, 2), 0, side)
  low_Bx2 = jnp.round(centre_Bx2 - half_B[:, None]).clip(0, side)
  high_Bx2 = jnp.round(centre_Bx2 + half_B[:, None]).clip(0, side)
  return jnp.stack([low_Bx2[:, 0], high_Bx2[:, 0], low_Bx2[:, 1], high_Bx2[:, 1]], axis=1)


def in_box(box_Bx4, positions_BxN, video):
  """Whether each pixel value lies in the box, bool [B, N, P]; it is the same box in all frames."""
  patch, wide = video.patch, video.image_size // video.patch
  pixel_P = jnp.arange(video.pixels) // 3
  place_BxN = positions_BxN % video.places
  y_BxNxP = (place_BxN // wide * patch)[:, :, None] + (pixel_P // patch % patch)[None, None]
  x_BxNxP = (place_BxN % wide * patch)[:, :, None] + (pixel_P % patch)[None, None]
  top, bottom, left, right = (box_Bx4[:, side, None, None] for side in range(4))
  return (top <= y_BxNxP) & (y_BxNxP < bottom) & (left <= x_BxNxP) & (x_BxNxP < right)
