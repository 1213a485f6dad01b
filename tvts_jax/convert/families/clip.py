"""CLIP in the layouts of OpenAI (which OpenCLIP and MCQ from CLIP have as well) and of transformers."""

import math

from tvts_jax.convert.families import family
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row, heads, linear, merge, norm
from tvts_jax.convert.source import Source
from tvts_jax.models.tvts import TVTSConfig

IMAGES = 'images have no time'
NEW = {'video/time_position': IMAGES, 'video/blocks/time_*': IMAGES}
# All CLIPs have these settings, and no file says so. They see single frames; we average 12 of a clip.
SHARED = dict(pre_norm=True, patch_bias=False, eps=1e-5, statistics='clip')
FRAMES = 12
WIDE_HEADS = {1280: 16}  # All others have heads of 64 values.
UNUSED = {
  'logit_scale': 'the temperature of its loss',
  **dict.fromkeys(('input_resolution', 'context_length', 'vocab_size', '*position_ids'), 'a number, not a weight'),
}
# In its own loss, of which 100 was the limit.
LOGIT_SCALE = {'logit_scale': math.log(100)}


def openai_rows(config: TVTSConfig) -> list[Row]:
  del config
  return [
    Row('visual.class_embedding', {'video/cls': 'd -> d'}),
    Row('visual.positional_embedding', {'video/cls_position': 'd -> 1 d', 'video/space_position': 'v d -> v d'}),
    Row('visual.proj', {'video_projection/kernel': 'i o -> i o'}),
    *family.image_patches('visual.conv1', biased=False),
    *norm('visual.ln_pre', 'video/pre_norm'),
    *family.clip_block('visual.transformer.resblocks.{}', 'video/blocks'),
    *norm('visual.ln_post', 'video/norm'),
    *family.clip_block('transformer.resblocks.{}', 'text/blocks'),
    Row('token_embedding.weight', {'text/word': 'v d -> v d'}),
    Row('positional_embedding', {'text/position': 'v d -> v d'}),
    *norm('ln_final', 'text/norm'),
    Row('text_projection', {'text_projection/kernel': 'i o -> i o'}),
  ]


def openai(shape: Shapes) -> dict:
  beside = shape.source.beside.get('model_cfg', {})
  width, _, patch, _ = shape('visual.conv1.weight', 4)
  places = shape('visual.positional_embedding', 2)[0] - 1
  activation, why = activation_of(shape.source)
  shape.source.notes.append(f'activation={activation}, {why}, since no weight tells it')
  depth = 'visual.transformer.resblocks.{}.ln_1.weight'
  video = shape.vit(
    width, patch, depth, 'visual.transformer.resblocks.0.mlp.c_fc.weight', places, known=WIDE_HEADS, **head_of(beside)
  )
  layer = 'transformer.resblocks.{}.ln_1.weight', 'transformer.resblocks.0.mlp.c_fc.weight'
  known = beside.get('text_cfg', {}).get('heads')
  text = text_of(shape, 'token_embedding.weight', 'positional_embedding', *layer, known)
  return dict(
    encoder='frames',
    video=video | SHARED | dict(frames=FRAMES, activation=activation),
    text_encoder='clip',
    text=text | dict(activation=activation, eps=1e-5),
    projection='clip',
    common=shape('visual.proj', 2)[1],
  )


def text_of(shape: Shapes, word: str, position: str, norms: str, up: str, n_heads: int | None = None) -> dict:
  """Settings of a text encoder whose weights have these names, with {} in the place of a layer."""
  pieces, dim = shape(word, 2)
  return dict(
    vocab_size=pieces,
    max_position_embeddings=shape(position, 2)[0],
    dim=dim,
    hidden_dim=shape(up, 2)[0],
    n_layers=shape.depth(norms),
    n_heads=n_heads or shape.heads(dim, 'text.n_heads', WIDE_HEADS),
  )


