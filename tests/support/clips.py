"""A benchmark in miniature: shards, annotations, a tokenizer; and what a model makes of its clips, one by one."""

import dataclasses
import json
from collections import Counter

import cv2
import jax
import numpy as np

from tests.support import folders
from tvts_jax import config as config_lib
from tvts_jax import sharding
from tvts_jax.input import vocab
from tvts_jax.input.tokens import Tokenizer
from tvts_jax.models import tvts
from tvts_jax.models.encoders import encoder

CLASSES = ['falling', 'rising', 'rolling']
MODEL = {
  'video': {'width': 16, 'depth': 1, 'heads': 2, 'patch': 8, 'image_size': 16, 'frames': 8},
  'text': {'vocab_size': 100, 'max_position_embeddings': 16, 'dim': 16, 'hidden_dim': 16, 'n_layers': 1, 'n_heads': 2},
  'common': 8,
  'dtype': 'float32',
  'start': 'narrow',
}
HEIGHT, WIDTH, FRAMES, MS = 16, 32, 24, 6000
# To be evaluated as `python -m tvts_jax.evaluate` does.
EVALS = {
  'video_retrieval': {'clips': 2},
  'text_retrieval': {'texts': 'each'},
  'linear_probe': {'epochs': 3, 'warmup_epochs': 1, 'train_batch': 10},
}
MISSING, DAMAGED = 'test 13', 'test 4'  # Listed but in no shard; in a shard but with a JPEG that does not decode.


def frame(greys) -> bytes:
  """Four upright stripes of 8 pixels, each of one grey: every decoder makes the same of them."""
  image = np.repeat(np.repeat(np.array(greys, np.uint8), 8)[None, :, None], HEIGHT, 0).repeat(3, 2)
  return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def record(id_: str, label: int, caption: str, seed: int):
  """Brightness falls, rises or stays, at a pace and a level of the clip's own."""
  rng = np.random.default_rng(seed)
  slope = {0: -1, 1: 1, 2: 0}[label] * rng.uniform(4, 5)
  greys = 100 + rng.integers(0, 30, 4) + slope * np.arange(FRAMES)[:, None] * 0.8
  words = caption.split()
  return dataclasses.replace(
    folders.record(id_, frames=1),
    **dict(height=HEIGHT, width=WIDTH, start_ms=0, end_ms=MS, duration_ms=MS, transcript_timing='caption'),
    **dict(frames=[frame(g.clip(0, 255)) for g in greys], frame_times_ms=[i * MS // FRAMES for i in range(FRAMES)]),
    **dict(words=words, word_starts_ms=[0] * len(words), word_ends_ms=[MS] * len(words)),
  )


def make(root):
  """root/shards, root/pieces, root/annotations.jsonl; returns the annotations and the records by id."""
  rng, rows, records = np.random.default_rng(0), [], {}
  for split, count in (('train', 30), ('test', 14)):
    for n in range(count):
      label, id_ = n % 3, f'{split} {n}'
      words = [f'{CLASSES[label]} stone {n % 5}', f'a {CLASSES[label]} thing', f'{n} stones'][: 1 + n % 3]
      rows.append({'id': id_, 'split': split, 'label': label, 'class': CLASSES[label], 'captions': words})
      records[id_] = record(id_, label, words[0], int(rng.integers(1 << 30)))
  broken = records[DAMAGED].frames[12]
  records[DAMAGED].frames[:] = [broken[:-40] + bytes(38) + b'\xff\xd9'] * FRAMES
  of = lambda split: [r for id_, r in records.items() if id_.startswith(split) and id_ != MISSING]
  folders.write(root / 'shards', {'train': [of('train')[:17], of('train')[17:]], 'test': [of('test')]})
  (root / 'annotations.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  counts = Counter(word for row in rows for text in row['captions'] for word in text.split())
  vocab.save(vocab.train(counts, 100), root / 'pieces')
  return rows, records


def config(root, evals, **model):
  """The RunConfig of `values`."""
  return config_lib.resolve(values(root, evals, **model))


def values(root, evals, **model) -> dict:
  """A config with evaluators whose clips, unless they say otherwise, are those of split test in batches of 8."""
  common = {'annotations': f'{root}/annotations.jsonl', 'split': 'test', 'batch': 8, 'transcripts': 1, 'frames': 4}
  return {
    'model': {**MODEL, **model},
    'input': {
      **{'folder': f'{root}/shards', 'tokenizer': f'{root}/pieces', 'batch': 8, 'max_tokens': 8, 'max_bad': 0.5},
      'decoder': 'cv',
    },
    'evals': {name: {**common, **settings} for name, settings in evals.items()},
    'steps': 1,
  }


def random_parameters(model, seed=0):
  """Large enough that clips and texts differ."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda key: model.init(key, tvts.batch_spec(model.config, 1, 1, 1)), jax.random.key(0))
  draw = lambda path, s: ((path[-1].key == 'scale') + 0.3 * rng.standard_normal(s.shape)).astype(s.dtype)
  return jax.tree.map_with_path(draw, shapes)


class Oracle:
  """The whole model on one clip and its texts, on one device, with frames chosen and cut by hand."""

  def __init__(self, root, model, params, records, pieces=8):
    self.model, self.params, self.records = model, params, records
    self.apply = jax.jit(model.apply)
    self.tokenizer = Tokenizer(f'{root}/pieces', pieces)

  def clip(self, id_, at_ms, left=8, text='a'):
    """Outputs of the model for the frames on screen at some times, cut at `left` pixels."""
    record = self.records[id_]
    shown = [max(i for i, t in enumerate(record.frame_times_ms) if t <= at) for at in at_ms]
    pictures = [cv2.imdecode(np.frombuffer(record.frames[i], np.uint8), cv2.IMREAD_COLOR) for i in shown]
    cut = np.stack(pictures)[None, :, :, left : left + 16, ::-1]
    config = self.model.config.video
    patches = np.asarray(encoder.patchify(cut, config))
    tokens, mask = self.tokenizer([text] * self.model.config.transcripts)
    positions = np.arange(patches.shape[1], dtype=np.int32)[None]
    batch = {'patches': patches, 'positions': positions, 'tokens': tokens[None], 'token_mask': mask[None]}
    out = jax.device_get(self.apply(self.params, batch))
    return {'cls': out['video_tokens'][0, 0], 'embed': out['video_embed'][0], 'tokens': out['video_tokens'][0]}

  def text(self, text):
    """A text four times is, on average, the text."""
    tokens, mask = self.tokenizer([text] * self.model.config.transcripts)
    config = self.model.config.video
    patches = np.zeros((1, 8, config.pixels), np.uint8)
    batch = {'patches': patches, 'positions': np.arange(8, dtype=np.int32)[None]}
    batch |= {'tokens': tokens[None], 'token_mask': mask[None]}
    return jax.device_get(self.apply(self.params, batch))['text_embed'][0]


MIDDLES = [MS * (2 * m + 1) // 8 for m in range(4)]  # Of four equal parts of a clip.


def mesh(devices=None):
  return sharding.make_mesh({'data': -1}, devices)
