"""What the demo's model has learned, by every evaluator: retrieval, zero-shot recognition and probes.

  python -m data.world --out runs/demo/probes --clips 0 --val 0          clips of one motion, and of two in order
  python -m data.build runs/demo/probes/index.jsonl --out runs/demo/probe_shards \\
    --window-s 12 --seconds 2 --fps 1.5 --short-side 32 --min-words 1
  python -m tvts_jax.evaluate --config=configs/demo_evals.py --checkpoint=runs/demo/run
  python -m tvts_jax.evaluate --config=configs/demo_evals.py --checkpoint=random --out=runs/demo/random

Three minutes each on two CPU cores, after `bash launch/local.sh`. `motion` asks for one of 8 motions, `order` which of
two motions came first, so that a bag of motions is no help. Never read a number without that of random parameters
beside it: in a world this small they know something, too. Expect

                             trained   random   knowing nothing
  sorting own/exact             0.80     0.00             0.004
  reversed forward              0.85     0.46             0.50
  video_retrieval r1            0.89     0.36             0.12
  text_retrieval t2v_r10        0.61     0.03             0.02
  zero_shot top1                0.85     0.12             0.12
  multiple_choice top1          0.51     0.13             0.12
  svo verb/accuracy_0.4         0.77     0.50             0.50
  knn top1                      0.92     0.38             0.12
  motion_probe top1             0.94     0.41             0.12
  order_knn top1                0.52     0.22             0.12
  order_probe top1              0.60     0.27             0.12
  order_attentive top1          0.94     0.44             0.12

These are of one seed, and what order_attentive and svo are set to was chosen on the clips they are measured on.

Variations: as in configs/demo.py (root, objective, steps, seed).
"""

from configs import demo
from data.world.scene import MOTIONS


def get_config(arg=''):
  config = demo.get_config(arg)
  root = config.input.folder.removesuffix('/shards')
  probes = {'folder': f'{root}/probe_shards', 'annotations': f'{root}/probes/labels.jsonl', 'label': 'label'}
  motion = {**probes, 'split': 'motion_test', 'batch': 128}
  order = {**probes, 'split': 'order_test', 'batch': 128, 'train_split': 'order_train'}
  # As in pre-training, a clip goes with all of its four transcripts.
  own = {'annotations': f'{root}/world/labels.jsonl', 'captions': 'narration', 'texts': 'mean', 'batch': 128}
  # A class is named as the narrator names it.
  said = {'names': MOTIONS, 'prompts': ('it is {}', 'the one is {}')}
  config.evals = {
    'sorting': {'batch': 128},
    'reversed': {'batch': 128},
    'video_retrieval': motion,
    'text_retrieval': own,
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
