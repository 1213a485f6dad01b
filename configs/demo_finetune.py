"""Fine-tuning of the demo's model, in miniature: which of 8 motions does a clip show, or which two in which order?

  python -m tvts_jax.main --config=configs/demo_finetune.py --workdir=runs/demo/finetuned
  python -m tvts_jax.main --config=configs/demo_finetune.py:start=random --workdir=runs/demo/from_scratch

The second is the control: the same model, from the parameters that every run starts with. Both need the clips that
configs/demo_evals.py says how to make, and the first the run of configs/demo.py. What each has learned of clips it was
not given is in eval/recognition.jsonl of its work directory: five minutes each on two CPU cores. Expect, of one seed,

          pretrained   random   knowing nothing
  motion        0.99     0.90              0.12
  order         0.97     0.54              0.12

Nothing is mirrored or turned: left is another class than right.

Variations: set (motion, order), start (pretrained, random), root (where the demo's files are), steps, seed.
"""

from configs import demo
from tvts_jax.config import choose, parse_arg


def get_config(arg=''):
  arg = parse_arg(arg, set='motion', start='pretrained', root='runs/demo', steps=320, seed=0)
  run = choose(arg, 'start', {'pretrained': f'{arg.root}/run', 'random': ''})
  config = demo.get_config(f'root={arg.root},steps={arg.steps},seed={arg.seed}')
  config.init.update(text='', run=run)
  config.input.update(folder=f'{arg.root}/probe_shards', split=f'{arg.set}_train', mask_ratio=0.0)
  config.input.update(annotations=f'{arg.root}/probes/labels.jsonl', label='label', erase=0.25)

  config.objectives = {'classify': {'classes': 8, 'smoothing': 0.1, 'mixup': 0.8, 'cutmix': 1.0}}
  config.optim.update(lr=2e-3, schedule='cosine', warmup_steps=32, layer_decay=0.75)
  config.optim.groups = (('^(text|sorter|video_projection|text_projection)/', {'frozen': True}),)

  test = {'split': f'{arg.set}_test', 'batch': 128}
  config.evals = {'recognition': {**test, 'every_steps': 80}}
  config.checkpoint.every_steps = 80
  return config
