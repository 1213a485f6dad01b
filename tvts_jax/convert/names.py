"""Our parameter paths and the names of the published PyTorch weights, as one table that is read both ways.

A row says which of our parameters make up one of theirs. Each pattern turns ours into theirs, and backwards theirs
into ours; where several of ours make up one of theirs they lie one after the other along `axis`. `{}` in a name is
the layer, which is the leading axis of our parameters.

Letters: d width, h heads, c width of one head, i inputs, o outputs, v rows of a table, u·y·x frames and pixels of a
tubelet, r colours.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from tvts_jax.convert.load_report import ConvertError
from tvts_jax.models import tvts
from tvts_jax.models.encoders.vit import ViTConfig

# A damaged config may ask for more than fits into memory.
MOST_LAYERS = 1000
MOST_VALUES = 2**40


@dataclasses.dataclass(frozen=True)
class Row:
  theirs: str
  ours: Mapping[str, str]
  axis: int = 0

  @property
  def layered(self) -> bool:
    return '{}' in self.theirs


def linear(theirs: str, ours: str, kernel: str = 'i o -> o i', bias: str = 'o -> o') -> list[Row]:
  return [Row(f'{theirs}.weight', {f'{ours}/kernel': kernel}), Row(f'{theirs}.bias', {f'{ours}/bias': bias})]


def heads(theirs: str, ours: str) -> list[Row]:
  return linear(theirs, ours, 'd h c -> (h c) d', 'h c -> (h c)')


def merge(theirs: str, ours: str) -> list[Row]:
  return linear(theirs, ours, 'h c d -> d (h c)')


def norm(theirs: str, ours: str) -> list[Row]:
  return [Row(f'{theirs}.weight', {f'{ours}/scale': 'd -> d'}), Row(f'{theirs}.bias', {f'{ours}/bias': 'd -> d'})]


def vit_block(theirs: str, ours: str) -> list[Row]:
  return [
    *norm(f'{theirs}.norm1', f'{ours}/norm1'),
    Row(f'{theirs}.attn.qkv.weight', {f'{ours}/attn/{name}/kernel': 'd h c -> (h c) d' for name in 'qkv'}),
    Row(f'{theirs}.attn.qkv.bias', {f'{ours}/attn/{name}/bias': 'h c -> (h c)' for name in 'qkv'}),
    *merge(f'{theirs}.attn.proj', f'{ours}/attn/out'),
    *norm(f'{theirs}.norm2', f'{ours}/norm2'),
    *linear(f'{theirs}.mlp.fc1', f'{ours}/mlp/up'),
    *linear(f'{theirs}.mlp.fc2', f'{ours}/mlp/down'),
  ]


TEXT = [
  Row('text_model.embeddings.word_embeddings.weight', {'text/word': 'v d -> v d'}),
  Row('text_model.embeddings.position_embeddings.weight', {'text/position': 'v d -> v d'}),
  *norm('text_model.embeddings.LayerNorm', 'text/norm'),
  *heads('text_model.transformer.layer.{}.attention.q_lin', 'text/blocks/attn/q'),
  *heads('text_model.transformer.layer.{}.attention.k_lin', 'text/blocks/attn/k'),
  *heads('text_model.transformer.layer.{}.attention.v_lin', 'text/blocks/attn/v'),
  *merge('text_model.transformer.layer.{}.attention.out_lin', 'text/blocks/attn/out'),
  *norm('text_model.transformer.layer.{}.sa_layer_norm', 'text/blocks/norm1'),
  *linear('text_model.transformer.layer.{}.ffn.lin1', 'text/blocks/mlp/up'),
  *linear('text_model.transformer.layer.{}.ffn.lin2', 'text/blocks/mlp/down'),
  *norm('text_model.transformer.layer.{}.output_layer_norm', 'text/blocks/norm2'),
]

VIDEO = [
  Row('video_model.cls_token', {'video/cls': 'd -> 1 1 d'}),
  Row('video_model.pos_embed', {'video/cls_position': 'd -> 1 1 d', 'video/space_position': 'v d -> 1 v d'}, axis=1),
  Row('video_model.temporal_embed', {'video/time_position': 'v d -> 1 v d'}),
  *linear('video_model.patch_embed.proj', 'video/embed', '(u y x r) d -> d r u y x'),
  *vit_block('video_model.blocks.{}', 'video/blocks'),
  *norm('video_model.norm', 'video/norm'),
]

# The published model projects texts by Sequential(ReLU, Linear) and clips by Sequential(Linear). So the number in
# the name of the text's layer tells which projection a file was trained with.
PROJECTIONS = {
  'relu_linear': [*linear('txt_proj.1', 'text_projection'), *linear('vid_proj.0', 'video_projection')],
  'linear': [*linear('txt_proj.0', 'text_projection'), *linear('vid_proj.0', 'video_projection')],
  'none': [],
}

SORTER = [
  Row('pred_model.type_embed', {'sorter/video_type': 'd -> 1 1 d', 'sorter/text_type': 'd -> 1 1 d'}, axis=1),
  *vit_block('pred_model.blocks.{}', 'sorter/blocks'),
  *norm('pred_model.norm', 'sorter/norm'),
  *linear('pred_model.head', 'sorter/head'),
]

# Only where text and video differ in width. The published model has no such layer.
TEXT_IN = linear('pred_model.text_in', 'sorter/text_in')

# How their names begin, for each part of our model.
PREFIXES = {
  'text': 'text_model.',
  'video': 'video_model.',
  'text_projection': 'txt_proj.',
  'video_projection': 'vid_proj.',
  'sorter': 'pred_model.',
}


def table(config: tvts.TVTSConfig, parts: Iterable[str] = tuple(PREFIXES)) -> list[Row]:
  """The rows of some parts of the model."""
  text_in = TEXT_IN if config.text.dim != config.video.width else []
  part_of = lambda path: path.split('/')[0]
  rows = [*TEXT, *VIDEO, *PROJECTIONS[config.projection], *SORTER, *text_in]
  rows = [row for row in rows if part_of(next(iter(row.ours))) in parts]
  ours = {path for path in spec(config) if part_of(path) in parts}
  nameless = sorted(ours ^ {path for row in rows for path in row.ours})
  if nameless:
    raise ConvertError(
      f'parameter {nameless[0]} of a model with encoder={config.encoder!r} has no place in the table of names '
      f'(tvts_jax/convert/names.py); add a row for it'
    )
  for name in ('activation', 'eps') if 'video' in parts else ():
    if (value := getattr(config.video, name)) != getattr(ViTConfig, name):
      raise ConvertError(f'the published layout knows no video encoder with {name}={value!r}; keep the work directory')
  return rows


@functools.cache
def spec(config: tvts.TVTSConfig) -> Mapping[str, jax.ShapeDtypeStruct]:
  """Shape and type of every parameter, by path."""
  batch = tvts.batch_spec(config, 1, config.video.slots, 1)
  shapes = flatten(jax.eval_shape(tvts.build(config).init, jax.random.key(0), batch))
  for path, leaf in shapes.items():
    if leaf.size > MOST_VALUES:
      raise ConvertError(f'parameter {path} would have {leaf.size} values; {MOST_VALUES} are the most')
  return shapes


def flatten(params) -> dict:
  return flatten_dict(params, sep='/')


def unflatten(flat: Mapping) -> dict:
  return unflatten_dict(flat, sep='/')


def layer_shape(row: Row, path: str, shapes: Mapping) -> tuple[int, ...]:
  return tuple(shapes[path].shape[row.layered :])


def piece_shapes(row: Row, shapes: Mapping, config: tvts.TVTSConfig) -> list[tuple[int, ...]]:
  """The shape that each of our parameters has within theirs."""
  result = []
  for path, pattern in row.ours.items():
    # A view of one number: nothing of this size is ever in memory.
    blank = np.broadcast_to(np.zeros((), np.int8), layer_shape(row, path, shapes))
    result.append(rearrange(blank, pattern, **lengths(pattern, blank.shape, config)).shape)
  return result


def lengths(pattern: str, shape: tuple[int, ...], config: tvts.TVTSConfig) -> dict[str, int]:
  """The length of each letter of a pattern, for an array of ours with this shape."""
  ours = pattern.split(' -> ')[0]
  if '(' in ours:
    return dict(u=config.video.tubelet, y=config.video.patch, x=config.video.patch, r=3)
  return dict(zip(ours.split(), shape, strict=True))


def their_shape(row: Row, shapes: Mapping, config: tvts.TVTSConfig) -> tuple[int, ...]:
  pieces = piece_shapes(row, shapes, config)
  shape = list(pieces[0])
  shape[row.axis] = sum(piece[row.axis] for piece in pieces)
  return tuple(shape)


def to_theirs(row: Row, arrays: list[np.ndarray], config: tvts.TVTSConfig) -> np.ndarray:
  """Our parameters of one layer → theirs."""
  pieces = [
    rearrange(array, pattern, **lengths(pattern, array.shape, config))
    for array, pattern in zip(arrays, row.ours.values(), strict=True)
  ]
  # Contiguous, because safetensors writes the memory of an array as it lies.
  return np.ascontiguousarray(np.concatenate(pieces, row.axis) if len(pieces) > 1 else pieces[0])


def to_ours(row: Row, array: np.ndarray, shapes: Mapping, config: tvts.TVTSConfig) -> dict[str, np.ndarray]:
  """Their parameter → ours of one layer, by path."""
  ends = np.cumsum([shape[row.axis] for shape in piece_shapes(row, shapes, config)])
  result = {}
  for (path, pattern), piece in zip(row.ours.items(), np.split(array, ends[:-1], row.axis), strict=True):
    ours, theirs = pattern.split(' -> ')
    sizes = lengths(pattern, layer_shape(row, path, shapes), config)
    result[path] = rearrange(piece, f'{theirs} -> {ours}', **sizes)
  return result


def layers(row: Row, shapes: Mapping) -> list[tuple[tuple[int, ...], str]]:
  """The index of each layer into our parameters, and its name of theirs."""
  if not row.layered:
    return [((), row.theirs)]
  depth = shapes[next(iter(row.ours))].shape[0]
  if depth > MOST_LAYERS:
    raise ConvertError(f'a model of {depth} layers ({row.theirs}) is not converted; {MOST_LAYERS} are the most')
  return [((layer,), row.theirs.format(layer)) for layer in range(depth)]


def state_dict(config: tvts.TVTSConfig, params) -> dict[str, np.ndarray]:
  """All parameters under the published names and in the published shapes."""
  return apply_table(table(config), config, check_params(config, params))


def apply_table(rows: list[Row], config: tvts.TVTSConfig, flat: Mapping) -> dict[str, np.ndarray]:
  return {
    name: to_theirs(row, [flat[path][index] for path in row.ours], config)
    for row in rows
    for index, name in layers(row, flat)
  }


def check_params(config: tvts.TVTSConfig, params) -> dict[str, np.ndarray]:
  """Parameters by path, on the host, if they are those of `config`."""
  flat, wanted = flatten(params), spec(config)
  for path in sorted(set(flat) | set(wanted)):
    if path not in flat or path not in wanted:
      raise ConvertError(f'parameter {path} is {"missing" if path in wanted else "unknown to this model config"}')
    ours, theirs = flat[path], wanted[path]
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
      raise ConvertError(
        f'parameter {path} is {ours.dtype}{list(ours.shape)}, but the model config makes it '
        f'{theirs.dtype}{list(theirs.shape)}'
      )
  return {path: np.asarray(leaf) for path, leaf in flat.items()}
