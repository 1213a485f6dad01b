"""Each thing that a run needs is taken away in turn: the doctor says which, and still looks at all the rest."""

import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest

from tests.support import folders, saved
from tests.support.paths import ROOT
from tvts_jax import convert, machine
from tvts_jax.convert import names, write_weights
from tvts_jax.convert.families import bert
from tvts_jax.doctor import __main__ as doctor
from tvts_jax.doctor import checks, examination, inputs, weights
from tvts_jax.errors import UserError
from tvts_jax.input import vocab
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.run.checkpoint_reader import FOLDER
from tvts_jax.run.workdir_lock import hold

DEVICES = 8

pytestmark = pytest.mark.filterwarnings('ignore:the load_module')  # Used by ml_collections.

MODEL = {
  'video': {'width': 32, 'depth': 1, 'heads': 2, 'patch': 8, 'image_size': 16, 'frames': 4},
  'text': {'vocab_size': 100, 'max_position_embeddings': 16, 'dim': 32, 'hidden_dim': 32, 'n_layers': 1, 'n_heads': 2},
}
CONFIG = """
from tvts_jax.config import base

def get_config(arg=''):
  config = base()
  config.model.video.update({video})
  config.model.text.update({text})
  config.input.update(folder='{root}/shards', tokenizer='{root}/text', batch=8, max_tokens=8)
  config.init.text = '{root}/text'
  config.epochs = 2.0
  config.evals = {{'sorting': {{'batch': 8}}}}
  return config
"""
PARAMETERS = sum(leaf.size for leaf in names.spec(TVTSConfig.from_dict(MODEL)).values())


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """All that a tiny run needs: shards, an encoder with its tokenizer, a config."""
  root = tmp_path_factory.mktemp('doctor')
  clips = lambda n: [folders.record(f'clip {i}', frames=30) for i in range(n)]
  folders.write(root / 'shards', {'train': [clips(12), clips(24)[12:]], 'val': [clips(32)[24:]]})
  vocab.save(vocab.train(Counter(f'w{i}' for i in range(40)), 100), root / 'text')
  model = TVTSConfig.from_dict(MODEL)
  params = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in names.spec(model).items()}
  state = names.apply_table(bert.distilbert_rows(), model, params)
  write_weights.write_safetensors(root / 'text/model.safetensors', state)
  write_weights.write_json(
    root / 'text/config.json', MODEL['text'] | {'model_type': 'distilbert', 'activation': 'gelu'}
  )
  (root / 'run.py').write_text(CONFIG.format(root=root, **MODEL))
  return root


@pytest.fixture
def copy(root, tmp_path):
  """The same, to be damaged."""
  shutil.copytree(root, tmp_path / 'copy')
  (tmp_path / 'copy/run.py').write_text(CONFIG.format(root=tmp_path / 'copy', **MODEL))
  return tmp_path / 'copy'


@pytest.fixture
def examine(monkeypatch, capsys):
  """Runs the doctor in this process → what it says of each check, which begins with ok or !!."""
  monkeypatch.setenv('JAX_NUM_PROCESSES', '1')

  def call(*arguments):
    code = doctor.main([*map(str, arguments)])
    said = read(capsys.readouterr().out)
    assert code == any(line.startswith('!!') for line in said.values())
    return said

  return call


def read(output: str) -> dict[str, str]:
  """By the name of the check, 'ok ...' or '!! ...'."""
  said = {}
  for line in output.splitlines():
    mark, _, rest = line.partition(' ')
    name, _, text = rest.partition(': ')
    assert mark in ('ok', '!!') and name in checks.CHECKS and name not in said and text, line
    said[name] = f'{mark} {text}'
  return said


def problems(said: dict[str, str]) -> dict[str, str]:
  return {name: line[3:] for name, line in said.items() if line.startswith('!!')}


def start(code: str, *arguments, pod=(), **environment):
  """The doctor in a process of its own, after some lines of Python."""
  before = 'import os, sys, time\nfrom tvts_jax.doctor import checks, devices, disk, examination\n'
  before += 'from tvts_jax.doctor import __main__ as doctor\nexamination.WAIT = 500\n'
  code = f'{before}{code}\nsys.exit(doctor.main(sys.argv[1:]))'
  command = [*pod, sys.executable, '-c', code, *map(str, arguments)]
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '2', 'PYTHONPATH': str(ROOT), **environment}
  return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


