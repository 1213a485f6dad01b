"""What the demo's model has learned, by every evaluator: retrieval, zero-shot recognition and probes.

  python -m data.world --out runs/demo/probes --clips 0 --val 0          clips of one motion, and of two in order
  python -m data.build runs/demo/probes/index.jsonl --out runs/demo/probe_shards \\
    --window-s 12 --seconds 2 --fps 1.5 --short-side 32 --min-words 1
  python -m tvts_jax.evaluate --config=configs/demo_evals.py --checkpoint=runs/demo/run
  python -m tvts_jax.evaluate --config=configs/demo_evals.py --checkpoint=random --out=runs/demo/random

Two minutes each on two CPU cores, after `bash launch/local.sh`. Never read a number without that of random parameters
beside it: in a world this small they know something, too. `motion` asks for one of 8 motions, `order` which of two
motions came first, so that a bag of motions is no help.

Variations: as in configs/demo.py (root, steps, seed).
"""

from configs import demo
from data.scene import MOTIONS


def get_config(arg=''):
  config = demo.get_config(arg)
  root = config.input.folder.removesuffix('/shards')
  probes = {'folder': f'{root}/probe_shards', 'annotations': f'{root}/probes/labels.jsonl', 'label': 'label'}
  motion = {**probes, 'split': 'motion_test', 'batch': 128}
  order = {**probes, 'split': 'order_test', 'batch': 128, 'train_split': 'order_train'}
  # A class is named as the narrator names it.
  said = {'names': MOTIONS, 'prompts': ('it is {}', 'the one is {}')}
  config.evals = {
    'sorting': {'batch': 128},
    'video_retrieval': motion,
    'text_retrieval': {
      'annotations': f'{root}/world/labels.jsonl',
      'captions': 'narration',
      'texts': 'mean',  # As in pre-training: a clip goes with all of its four transcripts.
      'batch': 128,
    },
    'zero_shot': {**motion, **said},
    'multiple_choice': motion,
    'svo': {**motion, 'thresholds': (0.2, 0.4, 0.6)},
    'knn': {**motion, 'train_split': 'motion_train'},
    'motion_probe': {**motion, 'type': 'linear_probe', 'train_split': 'motion_train'},
    'order_knn': {**order, 'type': 'knn'},
    'order_probe': {**order, 'type': 'linear_probe'},
    'order_attentive': {**order, 'type': 'attentive_probe', 'train_batch': 128, 'epochs': 10, 'lr': 1e-2},
  }
  return config
