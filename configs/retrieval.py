"""The paper's fine-tuning for text-to-video retrieval (Tables 6 and 10): 4 frames and one text, contrastive alone.

  python -m tvts_jax.main --config=configs/retrieval.py:set=msrvtt --workdir=runs/msrvtt
  python -m tvts_jax.evaluate --config=configs/retrieval.py:set=msrvtt --checkpoint=runs/msrvtt

Needs
  clips       data/msrvtt and ready/msrvtt/annotations.jsonl, made with
                python -m data.check msrvtt ANNOTATIONS --media VIDEOS --out ready/msrvtt
                python -m data.build ready/msrvtt/index.jsonl --out data/msrvtt --caption-frames 32
  a model     weights/tvts: the work directory of a run of configs/pretrain.py or configs/post_pretrain.py, or a folder
              of converted weights
  tokenizer   weights/distilbert-base-uncased, the one that the model was trained with

The sets, by name:
  msrvtt   split 1k-A: 9000 videos, one of their 20 captions drawn each time; 1000 to test on, one given caption each.
           There is no other split, so nothing may be chosen by what the evaluator says on the way
  didemo   all sentences of a video as one text, of up to 64 word pieces, and the whole video
  msvd     one of about 40 captions drawn each time; every caption is a query by itself
  lsmdc    one sentence a clip, or one of them drawn

The model keeps its 16 frames; clips of 4 use the first two positions in time, as in post-pre-training. Nothing is
masked. The sorter stays as it is. The evaluator looks at the middle of the frames and tells both directions.

Hardware: the arithmetic of one clip and step is 226 GFLOP, of the run on MSR-VTT 6.1e16 FLOP: minutes on one device.
Expect, as the paper has it, a text-to-video R@1 of 34.6 % on MSR-VTT, 32.4 on DiDeMo, 45.9 on MSVD and 17.2 on LSMDC.
It says neither how long it trained nor with which learning rate: batch and rate are those of Frozen in Time, which it
follows. That waits for its score to stop rising; here a cosine ends after a fixed number of epochs.

Variations: set, size (as the model's), data, annotations, run, tokenizer (paths), batch, epochs, lr.
"""

from tvts_jax.config import base, choose, parse_arg
from tvts_jax.models.encoders.vit import ViTConfig

# The name in tables, what is said of a clip in training, what of it asks for the clip in the test, and word pieces of
# the longest text.
SETS = {
  'msrvtt': dict(name='MSR-VTT', caption='drawn', texts='first', max_tokens=32),
  'didemo': dict(name='DiDeMo', caption='record', texts='paragraph', max_tokens=64),
  'msvd': dict(name='MSVD', caption='drawn', texts='each', max_tokens=32),
  'lsmdc': dict(name='LSMDC', caption='drawn', texts='first', max_tokens=32),
}


def get_config(arg=''):
  given = dict(data='', annotations='', run='weights/tvts', tokenizer='weights/distilbert-base-uncased')
  arg = parse_arg(arg, set='msrvtt', size='B/16', **given, batch=64, epochs=30.0, lr=3e-5)
  of = choose(arg, 'set', SETS)
  folder, annotations = arg.data or f'data/{arg.set}', arg.annotations or f'ready/{arg.set}/annotations.jsonl'
  config = base()
  config.model.video.update(choose(arg, 'size', ViTConfig.SIZES))

  config.input.update(tokenizer=arg.tokenizer, batch=arg.batch, mask_ratio=0.0, max_tokens=of['max_tokens'])
  config.input.sources = ({'folder': folder, 'frames': 4, 'transcripts': 1, 'caption': of['caption']},)
  config.input.annotations = annotations

  config.objectives = {'contrastive': {'weight': 1.0}}
  config.optim.update(lr=arg.lr, schedule='cosine', groups=(('^sorter/', {'frozen': True}),))
  config.epochs = arg.epochs
  config.init.run = arg.run

  test = {'annotations': annotations, 'split': 'test', 'folder': folder, 'texts': of['texts']}
  test['quoted'] = f'{of["name"]}, fine-tuned text retrieval'
  config.evals = {'text_retrieval': {**test, 'frames': 4, 'transcripts': 1, 'batch': 64, 'every_steps': 500}}
  return config