POD = sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '2', '--'


def of_process_0(output: str) -> dict[str, str]:
  # Gloo writes in between, in pieces of lines.
  lines = [line for line in output.splitlines() if re.match(r'\[\d\] (ok|!!) ', line)]
  assert all(line.startswith('[0] ') for line in lines), output
  return read('\n'.join(line[4:] for line in lines))


def test_all_is_well_and_told_with_numbers(root, tmp_path):
  command = [sys.executable, '-m', 'tvts_jax.doctor', f'--config={root}/run.py', f'--workdir={tmp_path}/a/run']
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '2'}
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stdout + done.stderr
  said = read(done.stdout)
  assert list(said) == list(checks.CHECKS) and not problems(said)
  assert '2 × cpu' in said['devices'] and '(2)' in said['collective']
  assert f"24 records of 'train' in {root}/shards" in said['shards']
  assert said['examples'] == 'ok 24, 3 steps an epoch'
  assert f'{PARAMETERS:,} parameters' in said['model']
  assert 'sorting' in said['evaluators'] and f'text from {root}/text' in said['weights']
  assert 'data 2' in said['batch'] and 'up to 4 lie in' in said['space']
  assert '200 ranges, p50 ' in said['reading'] and 'how many this device takes is not known' in said['reading']
  # What it tried is gone again.
  assert [path.name for path in (tmp_path / 'a/run').iterdir()] == ['.lock']


def test_the_machine_alone_and_a_gpu_that_jax_does_not_see():
  done = start('')
  assert done.returncode == 0 and list(read(done.stdout)) == ['processes', 'versions', 'devices', 'collective']
  # Where JAX sees one, all is well.
  done = start('devices.has_nvidia = lambda: True', JAX_PLATFORMS='')
  said = read(done.stdout)
  assert 'cpu' not in said['devices'] or done.returncode == 1
  assert list(problems(said)) == ['devices'] * done.returncode


@pytest.mark.parametrize(
  'arguments, text',
  [
    (['--confg=x'], "'--confg=x' is no flag"),
    (['x'], "'x' is no flag"),
    (['--config.seed=3'], '--config.seed=3 needs --config'),
  ],
)
def test_a_wrong_command_line(arguments, text, capsys):
  with pytest.raises(SystemExit) as e:
    doctor.main(arguments)
  assert e.value.code == 2 and text in capsys.readouterr().err


def test_help(capsys):
  with pytest.raises(SystemExit) as e:
    doctor.main(['--help'])
  assert e.value.code == 0 and 'Exit codes: 0 all is well' in capsys.readouterr().out


def test_versions_are_held_against_what_the_package_asks_for(examine, monkeypatch):
  real = importlib.metadata.version

  def version(name):
    if name == 'optax':
      raise importlib.metadata.PackageNotFoundError(name)
    return {'flax': '0.1.0'}.get(name) or real(name)

  with monkeypatch.context() as patch:
    patch.setattr(importlib.metadata, 'version', version)
    patch.setattr(platform, 'python_version', lambda: '3.9.1')
    told = problems(examine())
  assert list(told) == ['versions']
  for text in ('Python is 3.9.1 and must be ', 'flax is 0.1.0 and must be ', 'optax is missing and must be '):
    assert text in told['versions']
  assert 'jax is' not in told['versions'].replace('tvts-jax', '') and 'beam' not in told['versions']

  def distribution(name):
    raise importlib.metadata.PackageNotFoundError(name)

  with monkeypatch.context() as patch:
    patch.setattr(importlib.metadata, 'distribution', distribution)
    assert 'tvts-jax is not installed' in problems(examine())['versions']


def test_data_that_is_missing(examine, copy, tmp_path):
  shutil.rmtree(copy / 'shards')
  told = problems(examine(f'--config={copy}/run.py', f'--workdir={tmp_path}/run'))
  assert list(told) == ['shards', 'examples', 'evaluators', 'reading']
  assert f'{copy}/shards/manifest.json does not exist' in told['shards']
  assert told['examples'] == "not checked, since 'shards' is not ok"


