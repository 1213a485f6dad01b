"""The published TVTS v1 model, and the exchange format, which has the names of it for whatever our models have."""

from collections.abc import Iterable

import numpy as np

from tvts_jax.convert import names
from tvts_jax.convert.families import bert, family
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.names import Row, linear, norm
from tvts_jax.models.tvts import TVTSConfig

CLS = {'video/cls_position': 'd -> 1 1 d'}
VIDEO = [
  Row('video_model.cls_token', {'video/cls': 'd -> 1 1 d'}),
  Row('video_model.temporal_embed', {'video/time_position': 'v d -> 1 v d'}),
  *linear('video_model.patch_embed.proj', 'video/embed', '(u y x r) d -> d r u y x'),
  *norm('video_model.norm_pre', 'video/pre_norm'),
  *family.timm_block('video_model.blocks.{}', 'video/blocks'),
  *norm('video_model.norm', 'video/norm'),
  # Of encoders that attend over time apart.
  *norm('video_model.blocks.{}.norm3', 'video/blocks/time_norm'),
  *family.fused('video_model.blocks.{}.timeattn', 'video/blocks/time_attn'),
  *linear('video_model.blocks.{}.time_fc', 'video/blocks/time_fc'),
]

# The published model projects texts by Sequential(ReLU, Linear) and clips by Sequential(Linear). So the number in
# the name of the text's layer tells which projection a file was trained with.
PROJECTIONS = {
  'relu_linear': [*linear('txt_proj.1', 'text_projection'), *linear('vid_proj.0', 'video_projection')],
  'linear': [*linear('txt_proj.0', 'text_projection'), *linear('vid_proj.0', 'video_projection')],
  'clip': [*linear('txt_proj', 'text_projection')[:1], *linear('vid_proj', 'video_projection')[:1]],
  'none': [],
}

SORTER = [
  Row('pred_model.type_embed', {'sorter/video_type': 'd -> 1 1 d', 'sorter/text_type': 'd -> 1 1 d'}, axis=1),
  *family.timm_block('pred_model.blocks.{}', 'sorter/blocks'),
  *norm('pred_model.norm', 'sorter/norm'),
  *linear('pred_model.head', 'sorter/head'),
]

# Only where text and video differ in width. The published model has no such layer.
TEXT_IN = linear('pred_model.text_in', 'sorter/text_in')

CLIP_TEXT = [
  Row('text_model.token_embedding.weight', {'text/word': 'v d -> v d'}),
  Row('text_model.positional_embedding', {'text/position': 'v d -> v d'}),
  *family.timm_block('text_model.blocks.{}', 'text/blocks'),
  *norm('text_model.norm', 'text/norm'),
]
TEXTS = {'distilbert': bert.distilbert_rows('text_model.'), 'bert': bert.bert_rows('text_model.'), 'clip': CLIP_TEXT}


def rows(config: TVTSConfig) -> list[Row]:
  """Those of all parameters that the model has."""
  spec = names.spec(config)
  places = {**({} if 'video/cls_position' not in spec else CLS), 'video/space_position': 'v d -> 1 v d'}
  positions = Row('video_model.pos_embed', places, axis=1)
  every = [*TEXTS[config.text_encoder], positions, *VIDEO, *PROJECTIONS[config.projection], *SORTER, *TEXT_IN]
  return [row for row in every if all(path in spec for path in row.ours)]


def table(config: TVTSConfig, parts: Iterable[str] = names.PARTS) -> list[Row]:
  """The rows of some parts of the model in the exchange format."""
  found = [row for row in rows(config) if row.part in parts]
  ours = {path for path in names.spec(config) if names.part_of(path) in parts}
  if nameless := sorted(ours ^ {path for row in found for path in row.ours}):
    raise ConvertError(
      f'parameter {nameless[0]} of a model with encoder={config.encoder!r} has no place in the table of names '
      f'(tvts_jax/convert/families/tvts.py); add a row for it'
    )
  return found


def state_dict(config: TVTSConfig, params) -> dict[str, np.ndarray]:
  """All parameters under the names and in the shapes of the exchange format."""
  return names.apply_table(table(config), config, names.check_params(config, params))


def settings(shape: Shapes) -> dict:
  found = [kind for kind, rows in PROJECTIONS.items() if rows and rows[0].theirs in shape.source.tensors]
  projection = found[0] if found else 'none'
  values = dict(
    projection=projection,
    transcripts=shape.given.get('transcripts') or shape('pred_model.head.weight', 2)[0],
    sort_depth=shape.given.get('sort_depth') or shape.depth('pred_model.blocks.{}.norm1.weight'),
    encoder='vit',
    text_encoder='distilbert',
    video=video(shape, 'video_model.'),
    text=bert.distilbert(shape, 'text_model.')['text'],
  )
  if projection != 'none':
    values['common'] = shape(PROJECTIONS[projection][0].theirs, 2)[0]
  return values


def video(shape: Shapes, prefix: str) -> dict:
  """Settings of an encoder in the layout of timm, of videos or of images."""
  kernel = f'{prefix}patch_embed.proj.weight'
  if len(shape(kernel)) == 4:
    (width, _, patch, _), length = shape(kernel, 4), {}
  else:
    width, _, tubelet, patch, _ = shape(kernel, 5)
    length = dict(tubelet=tubelet)
    if f'{prefix}temporal_embed' in shape.source.tensors:
      length['frames'] = shape(f'{prefix}temporal_embed', 3)[1] * tubelet
  places = shape(f'{prefix}pos_embed', 3)[1] - 1
  return (
    shape.vit(width, patch, f'{prefix}blocks.{{}}.norm1.weight', f'{prefix}blocks.0.mlp.fc1.weight', places) | length
  )


COUNTER = {'text_model.embeddings.position_ids': 'a counter, not a weight'}
TVTS = family.Family(
  'a TVTS v1 model', family.WHOLE, ('video_model.patch_embed.proj.weight',), rows, settings, COUNTER, wrap='state_dict'
)
