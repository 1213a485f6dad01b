"""VideoMAE, pre-trained or fine-tuned, in its own layout and in that of transformers.

Neither has positions, which are waves, nor a bias of keys, which no softmax would see.
"""

from tvts_jax.convert.families import family, mae
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row, linear, merge, norm
from tvts_jax.convert.source import Source
from tvts_jax.models.tvts import TVTSConfig

DECODER, HEAD = 'the decoder of the masked autoencoder', 'the head of its classes'
ZEROS = ('video/blocks/attn/k/bias',)
PICTURE = dict(image_size=224, frames=16)
SHARED = dict(positions='sincos')


def own_rows(prefix: str, final: str):
  layer = f'{prefix}blocks.{{}}'
  attention = [
    Row(f'{layer}.attn.q_bias', {'video/blocks/attn/q/bias': 'h c -> (h c)'}),
    Row(f'{layer}.attn.v_bias', {'video/blocks/attn/v/bias': 'h c -> (h c)'}),
    Row(f'{layer}.attn.qkv.weight', {f'video/blocks/attn/{name}/kernel': 'd h c -> (h c) d' for name in 'qkv'}),
    *merge(f'{layer}.attn.proj', 'video/blocks/attn/out'),
  ]
  every = [
    *linear(f'{prefix}patch_embed.proj', 'video/embed', '(u y x r) d -> d r u y x'),
    *family.block(layer, 'video/blocks', ('norm1', 'norm2'), ('mlp.fc1', 'mlp.fc2'), attention),
    *norm(f'{prefix}{final}', 'video/norm'),
  ]
  return lambda config: every


def own(prefix: str, pool: str):
  def settings(shape: Shapes) -> dict:
    width, _, tubelet, patch, _ = shape(f'{prefix}patch_embed.proj.weight', 5)
    layer = f'{prefix}blocks.{{}}.'
    video = shape.vit(width, patch, f'{layer}norm1.weight', f'{layer.format(0)}mlp.fc1.weight')
    shape.source.notes.append('image_size=224 and frames=16, as VideoMAE has them, since no weight tells them')
    return dict(encoder='vit', video=video | SHARED | PICTURE | dict(tubelet=tubelet, pool=pool))

  return settings


def hf_rows(final: str):
  layer = 'videomae.encoder.layer.{}'
  attention = [
    *(
      Row(f'{layer}.attention.attention.{name}_bias', {f'video/blocks/attn/{name}/bias': 'h c -> (h c)'})
      for name in 'qv'
    ),
    *(
      Row(f'{layer}.attention.attention.{theirs}.weight', {f'video/blocks/attn/{name}/kernel': 'd h c -> (h c) d'})
      for name, theirs in (('q', 'query'), ('k', 'key'), ('v', 'value'))
    ),
    *merge(f'{layer}.attention.output.dense', 'video/blocks/attn/out'),
  ]
  norms, mlp = ('layernorm_before', 'layernorm_after'), ('intermediate.dense', 'output.dense')
  every = [
    *linear('videomae.embeddings.patch_embeddings.projection', 'video/embed', '(u y x r) d -> d r u y x'),
    *family.block(layer, 'video/blocks', norms, mlp, attention),
    *norm(final, 'video/norm'),
  ]
  return lambda config: every


def hf(pool: str):
  def settings(shape: Shapes) -> dict:
    beside = shape.source.beside
    width, _, tubelet, patch, _ = shape('videomae.embeddings.patch_embeddings.projection.weight', 5)
    layer = 'videomae.encoder.layer.{}.'
    known = {'heads': beside['num_attention_heads']} if 'num_attention_heads' in beside else {}
    depth, up = f'{layer}layernorm_before.weight', f'{layer.format(0)}intermediate.dense.weight'
    video = shape.vit(width, patch, depth, up, **known) | SHARED | dict(tubelet=tubelet, pool=pool)
    video |= dict(
      image_size=beside.get('image_size', PICTURE['image_size']),
      frames=beside.get('num_frames', PICTURE['frames']),
    )
    return dict(encoder='vit', video=video | hf_facts(shape.source)['video'])

  return settings


def hf_facts(source: Source) -> dict:
  own = source.beside
  return {'video': dict(activation=own.get('hidden_act', 'gelu'), eps=own.get('layer_norm_eps', 1e-12))}


def hf_config(config: TVTSConfig) -> dict:
  """VideoMAEModel's: a fine-tuned one, whose norm stands behind the mean, has it in its head of classes."""
  video = config.video
  return dict(
    architectures=['VideoMAEModel'],
    model_type='videomae',
    image_size=video.image_size,
    patch_size=video.patch,
    num_frames=video.frames,
    tubelet_size=video.tubelet,
    num_channels=3,
    hidden_size=video.width,
    num_hidden_layers=video.depth,
    num_attention_heads=video.heads,
    intermediate_size=video.mlp_ratio * video.width,
    hidden_act=video.activation,
    layer_norm_eps=video.eps,
    qkv_bias=True,
    use_mean_pooling=video.pool == 'norm_of_mean',
  )


DECODERS = dict.fromkeys(('decoder.*', 'encoder_to_decoder.*', 'mask_token'), DECODER)
HEADS = {'head.*': HEAD}
PATCHES = 'videomae.embeddings.patch_embeddings.projection.weight'
VIDEOMAE = family.Family(
  'a VideoMAE',
  family.VIDEO,
  ('encoder.blocks.0.attn.q_bias',),
  own_rows('encoder.', 'norm'),
  own('encoder.', 'mean'),
  DECODERS,
  mae.GELU,
  ZEROS,
  wrap='model',
)
VIDEOMAE_FINETUNED = family.Family(
  'a fine-tuned VideoMAE',
  family.VIDEO,
  ('blocks.0.attn.q_bias', 'fc_norm.weight'),
  own_rows('', 'fc_norm'),
  own('', 'norm_of_mean'),
  HEADS,
  mae.GELU,
  ZEROS,
  wrap='module',
)
VIDEOMAE_HF = family.Family(
  'a VideoMAE of transformers',
  family.VIDEO,
  (PATCHES, 'videomae.layernorm.weight'),
  hf_rows('videomae.layernorm'),
  hf('mean'),
  DECODERS,
  hf_facts,
  ZEROS,
  folder=('model.safetensors', hf_config),
)
VIDEOMAE_HF_FINETUNED = family.Family(
  'a fine-tuned VideoMAE of transformers',
  family.VIDEO,
  (PATCHES, 'fc_norm.weight'),
  hf_rows('fc_norm'),
  hf('norm_of_mean'),
  {'classifier.*': HEAD},
  hf_facts,
  ZEROS,
  folder=('model.safetensors', hf_config),
)