def test_a_shard_that_was_cut(examine, copy):
  shard = copy / 'shards/train-00001-of-00002.tfrecord'
  size = shard.stat().st_size
  os.truncate(shard, size - 1)
  told = problems(examine(f'--config={copy}/run.py'))
  assert list(told) == ['shards', 'examples', 'evaluators', 'reading']
  assert f'{shard} has {size - 1} bytes, the manifest says {size}' in told['shards']


def test_held_out_data_that_are_missing(examine, copy):
  (copy / 'shards/val-00000-of-00001.tfrecord').unlink()
  told = problems(examine(f'--config={copy}/run.py'))
  assert list(told) == ['evaluators'] and 'val-00000-of-00001.tfrecord' in told['evaluators']


def test_records_that_will_be_enlarged_are_counted(copy):
  report = {'splits': {'train': {'short_sides': {'12': 5, '15': 2, '16': 17}}}}
  (copy / 'shards/report.json').write_text(json.dumps(report))
  run = examination.Run(f'{copy}/run.py', None, [])
  inputs.read_config(run)
  said = f'24, 3 steps an epoch, 7 in {copy}/shards are smaller than image_size=16 and will be enlarged'
  assert inputs.examples(run) == said


def test_a_tokenizer_that_is_missing_or_too_large(examine, root, monkeypatch):
  told = problems(examine(f'--config={root}/run.py', f'--config.input.tokenizer={root}/none'))
  assert list(told) == ['tokenizer', 'examples', 'evaluators', 'reading'] and f'{root}/none' in told['tokenizer']
  told = problems(examine(f'--config={root}/run.py', '--config.model.text.vocab_size=20', '--config.init.text='))
  assert 'model.text.vocab_size is 20' in told['tokenizer']


def test_a_hub_that_does_not_answer(root, monkeypatch, capsys):
  answers = threading.Event()
  monkeypatch.setattr('tvts_jax.input.tokens.Tokenizer.__init__', lambda *_: answers.wait())
  monkeypatch.setattr(doctor, 'leave_at_once', lambda index: sys.exit('at once'))
  monkeypatch.setattr(inputs, 'HUB', 0.1)
  monkeypatch.setenv('JAX_NUM_PROCESSES', '1')
  with pytest.raises(SystemExit, match='at once'):
    doctor.main([f'--config={root}/run.py', '--config.input.tokenizer=some/hub-name'])
  answers.set()
  told = problems(read(capsys.readouterr().out))
  assert list(told) == ['tokenizer', 'examples', 'evaluators', 'reading']
  assert "'some/hub-name' is no folder here, and no hub has given it" in told['tokenizer']


