"""metrics.jsonl over kills and resumes, TensorBoard with and without TensorFlow, the progress line to the letter."""

import contextlib
import errno
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import bucket
from tvts_jax import files, machine
from tvts_jax.errors import UserError
from tvts_jax.run import metrics
from tvts_jax.run.background import Background
from tvts_jax.run.clock import Rates
from tvts_jax.shards import patience


@pytest.fixture
def no_board(monkeypatch):
  monkeypatch.setattr(metrics, 'open_board', lambda folder: None)


def timeless(path):
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert all(isinstance(row.pop('time'), float) for row in rows)
  return rows


# The file.


def test_lines(tmp_path, no_board):
  writers = metrics.Writers(tmp_path / 'run', 0, 0, Background())
  writers.write(20, {'loss': 0.1, 'sort/item': 1 / 3})
  path = tmp_path / 'run' / 'metrics.jsonl'
  assert timeless(path) == [{'step': 20, 'loss': 0.1, 'sort/item': 1 / 3}], 'on disk before the writers are closed'
  writers.write(40, {'loss': math.nan, 'sort/loss': -math.inf})
  writers.close()
  assert timeless(path)[1] == {'step': 40, 'loss': None, 'sort/loss': None}


def test_only_the_first_process_writes(tmp_path):
  writers = metrics.Writers(tmp_path / 'run', 1, 0, Background())
  writers.write(1, {'loss': 1.0})
  writers.close()
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('process', [0, 1])
@pytest.mark.parametrize('name', ['step', 'time'])
def test_names_of_fields_are_taken(tmp_path, no_board, process, name):
  with pytest.raises(ValueError, match=f'no metric can be called {name!r}'):
    metrics.Writers(tmp_path, process, 0, Background()).write(1, {name: 1.0})


def test_a_fresh_start_drops_what_is_there(tmp_path, no_board):
  metrics.Writers(tmp_path, 0, 0, Background()).write(0, {'loss': 1.0})
  metrics.Writers(tmp_path, 0, 0, Background())
  assert (tmp_path / 'metrics.jsonl').read_text() == ''


TOTAL, LOG, EVALUATE, SAVE = 30, 2, 5, 4


class Killed(Exception):
  """The process is gone."""


def run(workdir, first, kill_at, again):
  """A loop in the trainer's order; → the last checkpoint. again: whether a resume evaluates its first state again."""
  writers, saved, writes = metrics.Writers(workdir, 0, first, Background()), first, 0

  def write(step, values):
    nonlocal writes
    writers.write(step, values)
    writes += 1
    if writes == kill_at:
      raise Killed

  pending = None
  try:
    for s in range(first, TOTAL + 1):
      if pending and pending % LOG == 0:
        write(pending, {'loss': 1 / pending, 'sort/item': pending / 7})
      if s % EVALUATE == 0 and (s > first or s == 0 or again):
        write(s, {'sorting/own/exact': s / 30})
      if s % SAVE == 0:
        saved = s
      pending = s + 1
  except Killed:
    return saved, False
  writers.close()
  return saved, True


@given(st.lists(st.integers(1, 20), max_size=6), st.booleans(), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_a_run_that_is_killed_leaves_the_lines_of_an_undisturbed_one(tmp_path_factory, kills, again, torn):
  folder = tmp_path_factory.mktemp('runs')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics, 'open_board', lambda board: None)
    patch.setattr('os.fsync', lambda handle: None)
    run(folder / 'whole', 0, None, again)
    path, saved, ended = folder / 'killed' / 'metrics.jsonl', 0, False
    for kill_at in [*kills, None]:
      if not ended:
        saved, ended = run(folder / 'killed', saved, kill_at, again)
      if not ended:  # What else a kill can leave: the start of the line after.
        with path.open('ab') as file:
          file.write(b'{"step": 31, "time": 1700000000.123, "loss": 0.25}\n'[:torn])
    if not ended:
      run(folder / 'killed', saved, None, again)
  assert timeless(path) == timeless(folder / 'whole' / 'metrics.jsonl')


def test_unreadable_lines_are_dropped_and_told(tmp_path, no_board, caplog):
  good = '{"step": 1, "time": 1.0, "loss": 0.5}\n'
  (tmp_path / 'metrics.jsonl').write_bytes(good.encode() + b'\x00\xff\n[1]\n{"step": "1"}\n' + good.encode() + b'{"st')
  metrics.Writers(tmp_path, 0, 9, Background())
  assert (tmp_path / 'metrics.jsonl').read_text() == 2 * good
  assert 'dropped what is unreadable, lines 2, 3, 4, 6' in caplog.text


def test_a_bucket_gets_the_same_file_and_no_line_waits_for_it(tmp_path, no_board):
  with bucket.server() as server:
    for workdir in (tmp_path, 'gs://bucket/run'):
      for first in (0, 2):
        with Background() as background:
          writers = metrics.Writers(workdir, 0, first, background)
          background.flush()
          server.zero()
          for step in range(first + 1, first + 4):
            writers.write(step, {'loss': step / 3})
          assert not server.counts()['counts']
    (tmp_path / 'copy').write_bytes(server.read('bucket/run/metrics.jsonl'))
  assert timeless(tmp_path / 'metrics.jsonl') == timeless(tmp_path / 'copy')


def test_a_full_disk_is_one_sentence(tmp_path, no_board):
  writers = metrics.Writers(tmp_path, 0, 0, Background())
  (tmp_path / 'metrics.jsonl').unlink()
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  with pytest.raises(UserError, match='No space left on device.* run again: the run goes on from its last checkpoint'):
    writers.write(1, {'loss': 1.0})


