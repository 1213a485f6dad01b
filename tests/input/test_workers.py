"""Worker processes make the batches that threads of this process make, whatever happens to them."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from tests.support import folders
from tests.support.special import WORD, Special
from tvts_jax import sharding
from tvts_jax.errors import UserError
from tvts_jax.input import pipeline, vocab, workers
from tvts_jax.input.batches import FIRST, LEAST
from tvts_jax.input.settings import InputConfig
from tvts_jax.shards import index

STEPS = 18  # Three epochs of 24 records.
GOOD = folders.jpeg(16, 24)
SIZE = GOOD.index(b'\xff\xc0') + 5
HUGE = GOOD[:SIZE] + (8000).to_bytes(2, 'big') * 2 + GOOD[SIZE + 4 :]
NONE = GOOD[: SIZE + 30] + b'\xff\xd9'  # A header and no picture.


def make():
  """24 records of 20 videos."""
  return [folders.record(f'v{i:02d}', w, height=16) for i in range(20) for w in range(2 if i % 5 == 0 else 1)]


def name_of(nth: int) -> int:
  record = make()[nth]
  return index.example_hash(record.video_id, record.window_index)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  root = tmp_path_factory.mktemp('workers')
  vocab.save(vocab.train(Counter(f'w{i}' for i in range(40)), 300), root / 'pieces')
  made = make()
  folders.write(root / 'data', {'train': [made[:10], made[10:]]})
  shape = dict(batch=4, image_size=16, patch=8, frames=4, max_tokens=8, seed=3, decoder='cv', workers=0)
  return InputConfig(folder=f'{root}/data', tokenizer=f'{root}/pieces', **shape)


@pytest.fixture(scope='module')
def whole(config):
  with pipeline.open(config).batches(stop_step=STEPS) as batches:
    return list(batches)


def opened(config, workers=2, **changes):
  return pipeline.open(dataclasses.replace(config, workers=workers, **changes))


def same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def lives(pid: int) -> bool:
  try:
    return open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0] not in 'XZ'
  except FileNotFoundError:
    return False


def until_gone(pids, seconds=10):
  late = time.monotonic() + seconds
  while any(map(lives, pids)) and time.monotonic() < late:
    time.sleep(0.01)
  return not any(map(lives, pids))


@pytest.mark.parametrize('count', [1, 2, 5])
def test_batches_are_those_of_one_process(config, whole, count):
  source = opened(config, count)
  with source.batches(stop_step=STEPS) as batches:
    for found, expected in zip(batches, whole, strict=True):
      same(found, expected)
    assert len(batches.pids) == count
  with source.batches(7, rows=[1, 3], stop_step=STEPS) as batches:
    for found, expected in zip(batches, whole[7:], strict=True):
      same(found, {name: value[[1, 3]] for name, value in expected.items()})
  with pytest.raises(StopIteration):
    next(batches)


def test_tensorflow_decodes_in_them_as_here(config, whole):
  here, there = (opened(config, count, decoder='tf') for count in (0, 1))
  with here.batches(stop_step=6) as a, there.batches(stop_step=6) as b:
    for found, expected, plain in zip(b, a, whole[:6], strict=True):
      same(found, expected)
      same(found, plain)


def test_an_evaluation_ends_and_marks_what_fills_it(config):
  for found, expected in zip(
    opened(config, mode='eval', batch=7).batches(), opened(config, 0, mode='eval', batch=7).batches(), strict=True
  ):
    same(found, expected)
    last = expected
  assert last['valid'].tolist() == [True] * 3 + [False] * 4


def test_what_is_skipped_is_told_once_and_as_by_one_process(config, tmp_path):
  made = make()
  for nth, jpeg in ((2, HUGE), (21, NONE)):
    changed = folders.example(made[nth], {'frames/jpeg': [jpeg] * 8})
    made[nth] = changed, made[nth].video_id, made[nth].window_index
  folder = folders.write(tmp_path / 'data', {'train': [made]})
  shard = folder / 'train-00000-of-00001.tfrecord'
  folders.flip(shard, index.load_index(index.load(folder, 'train')).place(7).begin + 60)
  told, batches = [], []
  for count in (0, 1, 3):
    source = opened(config, count, folder=str(folder))
    source.trouble.keep(tmp_path / str(count), 0, 0)
    with source.batches(stop_step=STEPS) as stream:
      batches.append(list(stream))
    told.append((tmp_path / str(count) / 'skipped' / '0.jsonl').read_text())
    assert str(source.trouble) == 'skipped as damaged: 3'
    for step, batch in enumerate(batches[-1]):
      assert [index.example_hash(*name) for name in source.examples(step)] == batch['example_id'].tolist()
  for found in batches[1:]:
    for a, b in zip(found, batches[0], strict=True):
      same(a, b)
  assert told[0] == told[1] == told[2]
  rows = [json.loads(line) for line in told[0].splitlines()]
  assert {row['record'] for row in rows} == {2, 7, 21}
  steps = [(row['step'], row['record']) for row in rows]
  assert len(set(steps)) == len(steps) >= 9 and [step for step, _ in steps] == sorted(step for step, _ in steps)
  for count in (0, 2):
    with opened(config, count, folder=str(folder), max_bad=0.0).batches() as stream:
      with pytest.raises(UserError, match=r'train-00000-of-00001.tfrecord: record \d+'):
        list(itertools.islice(stream, STEPS))


@pytest.fixture(scope='module')
def special(config, tmp_path_factory):
  """As `config`, with a record that has another word than all others."""
  made = make()
  made[13] = dataclasses.replace(made[13], words=[WORD] * 40)
  folder = folders.write(tmp_path_factory.mktemp('special') / 'data', {'train': [made]})
  return dataclasses.replace(config, folder=str(folder))


def acting(config, count, deed, seconds=0.0, **changes):
  """A source whose tokenizer acts at that record."""
  source = opened(config, count, **changes)
  source.parts[0].tokenizer = Special(source.parts[0].tokenizer, deed, seconds)
  return source


@pytest.mark.parametrize('deed', ['fail', 'die'])
def test_what_no_worker_can_make_ends_the_run_where_it_is_needed(special, deed):
  missed = name_of(13)
  with opened(special, 0).batches() as batches:
    first = next(step for step, batch in enumerate(batches) if missed in batch['example_id'])
  source = acting(special, 2, deed, prefetch_bytes=0)  # It is met once.
  kind, says = {
    'fail': (TypeError, 'a bug'),
    'die': (UserError, r'record 13: 3 processes that made it died, and the last one was ended by SIGKILL; look at it'),
  }[deed]
  with source.batches() as batches:
    for _ in range(first):
      assert missed not in next(batches)['example_id']
    with pytest.raises(kind, match=says) as error:
      next(batches)
  if deed == 'fail':
    assert 'special.py' in error.value.__notes__[0], 'where in the worker it happened'
  else:
    assert str(source.trouble) == 'input workers replaced: 3'


def test_a_worker_that_is_killed_is_replaced_and_reported(config, whole, caplog):
  source = opened(config)
  with source.batches(stop_step=STEPS) as batches:
    for step, expected in enumerate(whole):
      same(next(batches), expected)
      if step in (2, 9):
        killed = batches.pids[0]
        os.kill(killed, signal.SIGKILL)
        late = time.monotonic() + 10
        while killed in batches.pids and time.monotonic() < late:  # The next batch may be ready, which hides a death.
          batches._look(wait=False)
        assert killed not in batches.pids
  assert str(source.trouble) == 'input workers replaced: 2'
  assert f'the input worker of process {killed} was ended by SIGKILL; another one goes on' in caplog.text


def test_the_process_that_forks_them_may_be_killed_as_well(config, whole):
  source = opened(config, 1)
  with source.batches(stop_step=STEPS) as batches:
    same(next(batches), whole[0])
    server = workers.SERVERS[os.getpid(), 'cv']
    server._process.kill()
    server._process.wait()
    os.kill(batches.pids[0], signal.SIGKILL)
    for expected in whole[1:]:
      same(next(batches), expected)


def test_they_outlive_signals_to_the_group_but_not_their_stream(config, whole):
  with opened(config).batches(stop_step=STEPS) as batches:
    same(next(batches), whole[0])
    pids = batches.pids
    for pid, number in itertools.product(pids, (signal.SIGINT, signal.SIGTERM)):
      os.kill(pid, number)
    for expected in whole[1:]:
      same(next(batches), expected)
    assert batches.pids == pids
  assert not any(map(lives, pids))


def test_they_end_with_a_process_that_is_killed_or_forgets_them(config):
  values = dataclasses.asdict(dataclasses.replace(config, workers=2))
  program = (
    'import os, signal, sys; from tvts_jax.input import pipeline; from tvts_jax.input.settings import InputConfig\n'
    f'batches = pipeline.open(InputConfig(**{values!r})).batches()\n'
    'next(batches)\n'
    'print(*batches.pids, flush=True)\n'
    'if sys.argv[1] == "killed": os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  for how, code in (('killed', -signal.SIGKILL), ('ends', 0)):
    done = subprocess.run([sys.executable, '-c', program, how], capture_output=True, text=True, timeout=120)
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == code and len(pids) == 2 and until_gone(pids), done.stderr


def test_workers_that_cannot_begin_end_the_run(config, monkeypatch):
  monkeypatch.setitem(workers.VARIABLES, 'PYTHONHOME', '/nowhere')
  monkeypatch.setattr(workers, 'SERVERS', {})
  with pytest.raises(UserError, match='input workers .*; see what (it|they) wrote, or set input.workers=0'):
    with opened(config, 1).batches() as batches:
      next(batches)


def test_a_shard_that_vanishes_is_named_as_by_one_process(config, tmp_path):
  folder = folders.write(tmp_path, {'train': [make()[:12], make()[12:]]})
  source = opened(config, folder=str(folder))
  (folder / 'train-00001-of-00002.tfrecord').unlink()
  with source.batches() as batches, pytest.raises(index.FolderError, match='is listed in the manifest but missing'):
    for _ in range(STEPS):
      next(batches)


@pytest.mark.parametrize('count', [0, 1])
def test_values_never_change_under_who_has_them(config, whole, count):
  """However many batches are kept, as arrays of ours or of JAX, which on CPUs may be the same memory."""
  mesh = sharding.make_mesh({})
  with opened(config, count, prefetch_bytes=1).batches(stop_step=STEPS) as batches:
    kept = list(batches)
  with opened(config, count, prefetch_bytes=1).batches(stop_step=STEPS) as batches:
    put = [sharding.put({name: batch[name] for name in ('patches', 'tokens')}, mesh) for batch in batches]
  for batch, placed, expected in zip(kept, put, whole, strict=True):
    same(batch, expected)
    for name, value in placed.items():
      np.testing.assert_array_equal(value, expected[name])


def test_a_slot_is_used_again_once_nobody_has_its_arrays(config):
  source = opened(config, 1, prefetch_bytes=1)
  addresses = Counter()
  with source.batches() as batches:
    for _ in range(50):
      addresses[next(batches)['patches'].__array_interface__['data'][0]] += 1
  assert len(addresses) <= workers.FEWEST


@pytest.mark.parametrize('count', [0, 1])
def test_batches_are_made_as_far_ahead_as_they_are_taken_in_prefetch_s(config, count):
  with opened(config, count, prefetch_s=0.2).batches() as batches:
    next(batches)
    assert len(batches._making) == FIRST
    for _ in range(13):
      next(batches)
      time.sleep(0.02)
    assert 5 <= len(batches._making) <= 11
    for _ in range(16):
      next(batches)
      time.sleep(0.1)
    assert len(batches._making) <= 4
  with opened(config, count, prefetch_bytes=1).batches() as batches:
    for _ in range(5):
      next(batches)
    assert len(batches._making) == LEAST


@pytest.mark.parametrize('count', [0, 1])
def test_a_late_read_delays_nobody(special, count):
  """One row of each epoch is a second late, and batches are taken every 40 ms: an epoch takes them a quarter."""
  source, missed, waits, seen = acting(special, count, 'sleep', 1.0, prefetch_s=3), name_of(13), [], 0
  with source.batches() as batches:
    for step in range(80):
      begin = time.monotonic()
      batch = next(batches)
      waits.append(time.monotonic() - begin)
      seen += step >= 10 and missed in batch['example_id']
      time.sleep(0.04)
  assert seen and max(waits[10:]) < 0.5, 'once batches are made far enough ahead'


def resident(pid) -> int:
  """Bytes of memory that only this process has, and open files."""
  with open(f'/proc/{pid}/smaps_rollup') as file:
    fields = dict(line.split(':') for line in file.readlines()[1:])
  return sum(int(fields[name].split()[0]) for name in ('Private_Clean', 'Private_Dirty')) * 1024


def growth(config, batches: int) -> dict:
  """How much memory and how many files more there are after so many batches than after a tenth of them."""
  with opened(config, 1, prefetch_bytes=1).batches() as stream:
    taken = []
    for step in range(batches + 1):
      next(stream)
      if step in (batches // 10, batches):
        time.sleep(0.5)  # Until nothing is in the making.
        pids = [os.getpid(), *stream.pids]
        taken.append(np.array([[resident(pid), len(os.listdir(f'/proc/{pid}/fd'))] for pid in pids]))
  return (taken[1] - taken[0]).max(0).tolist()


def test_memory_stays_flat(config):
  memory, files = growth(config, 500)
  assert memory < 16 * 2**20 and not files


@pytest.mark.long
def test_memory_stays_flat_over_ten_thousand_batches(config):
  memory, files = growth(config, 10_000)
  assert memory < 16 * 2**20 and not files
