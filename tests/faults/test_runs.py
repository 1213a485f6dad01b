"""Whole runs on a machine that misbehaves: deaths at any moment, a full disk, a clock that jumps, no network, no home,
no locale, other devices. They end as if nothing had happened, or stop with one sentence and go on from there."""

import collections
import errno
import os
import random
import re
import secrets
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from tests.faults import small
from tests.support import folders, runs
from tests.support.paths import ROOT
from tests.support.runs import finish, rows, wait_for
from tvts_jax import config, main, train
from tvts_jax.errors import UserError
from tvts_jax.files import sweep, write_whole
from tvts_jax.input import vocab
from tvts_jax.run import checksums

DEVICES = 8

HALF = small.STEPS // 2
KILLS = (*['starting'] * 10, *['training'] * 5, *['saving'] * 5)
DEAD = 'http://127.0.0.1:9'  # Where nobody listens.


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return small.make(tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='module')
def undisturbed(root):
  """A run of which all checkpoints are kept."""
  finish(small.start(root, 'undisturbed', '--config.checkpoint.keep=100'))
  return root / 'undisturbed'


@pytest.mark.long
def test_killed_at_many_moments_a_run_ends_like_an_undisturbed_one(root, undisturbed):
  seed = secrets.randbelow(10**6)
  print('seed', seed)
  rng, name, hit, said = random.Random(seed), 'killed', collections.Counter(), ''
  folder = root / name
  for moment in rng.sample(KILLS, len(KILLS)):
    newest, left = small.steps(folder)[-1:], small.unfinished(folder)
    run = small.fork(root, name)
    small.await_moment(run, folder, moment, rng, newest, left)
    run.kill()
    said += run.communicate()[0]
    assert run.returncode in (0, -9), said[-3000:]
    hit[moment] += run.returncode == -9
    hit['amid a save'] += bool(small.unfinished(folder) - left)
  said += finish(small.fork(root, name))
  print(hit)
  assert sum(hit[moment] for moment in small.MOMENTS) >= len(KILLS) - 2 and hit['amid a save'] >= len(KILLS) // 10
  assert 'is damaged' not in said and said.count('which was never completed') >= hit['amid a save']
  runs.assert_equal_ends(undisturbed, folder)
  # Nothing stays but what an undisturbed run leaves, of whose checkpoints some were not kept.
  assert small.names(folder) <= small.names(undisturbed)


@pytest.mark.long
def test_a_full_disk_stops_a_run_and_costs_nothing(root, undisturbed):
  """For good: it stops after three saves. For a while: it goes on. In the end no bit differs."""
  folder = root / 'full'
  run = small.fork(root, 'full')
  wait_for(run, lambda: small.steps(folder)[-1:] >= [3])
  small.limit_files(run.pid, small.ROOM)
  said = finish(run, code=1)
  assert 'Traceback' not in said, said
  kept, (why,) = small.steps(folder), [line for line in said.splitlines() if line.startswith('error: ')]
  assert f'File too large; the newest complete one is {kept[-1]}; saves that failed in a row: 3, so the run' in why
  assert said.count('could not be saved in') == 4
  assert len(kept) == 3 and all(checksums.damage(folder / 'checkpoints' / str(s)) is None for s in kept)

  run = small.fork(root, 'full', '--config.checkpoint.failures=1000')
  wait_for(run, lambda: small.steps(folder)[-1] > kept[-1])
  small.limit_files(run.pid, small.ROOM)
  wait_for(run, lambda: 'could not be saved in' in run.said())
  small.limit_files(run.pid, None)
  finish(run)
  runs.assert_equal_ends(undisturbed, folder)


def test_a_file_that_can_not_be_written_is_named(tmp_path, monkeypatch, capsys):
  def full(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full)
  monkeypatch.setenv('JAX_NUM_PROCESSES', '1')
  monkeypatch.setattr(config, 'resolve', lambda values: values)
  monkeypatch.setattr(train, 'train', lambda config, workdir, *_: write_whole(f'{workdir}/eval.jsonl', config))
  monkeypatch.setattr(main, 'CONFIG', SimpleNamespace(value='text'))
  monkeypatch.setattr(main, 'WORKDIR', SimpleNamespace(value=tmp_path))
  for flag in ('CHANGES', 'RESUME_STEP'):
    monkeypatch.setattr(main, flag, SimpleNamespace(value=None))
  with pytest.raises(SystemExit, match='1'):
    main.main(['main'])
  assert capsys.readouterr().err == f"error: [Errno 28] No space left on device: '{tmp_path}/eval.jsonl'\n"
  assert not list(tmp_path.iterdir())


