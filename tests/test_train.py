"""Whole runs, in real processes on real shards: interrupted ones must end as if nothing had happened."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 12


def call(*arguments):
  return subprocess.run([sys.executable, '-m', *arguments], cwd=ROOT, check=True, capture_output=True, text=True)


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
  """A world of a few clips, and all that the demo makes of it."""
  root = tmp_path_factory.mktemp('demo')
  probes = ['--probe-train', '0', '--probe-test', '0']
  call('data.world', '--out', f'{root}/world', '--clips', '40', '--val', '16', *probes)
  shape = ['--window-s', '12', '--seconds', '2', '--fps', '4', '--short-side', '32', '--min-words', '1']
  call('data.build', f'{root}/world/index.jsonl', '--out', f'{root}/shards', *shape)
  call('data.vocab', f'{root}/shards', '--out', f'{root}/vocab', '--size', '256')
  text = ['--config', f'configs/demo.py:root={root}', '--tokenizer', f'{root}/vocab', '--out', f'{root}/text']
  call('tvts_jax.warm_text', *text, '--steps', '2', '--config.input.batch=8')
  return root


def start(demo, name, *settings, pod=(), **options):
  command = [
    *pod,
    *(sys.executable, '-m', 'tvts_jax.main', f'--config=configs/demo.py:root={demo},steps={STEPS}'),
    *(f'--workdir={demo}/{name}', '--config.input.batch=8', '--config.evals.sorting.batch=8', '--config.log_every=1'),
    *('--config.checkpoint.every_steps=5', '--config.evals.sorting.every_steps=6', *settings),
  ]
  environment = {**os.environ, 'JAX_NUM_CPU_DEVICES': '2', 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(
    command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
  )


def finish(process, code=0) -> str:
  output = process.communicate(timeout=240)[0]
  assert process.returncode == code, output[-3000:]
  return output


def wait_for(process, condition):
  while not condition():
    assert process.poll() is None, process.communicate()[0][-3000:]
    time.sleep(0.01)


def rows(folder) -> list[dict]:
  """What the run wrote of itself, without the times."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [{key: value for key, value in json.loads(line).items() if key != 'time'} for line in lines]


def state(folder) -> dict[str, np.ndarray]:
  path = folder / 'checkpoints' / str(STEPS) / 'state'
  with ocp.PyTreeCheckpointer() as checkpointer:
    names = checkpointer.metadata(path).item_metadata.tree
    # On the host, because the devices that saved them may not be here.
    return checkpointer.restore(path, restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names})


def assert_equal_runs(a, b):
  assert rows(a) == rows(b)
  before, after = state(a), state(b)
  assert before.keys() == after.keys()
  for name, value in before.items():
    np.testing.assert_array_equal(value, after[name], err_msg=name)


@pytest.fixture(scope='module')
def undisturbed(demo):
  return finish(start(demo, 'undisturbed'))


def test_a_run_tells_what_it_does(demo, undisturbed):
  folder = demo / 'undisturbed'
  assert re.search(r'step 12/12  loss \d', undisturbed)
  assert 'chance 25.0%' in undisturbed and 'clips/s' in undisturbed and 'waiting for data' in undisturbed
  assert [row['step'] for row in rows(folder) if 'loss' in row] == list(range(1, STEPS + 1))
  evaluated = [json.loads(line) for line in (folder / 'eval' / 'sorting.jsonl').read_text().splitlines()]
  assert [row['step'] for row in evaluated] == [6, 12] and evaluated[0]['clips'] == 16
  assert {'own/exact', 'blank/exact', 'other/exact'} <= set(evaluated[0])
  page = (folder / 'report.html').read_text()
  assert 'exact order' in page and 'optim.lr' in page and page.count('data:image/jpeg') >= 8 * 8
  assert 'video/embed/kernel' in (folder / 'parameters.txt').read_text()
  assert list((folder / 'tensorboard').iterdir())


def test_a_killed_run_ends_like_an_undisturbed_one(demo, undisturbed):
  """kill -9 once a checkpoint is there, SIGTERM somewhat later, then to the end."""
  folder = demo / 'killed'
  run = start(demo, 'killed')
  wait_for(run, lambda: (folder / 'checkpoints' / '5').exists())
  run.kill()
  run.communicate()
  run = start(demo, 'killed')
  wait_for(run, lambda: len(rows(folder)) > 6)
  run.send_signal(signal.SIGTERM)
  finish(run, code=75)
  assert 'resuming' in finish(start(demo, 'killed'))
  assert_equal_runs(demo / 'undisturbed', folder)


def test_two_processes_with_one_stopped_end_like_two_undisturbed(demo, undisturbed):
  pod = (sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '1', '--')
  finish(start(demo, 'pod', pod=pod))
  # The mesh is that of the single process, so only the order of sums may differ.
  alone, together = ([row['loss'] for row in rows(demo / name) if 'loss' in row] for name in ('undisturbed', 'pod'))
  np.testing.assert_allclose(together, alone, rtol=2e-4)

  folder = demo / 'pod_stopped'
  run = start(demo, 'pod_stopped', pod=pod)
  wait_for(run, lambda: (folder / 'metrics.jsonl').exists() and len(rows(folder)) > 2)
  children = pathlib.Path(f'/proc/{run.pid}/task/{run.pid}/children').read_text().split()
  os.kill(int(children[1]), signal.SIGTERM)
  finish(run, code=75)
  finish(start(demo, 'pod_stopped', pod=pod))
  assert_equal_runs(demo / 'pod', folder)


def test_a_work_directory_has_one_run(demo, undisturbed):
  first = start(demo, 'shared')
  wait_for(first, lambda: (demo / 'shared' / 'config.txt').exists())
  first.send_signal(signal.SIGSTOP)
  assert 'is in use by process' in finish(start(demo, 'shared'), code=1)
  first.kill()
  first.communicate()
  output = finish(start(demo, 'undisturbed', '--config.optim.lr=0.5', '--config.ema=0.9'), code=1)
  assert 'optim.lr: 0.002 → 0.5' in output and 'ema: 0.0 → 0.9' in output


def test_a_next_stage_starts_from_another_run(demo, undisturbed):
  settings = [f'--config.init.run={demo}/undisturbed', '--config.optim.lr=0.0', '--config.micro_batches=2']
  finish(start(demo, 'next', *settings, '--config.init.text=', '--config.ema=0.5'))


def test_nan_stops_the_run_before_the_update(demo):
  output = finish(start(demo, 'nan', '--config.optim.lr=1e30', '--config.optim.clip=1e30'), code=1)
  assert re.search(r'step \d+ gave no number \(.*loss.*clips begin with train-\d+ #0', output), output[-2000:]
  assert 'data.inspect' in output and 'Traceback' not in output


def test_a_run_leaves_for_pytorch(demo, undisturbed):
  torch = pytest.importorskip('torch')
  call('tvts_jax.convert', 'export', f'{demo}/undisturbed', '--format', 'folder', '--out', f'{demo}/exported')
  code = 'import sys; from modeling_tvts import TVTS; print(sum(p.numel() for p in TVTS.from_folder(".").parameters()))'
  out = subprocess.run([sys.executable, '-c', code], cwd=demo / 'exported', check=True, capture_output=True, text=True)
  total = re.search(r'([\d,]+) parameters', (demo / 'undisturbed' / 'parameters.txt').read_text())[1]
  assert int(out.stdout) == int(total.replace(',', '')) and torch
  card = (demo / 'exported' / 'README.md').read_text()
  assert 'own/exact' in card and (demo / 'exported' / 'tokenizer.json').exists()
