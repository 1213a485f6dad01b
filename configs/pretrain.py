"""The paper's pre-training (Table 8): ViT-B/16 on YT-Temporal, 16 frames, 75 % masked, batch 1024, 20 epochs.

  python -m tvts_jax.main --config=configs/pretrain.py --workdir=gs://bucket/run

Needs
  shards      data/yttemporal, made with: python -m data.build YOUR_VIDEOS --out data/yttemporal --val-fraction 0.01
              (without the fraction where the source names splits of its own; held-out clips are in split val)
  encoders    weights/mae_pretrain_vit_base.pth (ImageMAE) and weights/distilbert-base-uncased (a Hugging Face folder)

Hardware: the arithmetic of one clip and step is 269 GFLOP, of the run (6 M videos, 20 epochs) 3.2e19 FLOP: 23 hours on
one device that sustains 395 TFLOP/s. Expect, as the paper has it, an exact order for 21.5 % of held-out clips, where
chance gives 0.4 %.

Variations: size (tiny, S/16, B/16, L/16, H/14, g/14), objective (of configs/variants.py), data and weights (folders),
batch, epochs.
"""

from configs import variants
from tvts_jax.config import base, parse_arg
from tvts_jax.models.encoders.vit import ViTConfig


def get_config(arg=''):
  given = dict(size='B/16', objective='tvts', data='data/yttemporal', weights='weights')
  arg = parse_arg(arg, **given, batch=1024, epochs=20.0)
  config = base()
  variants.apply(config, arg.objective)
  config.model.video.update(ViTConfig.SIZES[arg.size])

  config.input.update(folder=arg.data, tokenizer=f'{arg.weights}/distilbert-base-uncased', batch=arg.batch)

  config.optim.lr = 1e-4
  config.epochs = arg.epochs
  config.init.text = f'{arg.weights}/distilbert-base-uncased'
  if arg.size == 'B/16':
    config.init.video = f'{arg.weights}/mae_pretrain_vit_base.pth'

  config.evals = {'sorting': {'every_steps': 5000, 'batch': 256, 'max_clips': 16_384}}
  return config
