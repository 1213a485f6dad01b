"""The demo: a tiny TVTS learns to sort narrations of small videos by looking, on two CPU cores in minutes.

  bash launch/local.sh                 makes the world, the shards, the vocabulary and the text encoder, then runs
  python -m tvts_jax.main --config=configs/demo.py --workdir=runs/demo/run

Variations: root (where the demo's files are), objective (of configs/variants.py), steps, seed.

Where it departs from the paper, it stands in for what a demo cannot have. The paper starts from ImageMAE and
DistilBERT, whose tokens carry position and meaning on day one. Here the text encoder is warmed up on the transcripts
alone (python -m tvts_jax.warm_text) and then learns ten times slower than the rest, without dropout, else it forgets
the words that only sorting needs; and the video encoder and the sorter start large (model.start='narrow'), so that
positions and pixels are seen from the first step.
"""

from configs import variants
from tvts_jax.config import base, parse_arg


def get_config(arg=''):
  arg = parse_arg(arg, root='runs/demo', objective='tvts', steps=1600, seed=0)
  config = base()
  variants.apply(config, arg.objective)
  config.model.video.update(width=64, depth=4, heads=4, patch=8, image_size=32, frames=16)
  config.model.text.update(vocab_size=256, max_position_embeddings=32, dim=64, hidden_dim=256, n_layers=2, n_heads=4)
  config.model.text.update(dropout=0.0, attention_dropout=0.0)
  config.model.update(common=64, dtype='float32', start='narrow')

  config.input.update(folder=f'{arg.root}/shards', tokenizer=f'{arg.root}/text', batch=32, max_tokens=12, seed=arg.seed)
  # Of 16 places a frame, more would leave next to nothing, whatever the objective.
  config.input.mask_ratio = min(0.75, config.input.mask_ratio)
  config.input.update(seconds=(2.0,), gap_s=1.0, min_words=1)  # The world's clips hold four events of 3 s.

  config.optim.update(lr=2e-3, b2=0.98, weight_decay=0.05, clip=1.0, groups=(('^text/', {'lr': 0.1}),))
  config.optim.update(schedule='linear', warmup_steps=100, decay_at=(0.75,))
  config.init.text = f'{arg.root}/text'
  config.steps = arg.steps
  config.seed = arg.seed

  config.evals = {'sorting': {'every_steps': 400, 'batch': 128}}
  config.log_every = 50
  config.checkpoint.every_steps = 400
  return config
