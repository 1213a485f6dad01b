"""The whole program with everything in a bucket: the same bits as on a disk, whatever happens on the way.

The server is real and on loopback (tests/support/bucket.py); of every hundred requests it fails some ten.
"""

import functools
import itertools
import json
import os
import random
import secrets
import subprocess
import time

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from safetensors import numpy as safetensors

from data import build, validate, vocab
from tests.faults import small
from tests.support import bucket, runs
from tvts_jax import config as config_lib
from tvts_jax import embed, evaluate
from tvts_jax.convert import __main__ as convert
from tvts_jax.shards import patience, storage

SHAPE = ('--window-s', '12', '--seconds', '2', '--fps', '1.5', '--short-side', '32', '--min-words', '1')
NUMBERS = itertools.count()
EVALS = {'sorting': {'batch': 8}}
FAULTS = [
  {'match': '', 'do': 'status', 'status': 503, 'share': 0.03},
  {'match': '', 'do': 'status', 'status': 429, 'share': 0.02},
  {'match': '', 'do': 'reset', 'share': 0.02},
  {'match': '', 'do': 'truncate', 'share': 0.02},
  {'match': 'put|delete', 'do': 'lost', 'share': 0.03},
]


@pytest.fixture(scope='module')
def server():
  with bucket.server() as client:
    yield client


@pytest.fixture(autouse=True)
def quick(demo, monkeypatch):
  monkeypatch.setattr(patience, 'WAIT_S', 0.05)
  settings = {'jax_compilation_cache_dir': f'{demo}/compiled', 'jax_persistent_cache_min_compile_time_secs': 0.0}
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():  # What is compiled for the disk serves for the bucket.
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def settings(root) -> list[str]:
  return [f'--config.input.folder={root}/shards', f'--config.input.tokenizer={root}/vocab']


def start(demo, root, workdir, patience_s: float = patience.PATIENCE_S) -> runs.Fork:
  arguments = [f'--config=configs/demo.py:root={demo},steps={small.STEPS}', f'--workdir={workdir}']
  arguments += [*small.SETTINGS, *settings(root), '--config.checkpoint.every_steps=4']
  prepared = functools.partial(prepare, os.environ.get('STORAGE_EMULATOR_HOST', ''), patience_s)
  return runs.Fork(demo, f'run {next(NUMBERS)}', arguments, prepared)


def prepare(server: str, patience_s: float) -> None:
  patience.PATIENCE_S = patience_s
  if server:
    os.environ['STORAGE_EMULATOR_HOST'] = server


def rows(path) -> list[dict]:
  lines = storage.read_bytes(path).decode().splitlines()
  return [{name: value for name, value in json.loads(line).items() if name != 'time'} for line in lines]


def steps(folder) -> list[int]:
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and (path / 'meta.json').exists())


def make(demo, root) -> None:
  """Shards and a vocabulary by their commands."""
  assert build.main([f'{demo}/world/index.jsonl', '--out', f'{root}/shards', *SHAPE]) == 0
  assert validate.main([f'{root}/shards']) == 0
  assert vocab.main([f'{root}/shards', '--out', f'{root}/vocab', '--size', '256']) == 0


def use(demo, root, workdir, videos) -> dict:
  """What a trained run gives: scores, features, weights."""
  model = small.config(demo, *settings(root))
  config = config_lib.resolve(config_lib.plain(model) | {'evals': EVALS})
  scores = evaluate.evaluate(config, str(workdir))['sorting']
  assert embed.main([str(workdir), *videos, '--out', f'{root}/features.npz']) == 0
  assert convert.main(['export', str(workdir), '--format', 'safetensors', '--out', f'{root}/model.safetensors']) == 0
  with storage.path(f'{root}/features.npz').open('rb') as file:
    features = dict(np.load(file))
  return {
    'scores': scores['metrics'],
    'items': scores['items'],
    'features': features,
    'weights': safetensors.load(storage.read_bytes(f'{root}/model.safetensors')),
  }


@pytest.fixture(scope='module')
def on_disk(demo, tmp_path_factory):
  """Shards, a vocabulary and a run that nothing disturbs."""
  folder = tmp_path_factory.mktemp('disk')
  make(demo, folder)
  runs.finish(start(demo, folder, folder / 'run'))
  return folder


