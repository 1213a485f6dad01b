"""Configs: every setting's resolved value, in a text that a review shows, and what is refused by name."""

import re
import subprocess
import sys
from unittest import mock

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from tests.support import pages
from tests.support.paths import ROOT
from tvts_jax import config as config_lib
from tvts_jax import objectives
from tvts_jax.errors import UserError

GOLDEN = ROOT / 'tests' / 'golden' / 'configs'
CONFIGS = ['demo', 'demo_evals', 'pretrain', 'pretrain:size=H/14', 'pretrain:size=S/16,batch=256,epochs=1']
CONFIGS += ['finetune', 'finetune:set=k400', 'linear_probe', 'retrieval', 'retrieval:set=didemo']
CONFIGS += ['demo_finetune', 'demo_finetune:set=order,start=random', 'demo_retrieval']
CONFIGS += ['post_pretrain', 'post_pretrain:frames=4', 'demo:objective=pairwise', 'pretrain:objective=videomae']
CONFIGS += ['ablations', 'pretrain:objective=svt', 'pretrain_v2', 'pretrain_v2:size=H/14,reference=True']


def load(name: str):
  file, _, arg = name.partition(':')
  return config_flags.config_flags.ConfigFileFlagParser('config', True).parse(f'{ROOT}/configs/{file}.py:{arg}')


@pytest.mark.parametrize('name', CONFIGS)
def test_the_resolved_text_is_as_reviewed(name):
  """A changed default shows here, in every run that it changes. To accept: write the text below to the file."""
  path = GOLDEN / f'{name.replace(":", "--").replace("/", "").replace(",", "-").replace("=", "")}.txt'
  assert config_lib.text(config_lib.resolve(load(name))) == path.read_text()


def test_every_config_has_a_golden_text():
  files = [path for path in (ROOT / 'configs').glob('*.py') if 'def get_config' in path.read_text()]
  assert {path.stem for path in files} == {name.partition(':')[0] for name in CONFIGS}


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda c: c.update(stepz=3), ['stepz', 'steps']),
    (lambda c: c.update(epochs=1.0), ['epochs', 'steps', 'exactly one']),
    (lambda c: c.model.update(dtpye='bfloat16'), ['dtpye', 'dtype']),
    (lambda c: c.optim.update(momentum=0.9), ['optim', 'momentum', 'b1']),
    (lambda c: c.input.update(image_size=224), ['image_size=224', 'contradicts', '32']),
    (lambda c: c.input.update(folders='x'), ['input', 'folders', 'folder']),
    (lambda c: c.update(objectives={'sorting': {}}), ['sorting', 'sort']),
    (lambda c: c.update(micro_batches=5), ['batch=32', 'micro_batches=5']),
    (lambda c: c.update(micro_batches=0), ['micro_batches=0', 'at least 1']),
    (lambda c: c.update(nan_skips=-1), ['nan_skips=-1', 'at least 0']),
    (lambda c: c.update(log_every=0), ['log_every=0', 'at least 1']),
    (lambda c: c.update(steps=-1), ['steps=-1', 'at least 0']),
    (lambda c: c.update(steps=None, epochs=-0.5), ['epochs=-0.5', 'at least 0']),
    (lambda c: c.mesh.update(fsdp=0), ['mesh.fsdp=0', 'at least 1, or -1']),
    (lambda c: c.mesh.update(tensor=-2), ['mesh.tensor=-2', 'at least 1, or -1']),
    (lambda c: c.model.update(dtype='bf16'), ["model.dtype='bf16'", 'bfloat16', 'float32']),
    (lambda c: c.model.update(param_dtype='int32'), ["model.param_dtype='int32'", 'float32']),
    (lambda c: c.optim.update(warmup_steps=-5), ['optim.warmup_steps=-5', 'at least 0']),
    (lambda c: c.update(init={'vidoe': 'x'}), ['vidoe', 'video']),
    (lambda c: c.update(init={'run': 'a', 'text': 'b'}), ['init.run', 'init.text', 'contradict']),
    (lambda c: c.update(ema=1.0), ['ema=1.0']),
    (lambda c: (c.update(objectives={'vcop': {}}), c.input.update(keep=20)), ['keep=20', 'vcop', 'equal']),
    (lambda c: c.checkpoint.update(every_step=5), ['checkpoint', 'every_step']),
    (lambda c: c.evals.sorting.update(every_steps=0), ['evals.sorting.every_steps is 0']),
    (lambda c: c.evals.sorting.update(max_clips=0.5), ['evals.sorting.max_clips is 0.5', 'all clips']),
    (lambda c: c.evals.sorting.update(every_step=5), ["'every_step'", 'every_steps', 'batch']),
    (lambda c: c.evals.sorting.update(batch=0), ['batch=0']),
    (lambda c: c.evals.sorting.update(frames=8), ['evals.sorting.frames=8 contradicts the model, which has 16']),
    (lambda c: c.evals.sorting.update(batch=1), ['sorting', 'batch=1', 'at least 2']),
    (lambda c: c.model.update(transcripts=1), ['sorting', 'model.transcripts=1', 'at least 2']),
    (lambda c: c.evals.update(retrieval={}), ["evals.retrieval asks for 'retrieval'", 'sorting']),
  ],
)
def test_what_is_refused_by_name(change, words):
  config = load('demo').unlock()
  change(config)
  with pytest.raises(UserError) as error:
    config_lib.resolve(config)
  assert all(word in str(error.value) for word in words), error.value
  assert str(error.value).count('\n') == 0


