"""What pip installs: tvts_jax alone, which works where modules of the user have the names of our other folders."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections import Counter

import pytest
from packaging.requirements import Requirement

from data import validate
from tests.data.builder.test_build import SMALL, add_item
from tests.support import media, weights
from tests.support.paths import ROOT
from tvts_jax import __version__, convert
from tvts_jax.input import vocab

BUILD = 'import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))'
HOSTILE = ('data.py', 'configs.py', 'tests.py')
# Imports every module, then does what the README promises of a folder of weights.
USE = """
import importlib, pkgutil, sys
import tvts_jax
from absl import flags
def fail(name):
  raise
for module in pkgutil.walk_packages(tvts_jax.__path__, 'tvts_jax.', fail):
  if 'config' in flags.FLAGS:
    delattr(flags.FLAGS, 'config')  # Several commands have it.
  try:
    importlib.import_module(module.name)
  except ModuleNotFoundError as error:
    if error.name != 'torch':  # Not among our dependencies.
      raise
print(*sorted(name for name in sys.modules if name.split('.')[0] == 'tvts_jax'))
model = tvts_jax.load(sys.argv[1])
print(model.embed_video(sys.argv[2])['embed'].shape, model.embed_text('red falls').shape)
"""
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
PYTHONS = ('3.11', '3.12', '3.13')
MACHINES = [{'sys_platform': 'linux', 'platform_machine': 'x86_64'}, {'sys_platform': 'darwin'}]


def files(*folders: str) -> list[str]:
  """Those of the checkout that git does not ignore."""
  listing = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', *folders]
  names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
  return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
  folder = tmp_path_factory.mktemp('source')
  for name in files():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, folder / name)
  return folder


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory):
  out = tmp_path_factory.mktemp('wheel')
  built = subprocess.run([sys.executable, '-c', BUILD, str(out)], cwd=checkout, capture_output=True, text=True)
  assert built.returncode == 0, built.stderr
  return out / built.stdout.split()[-1]


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
  """The Python of a fresh environment with the wheel, which sees the packages of this one but not this checkout."""
  folder = tmp_path_factory.mktemp('environment')
  venv.create(folder, symlinks=True)
  python = folder / 'bin/python'
  install = [sys.executable, '-m', 'pip', '--python', str(python), 'install', '--no-deps', '--no-index', str(wheel)]
  subprocess.run(install, check=True, capture_output=True)
  ours = next(folder.glob('lib/python*/site-packages'))
  # Names in a .pth file are plain folders: what their own .pth files name, as an editable install does, is not seen.
  (ours / 'packages.pth').write_text('\n'.join(path for path in sys.path if path.endswith('site-packages')))
  return python


@pytest.fixture
def place(tmp_path):
  """Where the user works."""
  (tmp_path / 'place').mkdir()
  for name in HOSTILE:
    (tmp_path / 'place' / name).write_text('raise RuntimeError("the module of the user")\n')
  return tmp_path / 'place'


def run(python, place, *arguments) -> str:
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'} | {'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run([python, *arguments], cwd=place, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_wheel_is_tvts_jax_and_all_of_it(wheel):
  with zipfile.ZipFile(wheel) as file:
    names = {name for name in file.namelist() if '.dist-info/' not in name}
  assert names == set(files('tvts_jax'))


def test_it_works_among_modules_with_the_names_of_our_folders(python, place, tmp_path):
  config = weights.config_of(transcripts=1, video={'image_size': 16})
  vocab.save(vocab.train(Counter(['red', 'falls', 'blue']), 40), tmp_path / 'pieces')
  convert.save_folder(tmp_path / 'weights', config, weights.random_params(config), tokenizer=tmp_path / 'pieces')
  media.make_video(tmp_path / 'a.mp4')
  modules, shapes = run(python, place, '-c', USE, str(tmp_path / 'weights'), str(tmp_path / 'a.mp4')).splitlines()[-2:]
  names = [
    name
    for name in files('tvts_jax/*.py')
    if importlib.util.find_spec('torch') or '\nimport torch\n' not in (ROOT / name).read_text()
  ]
  expected = {name[:-3].removesuffix('/__init__').replace('/', '.') for name in names}
  assert set(modules.split()) == expected
  assert shapes == f'({config.common},) ({config.common},)'


def test_its_commands_run_there(python, place):
  assert 'usage:' in run(python, place, '-m', 'tvts_jax.embed', '--help')
  where = run(python, place, '-c', 'import tvts_jax; print(tvts_jax.__version__, tvts_jax.__file__)').split()
  assert where[0] == __version__ and where[1].startswith(str(python.parents[1]))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('version', PYTHONS)
def test_beam_installs_beside_us(version, checkout, tmp_path):
  """As docs/build_on_a_cluster.md says, in a fresh environment: whole for this Python, as pip's plan for others."""
  python = shutil.which(f'python{version}')
  if not python or subprocess.run([python, '-c', 'import ensurepip'], capture_output=True).returncode:
    pytest.skip(f'there is no Python {version} that makes environments')
  subprocess.run([python, '-m', 'venv', tmp_path / 'venv'], check=True)
  python, ours = tmp_path / 'venv/bin/python', version == f'{sys.version_info[0]}.{sys.version_info[1]}'
  install = ['-m', 'pip', 'install', '--quiet', '-r', 'requirements.txt', '-e', '.[beam]']
  run(python, checkout, *install, *([] if ours else ['--dry-run']))
  if ours:
    run(python, checkout, '-m', 'pip', 'check')
    run(python, checkout, '-c', 'from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner')
    for name in 'ab':
      add_item(tmp_path, name)
    source, out = str(tmp_path / 'index.jsonl'), str(tmp_path / 'out')
    run(python, checkout, '-m', 'data.build', source, '--out', out, *SMALL.split(), '--runner', 'DirectRunner')
    assert validate.check(tmp_path / 'out') == []


def test_every_range_has_an_end():
  lists = [PROJECT['project']['dependencies'], *PROJECT['project']['optional-dependencies'].values()]
  needed = [Requirement(line) for line in sum(lists, PROJECT['build-system']['requires'])]
  ends = {'<', '==', '~='}
  assert not [str(each) for each in needed if not ends & {part.operator for part in each.specifier}]


@pytest.mark.parametrize('machine', MACHINES, ids=lambda machine: machine['sys_platform'])
@pytest.mark.parametrize('version', PYTHONS)
def test_both_pinned_sets_are_within_the_ranges(version, machine):
  here = {'python_version': version, 'extra': ''} | machine
  lines = [line for line in (ROOT / 'requirements.txt').read_text().splitlines() if not line.startswith('#')]
  needed, pins = (
    [each for each in map(Requirement, some) if not each.marker or each.marker.evaluate(here)]
    for some in (PROJECT['project']['dependencies'], lines)
  )
  versions = {pin.name: next(iter(pin.specifier)).version for pin in pins}
  assert max(Counter(pin.name for pin in pins).values()) == 1
  wrong = {str(each): versions.get(each.name) for each in needed if versions.get(each.name, '0') not in each.specifier}
  assert not wrong
