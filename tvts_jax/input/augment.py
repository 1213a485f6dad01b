"""Random changes to the pixels of whole clips, alike in all frames: RandAugment, mirroring and erasing.

A clip is uint8 [M, H, W, 3]: M frames of red, green and blue. RandAugment is what timm calls rand-m7-n4-mstd0.5-inc1
and VideoMAE trains with, but for two things: it comes behind the crop, where there are fewer pixels to change, and what
an operation must know of the colours it takes from the whole clip, so that brightness that changes with time still
does.
"""

import functools
import math

import cv2
import numpy as np

from tvts_jax.shards.rng import generator

cv2.setNumThreads(1)  # The pipeline has a thread for each core already.

STREAM = 7  # Of rng.generator: a clip is cropped and cut into frames by the same numbers, augmented or not.
GREY = (128, 128, 128)  # Where a moved picture has left nothing.
SPREAD = 0.5  # Standard deviation of the magnitude of an operation.
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
# Of an erased box: shares of the picture, height over width, and the mean and deviation of the noise in it, which are
# about those of ImageNet.
ERASED_AREA, ERASED_ASPECT, NOISE = (0.02, 1 / 3), (0.3, 1 / 0.3), (116.0, 58.0)


def augment(clip, config, epoch: int, example: int):
  """All that an InputConfig asks for, drawn anew in every epoch."""
  rng = generator(config.seed, epoch=epoch, example=example, stream=STREAM)
  if config.rand_augment:
    clip = rand_augment(clip, config.rand_augment, config.magnitude, rng)
  if config.flip and rng.random() < 0.5:
    clip = clip[:, :, ::-1]
  if rng.random() < config.erase:
    clip = erase(clip, rng)
  return np.ascontiguousarray(clip)


def rand_augment(clip, count: int, magnitude: float, rng: np.random.Generator):
  """`count` operations drawn with replacement, each left out half of the time; magnitude: from 0 to 10."""
  for name in rng.choice(list(OPERATIONS), count):
    level = min(max(rng.normal(magnitude, SPREAD), 0), 10) / 10
    sign = rng.choice((-1, 1))
    if rng.random() < 0.5:
      clip = OPERATIONS[name](clip, sign * level)
  return clip


def erase(clip, rng: np.random.Generator):
  """One box, the same in all frames, gives way to noise."""
  M, H, W, _ = clip.shape
  area = rng.uniform(*ERASED_AREA) * H * W
  aspect = math.exp(rng.uniform(*map(math.log, ERASED_ASPECT)))
  h, w = min(H, round(math.sqrt(area * aspect))), min(W, round(math.sqrt(area / aspect)))
  top, left = rng.integers(H - h + 1), rng.integers(W - w + 1)
  mean, deviation = NOISE
  noise = mean + deviation * rng.standard_normal((M, h, w, 3), np.float32)
  clip = clip.copy()
  clip[:, top : top + h, left : left + w] = noise.round().clip(0, 255)
  return clip


def look_up(clip, table_256xC):
  """Every value becomes what the table has for it; C: 3, or 1 for all colours alike."""
  M, H, W, _ = clip.shape
  table_1x256x3 = np.broadcast_to(table_256xC.clip(0, 255).astype(np.uint8), (256, 3))[None]
  return cv2.LUT(clip.reshape(M * H, W, 3), np.ascontiguousarray(table_1x256x3)).reshape(clip.shape)


def blend(clip, other, level):
  """Away from `other` or toward it, as far as colour, contrast, brightness and sharpness go."""
  factor = 1 + 0.9 * level
  return cv2.addWeighted(clip.ravel(), factor, other.ravel(), 1 - factor, 0).reshape(clip.shape)


def warp(clip, to_xy):
  """Each pixel shows what was at to_xy(x, y), counted in pixels from the upper left corner of the picture."""
  _, H, W, _ = clip.shape
  origin, across, down = (np.array(to_xy(*xy)) for xy in ((0.5, 0.5), (1.5, 0.5), (0.5, 1.5)))
  matrix_2x3 = np.stack([across - origin, down - origin, origin - 0.5], axis=1)  # Of the centres of pixels.
  how = dict(flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)
  return np.stack([cv2.warpAffine(frame, matrix_2x3, (W, H), **how) for frame in clip])