def test_variations_keep_the_type_of_their_default():
  arg = config_lib.parse_arg('size=S/16,batch=8,quick', size='B/16', batch=4, quick=False)
  assert (arg.size, arg.batch, arg.quick) == ('S/16', 8, True)
  with pytest.raises(UserError, match="batch='x' should be a int"):
    config_lib.parse_arg('batch=x', batch=4)
  with pytest.raises(UserError, match='sise.*size'):
    config_lib.parse_arg('sise=S', size='B/16')
  with pytest.raises(UserError, match='set=ssv3; it has ssv2, k400'):
    load('finetune:set=ssv3')


OTHER_TURNS = (
  (['--config=configs/pretrain.py'], ['workdir']),
  (['--config=configs/none.py', '--workdir={tmp}/run'], ['configs/none.py']),
  (['--config=configs/demo.py', '--workdir={tmp}/run', '--config.optim.lrr=1'], ['lrr']),
)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--config=configs/pretrain.py', '--workdir={tmp}/run'], ['data/yttemporal', 'data.build']),
    (['--config=configs/demo.py:rot=x', '--workdir={tmp}/run'], ['rot', 'root']),
    *(pytest.param(*case, marks=pytest.mark.long) for case in OTHER_TURNS),
  ],
)
def test_wrong_turns_at_the_door_end_in_a_sentence(tmp_path, arguments, words):
  command = [sys.executable, '-m', 'tvts_jax.main', *(a.format(tmp=tmp_path) for a in arguments)]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode != 0 and not (tmp_path / 'run').exists()
  assert all(word in result.stderr for word in words) and 'Traceback' not in result.stderr, result.stderr


def test_settings_that_are_none_can_be_set_by_name():
  values, given = (
    flags.FlagValues(),
    ('--config.input.keep=383', '--config.optim.clip=1', '--config.model.sort_heads=2'),
  )
  config_flags.DEFINE_config_file('config', flag_values=values)
  argv = ['main', '--config=configs/pretrain.py', *given]
  with mock.patch.object(sys, 'argv', argv):  # Where settings by name are looked for, too.
    values(argv)
  run = config_lib.resolve(values.config)
  assert (run.input.keep, run.optim.clip, run.model.sort_heads) == (383, 1.0, 2)


# Of PyTorch's `model` there are no settings.
@pytest.mark.parametrize('page', [*(page for page in pages.PAGES if 'pytorch' not in page), 'configs/variants.py'])
def test_settings_that_documents_name_are_there(page):
  """Each as `part.name`, in a command or in a sentence."""
  values = config_lib.plain(config_lib.resolve(load('pretrain')))
  said, parts = (ROOT / page).read_text(), 'input|model|optim|objectives|checkpoint|mesh|init'
  named = re.findall(rf'\b((?:{parts})(?:\.[a-z_]\w*)+)\b(?!\()', said)
  for path in sorted(set(named) - {'checkpoint.pth', 'checkpoint.py'}):
    part, *rest = path.split('.')
    if part == 'objectives':
      name, *rest = rest
      assert not rest or rest[0] in {'weight'}.union(*objectives.OBJECTIVES[name].settings()), path
      continue
    found = values[part]
    for step in rest:
      assert step in found, f'{page} names {path}, which is no setting'
      found = found[step]


KEYS = st.dictionaries(
  st.from_regex(r'[a-z]{1,3}(\.[a-z]{1,3})?', fullmatch=True), st.sampled_from('012: ab'), max_size=5
)


@settings(max_examples=50, deadline=None)
@given(KEYS, KEYS)
def test_differences_name_each_changed_key_once(old, new):
  text = lambda values: ''.join(f'{k}: {v!r}\n' for k, v in values.items())
  changed = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
  assert [line.partition(':')[0] for line in config_lib.differences(text(old), text(new))] == sorted(changed)


def test_differences_read_as_lines():
  old, new = 'optim.lr: 0.1\nseed: 1\nname: a: b\n', 'optim.lr: 0.2\nname: a: b\nema: 0.9\n'
  assert config_lib.differences(old, new) == ['ema: (absent) → 0.9', 'optim.lr: 0.1 → 0.2', 'seed: 1 → (absent)']
