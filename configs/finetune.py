"""The paper's fine-tuning for recognition (Tables 5, 7 and 9): the video encoder and a classifier on its [CLS].

  python -m tvts_jax.main --config=configs/finetune.py:set=ssv2 --workdir=runs/ssv2
  python -m tvts_jax.evaluate --config=configs/finetune.py:set=ssv2 --checkpoint=runs/ssv2

Needs
  clips       data/ssv2 and ready/ssv2/annotations.jsonl, made with
                python -m data.check ssv2 LABELS --media VIDEOS --out ready/ssv2
                python -m data.build ready/ssv2/index.jsonl --out data/ssv2 --caption-frames 32
              (k400 is tested on 5 clips of 16 frames each: give it --caption-frames 80)
  a model     weights/tvts: the work directory of a run of configs/pretrain.py, or a folder of converted weights
  tokenizer   weights/distilbert-base-uncased, with which that was trained; what it says is not looked at

The sets, by name: ssv2, k400, ucf101, hmdb51. All clips of a set show 16 frames, one out of each of 16 equal parts of
the whole, as the code of TVTS has it; VideoMAE takes those of all sets but SSV2 out of two seconds. The test is on 2
clips of a video, 5 of K400's, each cut out on the left, in the middle and on the right, whose probabilities are
averaged. During training the middle alone is looked at. Clips that are missing count as wrong.

SSV2 is never mirrored: it asks whether something moves from left to right or from right to left, and a mirrored clip
would have the wrong label.

The rest is VideoMAE's, which the paper follows: AdamW with weight decay 0.05; a learning rate of 0.001 for 256 clips a
batch that grows with the batch, rises for 5 epochs and falls along a cosine; 0.75 times as much from layer to layer;
RandAugment, parts of random size, erasing, mixup or cutmix, and smoothed labels. Drop path is 0.1, of which the paper's
code reads the flag and no more: 0 is what it trained with.

Hardware: the arithmetic of one clip and step is 1.08 TFLOP, of the run on SSV2 9.1e18 FLOP: 6.4 hours on one device
that sustains 395 TFLOP/s, and 18 on K400. Expect, as the paper has it, a top-1 of 68.5 % on SSV2 and 78.8 % on K400,
after post-pre-training 69.1 % and 79.8 %; on UCF-101 95.1 % and on HMDB-51 70.5 %.

Variations: set, size (as the model's), data, annotations, run, tokenizer (paths), batch, epochs (0: as the paper), lr
(for 256 clips a batch).
"""

from tvts_jax.config import base, choose, parse_arg
from tvts_jax.models.encoders.vit import ViTConfig

# The name in tables, clips to train on, classes, epochs, whether they are mirrored, the split to test on and under how
# many clips a video.
SETS = {
  'ssv2': dict(name='SSV2', train=168_913, classes=174, epochs=50, flip=False, split='val', clips=2),
  'k400': dict(name='Kinetics-400', train=240_436, classes=400, epochs=100, flip=True, split='val', clips=5),
  'ucf101': dict(name='UCF-101', train=9_537, classes=101, epochs=100, flip=True, split='test', clips=2),
  'hmdb51': dict(name='HMDB-51', train=3_570, classes=51, epochs=100, flip=True, split='test', clips=2),
}


def get_config(arg=''):
  given = dict(data='', annotations='', run='weights/tvts', tokenizer='weights/distilbert-base-uncased')
  arg = parse_arg(arg, set='ssv2', size='B/16', **given, batch=384, epochs=0.0, lr=1e-3)
  of = choose(arg, 'set', SETS)
  folder = arg.data or f'data/{arg.set}'
  config = base()
  config.model.video.update(choose(arg, 'size', ViTConfig.SIZES), drop_path=0.1)

  config.input.update(tokenizer=arg.tokenizer, batch=arg.batch, mask_ratio=0.0)
  config.input.sources = ({'folder': folder, 'transcripts': 1},)  # A clip has one text: its class.
  config.input.annotations = arg.annotations or f'ready/{arg.set}/annotations.jsonl'
  config.input.update(crop='resized', rand_augment=4, magnitude=7.0, flip=of['flip'], erase=0.25)

  config.objectives = {'classify': {'classes': of['classes'], 'smoothing': 0.1, 'mixup': 0.8, 'cutmix': 1.0}}
  config.optim.update(lr=arg.lr * arg.batch / 256, weight_decay=0.05, layer_decay=0.75)
  config.optim.update(schedule='cosine', warmup_steps=5 * of['train'] // arg.batch)
  config.optim.groups = (('^(text|sorter|video_projection|text_projection)/', {'frozen': True}),)
  config.epochs = arg.epochs or float(of['epochs'])
  config.init.run = arg.run

  test = {'type': 'recognition', 'folder': folder, 'split': of['split'], 'resize': 224, 'transcripts': 1, 'batch': 64}
  config.evals = {
    'middle': {**test, 'every_steps': 5 * of['train'] // arg.batch},
    'recognition': {**test, 'clips': of['clips'], 'crops': 3, 'quoted': f'{of["name"]}, fine-tuning'},
  }
  return config
