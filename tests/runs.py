"""Whole runs of the demo in miniature, as processes of their own, and what they leave."""

import fcntl
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 12


def call(*arguments):
  command = [sys.executable, '-m', *arguments]
  return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


@pytest.fixture(scope='module')
def demo(tmp_path_factory, worker_id):
  """A folder for the runs of a test file, with a world of a few clips and all that the demo makes of it."""
  common = tmp_path_factory.getbasetemp() if worker_id == 'master' else tmp_path_factory.getbasetemp().parent
  made = common / 'made'
  with open(common / 'made.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # The first of all workers makes it.
    if not made.exists():
      make(made.with_name('making'))
      made.with_name('making').rename(made)
  root = tmp_path_factory.mktemp('demo')
  for part in ('world', 'shards', 'vocab', 'text'):
    (root / part).symlink_to(made / part)
  return root


def make(root):
  probes = ['--probe-train', '0', '--probe-test', '0']
  call('data.world', '--out', f'{root}/world', '--clips', '40', '--val', '16', *probes)
  shape = ['--window-s', '12', '--seconds', '2', '--fps', '1.5', '--short-side', '32', '--min-words', '1']
  call('data.build', f'{root}/world/index.jsonl', '--out', f'{root}/shards', *shape)
  call('data.vocab', f'{root}/shards', '--out', f'{root}/vocab', '--size', '256')
  text = ['--config', f'configs/demo.py:root={root}', '--tokenizer', f'{root}/vocab', '--out', f'{root}/text']
  call('tvts_jax.warm_text', *text, '--steps', '2', '--config.input.batch=8')


def start(demo, name, *settings, pod=(), program=('-m', 'tvts_jax.main'), variables=(), **options):
  command = [
    *pod,
    *(sys.executable, *program, f'--config=configs/demo.py:root={demo},steps={STEPS}'),
    *(f'--workdir={demo}/{name}', '--config.input.batch=8', '--config.evals.sorting.batch=8', '--config.log_every=1'),
    *('--config.checkpoint.every_steps=5', '--config.evals.sorting.every_steps=6', '--config.spike_sigmas=6'),
    *settings,
  ]
  # All of them compile the same. Programs of several CPU devices that come out of JAX's cache may hang.
  cache = {'JAX_COMPILATION_CACHE_DIR': f'{demo}/compiled', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1'}
  environment = {**os.environ, **cache, 'JAX_NUM_CPU_DEVICES': '1', 'JAX_PLATFORMS': 'cpu', **dict(variables)}
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