def test_weights_that_are_missing_or_damaged(examine, copy, root):
  told = problems(examine(f'--config={copy}/run.py', f'--config.init.video={copy}/mae.pth'))
  assert list(told) == ['weights'] and f'{copy}/mae.pth' in told['weights'] and 'ImageMAE' not in told['weights']
  file = copy / 'text/model.safetensors'
  os.truncate(file, file.stat().st_size // 2)
  told = problems(examine(f'--config={copy}/run.py', f'--config.init.video={copy}/mae.pth'))
  assert list(told) == ['weights'] and str(file) in told['weights'] and f'{copy}/mae.pth' in told['weights']
  told = problems(examine(f'--config={root}/run.py', '--config.model.text.hidden_dim=48'))
  assert list(told) == ['weights'] and 'does not fit' in told['weights']


def test_another_run_to_start_from(examine, root, tmp_path):
  settings = [f'--config={root}/run.py', '--config.init.text=', f'--config.init.run={tmp_path}/other']
  told = problems(examine(*settings))
  assert list(told) == ['weights'] and f'there is no checkpoint in {tmp_path}/other' in told['weights']
  with Checkpoints(tmp_path / 'other' / FOLDER, CheckpointConfig()) as checkpoints:
    checkpoints.save(3, {'params': np.zeros(3)}, saved.META)
  assert not problems(examine(*settings))
  # A run that goes on reads no weights, and they may be gone.
  told = examine(f'--config={root}/run.py', '--config.init.text=gone', f'--workdir={tmp_path}/other')
  assert 'goes on from its checkpoint' in told['weights'] and not problems(told)


def test_converted_weights_to_start_from(examine, root, tmp_path):
  model = TVTSConfig.from_dict(MODEL)
  params = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in names.spec(model).items()}
  convert.save_folder(tmp_path / 'weights', model, names.unflatten(params))
  settings = [f'--config={root}/run.py', '--config.init.text=', f'--config.init.run={tmp_path}/weights']
  assert f'run from {tmp_path}/weights' in examine(*settings)['weights']
  file = tmp_path / 'weights/model.safetensors'
  os.truncate(file, file.stat().st_size // 2)
  assert str(file) in problems(examine(*settings))['weights']


@pytest.mark.parametrize(
  'text, settings, expected',
  [
    ('def get_config(', [], 'SyntaxError'),
    ('def get_config(arg=""):\n  return nothing', [], "name 'nothing' is not defined"),
    (None, [], 'No such file or directory'),
    ('', ['--config.input.bach=3'], 'bach'),
    ('', ['--config.ema=2.0'], 'ema=2.0 must be'),
  ],
)
def test_a_config_that_is_none(examine, root, tmp_path, text, settings, expected):
  file = tmp_path / 'broken.py'
  if text is not None:
    file.write_text(text or (root / 'run.py').read_text())
  said = examine(f'--config={file}', f'--workdir={tmp_path}/run', *settings)
  told = problems(said)
  assert expected in told.pop('config') and told and all('not checked, since' in line for line in told.values())
  assert list(said) == list(checks.CHECKS) and said['storage'].startswith('ok')


def test_a_batch_that_does_not_fit(examine, root):
  told = problems(examine(f'--config={root}/run.py', '--config.input.batch=12'))
  assert list(told) == ['batch', 'evaluators', 'memory'] and 'input.batch=12 is not a multiple of 8' in told['batch']
  assert 'does not fit 8 devices' in problems(examine(f'--config={root}/run.py', '--config.mesh.data=3'))['batch']


def test_too_little_space(examine, root, tmp_path, monkeypatch):
  settings = [f'--config={root}/run.py', f'--workdir={tmp_path}/run', '--config.checkpoint.keep=2']
  state = 3 * 4 * PARAMETERS  # float32, each with two moments; counters come on top
  free = lambda count: monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(0, 0, count))
  free(3 * state)
  told = problems(examine(*settings))
  assert list(told) == ['space'] and 'make room' in told['space']
  free(3 * state + 100)
  assert not problems(examine(*settings))
  # Two of the three are there already.
  for step in ('5', '10'):
    (tmp_path / 'run' / FOLDER / step).mkdir(parents=True)
  free(state + 100)
  assert not problems(examine(*settings))
  free(state)
  assert list(problems(examine(*settings))) == ['space']


def test_too_little_memory(examine, root, monkeypatch):
  monkeypatch.setattr(weights, 'device_memory', lambda: 3 * 4 * PARAMETERS)
  told = problems(examine(f'--config={root}/run.py'))
  assert list(told) == ['memory'] and '--config.mesh.fsdp' in told['memory']
  assert not problems(examine(f'--config={root}/run.py', '--config.mesh.data=1', '--config.mesh.fsdp=-1'))


def test_a_work_directory_that_is_in_use(examine, tmp_path):
  with hold(tmp_path):
    told = problems(examine(f'--workdir={tmp_path}'))
  assert list(told) == ['lock'] and f'in use by process {os.getpid()}' in told['lock']
  assert not problems(examine(f'--workdir={tmp_path}'))


# Root may write anywhere, so it is nobody for that check, for which all is imported before.
AS_NOBODY = """
from tvts_jax import train

def as_nobody(run, storage=disk.storage):
  os.seteuid(65534)
  try:
    return storage(run)
  finally:
    os.seteuid(0)

if not os.geteuid():
  checks.CHECKS['storage'] = as_nobody, *checks.CHECKS['storage'][1:]
"""