VALUES_256x1 = np.arange(256)[:, None]


def auto_contrast(clip, level):
  """The darkest value of each colour becomes 0, the brightest 255."""
  low_3, high_3 = (found.astype(int) for found in (clip.min(0).min((0, 1)), clip.max(0).max((0, 1))))
  flat_3 = high_3 == low_3
  stretched_256x3 = (VALUES_256x1 - low_3[None]) * 255 // np.where(flat_3, 1, high_3 - low_3)[None]
  return look_up(clip, np.where(flat_3[None], VALUES_256x1, stretched_256x3))


def equalize(clip, level):
  """All values of each colour become about as frequent."""
  tables = []
  for colour in range(3):
    count_256 = np.bincount(clip[..., colour].ravel(), minlength=256)
    step = (count_256.sum() - count_256[count_256.nonzero()[0][-1]]) // 255
    below_256 = np.cumsum(count_256) - count_256
    tables.append((below_256 + step // 2) // step if step else np.arange(256))
  return look_up(clip, np.stack(tables, axis=1))


def posterize(clip, level):
  """Keeps the first 4 bits at level 0, none at 1."""
  kept = 4 - int(4 * abs(level))
  return look_up(clip, VALUES_256x1 & ~(0xFF >> kept))


def solarize(clip, level):
  """Inverts what is bright: nothing at level 0, all at 1."""
  return look_up(clip, np.where(VALUES_256x1 < 256 - int(256 * abs(level)), VALUES_256x1, 255 - VALUES_256x1))


def solarize_add(clip, level):
  """Brightens what is dark, by up to 110."""
  return look_up(clip, VALUES_256x1 + (VALUES_256x1 < 128) * int(110 * abs(level)))


def grey_of(clip):
  M, H, W, _ = clip.shape
  return cv2.cvtColor(clip.reshape(M * H, W, 3), cv2.COLOR_RGB2GRAY).reshape(M, H, W, 1)


def sharpness(clip, level):
  return blend(clip, np.stack([cv2.filter2D(frame, -1, SMOOTH) for frame in clip]), level)


def rotate(clip, level):
  """By up to 30 degrees about the middle."""
  _, H, W, _ = clip.shape
  cos, sin = math.cos(math.radians(30 * level)), math.sin(math.radians(30 * level))
  turn = lambda x, y: (cos * x - sin * y + W / 2, sin * x + cos * y + H / 2)
  return warp(clip, lambda x, y: turn(x - W / 2, y - H / 2))


def shear(clip, level, x_by_y: bool):
  tilt = 0.3 * level
  return warp(clip, lambda x, y: (x + tilt * y, y) if x_by_y else (x, y + tilt * x))


def translate(clip, level, along_x: bool):
  """By up to 45 % of the picture."""
  _, H, W, _ = clip.shape
  return warp(clip, lambda x, y: (x + 0.45 * level * W, y) if along_x else (x, y + 0.45 * level * H))


# (clip, level) → clip; the sign of the level, which is from -1 to 1, means something only where there are two ways.
OPERATIONS = {
  'auto_contrast': auto_contrast,
  'equalize': equalize,
  'invert': lambda clip, level: 255 - clip,
  'rotate': rotate,
  'posterize': posterize,
  'solarize': solarize,
  'solarize_add': solarize_add,
  'colour': lambda clip, level: blend(clip, np.repeat(grey_of(clip), 3, axis=-1), level),
  'contrast': lambda clip, level: blend(clip, np.full_like(clip, round(grey_of(clip).mean())), level),
  'brightness': lambda clip, level: blend(clip, np.zeros_like(clip), level),
  'sharpness': sharpness,
  'shear_x': functools.partial(shear, x_by_y=True),
  'shear_y': functools.partial(shear, x_by_y=False),
  'translate_x': functools.partial(translate, along_x=True),
  'translate_y': functools.partial(translate, along_x=False),
}
