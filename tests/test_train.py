"""Whole runs, in real processes on real shards: interrupted ones must end as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.support.runs import (
  STEPS,
  assert_equal_ends,
  call,
  finish,
  hold_evaluations,
  poison,
  rows,
  start,
  wait_for,
)


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


@pytest.mark.parametrize('sent, code', [(signal.SIGKILL, -9), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.long)])
def test_a_run_that_is_stopped_twice_ends_like_an_undisturbed_one(demo, undisturbed, sent, code):
  """In training and amid an evaluation, and though it goes on from somewhere else. The state is saved before it is
  evaluated, so that no step is lost with the evaluation. Runs that are killed elsewhere are in tests/faults."""
  name = f'stopped by {sent}'
  folder, evaluated = demo / name, demo / name / 'eval' / 'sorting.jsonl'
  run = start(demo, name)
  wait_for(run, lambda: (folder / 'metrics.jsonl').exists() and len(rows(folder)) > 2)
  os.kill(run.pid, signal.SIGTERM)
  finish(run, code=75)
  run = start(demo, name, prepare=hold_evaluations)
  wait_for(run, lambda: 'held between two batches' in run.said())
  wait_for(run, (folder / 'checkpoints' / '6').exists)  # It is saved in the background.
  os.kill(run.pid, sent)
  finish(run, code)
  assert rows(folder)[-1]['step'] == 6 and not evaluated.exists()
  elsewhere = demo / f'{name}, elsewhere'
  elsewhere.symlink_to(demo / 'shards')
  harmless = '--config.checkpoint.keep=2', f'--config.input.folder={elsewhere}'  # They change no number.
  assert 'resuming' in finish(start(demo, name, *harmless))
  assert_equal_ends(demo / 'undisturbed', folder)
  assert evaluated.read_text() == (demo / 'undisturbed' / 'eval' / 'sorting.jsonl').read_text()


def test_a_work_directory_has_one_run(demo, undisturbed):
  first = start(demo, 'shared')
  wait_for(first, lambda: (demo / 'shared' / 'config.txt').exists())
  os.kill(first.pid, signal.SIGSTOP)
  assert 'is in use by process' in finish(start(demo, 'shared'), code=1)
  first.kill()
  first.communicate()
  output = finish(start(demo, 'undisturbed', '--config.optim.lr=0.5', '--config.ema=0.9'), code=1)
  assert 'optim.lr: 0.002 → 0.5' in output and 'ema: 0.0 → 0.9' in output


@pytest.mark.long
def test_a_next_stage_starts_from_another_run(demo, undisturbed):
  settings = [f'--config.init.run={demo}/undisturbed', '--config.optim.lr=0.0', '--config.micro_batches=2']
  settings += ['--config.init.text=', '--config.ema=0.5', '--config.model.video.frames=8', '--config.profile_at=2']
  assert '16 frames of 32 pixels are resized to those of 8 frames' in finish(start(demo, 'next', *settings))
  assert len(list((demo / 'next' / 'tensorboard' / 'plugins' / 'profile').glob('*/*.xplane.pb'))) == 1


@pytest.mark.long
def test_nan_stops_the_run_before_the_update(demo):
  output = finish(start(demo, 'nan', prepare=poison), code=1)
  found = re.search(
    r'step \d+ was skipped: NaN or inf in .*loss.*The first clip with such outputs is (train-000009) #0', output
  )
  assert found and 'of nan_skips=0; run the same command again' in output and 'Traceback' not in output, output[-2000:]
  call(*re.search(r'python -m (data\.inspect .*?)\. ', output)[1].split(), '--out', f'{demo}/nan.html')
  shown = re.findall(r'<h3><bdi>(.*?)</bdi>', (demo / 'nan.html').read_text())
  assert len(shown) == 8 and found[1] in shown


@pytest.mark.long
def test_a_step_that_makes_a_parameter_nan_is_not_saved(demo):
  output = finish(start(demo, 'diverged', '--config.optim.lr=1e30', '--config.optim.clip=1e30'), code=1)
  found = re.search(r'error: step (\d+)\b.* made NaN or inf in (\w+/[\w/]+), .*; .*run the same command', output)
  assert found and '--resume_with_changes=optim.lr' in output and 'Traceback' not in output, output[-2000:]
  assert found[2] in (demo / 'diverged/parameters.txt').read_text()
  assert not any((demo / 'diverged/checkpoints').glob(f'{int(found[1]) + 1}*'))


@pytest.mark.long
def test_a_run_leaves_for_pytorch(demo, undisturbed):
  torch = pytest.importorskip('torch')
  call('tvts_jax.convert', 'export', f'{demo}/undisturbed', '--format', 'folder', '--out', f'{demo}/exported')
  code = 'import sys; from modeling_tvts import TVTS; print(sum(p.numel() for p in TVTS.from_folder(".").parameters()))'
  out = subprocess.run([sys.executable, '-c', code], cwd=demo / 'exported', check=True, capture_output=True, text=True)
  total = re.search(r'([\d,]+) parameters', (demo / 'undisturbed' / 'parameters.txt').read_text())[1]
  assert int(out.stdout) == int(total.replace(',', '')) and torch
  card = (demo / 'exported' / 'README.md').read_text()
  assert 'own/exact' in card and (demo / 'exported' / 'tokenizer.json').exists()
