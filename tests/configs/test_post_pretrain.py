"""Post-pre-training: images and clips in turn, two shapes of batch in one run, from the weights of another."""

import dataclasses
import shutil
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from ml_collections import config_flags

from tests.support import folders, runs, weights
from tests.support.paths import ROOT
from tests.support.runs import rows
from tvts_jax import config as config_lib
from tvts_jax import convert, train
from tvts_jax import step as step_lib
from tvts_jax.convert import names
from tvts_jax.input import vocab

STEPS, BATCH = 5, 8
MODEL = weights.config_of(
  video={'image_size': 8, 'frames': 16, 'depth': 1},
  text={'n_layers': 1, 'dropout': 0.0, 'attention_dropout': 0.0},
  transcripts=4,
  sort_depth=1,
  scan=False,
)
PARAMS = weights.random_params(MODEL)
WORDS = [f'w{i}' for i in range(30)]


def captioned(name, n, frames, ms):
  pictures = [folders.jpeg(16, 24, value=(67 * n + 40 * i) % 256) for i in range(frames)]
  return dataclasses.replace(
    folders.record(f'{name} {n}'),
    **dict(start_ms=0, end_ms=ms, duration_ms=ms, transcript_timing='caption'),
    **dict(frames=pictures, frame_times_ms=[i * ms // frames for i in range(frames)]),
    **dict(words=[WORDS[n], 'w1', 'w2'], word_starts_ms=[0] * 3, word_ends_ms=[ms] * 3),
  )


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Captioned images and clips, and a model that was trained for longer clips."""
  root = tmp_path_factory.mktemp('post')

  folders.write(root / 'cc3m', {'train': [[captioned('image', n, 1, 1) for n in range(20)]]})
  folders.write(root / 'webvid', {'train': [[captioned('clip', n, 6, 6000) for n in range(12)]]})
  vocab.save(vocab.train(Counter(WORDS), 40), root / 'pieces')
  convert.save_folder(root / 'weights', MODEL, PARAMS, tokenizer=root / 'pieces')
  return root


def config_of(root, **changes):
  given = {name: f'{root}/{name}' for name in ('cc3m', 'webvid')}
  given |= {'run': f'{root}/weights', 'tokenizer': f'{root}/pieces', 'batch': BATCH, 'frames': 16} | changes
  arg = ','.join(f'{name}={value}' for name, value in given.items())
  parse = config_flags.config_flags.ConfigFileFlagParser('config', True).parse
  values = parse(f'{ROOT}/configs/post_pretrain.py:{arg}').to_dict()
  model = config_lib.plain(MODEL)
  model['video'] |= {'frames': given['frames']}
  values |= {'model': model, 'epochs': None, 'steps': STEPS, 'log_every': 1}
  values['input'] |= {'max_tokens': 6, 'resize': 8}
  values['checkpoint'] |= {'every_steps': 1, 'keep': 100}
  return config_lib.resolve(values)


def run(config, workdir):
  assert train.train(config, workdir)


@pytest.fixture(scope='module')
def trained(root):
  """The work directory of a run, of which all checkpoints are kept."""
  run(config_of(root), root / 'run')
  return root / 'run'


@pytest.mark.long
def test_images_train_the_first_position_in_time_and_clips_the_first_two(trained):
  old_TxD = PARAMS['video']['time_position']
  moved = lambda step: (runs.end(trained, step)['params/video/time_position'] != old_TxD).any(axis=1).tolist()
  assert moved(1) == [True] + 7 * [False], 'the first batch is of images'
  assert moved(2) == moved(STEPS) == 2 * [True] + 6 * [False]


@pytest.mark.long
def test_all_but_the_sorter_learns_from_the_weights_it_was_given(trained):
  before, after = names.flatten(PARAMS), runs.end(trained, STEPS)
  for path, old in before.items():
    new = after[f'params/{path}']
    # Each of 5 steps of Adam moves a value by about the learning rate.
    assert np.abs(new - old).max() < 1e-3, path
    assert (new == old).all() == path.startswith('sorter/'), path
  told = rows(trained)
  assert [row['step'] for row in told] == list(range(1, STEPS + 1))
  assert all('contrastive/loss' in row and 'sort/loss' not in row for row in told)


@pytest.mark.long
def test_a_run_that_stopped_between_the_sources_ends_like_an_undisturbed_one(root, trained):
  again = root / 'again'
  shutil.copytree(trained, again)
  for step in (4, STEPS):
    shutil.rmtree(again / 'checkpoints' / str(step))
  run(config_of(root), again)
  assert rows(again) == rows(trained)
  expected, found = runs.end(trained, STEPS), runs.end(again, STEPS)
  assert expected.keys() == found.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_positions_in_time_are_interpolated_on_request(root):
  config = config_of(root, frames=4)
  params, _ = convert.load_part(step_lib.describe(config, 1).shapes.params, config.model, 'video', root / 'weights')
  # Each of the two slots is the mean of those around it, less the farther they are.
  away_2xT = np.abs(np.arange(8) - np.array([[1.5], [5.5]]))
  weight_2xT = np.maximum(0, 1 - away_2xT / 4)
  weight_2xT /= weight_2xT.sum(axis=1, keepdims=True)
  expected = weight_2xT @ PARAMS['video']['time_position']
  np.testing.assert_allclose(params['video']['time_position'], expected, atol=1e-6)


def test_equal_shapes_are_compiled_once():
  """Whatever the number of sources that take turns."""
  spec = {'patches': ((8, 4, 6), np.uint8), 'tokens': ((8, 1, 6), np.int32), 'example_id': ((8,), np.uint64)}
  longer = {**spec, 'patches': ((8, 8, 6), np.uint8)}
  specs = step_lib.specs_of(mock.Mock(specs=[spec, longer, spec]))
  with mock.patch.object(step_lib, 'compile_step', side_effect=lambda step, state, spec, *_: spec) as compiled:
    fns = step_lib.compile_steps(None, None, specs, None, None, None)
  assert compiled.call_count == 2 and [fn['patches'].shape[1] for fn in fns] == [4, 8, 4]
  assert all('example_id' not in fn for fn in fns)