def test_a_work_directory_that_can_not_be_written(tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  folder.chmod(0o500)
  done = start(AS_NOBODY, f'--workdir={folder}')
  told = problems(read(done.stdout))
  assert done.returncode == 1 and list(told) == ['storage', 'lock'], done.stdout + done.stderr
  assert told['storage'].startswith(f'{folder} cannot be a work directory: Permission denied')
  # A disk on which a file may have no bytes.
  done = start('import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))', f'--workdir={tmp_path}')
  told = problems(read(done.stdout))
  assert list(told) == ['storage', 'lock'] and 'File too large' in told['storage']
  assert [path.name for path in tmp_path.iterdir()] == ['run']


def test_storage_that_gives_back_something_else(examine, tmp_path, monkeypatch):
  read = pathlib.Path.read_text
  other = lambda self, **how: 'something else' if self.name.startswith('.doctor-') else read(self, **how)
  monkeypatch.setattr(pathlib.Path, 'read_text', other)
  told = problems(examine(f'--workdir={tmp_path}'))
  assert list(told) == ['storage', 'lock'] and "gave back 'something else'" in told['storage']
  assert not list(tmp_path.iterdir())


def test_what_breaks_in_a_library_stops_no_other_check(examine, tmp_path, monkeypatch):
  def broken(run):
    raise ArithmeticError('two\nlines')

  monkeypatch.setitem(checks.CHECKS, 'devices', (broken, 'processes'))
  said = examine(f'--workdir={tmp_path}')
  assert problems(said) == {'devices': 'ArithmeticError: two'} and 'storage' in said


@pytest.mark.long
def test_two_processes_speak_with_one_voice(root, tmp_path):
  done = start('', f'--config={root}/run.py', f'--workdir={tmp_path}/run', pod=POD)
  assert done.returncode == 0, done.stdout + done.stderr
  said = of_process_0(done.stdout)
  assert list(said) == list(checks.CHECKS) and '2 that have met' in said['processes'] and '(4)' in said['collective']


@pytest.mark.long
def test_what_one_of_two_processes_lacks(root, tmp_path):
  """Each is in a folder of its own, so they share no work directory; one has no shards."""
  (tmp_path / '0').mkdir()
  (tmp_path / '0/shards').symlink_to(root / 'shards')
  away = f'folder = f"{tmp_path}/" + os.environ["JAX_PROCESS_ID"]\nos.makedirs(folder, exist_ok=True)\nos.chdir(folder)'
  settings = [f'--config={root}/run.py', '--config.input.folder=shards', '--workdir=run']
  done = start(away, *settings, pod=POD)
  told = problems(of_process_0(done.stdout))
  assert done.returncode == 1 and list(told) == ['lock', 'shards', 'examples', 'evaluators', 'reading']
  assert 'all processes share (process 1)' in told['lock']
  assert 'shards/manifest.json does not exist' in told['shards'] and told['shards'].endswith('(process 1)')


def test_a_process_that_never_comes():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  pod = {'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '0', 'JAX_COORDINATOR_ADDRESS': address}
  done = start('examination.WAIT = 2', **pod)
  told = problems(read(done.stdout))
  assert done.returncode == 1 and list(told) == ['processes', 'devices', 'collective']
  assert f'have not met at {address} within 2 s' in told['processes']


# One process never comes to the sum. Both are patient until they have met.
HANGING = """
import jax
def meet(run, meet=devices.processes):
  text = meet(run)
  examination.WAIT = 10
  return text
checks.CHECKS['processes'] = (meet,)
if os.environ['JAX_PROCESS_ID'] == '1':
  jax.shard_map = lambda *_, **__: time.sleep(1000)
"""


def test_a_collective_that_hangs(tmp_path):
  done = start(HANGING, f'--workdir={tmp_path}', pod=POD)
  told = problems(of_process_0(done.stdout))
  assert done.returncode == 1 and list(told) == ['collective', 'lock']
  assert '4 devices of 2 processes have not added up 4 numbers within 10 s' in told['collective']


def test_storage_that_is_too_slow_for_the_devices(root, monkeypatch):
  """As if a CPU were a chip of which the peak is known."""
  asked = examination.Run(f'{root}/run.py', None, [])
  inputs.read_config(asked)
  weights.model(asked)
  for peak, word in ((1e6, 'which feeds the'), (1e18, 'raise input.reads')):
    monkeypatch.setattr(machine, 'peak', lambda kind, peak=peak: peak)
    try:
      said = inputs.reading(asked)
    except UserError as e:
      said = str(e)
    assert word in said and re.search(
      r'200 ranges, p50 \d+\.\d ms, p99 \d+\.\d ms, [\d.,]+ clips/s with input.reads=32', said
    )
