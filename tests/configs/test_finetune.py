"""Fine-tuning and retrieval as whole runs of our configs: what learns, what is told, what a stopped run comes to."""

import json
import shutil
from unittest import mock

import numpy as np
import pytest
from ml_collections import config_flags

from tests.support import clips, runs
from tests.support.paths import ROOT
from tests.support.runs import rows
from tvts_jax import config as config_lib
from tvts_jax import convert, evaluate, evaluators, preflight, step, train
from tvts_jax.convert import workdir
from tvts_jax.errors import UserError
from tvts_jax.models import tvts

STEPS = 4
TINY = {**clips.MODEL, 'video': {**clips.MODEL['video'], 'frames': 4}, 'sort_depth': 1, 'start': 'published'}
COMPILED = {}  # Steps, by the run that they are of.


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A benchmark in miniature, and a model to start from."""
  root = tmp_path_factory.mktemp('benchmark')
  clips.make(root)
  config = tvts.TVTSConfig.from_dict(TINY)
  params = clips.random_parameters(tvts.build(config))
  convert.save_folder(root / 'weights', config, params, tokenizer=root / 'pieces')
  return root


def config_of(root, name: str, arg: str = '', drop_path: float = 0.0, **changes):
  """A config of ours for this benchmark and a model of this size, for a few steps; changes are to all evaluators."""
  paths = f'data={root}/shards,annotations={root}/annotations.jsonl,tokenizer={root}/pieces'
  parse = config_flags.config_flags.ConfigFileFlagParser('config', True).parse
  values = parse(f'{ROOT}/configs/{name}.py:{paths},{arg}').to_dict()
  video = {**TINY['video'], 'drop_path': drop_path}
  values |= {'model': {**TINY, 'video': video}, 'epochs': None, 'steps': STEPS, 'log_every': 1}
  values['input'] |= {'max_tokens': 8, 'decoder': 'cv'}
  values['checkpoint'] |= {'every_steps': 2, 'keep': 100}
  for settings in values['evals'].values():
    settings |= {'split': 'test', 'batch': 8, **changes}
    if settings.pop('resize', None):
      settings['resize'] = 16
  return values


def run(values, folder):
  """Compiles once for all runs of one config."""
  config, compiling = config_lib.resolve(values), step.compile_step

  def once(*given):
    key = config_lib.text(config)
    if key not in COMPILED:
      COMPILED[key] = compiling(*given)
    return COMPILED[key]

  with mock.patch.object(step, 'compile_step', once):
    assert train.train(config, folder)


def recognition_of(root, quick=True):
  """quick: the evaluator looks at the middle view alone."""
  values = config_of(root, 'finetune', f'set=hmdb51,batch=8,run={root}/weights', drop_path=0.1)
  values['objectives']['classify'] |= {'classes': 3}
  values['optim'] |= {'warmup_steps': 2}
  values['ema'] = 0.5
  values['evals'].pop('recognition' if quick else 'middle')
  return values


@pytest.fixture(scope='module')
def trained(root):
  run(recognition_of(root), root / 'run')
  return root / 'run'


@pytest.mark.long
def test_the_encoder_and_its_classifier_learn_and_nothing_else(root, trained):
  before, after = runs.end(trained, 2), runs.end(trained, STEPS)
  for path, old in before.items():
    if path.startswith('params/'):
      learns = path.startswith(('params/video/', 'params/heads_classify/'))
      assert (after[path] != old).any() == learns, path
  told = [row for row in rows(trained) if 'loss' in row]
  assert [row['step'] for row in told] == list(range(1, STEPS + 1))
  (last,) = (json.loads(line) for line in (trained / 'eval' / 'middle.jsonl').read_text().splitlines())
  assert (last['step'], last['clips'], last['missing']) == (STEPS, 14, 2) and 0 <= last['top1'] <= 12 / 14
  assert all(np.isfinite(row['classify/loss']) and 0 <= row['classify/top1'] <= 1 for row in told)
  table = (trained / 'parameters.txt').read_text()
  assert 'lr ×0.75, decays' in table and 'lr ×0.562' in table and 'heads_classify/linear/kernel' in table


@pytest.mark.long
def test_a_run_that_was_stopped_ends_bit_for_bit_as_if_it_was_not(root, trained):
  again = root / 'again'
  shutil.copytree(trained, again)
  shutil.rmtree(again / 'checkpoints' / str(STEPS))
  run(recognition_of(root), again)
  runs.assert_equal_ends(trained, again, STEPS)


@pytest.mark.long
def test_the_classifier_is_tested_under_all_views_by_a_plain_loop(root, trained):
  """2 clips x 3 crops of each video, their probabilities averaged; clips that are gone are wrong."""
  config = config_lib.resolve(recognition_of(root, quick=False))
  found = evaluate.evaluate(config, str(trained), root / 'out')['recognition']
  assert found['checkpoint']['part'] == 'ema' and 'classifier of 3 classes' in found['protocol']
  assert '2 interleaved clips x 3 crops' in found['protocol']

  model, params, _ = workdir.load_workdir(trained)  # The running mean, as it would be exported.
  rows, records = clips.make(root / 'once more')
  oracle, ends, right = clips.Oracle(root, tvts.build(model), params, records), runs.end(trained, STEPS), 0
  kernel_DxK, bias_K = (ends[f'ema/heads_classify/linear/{name}'] for name in ('kernel', 'bias'))
  items = {item['id']: item for item in found['items']}
  for row in rows:
    if row['split'] != 'test' or row['id'] in (clips.MISSING, clips.DAMAGED):
      continue
    chances = []
    for nth in range(2):
      at = [clips.MS * (4 * m + 2 * nth + 1) // 16 for m in range(4)]
      for left in (0, 8, 16):
        logits_K = oracle.clip(row['id'], at, left)['cls'] @ kernel_DxK + bias_K
        chances.append(np.exp(logits_K) / np.exp(logits_K).sum())
    mean_K, item = np.mean(chances, axis=0), items[row['id']]
    assert item['class'] == row['class']
    for name, score in item['best']:
      assert score == pytest.approx(mean_K[clips.CLASSES.index(name)], abs=1e-5)
    right += item['right']
  assert found['metrics']['top1'] == pytest.approx(right / 14) and len(items) == 12


def test_classes_that_do_not_fit_are_refused_by_name(root):
  values = recognition_of(root)
  model = tvts.build(tvts.TVTSConfig.from_dict(TINY))
  build = lambda: evaluators.build(config_lib.resolve(values), model, clips.mesh())
  values['objectives']['classify']['classes'] = 2
  with pytest.raises(UserError, match='numbers classes up to 2, .* beyond objectives.classify.classes=2; set it to at'):
    preflight.check_labels(config_lib.resolve(values))
  values['objectives']['classify']['classes'] = 4
  with pytest.raises(UserError, match='has 3 classes, but objectives.classify.classes=4; set it to 3'):
    build()
  lines = [json.loads(line) for line in (root / 'annotations.jsonl').read_text().splitlines()]
  for row in lines:
    row['kind'] = 'a new one' if row['id'] == 'test 3' else row['class']
  path = root / 'strange.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in lines))
  values['input'] |= {'annotations': str(path), 'label': 'kind'}
  with pytest.raises(UserError, match="1 classes of split 'test', 'a new one' the first, .* 'train'"):
    build()
  values['objectives'] = {'contrastive': {}}
  with pytest.raises(UserError, match='objective classify, which the run lacks'):
    build()


def test_ssv2_is_never_mirrored(root):
  sets = ('ssv2', 'k400', 'ucf101', 'hmdb51')
  flips = {name: config_of(root, 'finetune', f'set={name}')['input']['flip'] for name in sets}
  assert flips == {'ssv2': False, 'k400': True, 'ucf101': True, 'hmdb51': True}


@pytest.mark.long
def test_retrieval_trains_all_but_the_sorter_and_tells_both_directions(root):
  values = config_of(root, 'retrieval', f'set=msvd,batch=8,run={root}/weights')
  values['steps'], values['checkpoint'] = 3, {'every_steps': 1}
  values['evals']['text_retrieval'] |= {'every_steps': 2}
  run(values, root / 'retrieval')
  before, after = runs.end(root / 'retrieval', 1), runs.end(root / 'retrieval', 3)
  moved = {path for path, old in before.items() if path.startswith('params/') and (after[path] != old).any()}
  assert {path.split('/')[1] for path in moved} == {'video', 'text', 'video_projection', 'text_projection'}
  lines = (root / 'retrieval' / 'eval' / 'text_retrieval.jsonl').read_text().splitlines()
  told = [json.loads(line) for line in lines]
  assert [row['step'] for row in told] == [2, 3] and all('t2v_r1' in row and 'v2t_median_rank' in row for row in told)


def test_the_linear_probe_of_the_paper_on_a_folder_of_weights(root):
  values = config_of(root, 'linear_probe', 'set=hmdb51', train_batch=10, clips=1, crops=1)
  found = evaluate.evaluate(config_lib.resolve(values), str(root / 'weights'), root / 'probe')['linear_probe']
  assert found['expected'] == 14 and found['evaluated'] == 12 and 0 <= found['metrics']['top1'] <= 1
  assert 'for 100 epochs' in found['protocol'] and 'lr 0.1 x 10/256' in found['protocol']
  assert 'SGD with momentum 0.9' in found['protocol'] and 'of 4 centre frames' in found['protocol']
