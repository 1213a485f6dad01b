"""The video encoder as a VivitModel of transformers: joint space-time attention with [CLS] is the same model there.

Names are those on disk, which every release of transformers reads; version 5 gives its modules others in memory.
"""

import os
from collections.abc import Mapping

import numpy as np

from tvts_jax.convert import card, names, write_weights
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.names import Row, heads, linear, merge, norm
from tvts_jax.models.tvts import TVTSConfig

LAYER = 'encoder.layer.{}'
TABLE = [
  Row('embeddings.cls_token', {'video/cls': 'd -> 1 1 d'}),
  *linear('embeddings.patch_embeddings.projection', 'video/embed', '(u y x r) d -> d r u y x'),
  *norm(f'{LAYER}.layernorm_before', 'video/blocks/norm1'),
  *heads(f'{LAYER}.attention.attention.query', 'video/blocks/attn/q'),
  *heads(f'{LAYER}.attention.attention.key', 'video/blocks/attn/k'),
  *heads(f'{LAYER}.attention.attention.value', 'video/blocks/attn/v'),
  *merge(f'{LAYER}.attention.output.dense', 'video/blocks/attn/out'),
  *norm(f'{LAYER}.layernorm_after', 'video/blocks/norm2'),
  *linear(f'{LAYER}.intermediate.dense', 'video/blocks/mlp/up'),
  *linear(f'{LAYER}.output.dense', 'video/blocks/mlp/down'),
  *norm('layernorm', 'video/norm'),
]
POSITIONS = ('video/cls_position', 'video/space_position', 'video/time_position')


def save_vivit(folder: str | os.PathLike, config: TVTSConfig, params: Mapping) -> None:
  """Writes the folder that VivitModel.from_pretrained(folder, add_pooling_layer=False) opens."""
  flat = names.check_params(config, params)
  video = {path for path in flat if path.startswith('video/')}
  if foreign := sorted(video ^ {path for row in TABLE for path in row.ours} ^ set(POSITIONS)):
    raise ConvertError(f'a video encoder {config.encoder!r} is no VivitModel, which has no place for {foreign[0]}')
  state = names.apply_table(TABLE, config, flat)
  state['embeddings.position_embeddings'] = positions(flat)
  files = {'config.json': settings(config), 'preprocessor_config.json': preprocessor(config)}
  write_weights.write_folder(folder, state, files, card.vivit(config, flat))


def positions(flat) -> np.ndarray:
  """[1, 1 + T·S, D]: [CLS], then the sum of its place and its time for every tubelet."""
  space_SxD, time_TxD = flat['video/space_position'], flat['video/time_position']
  tubelets_NxD = (time_TxD[:, None] + space_SxD[None]).reshape(-1, space_SxD.shape[1])
  return np.concatenate([flat['video/cls_position'][None], tubelets_NxD])[None]


def settings(config: TVTSConfig) -> dict:
  video = config.video
  return dict(
    architectures=['VivitModel'],
    model_type='vivit',
    image_size=video.image_size,
    num_frames=video.frames,
    tubelet_size=[video.tubelet, video.patch, video.patch],
    num_channels=3,
    hidden_size=video.width,
    num_hidden_layers=video.depth,
    num_attention_heads=video.heads,
    intermediate_size=video.mlp_ratio * video.width,
    hidden_act=video.activation,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    layer_norm_eps=video.eps,
    qkv_bias=True,
    dtype=config.param_dtype,
  )


def preprocessor(config: TVTSConfig) -> dict:
  """ViViT's own way brings pixels to [-1, 1] first, whatever a file says, so the mean and deviation are of those."""
  return card.preprocessor(config.video) | dict(
    rescale_factor=1 / 127.5,
    offset=True,
    image_mean=[2 * mean - 1 for mean in config.video.pixel_mean],
    image_std=[2 * std for std in config.video.pixel_std],
  )
