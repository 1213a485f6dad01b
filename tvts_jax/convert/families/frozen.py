"""Frozen in Time, and MCQ and MILES, which have its encoders: attention over time and space apart, and a DistilBERT."""

import dataclasses
from collections.abc import Callable

from tvts_jax.convert.families import bert, family, mae, tvts
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row, linear, norm
from tvts_jax.models.tvts import TVTSConfig

BRIDGE = 'of BridgeFormer, which is for training'
COUNTER = {'text_model.embeddings.position_ids': 'a counter, not a weight'}
LAYER = 'video_model.blocks.{}'


def rows(text: str, final: str, time: bool) -> Callable[[TVTSConfig], list[Row]]:
  """text: their name of the projection of texts; final: that of the last norm."""
  over_time = [
    Row('video_model.temporal_embed', {'video/time_position': 'v d -> 1 v d'}),
    *family.fused(f'{LAYER}.timeattn', 'video/blocks/time_attn'),
    *norm(f'{LAYER}.norm3', 'video/blocks/time_norm'),
  ]
  every = [
    *bert.distilbert_rows('text_model.'),
    Row('video_model.cls_token', {'video/cls': 'd -> 1 1 d'}),
    Row('video_model.pos_embed', {**tvts.CLS, 'video/space_position': 'v d -> 1 v d'}, axis=1),
    *family.image_patches('video_model.patch_embed.proj'),
    *family.timm_block(LAYER, 'video/blocks'),
    *(over_time if time else []),
    *norm(f'video_model.{final}', 'video/norm'),
    *linear(f'{text}.1', 'text_projection'),
    *linear('vid_proj.0', 'video_projection'),
  ]
  return lambda config: every


def settings(shape: Shapes) -> dict:
  time = 'video_model.temporal_embed' in shape.source.tensors
  video = tvts.video(shape, 'video_model.') | dict(time=time)
  video['frames'] = shape('video_model.temporal_embed', 3)[1] if time else 4
  values = dict(encoder='divided', video=video, projection='relu_linear', common=shape('vid_proj.0.weight', 2)[0])
  return values | bert.distilbert(shape, 'text_model.')


TIME = f'{LAYER.format(0)}.timeattn.qkv.weight'
FROZEN = family.Family(
  'a Frozen in Time',
  family.ENCODERS,
  (TIME, 'txt_proj.1.weight'),
  rows('txt_proj', 'norm', time=True),
  settings,
  COUNTER,
  mae.GELU,
  wrap='state_dict',
)
MILES = dataclasses.replace(
  FROZEN, title='a MILES', landmarks=(TIME, 'text_proj.1.weight'), rows=rows('text_proj', 'norm', time=True)
)
MCQ = family.Family(
  'an MCQ',
  family.ENCODERS,
  ('video_model.patch_embed.proj.weight', 'video_model.norm1.weight'),
  rows('text_proj', 'norm1', time=False),
  settings,
  {
    **dict.fromkeys((f'video_model.blocks.*.{name}.*' for name in ('crossattn', 'bridgeattn', 'bridge_mlp')), BRIDGE),
    **dict.fromkeys((f'video_model.blocks.*.norm{nth}.*' for nth in (4, 5, 6, 7)), BRIDGE),
    **{'video_model.norm2.*': BRIDGE, 'bridge_proj.*': BRIDGE},
    **COUNTER,
  },
  mae.GELU,
  new={'video/time_position': 'MCQ has no time', 'video/blocks/time_*': 'MCQ has no time'},
  wrap='state_dict',
)
