"""python -m tvts_jax.evaluate: what it opens, what it writes, and that two processes find what one finds."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from collections import Counter

import jax
import numpy as np
import pytest

from tests.support import clips, saved
from tests.support.paths import GOLDEN, ROOT
from tvts_jax import config as config_lib
from tvts_jax import convert, evaluate
from tvts_jax.errors import UserError
from tvts_jax.evaluators import features
from tvts_jax.input import vocab
from tvts_jax.input.tokens import Tokenizer
from tvts_jax.models import tvts
from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.run.checkpoint_reader import FOLDER

# What the command is given, in every process of a pod.
CONFIG = """
from ml_collections import ConfigDict
from tests.support import clips

def get_config():
  return ConfigDict(clips.values({root!r}, clips.EVALS))
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('evaluate')
  clips.make(root)
  return root


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
  monkeypatch.setattr(features.STORE, '_of', None)


@pytest.fixture(scope='module')
def random(root):
  """What random parameters make of all of clips.EVALS."""
  return evaluate.evaluate(clips.config(root, clips.EVALS), 'random', root / 'random')


def test_what_is_written(root, random, capfd):
  for name, one in random.items():
    assert json.loads((root / 'random' / f'{name}.json').read_text()) == json.loads(json.dumps(one))
    assert one['expected'] == 14 and one['evaluated'] == 12 and sorted(one['missing']) == ['test 13', 'test 4']
    assert one['checkpoint']['kind'] == 'random' and len(one['checkpoint']['parameters']) == 64
    assert {'jax', 'python', 'tvts_jax', 'devices'} <= set(one['versions']) and 'model.video.width: 16' in one['config']
    assert 'split' in one['protocol'] and 'centre frames of 16x16, 0% masked' in one['protocol']
  assert len(random['video_retrieval']['items']) == 12
  assert [item['hit'] for item in random['video_retrieval']['items']].count(1.0) / 14 == pytest.approx(
    random['video_retrieval']['metrics']['r1']
  )
  # Another call finds its features on the disk, and the same numbers.
  again = evaluate.evaluate(clips.config(root, {'video_retrieval': {'clips': 2}}), 'random', root / 'random')
  assert again['video_retrieval']['metrics'] == random['video_retrieval']['metrics']
  assert 'video_retrieval: r1 0.' in capfd.readouterr().out
  assert features.STORE.folder is None, 'the next evaluation of this process may be another one'


def test_weights_of_another_model_are_evaluated_as_they_are(root, tmp_path, capsys):
  settings = {'video': {'frames': 4}, 'dtype': 'float32'}
  config, params, _ = convert.import_model(GOLDEN / 'zoo' / 'clip_openai_tiny.pt', settings)
  convert.save_folder(tmp_path / 'clip', config, params, tokenizer=root / 'pieces')
  given = clips.values(root, {'knn': {'quoted': 'SSV2, linear probe'}, 'zero_shot': {}})
  values = evaluate.as_it_is(given, str(tmp_path / 'clip'))
  assert values['input']['tokenizer'] == str(tmp_path / 'clip')
  run = config_lib.resolve(values)
  assert run.model.encoder == 'frames' and run.model.video.statistics == 'clip'
  found = evaluate.evaluate(run, str(tmp_path / 'clip'), tmp_path / 'out')
  assert found['knn']['evaluated'] == 12 and 'frames of 24x24' in found['knn']['protocol']
  said = capsys.readouterr().out
  assert 'quoted and not run here, SSV2, linear probe, top1:\n' in said and '31.5  YT-Temporal (TVTS, Table 4)' in said
  assert {'method': 'TVTS', 'metrics': {'top1': '31.5'}}.items() <= found['knn']['quoted'][-1].items()
  same = clips.values(root, {'knn': {}})
  convert.save_folder(
    tmp_path / 'same', (own := clips.config(root, {'knn': {}})).model, clips.random_parameters(tvts.build(own.model))
  )
  assert evaluate.as_it_is(same, str(tmp_path / 'same')) == config_lib.plain(same)
  with pytest.raises(UserError, match="quoted='SSV3' is no table of .*known: .*SSV2, linear probe"):
    clips.config(root, {'knn': {'quoted': 'SSV3'}})