def test_a_file_that_is_stale_for_a_while_loses_no_line(tmp_path, no_board, monkeypatch):
  monkeypatch.setattr(patience, 'WAIT_S', 0.01)
  writers = metrics.Writers(tmp_path, 0, 0, Background())
  real, tries = pathlib.Path.open, []

  @contextlib.contextmanager
  def stale(path, mode):
    tries.append(mode)
    with real(path, mode) as file:
      if len(tries) not in (2, 3):
        yield file
        return
      half = lambda line: file.write(line[:8])
      yield types.SimpleNamespace(write=half)
      raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

  monkeypatch.setattr(pathlib.Path, 'open', stale)
  for step in (1, 2, 3):
    writers.write(step, {'loss': 1.0})
  monkeypatch.undo()
  rows, broken = files.read_rows(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1, 2, 3] and len(broken) == 2 and len(tries) == 5


def test_a_work_directory_that_cannot_be_is_one_sentence(tmp_path, no_board):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='metrics cannot be written to .*file'):
    metrics.Writers(tmp_path / 'file' / 'run', 0, 0, Background())


# TensorBoard.


def events(folder):
  from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
  from tensorboard.util.tensor_util import make_ndarray

  found = {}
  for path in sorted((folder / 'tensorboard').iterdir()):
    for event in EventFileLoader(str(path)).Load():
      for value in event.summary.value:
        found[value.tag, event.step] = float(make_ndarray(value.tensor))
  return found


def test_tensorboard_through_clu(tmp_path):
  writers = metrics.Writers(tmp_path, 0, 0, Background())
  assert type(writers._board).__module__.startswith('clu.')
  writers.write(5, {'loss': 0.5, 'sort/item': 0.25})
  writers.write(6, {'loss': 0.125})
  writers.close()
  assert events(tmp_path) == {('loss', 5): 0.5, ('sort/item', 5): 0.25, ('loss', 6): 0.125}


def without(module, workdir):
  """A real process in which `module` cannot be imported writes two lines, half a third, and is killed."""
  code = f"""
import logging, os, sys
sys.modules[{module!r}] = None
from absl import logging as absl_logging
absl_logging.set_verbosity('info')
from tvts_jax.run import metrics
from tests.support import bucket
from tvts_jax.run.background import Background
writers = metrics.Writers({str(workdir)!r}, 0, 0, Background())
writers.write(5, {{'loss': 0.5}})
writers.write(6, {{'loss': 0.125}})
if writers._board: writers._board._file.flush()
assert 'tensorflow' not in sys.modules or sys.modules['tensorflow'] is None
os.write(os.open({str(workdir / 'metrics.jsonl')!r}, os.O_APPEND | os.O_WRONLY), b'{{"step": 7, "ti')
os.kill(os.getpid(), 9)
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
  assert done.returncode == -9, done.stderr
  return done.stderr


def test_without_tensorflow(tmp_path, no_board):
  without('tensorflow', tmp_path)
  assert events(tmp_path) == {('loss', 5): 0.5, ('loss', 6): 0.125}
  metrics.Writers(tmp_path, 0, 6, Background())
  assert timeless(tmp_path / 'metrics.jsonl') == [{'step': 5, 'loss': 0.5}, {'step': 6, 'loss': 0.125}]


def test_without_tensorboard(tmp_path):
  told = without('tensorboard', tmp_path)
  assert 'TensorBoard is not installed, so there is no' in told and 'metrics.jsonl has all the numbers' in told
  assert not (tmp_path / 'tensorboard').exists()


# The progress line.

VALUES = {
  'loss': 2.34567,
  'contrastive/loss': 1.1,
  'contrastive/t2v_r1': 0.40625,
  'contrastive/v2t_r1': 0.03125,
  'sort/exact': 0.0,
  'sort/item': 0.9121,
  'gradient_norm': 3.0,
}


def test_the_whole_line():
  rates = Rates(steps_per_s=12.9, clips_per_s=1234.5, waiting=0.0081, eta_s=4000)
  line = metrics.progress_line(1200, 1500, VALUES, rates, transcripts=4, batch=32, mfu=0.381)
  assert line == (
    'step 1200/1500  loss 2.3457  R@1 v2t 3.1% t2v 40.6% (chance 3.1%)  sort item 91.2% (chance 25.0%) exact 0% '
    '(chance 0.39%)  1,234 clips/s  MFU 38.1%  waiting for data 0.81%  ETA 67 min'
  )


def test_a_line_says_what_there_is():
  assert metrics.progress_line(0, 9, {}, None, transcripts=4, batch=32) == 'step 0/9'
  rates = Rates(steps_per_s=0.02, clips_per_s=0.64, waiting=1.0, eta_s=0)
  values = {'loss': math.nan, 'sort_factorial/assigned': 0.5, 'unknown/exactly': 1.0}
  assert metrics.progress_line(9, 9, values, rates, transcripts=3, batch=1) == (
    'step 9/9  loss nan  sort_factorial assigned 50.0% (chance 16.7%)  0.64 clips/s  waiting for data 100.0%  ETA 0 s'
  )


def test_mfu():
  device = lambda kind: types.SimpleNamespace(device_kind=kind)
  two = [device('TPU v4'), device('TPU v4')]
  assert metrics.mfu(100, 275e10, two) == pytest.approx(0.5)
  assert machine.peak('cpu') is None and metrics.mfu(100, 1e9, [device('TPU v4'), device('cpu')]) is None
