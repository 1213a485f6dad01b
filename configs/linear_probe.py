"""The paper's linear probe (Tables 1, 4 and 9): a linear classifier on the frozen [CLS], SGD, 100 epochs.

  python -m tvts_jax.evaluate --config=configs/linear_probe.py:set=ssv2 --checkpoint=weights/tvts
  python -m tvts_jax.evaluate --config=configs/linear_probe.py:set=ssv2 --checkpoint=random --out=runs/random

Needs the clips of configs/finetune.py, and the tokenizer that the model was trained with. The checkpoint is the work
directory of a run or a folder of converted weights.

Each training clip is seen once, by its middle frames and the middle of each, for 100 epochs in batches of 384; the
learning rate of 0.1 for 256 clips a batch rises for 10 epochs and falls along a cosine. The test is under 2 clips a
video, 5 of K400's, by 3 crops. The code of TVTS asks for the same and then trains with AdamW and all that fine-tuning
does to its clips, so its numbers are those of another recipe.

Hardware: the arithmetic is 0.36 TFLOP a clip and view: of SSV2, 1.2e17 FLOP, five minutes on one device that sustains
395 TFLOP/s. The features are kept, so a second call takes as long as the classifier, minutes at most.

Variations: set (ssv2, k400, ucf101, hmdb51), size (as the model's), data, annotations, tokenizer (paths).
"""

from configs.finetune import SETS
from tvts_jax.config import base, choose, parse_arg
from tvts_jax.models.encoders.vit import ViTConfig


def get_config(arg=''):
  given = dict(data='', annotations='', tokenizer='weights/distilbert-base-uncased')
  arg = parse_arg(arg, set='ssv2', size='B/16', **given)
  of = choose(arg, 'set', SETS)
  config = base()
  config.model.video.update(choose(arg, 'size', ViTConfig.SIZES))
  config.input.update(folder=arg.data or f'data/{arg.set}', tokenizer=arg.tokenizer)
  config.epochs = 1.0  # Of a training that is none: only evals are read.
  annotations = arg.annotations or f'ready/{arg.set}/annotations.jsonl'
  views = {'clips': of['clips'], 'crops': 3, 'resize': 224, 'transcripts': 1, 'batch': 64}
  views['quoted'] = f'{of["name"]}, linear probe'
  config.evals = {'linear_probe': {'annotations': annotations, 'split': of['split'], **views}}
  return config
