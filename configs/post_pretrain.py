"""The paper's post-pre-training (Table 8): captioned images of CC3M and clips of WebVid-2M, contrastive alone.

  python -m tvts_jax.main --config=configs/post_pretrain.py --workdir=gs://bucket/post

Needs
  shards      data/cc3m and data/webvid, made with: python -m data.build YOUR_INDEX --out data/cc3m
              (data/webvid with --caption-frames 16, so that there are frames to draw from)
  a model     weights/tvts: the work directory of a run of configs/pretrain.py, or a folder of converted weights
  tokenizer   weights/distilbert-base-uncased, the one that the model was trained with

Sources take turns: a batch of images, each as two equal frames, then one of clips of 4 frames, each its own step of the
optimizer; an epoch ends with the longer source. Nothing is masked. The sorter stays as it is, for there is nothing to
sort. Logging every 21 steps tells of both sources in turn.

The model keeps its 16 frames, so images train the first position in time and clips the first two, as the reference code
has it. With frames=4 all positions in time are interpolated to the two of such clips instead, and whoever takes the
result to longer clips interpolates them back.

Hardware: the arithmetic of one image and step is 113 GFLOP, of one clip 226 GFLOP.

Variations: size (as the model's), cc3m, webvid, run, tokenizer (folders), frames (of the model), batch, epochs.
"""

from tvts_jax.config import base, parse_arg
from tvts_jax.models.encoders.vit import ViTConfig


def get_config(arg=''):
  given = dict(cc3m='data/cc3m', webvid='data/webvid', run='weights/tvts', tokenizer='weights/distilbert-base-uncased')
  arg = parse_arg(arg, size='B/16', **given, frames=16, batch=800, epochs=12.0)
  config = base()
  config.model.video.update(ViTConfig.SIZES[arg.size], frames=arg.frames)

  config.input.update(tokenizer=arg.tokenizer, batch=arg.batch, mask_ratio=0.0, mix='alternate')
  config.input.sources = (
    {'folder': arg.cc3m, 'frames': 2, 'transcripts': 1},
    {'folder': arg.webvid, 'frames': 4, 'transcripts': 1},
  )

  config.objectives = {'contrastive': {'weight': 1.0}}
  config.optim.update(lr=1e-4, groups=(('^sorter/', {'frozen': True}),))
  config.epochs = arg.epochs
  config.init.run = arg.run
  config.log_every = 21
  return config