def test_a_folder_that_can_not_be_written_is_one_sentence(root, tmp_path, monkeypatch, capsys):
  (tmp_path / 'taken').write_text('')
  values = clips.values(root, {'video_retrieval': {}})
  given = types.SimpleNamespace(config=values, checkpoint='random', out=str(tmp_path / 'taken'))
  monkeypatch.setattr(evaluate.flags, 'FLAGS', given)
  monkeypatch.setattr(evaluate.command, 'tell_own', lambda: None)
  monkeypatch.setenv('JAX_NUM_PROCESSES', '1')
  with pytest.raises(SystemExit, match='1'):
    evaluate.main(['evaluate'])
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith('error: ') and f'{tmp_path}/taken' in line


def test_a_run_and_converted_weights_are_what_they_hold(root):
  config = clips.config(root, {'video_retrieval': {'features': 'embed'}}, transcripts=4)
  model = tvts.build(config.model)
  params, other = clips.random_parameters(model, 1), clips.random_parameters(model, 2)
  convert.save_folder(root / 'weights', config.model, params, tokenizer=root / 'pieces')
  from_weights = evaluate.evaluate(config, str(root / 'weights'))
  fingerprint = Tokenizer(config.input.tokenizer, 8).fingerprint
  older = {name: value for name, value in config.model.to_dict().items() if name != 'stop_gradient'}
  meta = {**saved.META, 'model': older, 'ema': True, 'version': '0', 'vocabulary': fingerprint}
  with Checkpoints(root / 'run' / FOLDER, CheckpointConfig()) as checkpoints:
    checkpoints.save(3, {'params': jax.device_put(other), 'ema': jax.device_put(params)}, meta)
  from_run = evaluate.evaluate(config, str(root / 'run'))
  about = from_run['video_retrieval']['checkpoint']
  assert (about['kind'], about['step'], about['part']) == ('run', 3, 'ema')
  assert about['parameters'] == from_weights['video_retrieval']['checkpoint']['parameters']
  assert from_run['video_retrieval']['items'] == from_weights['video_retrieval']['items']
  assert (root / 'run' / 'evaluate' / 'video_retrieval.json').exists()

  deeper = clips.config(root, {'video_retrieval': {}}, video={**clips.MODEL['video'], 'heads': 1})
  with pytest.raises(UserError, match=r'another model \(video.heads: 2 → 1\)'):
    evaluate.evaluate(deeper, str(root / 'run'))
  vocab.save(vocab.train(Counter({'other': 1, 'words': 1}), 100), root / 'other')
  own = dataclasses.replace(config.input, tokenizer=f'{root}/other')
  for folder in ('run', 'weights'):
    with pytest.raises(UserError, match='was made with the vocabulary'):
      evaluate.evaluate(dataclasses.replace(config, input=own), str(root / folder))
  with pytest.raises(UserError, match='neither the work directory'):
    evaluate.evaluate(config, str(root / 'shards'))
  with pytest.raises(UserError, match='has no evals'):
    evaluate.evaluate(clips.config(root, {}), 'random', root / 'x')
  with pytest.raises(UserError, match='by --out'):
    evaluate.evaluate(config, 'random')


@pytest.mark.long
def test_two_processes_find_what_one_finds(root, random):
  (root / 'config.py').write_text(CONFIG.format(root=str(root)))
  pod = [sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '1', '--']
  own = {**os.environ, 'TVTS_HEARTBEAT_S': '300'}  # A loaded machine may leave a process without time for long.
  command = [sys.executable, '-m', 'tvts_jax.evaluate', f'--config={root}/config.py', '--checkpoint=random']
  told = subprocess.run(
    [*pod, *command, f'--out={root}/pod'], cwd=ROOT, env=own, check=True, capture_output=True, text=True
  )
  assert told.stdout.count('video_retrieval: r1 0.') == 1  # By one of the two.
  for name, one in random.items():
    other = json.loads((root / 'pod' / f'{name}.json').read_text())
    assert other['metrics'] == pytest.approx(one['metrics'])
    assert other['missing'] == one['missing'] and other['protocol'] == one['protocol']
    assert [item['id'] for item in other['items']] == [item['id'] for item in one['items']]
  for path in (root / 'pod' / 'features').iterdir():
    with np.load(path) as ours, np.load(root / 'random' / 'features' / path.name) as theirs:
      good = ours['valid']
      np.testing.assert_array_equal(good, theirs['valid'])
      np.testing.assert_allclose(ours['cls'][good], theirs['cls'][good], atol=2e-5)