def test_the_next_run_sweeps_up_what_a_death_has_left_half_written(tmp_path, monkeypatch):
  class Death(BaseException):
    pass

  def die(*_):
    raise Death

  monkeypatch.setattr(os, 'fsync', die)
  monkeypatch.setattr(type(tmp_path), 'unlink', lambda *_, **__: None)  # As the dead do.
  with pytest.raises(Death):
    write_whole(tmp_path / 'clock.json', 'half')
  monkeypatch.undo()
  (left,) = tmp_path.iterdir()
  kept = [tmp_path / name for name in ('clock.json', '.lock', '.clock.json', 'run-0123abcd')]
  for path in kept:
    path.write_text('mine')
  sweep(tmp_path)
  assert sorted(tmp_path.iterdir()) == sorted(kept) and left not in kept
  sweep(tmp_path / 'none')


# In the place of tvts_jax.main: each look at the clock finds it days or years away from the last.
JUMPING = """
import itertools, time

jumps = itertools.cycle([0, 3 * 86400, -5 * 86400, 0.5, 20 * 365 * 86400, -1.5])
time.time = lambda now=time.time: now() + next(jumps)

from absl import app
from tvts_jax import main

app.run(main.main)
"""


@pytest.mark.long
def test_clock_locale_home_and_network_change_no_bit(root, undisturbed):
  program = root / 'jumping.py'
  program.write_text(JUMPING)
  odd = {
    **{'LC_ALL': 'C', 'LANG': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'PYTHONHASHSEED': '77'},
    **{'TZ': '<+1345>-13:45', 'HOME': '/proc/none', 'XDG_CACHE_HOME': '/proc/none', 'PYTHONPATH': str(ROOT)},
    **dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'), DEAD),
  }
  alone = ('unshare', '--map-root-user', '--net')  # No network at all, where a user may ask for that.
  pod = alone if subprocess.run([*alone, 'true'], capture_output=True).returncode == 0 else ()
  said = finish(small.start(root, 'odd', pod=pod, program=[program], changed=odd, errors='replace'))
  assert 'Traceback' not in said, said
  runs.assert_equal_ends(undisturbed, root / 'odd')


def half(undisturbed, folder):
  """What a run leaves that is killed half the way."""
  shutil.copytree(undisturbed, folder)
  for step in small.steps(folder):
    if step > HALF:
      shutil.rmtree(folder / 'checkpoints' / str(step))
  return folder


@pytest.mark.long
def test_on_other_devices_a_run_goes_on_from_the_same_bits(root, undisturbed):
  """Sums over a batch are then taken in another order, and nothing else differs: also where memory is spared."""
  folder, sparing = half(undisturbed, root / 'moved'), ('--config.mesh.fsdp=2', '--config.model.remat=full')
  said = finish(small.start(root, 'moved', '--config.checkpoint.keep=100', *sparing, changed=small.TWO_DEVICES))
  assert f'resuming {folder} at step {HALF} of {small.STEPS}' in said
  losses = lambda folder: [row['loss'] for row in rows(folder) if 'loss' in row]
  before, after = losses(undisturbed), losses(folder)
  assert len(before) == len(after) == small.STEPS and before[:HALF] == after[:HALF]
  np.testing.assert_allclose(before[HALF], after[HALF], rtol=1e-6)
  np.testing.assert_allclose(before, after, rtol=1e-3)


def other_shards(root):
  clips = [folders.record(f'clip {i}', height=16, window=1) for i in range(40)]
  return folders.write(root / 'others', {'train': [clips]}, sampling=small.SAMPLING)


def other_words(root):
  vocab.save(vocab.train(collections.Counter(f'w{i}' for i in range(50)), 256), root / 'words')
  return root / 'words'


# What a run is not continued with, and what the refusal says.
OTHERS = {
  'batch': (lambda root: ['--config.input.batch=16'], 'input.batch: 8 → 16'),
  'batch that no mesh can split': (lambda root: ['--config.input.batch=12'], 'input.batch=12 is not a multiple of 8'),
  'seed': (lambda root: ['--config.seed=1'], 'seed: 0 → 1'),
  'model': (lambda root: ['--config.model.video.depth=2'], 'model.video.depth: 1 → 2'),
  'records': (lambda root: [f'--config.input.folder={other_shards(root)}'], 'was trained on other data'),
  'words': (lambda root: [f'--config.input.tokenizer={other_words(root)}'], 'was trained on other vocabulary'),
}


@pytest.mark.long
@pytest.mark.parametrize('what', OTHERS)
def test_a_run_is_not_continued_as_another(root, undisturbed, what):
  change, says = OTHERS[what]
  look = lambda: {path: path.stat().st_mtime_ns for path in undisturbed.rglob('*') if path.name != '.lock'}
  before = look()
  with pytest.raises(UserError, match=re.escape(says)) as error:
    train.train(small.config(root, *change(root)), undisturbed)
  assert '\n' not in str(error.value) and look() == before
