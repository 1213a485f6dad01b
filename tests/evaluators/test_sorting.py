"""The sorting evaluator on a few hand-made clips, on eight devices."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.support import clips, folders
from tvts_jax import config as config_lib
from tvts_jax import evaluators
from tvts_jax.errors import UserError
from tvts_jax.models import tvts

DEVICES = 8
CLIPS = 20  # Which fill two batches of 8 and half of a third.


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('sorting')
  clips.make(root)  # For its tokenizer.
  said = lambda record, n: dataclasses.replace(record, words=[f'falling stone {(i + n) % 5}' for i in range(40)])
  records = [said(folders.record(f'clip {n}'), n) for n in range(CLIPS)]
  folders.write(root / 'spoken', {'train': [records[:12], records[12:]]})
  return root


def build(root, **settings):
  """(evaluator, parameters) of a run that is trained on transcripts in their true order."""
  values = clips.values(root, {}, transcripts=4)
  values['input'] |= {'folder': f'{root}/spoken', 'order': 'identity'}
  values['evals'] = {'sorting': {'split': 'train', 'batch': 8, **settings}}
  config = config_lib.resolve(values)
  model = tvts.build(config.model)
  return evaluators.build(config, model, clips.mesh())['sorting'], clips.random_parameters(model)


@pytest.fixture(scope='module')
def bounded(root):
  return build(root, max_clips=10)


def test_a_batch_that_does_not_fit_the_devices(root):
  with pytest.raises(UserError, match='batch=4 is not a multiple of 8'):
    build(root, batch=4)


def test_transcripts_are_shuffled_whatever_training_does(bounded):
  """A model that makes all places equal sorts no better than chance."""
  evaluator, params = bounded
  metrics = evaluator(jax.tree.map(np.zeros_like, params))
  order_NxK = np.concatenate([batch['order'] for batch in evaluator.source.batches()])[:10]
  right = (order_NxK == np.arange(4)).all(1).mean()
  assert metrics['own/assigned'] == pytest.approx(right) and right < 0.25
  assert metrics['own/exact'] == 0 and abs(metrics['own/kendall_tau']) < 0.5


def test_max_clips_bounds_what_is_looked_at(root, bounded, monkeypatch):
  evaluator, params = bounded
  steps, batches = [], evaluator.source.batches
  monkeypatch.setattr(evaluator.source, 'batches', lambda *a, **k: steps.append(k['stop_step']) or batches(*a, **k))
  few = evaluator.result(params)
  monkeypatch.setattr(evaluator, 'clips', CLIPS)
  every = evaluator.result(params)
  assert steps == [2, 3] and (few.expected, few.evaluated, every.expected) == (10, 10, CLIPS)
  assert [item['example'] for item in few.items] == [item['example'] for item in every.items[:10]]
  assert few.metrics['own/item'] == pytest.approx(np.mean([item['own/item'] for item in every.items[:10]]))
  assert '(of 20 clips the first 10 in storage)' in few.protocol and 'in storage' not in every.protocol
  assert build(root, max_clips=1000)[0].clips == build(root)[0].clips == CLIPS