def assert_same_run(there, here) -> None:
  assert rows(there / 'metrics.jsonl') == rows(here / 'metrics.jsonl')
  last = f'checkpoints/{small.STEPS}/meta.json'
  ends = [json.loads(storage.read_bytes(run / last))['fingerprints'] for run in (there, here)]
  assert ends[0] == ends[1]


def test_all_of_it_in_a_failing_bucket_equals_the_disk(demo, server, on_disk):
  seed = secrets.randbelow(10**6)
  print('seed', seed)
  there = storage.path('gs://bucket/demo')
  videos = sorted(str(path) for path in (demo / 'world').rglob('*.mp4'))[:3]
  server.set(rules=FAULTS, seed=seed)
  make(demo, there)
  for part in ('shards', 'vocab'):
    files = {p.relative_to(on_disk / part).as_posix(): p for p in storage.files_below(on_disk / part)}
    copies = {p.relative_to(there / part).as_posix(): p for p in storage.files_below(there / part)}
    same = [name for name in files if not name.startswith('outcomes') and not name.endswith('.lock')]
    assert all(files[name].read_bytes() == copies[name].read_bytes() for name in same), part
  run = start(demo, there, there / 'run')
  while run.poll() is None and not steps(there / 'run/checkpoints'):
    time.sleep(0.2)
  run.kill()
  said = run.communicate()[0]
  assert run.returncode == -9, said[-3000:]
  runs.finish(start(demo, there, there / 'run'))

  assert_same_run(there / 'run', on_disk / 'run')
  here, in_bucket = (use(demo, root, root / 'run', videos) for root in (on_disk, there))
  assert here['scores'] == in_bucket['scores'] and here['items'] == in_bucket['items']
  for what in ('features', 'weights'):
    assert here[what].keys() == in_bucket[what].keys()
    for name, values in here[what].items():
      np.testing.assert_array_equal(values, in_bucket[what][name])
  assert (there / 'run/report.html').exists() and not storage.path('gs:').exists()
  assert sum(server.counts()['faults'].values()) > 20


@pytest.mark.parametrize('what', ['get bucket/filled/shards', 'put bucket/late'])
def test_a_bucket_that_fails_for_long_ends_a_run_with_76_and_one_sentence(demo, server, what):
  server.set(rules=[])
  for file in (*storage.files_below(demo / 'shards'), *storage.files_below(demo / 'vocab')):
    (storage.path('gs://bucket/filled') / file.relative_to(demo)).write(file)
  server.set(rules=[{'match': what, 'do': 'status', 'status': 503}])
  run = start(demo, 'gs://bucket/filled', 'gs://bucket/late', patience_s=1.0)
  said = run.communicate(timeout=200)[0]
  assert run.returncode == 76, said[-3000:]
  assert 'error: gs://bucket/' in said and 'run the same command again' in said and 'Traceback' not in said


@pytest.mark.long
def test_deaths_and_faults_at_random(demo, server, on_disk):
  """For TVTS_BUCKET_MINUTES (by default 3): each round is a run that is killed a few times while its bucket fails."""
  seed = secrets.randbelow(10**6)
  print('seed', seed)
  rng, there = random.Random(seed), storage.path('gs://bucket/soak')
  end = time.monotonic() + 60 * float(os.environ.get('TVTS_BUCKET_MINUTES', 3))
  server.set(rules=[])
  for file in (*storage.files_below(on_disk / 'shards'), *storage.files_below(on_disk / 'vocab')):
    (there / file.relative_to(on_disk)).write(file)
  rounds = 0
  while rounds == 0 or time.monotonic() < end:
    name = f'run{rounds}'
    for _ in range(rng.randint(1, 3)):
      faults = [{**rule, 'share': rng.uniform(0, 3 * rule['share'])} for rule in FAULTS]
      server.set(rules=faults, latency=rng.random() / 50)
      run = start(demo, there, there / name)
      try:
        said = run.communicate(timeout=rng.uniform(1, 60))[0]
      except subprocess.TimeoutExpired:
        run.kill()
        said = run.communicate()[0]
      assert run.returncode in (0, -9), said[-3000:]
    runs.finish(start(demo, there, there / name))
    assert_same_run(there / name, on_disk / 'run')
    rounds += 1
  print('rounds', rounds, server.counts()['faults'])