def head_of(beside: dict) -> dict:
  vision = beside.get('vision_cfg', {})
  return {'heads': vision['width'] // vision.get('head_width', 64)} if 'width' in vision else {}


def activation_of(source: Source) -> tuple[str, str]:
  """And why: no weight says it. OpenAI's have QuickGELU, OpenCLIP's what their config says."""
  beside, cls = source.beside.get('model_cfg'), source.tensors.get('visual.class_embedding')
  if beside:
    return 'quick_gelu' if beside.get('quick_gelu') else 'gelu', 'as the config beside it says'
  if source.family == 'openclip' or cls is not None and cls.shape[0] > 1024:
    return 'gelu', "as most of OpenCLIP's have it"
  return 'quick_gelu', "as OpenAI's have it"


def openai_facts(source: Source) -> dict:
  shared = dict(activation=activation_of(source)[0], eps=1e-5)
  return dict(video=shared, text=shared)


def openclip_config(config: TVTSConfig) -> dict:
  """open_clip_config.json."""
  video, text = config.video, config.text
  vision = dict(
    image_size=video.image_size,
    layers=video.depth,
    width=video.width,
    head_width=video.width // video.heads,
    patch_size=video.patch,
    mlp_ratio=float(video.mlp_ratio),
  )
  words = dict(
    context_length=text.max_position_embeddings,
    vocab_size=text.vocab_size,
    width=text.dim,
    heads=text.n_heads,
    layers=text.n_layers,
  )
  model = dict(embed_dim=config.common, quick_gelu=video.activation == 'quick_gelu', vision_cfg=vision, text_cfg=words)
  return dict(model_cfg=model, preprocess_cfg=dict(mean=list(video.pixel_mean), std=list(video.pixel_std)))


def mcq_facts(source: Source) -> dict:
  shared = dict(activation='quick_gelu', eps=1e-5)
  return dict(video=shared, text=shared)


def mcq_clip(shape: Shapes) -> dict:
  values, known = openai(shape), mcq_facts(shape.source)
  video = values['video'] | known['video'] | dict(time=False, frames=4)
  return values | dict(encoder='divided', video=video, text=values['text'] | known['text'])


def hf_block(theirs: str, ours: str) -> list[Row]:
  attention = [row for name in 'qkv' for row in heads(f'{theirs}.self_attn.{name}_proj', f'{ours}/attn/{name}')]
  attention += merge(f'{theirs}.self_attn.out_proj', f'{ours}/attn/out')
  return family.block(theirs, ours, ('layer_norm1', 'layer_norm2'), ('mlp.fc1', 'mlp.fc2'), attention)


def hf_rows(config: TVTSConfig) -> list[Row]:
  del config
  vision, text = 'vision_model.', 'text_model.'
  places = {'video/cls_position': 'd -> 1 d', 'video/space_position': 'v d -> v d'}
  return [
    Row(f'{vision}embeddings.class_embedding', {'video/cls': 'd -> d'}),
    *family.image_patches(f'{vision}embeddings.patch_embedding', biased=False),
    Row(f'{vision}embeddings.position_embedding.weight', places),
    *norm(f'{vision}pre_layrnorm', 'video/pre_norm'),
    *hf_block(f'{vision}encoder.layers.{{}}', 'video/blocks'),
    *norm(f'{vision}post_layernorm', 'video/norm'),
    Row(f'{text}embeddings.token_embedding.weight', {'text/word': 'v d -> v d'}),
    Row(f'{text}embeddings.position_embedding.weight', {'text/position': 'v d -> v d'}),
    *hf_block(f'{text}encoder.layers.{{}}', 'text/blocks'),
    *norm(f'{text}final_layer_norm', 'text/norm'),
    *linear('visual_projection', 'video_projection')[:1],
    *linear('text_projection', 'text_projection')[:1],
  ]


def hf(shape: Shapes) -> dict:
  beside = shape.source.beside
  vision, words = beside.get('vision_config') or {}, beside.get('text_config') or {}
  width, _, patch, _ = shape('vision_model.embeddings.patch_embedding.weight', 4)
  places = shape('vision_model.embeddings.position_embedding.weight', 2)[0] - 1
  layer = 'vision_model.encoder.layers.{}.'
  own = {'heads': vision['num_attention_heads']} if 'num_attention_heads' in vision else {}
  video = shape.vit(
    width, patch, f'{layer}layer_norm1.weight', f'{layer.format(0)}mlp.fc1.weight', places, known=WIDE_HEADS, **own
  )
  known = hf_facts(shape.source)
  video |= SHARED | dict(frames=FRAMES) | known['video']
  tables = [f'text_model.embeddings.{name}_embedding.weight' for name in ('token', 'position')]
  layer = [f'text_model.encoder.layers.{name}.weight' for name in ('{}.layer_norm1', '0.mlp.fc1')]
  text = text_of(shape, *tables, *layer, words.get('num_attention_heads'))
  values = dict(
    encoder='frames', text_encoder='clip', projection='clip', common=shape('visual_projection.weight', 2)[0]
  )
  return values | dict(video=video, text=text | known['text'])


def hf_facts(source: Source) -> dict:
  known = {}
  for part, name in (('video', 'vision_config'), ('text', 'text_config')):
    own = source.beside.get(name) or {}
    known[part] = dict(activation=own.get('hidden_act', 'quick_gelu'), eps=own.get('layer_norm_eps', SHARED['eps']))
  return known


def hf_config(config: TVTSConfig) -> dict:
  """CLIPModel's. The end of a text is the largest of its ids, as in OpenAI's vocabulary."""
  video, text = config.video, config.text
  end = text.vocab_size - 1
  ids = dict(bos_token_id=end - 1, eos_token_id=end, pad_token_id=end)
  vision = dict(
    hidden_size=video.width,
    intermediate_size=video.mlp_ratio * video.width,
    num_hidden_layers=video.depth,
    num_attention_heads=video.heads,
    image_size=video.image_size,
    patch_size=video.patch,
    hidden_act=video.activation,
    layer_norm_eps=video.eps,
    projection_dim=config.common,
  )
  return dict(
    architectures=['CLIPModel'],
    model_type='clip',
    projection_dim=config.common,
    logit_scale_init_value=2.6592,
    text_config=text.to_hf() | ids | dict(projection_dim=config.common),
    vision_config=vision | dict(model_type='clip_vision_model'),
  )


OPENAI_NAMES = ('visual.conv1.weight', 'token_embedding.weight')
CLIP = family.Family(
  "a CLIP in the layout of OpenAI's",
  family.ENCODERS,
  OPENAI_NAMES,
  openai_rows,
  openai,
  UNUSED,
  openai_facts,
  new=NEW,
  extra=LOGIT_SCALE,
)
OPENCLIP = family.Family(
  'an OpenCLIP',
  family.ENCODERS,
  (),
  openai_rows,
  openai,
  UNUSED,
  openai_facts,
  new=NEW,
  like='clip',
  extra=LOGIT_SCALE,
  folder=('open_clip_model.safetensors', openclip_config),
)
MCQ_CLIP = family.Family(
  'an MCQ from CLIP',
  family.ENCODERS,
  (),
  openai_rows,
  mcq_clip,
  UNUSED,
  mcq_facts,
  new=NEW,
  like='clip',
  wrap='state_dict',
  extra=LOGIT_SCALE,
)
CLIP_HF = family.Family(
  'a CLIPModel of transformers',
  family.ENCODERS,
  ('vision_model.embeddings.class_embedding', 'text_model.embeddings.token_embedding.weight'),
  hf_rows,
  hf,
  UNUSED,
  hf_facts,
  new=NEW,
  extra=LOGIT_SCALE,
  folder=('model.safetensors', hf_config),
)
