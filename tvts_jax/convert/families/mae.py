"""A plain ViT in the layout of timm, such as ImageMAE, of images or of videos: an encoder to start from."""

from tvts_jax.convert.families import family, tvts
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row
from tvts_jax.models.tvts import TVTSConfig

PREFIX = 'video_model.'
DECODER = 'the decoder of the masked autoencoder'
GELU = lambda source: {'video': {'activation': 'gelu', 'eps': 1e-6}}


def rows(config: TVTSConfig) -> list[Row]:
  every = [row for row in tvts.rows(config) if row.theirs.startswith(PREFIX)]
  return [Row(row.theirs.removeprefix(PREFIX), row.ours, row.axis) for row in every]


def settings(shape: Shapes) -> dict:
  return dict(encoder='vit', video=tvts.video(shape, ''))


MAE = family.Family(
  'an image or video encoder in the layout of MAE',
  family.VIDEO,
  ('patch_embed.proj.weight', 'cls_token'),
  rows,
  settings,
  {'decoder_*': DECODER, 'mask_token': DECODER},
  GELU,
  wrap='model',
)
