"""The geometry of a model out of the shapes of its weights. Heads have no shape: they follow from the width."""

import dataclasses
import math
from collections.abc import Mapping

from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.names import Row
from tvts_jax.convert.source import Source
from tvts_jax.models.encoders.encoder import VideoConfig
from tvts_jax.models.encoders.vit import ViTConfig

# The heads of a width that models are commonly built with; 768 is also DistilBERT's. Others take 64 a head.
KNOWN_HEADS = {size['width']: size['heads'] for size in ViTConfig.SIZES.values()}
COMMON_HEAD = 64


class Shapes:
  """Shapes of a source by name, with one sentence for each that is missing or has other dimensions."""

  def __init__(self, source: Source, given: Mapping | None = None):
    self.source, self.given = source, given or {}  # Settings that a user gives, by their path.

  def __call__(self, name: str, dimensions: int | None = None) -> tuple[int, ...]:
    tensor = self.source.tensors.get(name)
    if tensor is None:
      raise ConvertError(f'{self.source} has no {name}, so its geometry is unknown; give a complete file')
    if dimensions not in (None, len(tensor.shape)) or 0 in tensor.shape:
      raise ConvertError(f'{self.source} has {name} with shape {list(tensor.shape)}, not {dimensions} dimensions')
    return tensor.shape

  def depth(self, name: str) -> int:
    """The number of layers, each known by one of its weights; `{}` in the name is the layer."""
    depth = 0
    while name.format(depth) in self.source.tensors:
      depth += 1
    if not depth:
      raise ConvertError(
        f'{self.source} has no {name.format(0)}, so its geometry is unknown; give a complete file, or settings'
      )
    return depth

  def heads(self, width: int, setting: str, known: Mapping[int, int] = KNOWN_HEADS) -> int:
    """Those that a width is commonly given. known: widths whose heads have not 64 values, or may."""
    if setting in self.given:
      return self.given[setting]
    if width not in known and width % COMMON_HEAD:
      raise ConvertError(
        f'{self.source} does not say how many heads a width of {width} has, and it is none of {sorted(known)} nor '
        f'a multiple of {COMMON_HEAD}; say {setting}=N'
      )
    heads = known.get(width, width // COMMON_HEAD)
    self.source.notes.append(f'{setting}={heads} follows from the width, since no shape tells it')
    return heads

  def vit(self, width, patch, depth: str, up: str, places: int | None = None, heads=None, known=KNOWN_HEADS) -> dict:
    """Settings that all our video encoders have. depth: a weight of each layer; up: one of an MLP; known: as heads."""
    hidden = self(up, 2)[0]
    if hidden % width:
      raise ConvertError(
        f'{self.source} has an MLP of {hidden} values for a width of {width}; only multiples can be read'
      )
    settings = dict(width=width, depth=self.depth(depth), patch=patch, mlp_ratio=hidden // width)
    if places is not None:
      if math.isqrt(max(places, 0)) ** 2 != places:
        raise ConvertError(f'{self.source} has positions for {places} places, which are no square grid')
      settings['image_size'] = math.isqrt(places) * patch
    return settings | {'heads': heads or self.heads(width, 'video.heads', known)}


def clips(source: Source, rows: list[Row], ours: VideoConfig) -> VideoConfig:
  """Our video encoder for clips of the length and image size that the positions of a source are made for."""
  by_path = {path: row for row in rows for path in row.ours}

  def count(path: str) -> int:
    row = by_path.get(path)
    tensor = source.tensors.get(row.theirs) if row else None
    return tensor.shape[-2] - (len(row.ours) - 1) if tensor is not None and len(tensor.shape) > 1 else 0

  places, slots = max(count('video/space_position'), 0), count('video/time_position')
  grid = math.isqrt(places)
  image_size = grid * ours.patch if grid**2 == places > 0 else ours.image_size
  return dataclasses.replace(ours, image_size=image_size, frames=slots * ours.tubelet or ours.frames)
