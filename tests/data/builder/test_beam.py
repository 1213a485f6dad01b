"""Builds with Apache Beam: its own worker processes, here and in an environment that has our code only as a wheel."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import data.builder
from data import build as builder
from data.builder import shard_plan, wheel
from data.builder.windows import WindowConfig
from data.outcomes import EXITS, BuildError
from tests.data.builder.test_build import add_item, build, children, content, item, outcome_lines, start
from tests.support.paths import ROOT
from tests.test_imports import WALLS, Imports

# Names of modules → those of PyPI, of what workers have with Beam.
WITH_BEAM = {'apache_beam', 'google'}
PYPI = {'cv2': 'opencv-python-headless', 'google_crc32c': 'google-crc32c', 'absl': 'absl-py'}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('source')
  for name in ('train', 'val'):
    add_item(folder, name, name)
  return folder


@pytest.fixture(scope='module')
def undisturbed(source, tmp_path_factory):
  out = tmp_path_factory.mktemp('built') / 'data'
  result = build(source, out, '--workers', '1')
  assert result.returncode == 0, result.stderr
  return out


def assert_same(out, undisturbed):
  assert content(out) == content(undisturbed)
  timeless = lambda folder: {name: line | {'seconds': 0} for name, line in outcome_lines(folder).items()}
  assert timeless(out) == timeless(undisturbed)


@pytest.mark.long
def test_several_processes_build_the_same(undisturbed, source, tmp_path):
  out, harnesses = tmp_path / 'data', set()
  # DirectRunner would fetch Prism from GitHub, and prefer it to processes.
  no_prism = ['--prism_location', str(tmp_path / 'none')]
  options = ['--direct_running_mode', 'multi_processing', '--direct_num_workers', '2', *no_prism]
  process = start(source, out, '--runner', 'DirectRunner', *options)
  while process.poll() is None:
    harnesses.update(pid for pid in children(process.pid) if 'sdk_worker_main' in command_line(pid))
    time.sleep(0.5)
  assert process.returncode == 0, process.communicate()[1]
  assert len(harnesses) >= 2
  assert_same(out, undisturbed)


def command_line(pid: int) -> str:
  with contextlib.suppress(FileNotFoundError, ProcessLookupError):
    return Path(f'/proc/{pid}/cmdline').read_text()
  return ''


@pytest.mark.parametrize(
  'options, says', [(['NoSuchRunner'], 'DataflowRunner'), (['DirectRunner', '--numbers', '3'], 'numbers')]
)
def test_beam_knows_what_it_can(options, says, source, tmp_path, capsys):
  code = builder.main([str(source / 'index.jsonl'), '--out', str(tmp_path / 'data'), '--runner', *options])
  assert code == EXITS['request'] and says in capsys.readouterr().err and not (tmp_path / 'data').exists()


def test_without_beam_the_runner_says_what_to_install(source, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  monkeypatch.delitem(sys.modules, 'data.builder.beam', raising=False)
  monkeypatch.delattr(data.builder, 'beam', raising=False)
  code = builder.main([str(source / 'index.jsonl'), '--out', str(tmp_path / 'data'), '--runner', 'DirectRunner'])
  assert code == EXITS['request'] and "pip install 'tvts-jax[beam]'" in capsys.readouterr().err


def test_each_shard_finds_its_lines(tmp_path):
  plan = shard_plan.make([item(name) for name in ('é', 'b', 'c', 'd', 'e')], WindowConfig(), 2)
  shard_plan.settle(tmp_path, plan)
  places = shard_plan.places(plan.shards)
  assert tuple(shard_plan.read_shard(tmp_path, place) for place in places) == plan.shards
  for place in (places[1]._replace(name='another'), places[1]._replace(begin=10**6)):
    with pytest.raises(BuildError, match='items.jsonl has changed'):
      shard_plan.read_shard(tmp_path, place)


def test_the_wheel_asks_for_all_that_workers_import():
  ours = Imports(ROOT, WALLS)
  own = {name.split('.')[0] for name in ours.modules}
  needed = {name.split('.')[0] for name in ours.reach('data.builder.beam')} - own - sys.stdlib_module_names - WITH_BEAM
  needed.add('obstore')  # Which tvts_jax.shards.bucket imports when it first needs it.
  assert {*wheel.NEEDED} == {PYPI.get(name, name) for name in needed}


@pytest.fixture
def elsewhere(tmp_path):
  """The folder of an environment that sees the packages of this one and nothing of this checkout."""
  folder = tmp_path / 'elsewhere'
  venv.create(folder, symlinks=True)
  # Names in a .pth file are plain folders: what their own .pth files name, as an editable install does, is not seen.
  packages = next(folder.glob('lib/python*/site-packages')) / 'packages.pth'
  packages.write_text('\n'.join(path for path in sys.path if path.endswith('site-packages')))
  boot = folder / 'boot'
  boot.write_text(f'#!{folder}/bin/python\n{(ROOT / "tests/support/beam_boot.py").read_text()}')
  boot.chmod(0o755)
  return folder


def run_elsewhere(folder, *command, **options):
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
  return subprocess.Popen([folder / 'bin/python', *command], cwd=folder, env=environment, **options)


@pytest.mark.long
def test_workers_elsewhere_run_the_code_that_the_job_brings(elsewhere, undisturbed, source, tmp_path):
  """A pool of workers as one runs it beside Flink, in an environment that knows nothing of us."""
  assert run_elsewhere(elsewhere, '-c', 'import apache_beam').wait() == 0
  assert run_elsewhere(elsewhere, '-c', 'import data', stderr=subprocess.DEVNULL).wait() == 1
  with socket.socket() as free:
    free.bind(('', 0))
    port = free.getsockname()[1]
  pool = ('-m', 'apache_beam.runners.worker.worker_pool_main', f'--service_port={port}')
  workers = run_elsewhere(elsewhere, *pool, f'--container_executable={elsewhere}/boot', start_new_session=True)
  try:
    out = tmp_path / 'data'
    options = ['--job_endpoint', 'embed', '--environment_type', 'EXTERNAL', '--environment_config', f'localhost:{port}']
    result = build(source, out, '--runner', 'PortableRunner', *options)
    assert result.returncode == 0, result.stderr
  finally:
    os.killpg(workers.pid, signal.SIGKILL)
    workers.wait()
  assert_same(out, undisturbed)
  assert list(elsewhere.glob('lib/python*/site-packages/data/builder/shard.py'))
