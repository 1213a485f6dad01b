"""TVTSv2: from CLIP, with an attention over time, and sorted in the common space."""

from tvts_jax.convert.families import clip, family, tvts
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row, norm
from tvts_jax.convert.source import Source
from tvts_jax.models.tvts import TVTSConfig

LAYER = 'video_model.transformer.resblocks.{}'


def rows(config: TVTSConfig) -> list[Row]:
  del config
  video, text = 'video_model.', 'text_model.resblocks.{}'
  return [
    Row(f'{video}class_embedding', {'video/cls': 'd -> d'}),
    Row(f'{video}positional_embedding', {'video/cls_position': 'd -> 1 d', 'video/space_position': 'v d -> v d'}),
    Row(f'{video}temporal_embedding', {'video/time_position': 'v d -> v d'}),
    Row(f'{video}proj', {'video_projection/kernel': 'i o -> i o'}),
    *family.image_patches(f'{video}conv1', biased=False),
    *norm(f'{video}ln_pre', 'video/pre_norm'),
    *family.clip_block(LAYER, 'video/blocks', out='proj'),
    *family.fused(f'{LAYER}.timeattn', 'video/blocks/time_attn'),
    *norm(f'{LAYER}.ln_3', 'video/blocks/time_norm'),
    *norm(f'{video}ln_post', 'video/norm'),
    Row('text_token_embedding.weight', {'text/word': 'v d -> v d'}),
    Row('text_positional_embedding', {'text/position': 'v d -> v d'}),
    *family.clip_block(text, 'text/blocks'),
    *norm('text_ln_final', 'text/norm'),
    Row('text_projection', {'text_projection/kernel': 'i o -> i o'}),
    *tvts.SORTER,
  ]


def settings(shape: Shapes) -> dict:
  width, _, patch, _ = shape('video_model.conv1.weight', 4)
  places = shape('video_model.positional_embedding', 2)[0] - 1
  known = facts(shape.source)
  video = shape.vit(
    width, patch, f'{LAYER}.ln_1.weight', f'{LAYER.format(0)}.mlp.c_fc.weight', places, known=clip.WIDE_HEADS
  )
  video |= dict(pre_norm=True, patch_bias=False, frames=shape('video_model.temporal_embedding', 2)[0])
  layer = 'text_model.resblocks.{}.ln_1.weight', 'text_model.resblocks.0.mlp.c_fc.weight'
  text = clip.text_of(shape, 'text_token_embedding.weight', 'text_positional_embedding', *layer)
  values = dict(encoder='divided', text_encoder='clip', projection='clip')
  values |= dict(video=video | known['video'], text=text | known['text'])
  values['common'] = shape('video_model.proj', 2)[1]
  if 'pred_model.head.weight' in shape.source.tensors:
    values['transcripts'] = shape('pred_model.head.weight', 2)[0]
    values['sort_depth'] = shape.depth('pred_model.blocks.{}.norm1.weight')
  told = ', '.join(f'{name}={value}' for name, value in known['video'].items())
  shape.source.notes.append(f'{told}, as the published model of this patch has them, since no weight tells them')
  return values


def facts(source: Source) -> dict:
  """H/14 is from OpenCLIP, and sorts other tokens."""
  kernel = source.tensors.get('video_model.conv1.weight')
  huge = kernel is not None and kernel.shape[-1] == 14
  shared = dict(activation='gelu' if huge else 'quick_gelu', eps=1e-5)
  return dict(video=shared | dict(sorts='bare' if huge else 'tokens'), text=shared)


TVTSV2 = family.Family(
  'a TVTSv2',
  family.WHOLE,
  ('text_token_embedding.weight', 'video_model.temporal_embedding'),
  rows,
  settings,
  facts=facts,
  optional={'sorter': 'pred_model.'},  # The published files lack it.
  wrap='state_dict',
)
