"""TVTSv2's recipe: the authors' groups of parameters, and sources of different K in one run."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from tests.configs.test_post_pretrain import captioned
from tests.support import folders
from tests.support.paths import GOLDEN
from tests.support.runs import rows
from tests.test_config import load
from tvts_jax import config as config_lib
from tvts_jax import objectives, optim, train
from tvts_jax.convert import names
from tvts_jax.convert.families import FAMILIES
from tvts_jax.errors import UserError
from tvts_jax.input import vocab

FILES = {'B/32': 'tvtsv2_b32', 'B/16': 'tvtsv2_b16', 'H/14': 'tvtsv2_h14'}
GROUPS = {
  'decay_new': (1, True),
  'no_decay_new': (1, False),
  'decay_clip': (1e-3, True),
  'no_decay_clip': (1e-3, False),
}


@pytest.mark.parametrize('size', FILES)
def test_each_parameter_is_in_the_group_that_the_authors_give_it(size):
  """By the names, shapes and groups that their own code gave."""
  config = config_lib.resolve(load(f'pretrain_v2:size={size},reference=True'))
  spec = names.spec(config.model)
  groups = optim.groups_of(config.optim, names.unflatten(spec))
  ours = {}
  for row in FAMILIES['tvtsv2'].rows(config.model):
    group = groups[next(iter(row.ours))]
    for index, name in names.layers(row, spec):
      factor = np.broadcast_to(np.ravel(group['lr']), (max(1, np.size(group['lr'])),))
      factor = factor[index[0]] if index and len(factor) > 1 else factor[0]
      ours[name] = names.their_shape(row, spec, config.model), float(factor), group['decay']
  theirs = {}
  for line in (GOLDEN / 'zoo' / 'names' / f'{FILES[size]}_names.txt').read_text().splitlines():
    name, shape, _, group = line.split('\t')
    theirs[name.removeprefix('module.')] = tuple(map(int, shape[1:-1].split(','))), group
  assert set(ours) == set(theirs)
  for name, (shape, factor, decay) in ours.items():
    expected, group = theirs[name]
    assert shape == expected, name
    if group == 'frozen':
      assert factor == 0, name
    else:
      assert (factor, decay) == GROUPS[group], name


def test_rates_of_layers_that_are_not_there_are_refused():
  params = {'text': {'blocks': {'norm1': {'bias': np.zeros((3, 2))}}, 'word': np.zeros((3, 2))}}
  for path, words in (('^text/blocks/', 'has 2 learning rates for text/blocks.*has 3 layers'), ('word', 'no layers')):
    with pytest.raises(UserError, match=words):
      optim.groups_of(optim.OptimConfig(groups=((path, {'lr': (0.0, 1.0)}),)), params)


def test_one_transcript_leaves_out_what_sorts():
  loss_fn = objectives.build({'contrastive': {}, 'sort': {'weight': 2.0}})
  rng = np.random.default_rng(0)
  embeds = {name: rng.standard_normal((4, 8)).astype(np.float32) for name in ('video_embed', 'text_embed')}
  batch = {'order': np.zeros((4, 1), np.int32)}
  loss, metrics = loss_fn(embeds | {'sort_logits': np.zeros((4, 1, 4), np.float32)}, batch)
  alone, _ = objectives.build({'contrastive': {}})(embeds, batch)
  assert loss == alone and not any(name.startswith('sort/') for name in metrics)
  with pytest.raises(UserError, match='objectives sort learn nothing from one transcript'):
    objectives.build({'sort': {}})(embeds, batch)


@pytest.mark.long
def test_sources_of_four_transcripts_and_of_one_take_turns(tmp_path):
  talk = [folders.record(f'talk {n}', height=16) for n in range(20)]
  folders.write(
    tmp_path / 'yttemporal',
    {'train': [talk]},
    sampling={'transcripts': 4, 'seconds': [2], 'gap_s': 1.0, 'min_words': 1},
  )
  folders.write(tmp_path / 'webvid', {'train': [[captioned('clip', n, 6, 6000) for n in range(12)]]})
  words = Counter([f'w{i}' for i in range(40)])
  vocab.save(vocab.train(words, 60), tmp_path / 'clip-vit-base-patch16')
  arg = f'yttemporal={tmp_path}/yttemporal,webvid={tmp_path}/webvid,weights={tmp_path},batch=4'
  values = load(f'pretrain_v2:size=B/32,{arg}').to_dict()
  video = dict(width=16, depth=1, heads=2, patch=8, image_size=16, frames=4, activation='gelu', sorts='bare')
  text = dict(vocab_size=60, dim=16, hidden_dim=16, n_layers=2, n_heads=2, max_position_embeddings=8)
  values['model'] |= {
    'video': values['model']['video'] | video,
    'text': text,
    'common': 16,
    'dtype': 'float32',
    'sort_heads': 2,
  }
  values |= {'epochs': None, 'steps': 4, 'log_every': 1, 'evals': {}, 'init': {}}
  values['input'] |= {'max_tokens': 6, 'resize': 16, 'gap_s': 1.0, 'min_words': 1, 'mask_ratio': 0.5}
  values['optim']['groups'] = tuple((path, {'lr': 1.0}) for path, _ in values['optim']['groups'])
  talks, clips = values['input']['sources']
  values['input']['sources'] = ({**talks, 'seconds': (2.0,)}, {**clips, 'seconds': (3.0,)})
  config = config_lib.resolve(values)
  assert train.train(dataclasses.replace(config), tmp_path / 'run')
  logged = [row for row in rows(tmp_path / 'run') if 'loss' in row]
  assert ['sort/loss' in row for row in logged] == [True, False, True, False]
  assert all(np.isfinite(row['loss']) for row in logged)
