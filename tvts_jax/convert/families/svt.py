"""SVT, the teacher of which is a TimeSformer."""

from tvts_jax.convert.families import family, mae, tvts
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row, linear, norm
from tvts_jax.models.tvts import TVTSConfig

LAYER = 'blocks.{}'


def rows(config: TVTSConfig) -> list[Row]:
  del config
  return [
    Row('cls_token', {'video/cls': 'd -> 1 1 d'}),
    Row('pos_embed', {**tvts.CLS, 'video/space_position': 'v d -> 1 v d'}, axis=1),
    Row('time_embed', {'video/time_position': 'v d -> 1 v d'}),
    *family.image_patches('patch_embed.proj'),
    *family.timm_block(LAYER, 'video/blocks'),
    *norm(f'{LAYER}.temporal_norm1', 'video/blocks/time_norm'),
    *family.fused(f'{LAYER}.temporal_attn', 'video/blocks/time_attn'),
    *linear(f'{LAYER}.temporal_fc', 'video/blocks/time_fc'),
    *norm('norm', 'video/norm'),
  ]


def settings(shape: Shapes) -> dict:
  video = tvts.video(shape, '') | dict(frames=shape('time_embed', 3)[1])
  return dict(encoder='timesformer', video=video)


SVT = family.Family(
  'an SVT',
  family.VIDEO,
  ('blocks.0.temporal_fc.weight', 'time_embed'),
  rows,
  settings,
  {'head.*': 'the head of its loss'},
  mae.GELU,
  wrap='teacher',
  prefix='backbone.',
)
