"""The geometry of a model out of the shapes of its weights. Heads have no shape: they follow from the width."""

import dataclasses
import math

from tvts_jax.convert import names
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.read_weights import Source, is_image_model
from tvts_jax.models.encoders.vit import ViTConfig

# The heads of a width that models are commonly built with; 768 is also DistilBERT's. Others take 64 a head.
KNOWN_HEADS = {size['width']: size['heads'] for size in ViTConfig.SIZES.values()}
COMMON_HEAD = 64


class Shapes:
  """Shapes of a source by name, with one sentence for each that is missing or has other dimensions."""

  def __init__(self, source: Source):
    self.source = source

  def __call__(self, name: str, dimensions: int) -> tuple[int, ...]:
    tensor = self.source.tensors.get(name)
    if tensor is None:
      raise ConvertError(f'{self.source} has no {name}, so its geometry is unknown; give a complete file')
    if len(tensor.shape) != dimensions or 0 in tensor.shape:
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


def heads(width: int, setting: str, where: str) -> int:
  if width in KNOWN_HEADS:
    return KNOWN_HEADS[width]
  if width % COMMON_HEAD:
    raise ConvertError(
      f'{where} does not say how many heads a width of {width} has, and it is none of {sorted(KNOWN_HEADS)} nor a '
      f'multiple of {COMMON_HEAD}; say {setting}=N'
    )
  return width // COMMON_HEAD


def clips(source: Source, ours: ViTConfig) -> ViTConfig:
  """Our video encoder for clips of the length and image size that the positions of a source are made for."""

  def rows(name: str) -> int:
    tensor = source.tensors.get(names.PREFIXES['video'] + name)
    return tensor.shape[1] if tensor is not None and len(tensor.shape) == 3 else 0

  places, slots = max(rows('pos_embed') - 1, 0), rows('temporal_embed')
  grid = math.isqrt(places)
  image_size = grid * ours.patch if grid**2 == places > 0 else ours.image_size
  return dataclasses.replace(ours, image_size=image_size, frames=slots * ours.tubelet or ours.frames)


def video(source: Source, given: dict) -> dict:
  """Settings of the video encoder; `given` ones win."""
  shape, prefix = Shapes(source), names.PREFIXES['video']
  if is_image_model(source):
    width, _, patch, _ = shape(f'{prefix}patch_embed.proj.weight', 4)
    length = {}
  else:
    width, _, tubelet, patch, _ = shape(f'{prefix}patch_embed.proj.weight', 5)
    length = dict(tubelet=tubelet)
    if f'{prefix}temporal_embed' in source.tensors:
      length['frames'] = shape(f'{prefix}temporal_embed', 3)[1] * tubelet
  places = shape(f'{prefix}pos_embed', 3)[1] - 1
  if math.isqrt(max(places, 0)) ** 2 != places:
    raise ConvertError(f'{source} has {prefix}pos_embed for {places} places, which are no square grid')
  hidden = shape(f'{prefix}blocks.0.mlp.fc1.weight', 2)[0]
  if hidden % width:
    raise ConvertError(f'{source} has an MLP of {hidden} values for a width of {width}; only multiples can be read')
  settings = dict(
    width=width,
    depth=shape.depth(f'{prefix}blocks.{{}}.norm1.weight'),
    patch=patch,
    image_size=math.isqrt(places) * patch,
    mlp_ratio=hidden // width,
    **length,
  )
  if 'heads' not in given:
    settings['heads'] = heads(width, 'video.heads', str(source))
  return settings | given


def text(source: Source, given: dict) -> dict:
  """Settings of the text encoder; `given` ones win."""
  if source.text_config is not None:
    return dataclasses.asdict(source.text_config) | given
  shape, prefix = Shapes(source), names.PREFIXES['text']
  words, width = shape(f'{prefix}embeddings.word_embeddings.weight', 2)
  layer = f'{prefix}transformer.layer.'
  settings = dict(
    vocab_size=words,
    max_position_embeddings=shape(f'{prefix}embeddings.position_embeddings.weight', 2)[0],
    dim=width,
    hidden_dim=shape(f'{layer}0.ffn.lin1.weight', 2)[0],
    n_layers=shape.depth(f'{layer}{{}}.ffn.lin1.weight'),
  )
  if 'n_heads' not in given:
    settings['n_heads'] = heads(width, 'text.n_heads', str(source))
  return settings | given


def whole(source: Source, given: dict) -> dict:
  """Settings of a whole TVTS model; `given` ones win."""
  shape, prefix = Shapes(source), names.PREFIXES['sorter']
  found = [kind for kind, rows in names.PROJECTIONS.items() if rows and rows[0].theirs in source.tensors]
  projection = found[0] if found else 'none'
  settings = dict(projection=projection)
  if 'transcripts' not in given:
    settings['transcripts'] = shape(f'{prefix}head.weight', 2)[0]
  if 'sort_depth' not in given:
    settings['sort_depth'] = shape.depth(f'{prefix}blocks.{{}}.norm1.weight')
  if projection != 'none':
    settings['common'] = shape(names.PROJECTIONS[projection][0].theirs, 2)[0]
  parts = dict(video=video(source, given.get('video', {})), text=text(source, given.get('text', {})))
  return settings | given | parts
