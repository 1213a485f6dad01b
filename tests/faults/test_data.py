"""Data that goes wrong while it is read: damaged records, shards that change, storage that fails."""

import dataclasses
import itertools
import json
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest

from tests.support import folders, runs
from tests.support.paths import ROOT
from tvts_jax.errors import UserError
from tvts_jax.input import pipeline, vocab
from tvts_jax.input.order import Order
from tvts_jax.input.settings import InputConfig
from tvts_jax.run import history
from tvts_jax.shards import index, patience, reader, storage

STEPS = 18  # three epochs of 24 records
RUN = 8  # steps of a whole run
BAD = 13  # in the second shard, which begins with record 10
SHARDS = [f'train-{i:05d}-of-00003.tfrecord' for i in range(3)]


def make():
  """24 records of 20 videos."""
  return [folders.record(f'v{i:02d}', w, height=16) for i in range(20) for w in range(2 if i % 5 == 0 else 1)]


def write(folder, changed=None):
  """A folder of make(); changed: {which: new features, or other bytes}, as no builder would write them."""
  made = make()
  for i, changes in (changed or {}).items():
    payload = changes if isinstance(changes, bytes) else folders.example(made[i], changes)
    made[i] = payload, made[i].video_id, made[i].window_index
  return folders.write(folder, {'train': [made[:10], made[10:18], made[18:]]})


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp('vocab') / 'pieces'
  vocab.save(vocab.train(Counter(f'w{i}' for i in range(40)), 300), folder)
  return str(folder)


@pytest.fixture(scope='module')
def config(tokenizer):
  sizes = dict(batch=4, image_size=16, patch=8, frames=4, max_tokens=8)
  return InputConfig(tokenizer=tokenizer, **sizes, seed=3, workers=0, decoder='cv')


@pytest.fixture(scope='module')
def sound(config, tmp_path_factory):
  """The batches of an undamaged folder."""
  folder = write(tmp_path_factory.mktemp('sound'))
  with pipeline.open(dataclasses.replace(config, folder=str(folder))).batches(stop_step=STEPS) as batches:
    return list(batches)


@pytest.fixture
def folder(tmp_path):
  return write(tmp_path / 'data')


def opened(config, folder, **changes):
  return pipeline.open(dataclasses.replace(config, folder=str(folder), **changes))


def same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def offset(folder, record, into=60):
  return index.load_index(index.load(folder, 'train')).place(record).begin + into


def flip(folder, record, into=60):
  shard = index.load_index(index.load(folder, 'train')).place(record).shard
  folders.flip(folder / SHARDS[shard], offset(folder, record, into))


def videos(batch):
  names = {index.example_hash(r.video_id, r.window_index): r.video_id for r in make()}
  return [names[int(i)] for i in batch['example_id']]


GOOD_JPEG = folders.jpeg(16, 24)
CUT_JPEG = GOOD_JPEG[: len(GOOD_JPEG) * 2 // 3] + GOOD_JPEG[-2:]
SIZE = GOOD_JPEG.index(b'\xff\xc0') + 5
HUGE_JPEG = GOOD_JPEG[:SIZE] + (8000).to_bytes(2, 'big') * 2 + GOOD_JPEG[SIZE + 4 :]
POISONS = {
  'no proto': (folders.junk(), 'is no record'),
  'JPEGs cut': ({'frames/jpeg': [CUT_JPEG] * 8}, 'is a damaged JPEG'),
  'a header that lies': ({'frames/jpeg': [HUGE_JPEG] * 8}, 'says 8000x8000 in its header, the record 16x24'),
  'no JPEG': ({'frames/jpeg': [b'GIF89a' + bytes(100)] * 8}, 'not a JPEG'),
  'no begin': ({'words/start_ms': [29_999] * 40}, 'no begin in'),
  'a window beyond all time': ({'window/end_ms': [2**63 - 1]}, 'it is [0, 9223372036854775807] ms'),
  'a bit': (None, 'cannot be read: the checksum of its head is wrong'),
}


# Refused in the head, in the pixels, and by a checksum; the others are alike.
SHORT = ('no begin', 'JPEGs cut', 'a bit')


@pytest.mark.parametrize('poison', [pytest.param(p, marks=[] if p in SHORT else [pytest.mark.long]) for p in POISONS])
def test_another_stands_in_for_a_damaged_record_and_nothing_else_changes(config, sound, tmp_path, poison):
  bad, says = POISONS[poison]
  folder = write(tmp_path / 'data', {BAD: bad} if bad else None)
  if bad is None:
    flip(folder, BAD)
  source = opened(config, folder, decoder='tf' if poison == 'JPEGs cut' else 'cv')
  source.trouble.keep(tmp_path, 0, 0)
  with source.batches() as batches:
    found = list(itertools.islice(batches, STEPS))
  missed = index.example_hash(make()[BAD].video_id, make()[BAD].window_index)
  steps = []
  for step, (before, after) in enumerate(zip(sound, found)):
    places = before['example_id'] == missed
    assert len(set(videos(after))) == 4 and missed not in after['example_id']
    same({name: value[~places] for name, value in before.items()}, {k: v[~places] for k, v in after.items()})
    if places.any():
      steps.append(step)
      assert not (before['example_id'][places] == after['example_id'][places]).any()
      # The stand-in is a whole example: what another step is given of it, in the epoch of this one.
      assert videos(after)[int(places.argmax())] not in videos(before)
  assert len(steps) == 3  # once an epoch
  # Each was told of, by shard, record, video where it is known, and reason.
  rows = [json.loads(line) for line in (tmp_path / 'skipped' / '0.jsonl').read_text().splitlines()]
  rows = [row for row in rows if row['step'] < STEPS]
  assert [row['step'] for row in rows] == steps
  for row in rows:
    assert row['shard'].endswith(SHARDS[1]) and row['record'] == BAD - 10 and row['example_id'] == f'{missed:016x}'
    assert says in row['reason'] and f'{SHARDS[1]}: record {BAD - 10}' in row['reason']
    assert (make()[BAD].video_id in row['reason']) == (
      says not in (POISONS['a bit'][1], POISONS['no proto'][1]) and 'ms' not in says
    )
  assert str(source.trouble) == 'skipped as damaged: 1'


@pytest.fixture(scope='module')
def worn(tmp_path_factory):
  """A folder with four damaged records, of which two are damaged in ways that only decoding finds."""
  partly = [*make()[2].frames[:4], *[CUT_JPEG] * 4]  # not every draw takes one of those
  cut = {2: {'frames/jpeg': partly}, 21: {'frames/jpeg': [CUT_JPEG] * 8}}
  folder = write(tmp_path_factory.mktemp('worn'), cut)
  flip(folder, 7)
  flip(folder, 12)
  return folder


@pytest.fixture(scope='module')
def whole(config, worn):
  """What one process makes of it."""
  with opened(config, worn).batches(stop_step=STEPS) as batches:
    return list(batches)


def test_stand_ins_are_the_same_from_any_step(config, worn, whole):
  for step in range(0, STEPS, 4):
    with opened(config, worn, reads=1 + step % 3).batches(step, stop_step=STEPS) as batches:
      for batch, expected in zip(batches, whole[step:], strict=True):
        same(batch, expected)
  source = opened(config, worn)
  for step in reversed(range(STEPS)):
    same(source.batch(step), whole[step])
    assert [index.example_hash(*name) for name in source.examples(step)] == whole[step]['example_id'].tolist()


@pytest.mark.parametrize('processes', [2, 4])
def test_stand_ins_are_the_same_for_any_number_of_processes(config, worn, whole, processes):
  """Each process knows of the damage in its own share alone."""
  for process in range(processes):
    rows = np.arange(process, 4, processes)
    with opened(config, worn).batches(0, rows, stop_step=STEPS) as batches:
      for expected, found in zip(whole, batches, strict=True):
        same({name: value[rows] for name, value in expected.items()}, found)
        assert len(set(videos(expected))) == 4


def test_stand_ins_of_one_batch_never_meet():
  """Whichever places of a batch are damaged, and however often the choice fails."""
  rng = np.random.default_rng(0)
  for batch, counts in ((4, [1] * 20), (5, rng.integers(1, 6, 31)), (16, rng.integers(1, 4, 40)), (1, [3, 1, 1])):
    video_N = np.repeat(rng.integers(2**64 - 1, size=len(counts), dtype=np.uint64), counts)
    order = Order(video_N, batch, seed=5)
    chosen = set()
    for step in range(12):
      taken = set(video_N[order.ids(step)].tolist())
      for place in range(batch):
        rows = list(order.stand_ins(step, place))
        assert rows == list(Order(video_N, batch, seed=5).stand_ins(step, place))
        own = video_N[rows].tolist()
        assert len(set(own)) == len(own) and not taken & set(own)
        taken |= set(own)
        chosen |= set(rows)
      # Together they leave no video unused, but where a place has more to choose from than it may ever need.
      assert len(taken) == len(counts) or batch * 8 < len(counts)
    assert len(chosen) > len(video_N) // 2


def test_in_evaluation_a_damaged_record_is_not_valid(config, worn):
  source = opened(config, worn, mode='eval')
  made = make()
  found = list(source.batches())
  ids, valid = (np.concatenate([b[name] for b in found]) for name in ('example_id', 'valid'))
  lost = np.flatnonzero(~valid).tolist()
  assert {7, 12, 21} <= set(lost) <= {2, 7, 12, 21} and len(found) == 6
  expected = np.array([index.example_hash(r.video_id, r.window_index) for r in made], np.uint64)
  np.testing.assert_array_equal(ids[valid], expected[valid])
  halves = [list(opened(config, worn, mode='eval').batches(0, rows)) for rows in ([0, 1], [2, 3])]
  for a, b, both in zip(*halves, found):
    same({name: np.concatenate([a[name], b[name]]) for name in both}, both)


def test_turns_name_the_step_of_the_run(config, folder, worn, tmp_path):
  source = opened(config, folder, sources=({'folder': str(folder)}, {'folder': str(worn)}), mix='alternate')
  source.trouble.keep(tmp_path, 0, 0)
  with source.batches() as batches:
    for _ in range(12):
      next(batches)
  rows = [json.loads(line) for line in (tmp_path / 'skipped' / '0.jsonl').read_text().splitlines()]
  assert rows and all(row['step'] % 2 == 1 and str(worn) in row['shard'] for row in rows)


def test_what_is_told_of_a_resumed_run_is_that_of_a_whole_one(config, worn, tmp_path):
  def listed(folder, first, stop):
    source = opened(config, worn)
    source.trouble.keep(folder, 0, first)
    with source.batches(first, stop_step=stop) as batches:
      assert len(list(batches)) == stop - first
    return sorted((folder / 'skipped' / '0.jsonl').read_text().splitlines())

  told = listed(tmp_path / 'whole', 0, STEPS)
  listed(tmp_path / 'parts', 0, 11)  # and ended, though its last checkpoint was of step 7
  assert listed(tmp_path / 'parts', 7, STEPS) == told


def drain(source, steps=STEPS):
  with source.batches() as batches:
    return [next(batches) for _ in range(steps)]


def test_too_many_stop_the_run_with_counts_and_advice(config, folder):
  for record in (1, 4, 7, 11, 15, 19):
    flip(folder, record)
  with pytest.raises(UserError) as error:
    drain(opened(config, folder))
  said = str(error.value)
  assert f'6 of the 24 records of {folder} cannot be used, more than max_bad=0.001 allows' in said
  assert 'python -m data.validate --decode' in said and 'input.max_bad' in said and '\n' not in said
  drain(opened(config, folder, max_bad=0.25))
  with pytest.raises(UserError, match='6 of the 24'):
    drain(opened(config, folder, max_bad=0.24))


# One of two processes that read an epoch, each its half of every batch.
READER = """
import sys

import jax
import numpy as np

from tvts_jax import command
from tvts_jax.input import pipeline
from tvts_jax.input.settings import InputConfig
from tvts_jax.pod import distributed

def read():
  distributed.initialize()
  size = dict(batch=4, image_size=16, patch=8, frames=4, max_tokens=8, seed=3, workers=0, decoder='cv')
  rows = np.arange(jax.process_index(), 4, 2)
  with pipeline.open(InputConfig(folder=sys.argv[1], tokenizer=sys.argv[2], **size)).batches(0, rows) as batches:
    for step in range(6):
      next(batches)
  print('read all', flush=True)

sys.exit(command.ending(read, leave=distributed.leave))
"""


def test_all_processes_together_may_skip_so_many(config, folder, tokenizer):
  """Of six damaged records each process meets but some, which it may skip when it is alone."""
  for record in (1, 4, 7, 11, 15, 19):
    flip(folder, record)
  for process in range(2):
    with opened(config, folder).batches(0, np.arange(process, 4, 2), stop_step=6) as batches:
      assert len(list(batches)) == 6
  pod = [sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '1', '--']
  program = [sys.executable, '-c', READER, folder, tokenizer]
  run = subprocess.run([*pod, *program], cwd=ROOT, capture_output=True, text=True, timeout=240)
  said = run.stdout + run.stderr
  assert run.returncode == 1 and said.count(f'error: 6 of the 24 records of {folder} cannot be used') >= 1, said


def test_the_first_one_stops_who_allows_none(config, folder):
  flip(folder, BAD)
  source = opened(config, folder, max_bad=0.0)
  missed = index.example_hash(make()[BAD].video_id, make()[BAD].window_index)
  with source.batches() as batches, pytest.raises(UserError, match=f'record {BAD - 10} at byte .* cannot be read'):
    for _ in range(STEPS):
      assert missed not in next(batches)['example_id']


def test_a_batch_without_enough_others_says_so(config, tmp_path):
  """Four videos fill a batch of four: nobody is left to stand in."""
  folder = folders.write(tmp_path, {'train': [[folders.record(f'v{i}', height=16) for i in range(4)]]})
  folders.flip(folder / 'train-00000-of-00001.tfrecord', offset(folder, 2))
  with pytest.raises(UserError, match='nor can any of 0 others stand in for it: find all that is damaged'):
    opened(config, folder).batch(0)


# Shards that are not what they were.


def cut(path):
  path.write_bytes(path.read_bytes()[:-40])


def replace(path):
  """By a shard of the same size, built elsewhere of other videos."""
  made = [dataclasses.replace(r, video_id=r.video_id.replace('v', 'w')) for r in make()[10:18]]
  other = folders.write(path.parent.parent / 'other', {'train': [made]})
  (other / 'train-00000-of-00001.tfrecord').replace(path)


def zero(path):
  path.write_bytes(bytes(len(path.read_bytes())))


CHANGES = {
  'cut': (cut, 'bytes, the manifest says'),
  'emptied': (lambda path: path.write_bytes(b''), 'has 0 bytes, the manifest says'),
  'grown and moved': (lambda path: path.write_bytes(b'more' + path.read_bytes()), 'bytes, the manifest says'),
  'deleted': (lambda path: path.unlink(), 'is listed in the manifest but missing'),
}


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_shard_is_refused(config, folder, change):
  act, says = CHANGES[change]
  act(folder / SHARDS[1])
  with pytest.raises(index.FolderError, match=f'{SHARDS[1]}.*{says}'):
    opened(config, folder)


def test_an_added_shard_is_refused(config, folder):
  (folder / 'train-00009-of-00003.tfrecord').write_bytes((folder / SHARDS[0]).read_bytes())
  with pytest.raises(index.FolderError, match='train-00009-of-00003.tfrecord: not in the manifest'):
    opened(config, folder)


@pytest.mark.parametrize('change', [*CHANGES, 'replaced', 'zeroed'])
def test_a_shard_that_changes_under_a_run_stops_it(config, folder, change):
  act = {**{name: act for name, (act, _) in CHANGES.items()}, 'replaced': replace, 'zeroed': zero}[change]
  says = {'deleted': 'is listed in the manifest but missing', 'replaced': 'its index lists another one'}
  source = opened(config, folder, max_bad=1.0)
  act(folder / SHARDS[1])
  with pytest.raises(index.FolderError, match=f'{SHARDS[1]}.*{says.get(change, "was changed while it was in use")}'):
    drain(source)
  assert not str(source.trouble), 'no record was blamed'


# Storage that fails.


class Storage:
  """Fails at the given reads, counted from 0, by raising or by a wrong bit, though never twice in a row for one range:
  threads read, so the next but two may be the same again."""

  def __init__(self, monkeypatch, fails, at):
    self.reads, self._fails, self._at, self._real = 0, fails, at, storage.read_local
    self._lock, self._flipped = threading.Lock(), set()
    monkeypatch.setattr(storage, 'read_local', self.read)
    monkeypatch.setattr(patience, 'WAIT_S', 0.01)
    monkeypatch.setattr(patience, 'PATIENCE_S', 0.1)

  def read(self, file, ranges):
    key = file, tuple(ranges)
    with self._lock:
      nth, self.reads = self.reads, self.reads + 1
      if nth not in self._at or key in self._flipped:
        return self._real(file, ranges)
      if isinstance(self._fails, Exception):
        raise self._fails
      self._flipped.add(key)
    first, *others = map(bytearray, self._real(file, ranges))
    first[self._fails] ^= 1
    return list(map(bytes, [first, *others]))


@pytest.mark.parametrize(
  'error', [OSError(5, 'Input/output error'), pytest.param(TimeoutError('no answer'), marks=pytest.mark.long)]
)
def test_storage_that_fails_twice_costs_time_only(config, sound, folder, monkeypatch, error):
  source = opened(config, folder)
  failing = Storage(monkeypatch, error, {0, 1})
  told = []
  monkeypatch.setattr(patience.logging, 'warning', lambda text, *values: told.append(text % values))
  for step, batch in enumerate(drain(source)):
    same(batch, sound[step])
  assert str(source.trouble) == 'reads retried: 2' and failing.reads > 2
  assert len(told) == 2 and all(f'.tfrecord: {error.strerror or error}; trying again in' in line for line in told)


@pytest.mark.parametrize('whole', [reader.WHOLE_BYTES, 0])
def test_storage_that_fails_for_good_stops_the_run_and_blames_no_record(config, folder, monkeypatch, whole):
  monkeypatch.setattr(reader, 'WHOLE_BYTES', whole)
  source = opened(config, folder, max_bad=1.0)
  failing = Storage(monkeypatch, OSError(5, 'Input/output error'), range(1, 10**9))
  with pytest.raises(storage.StorageError, match=r'tfrecord: Input/output error, \d+ times in 0 s'):
    drain(source)
  assert 'skipped' not in str(source.trouble) and failing.reads >= 3


@pytest.mark.parametrize(
  'error, kind', [(PermissionError(13, 'Permission denied'), PermissionError), (TypeError('a bug'), Exception)]
)
def test_what_waiting_does_not_change_is_not_tried_again(config, folder, monkeypatch, error, kind):
  source = opened(config, folder, reads=1)
  Storage(monkeypatch, error, range(10**9))
  with pytest.raises(kind, match='Permission denied|a bug'):
    drain(source)
  assert not str(source.trouble)


@pytest.mark.parametrize('whole', [reader.WHOLE_BYTES, 0])
def test_a_bit_that_flips_on_the_way_is_read_again(config, sound, folder, monkeypatch, whole):
  monkeypatch.setattr(reader, 'WHOLE_BYTES', whole)
  source = opened(config, folder)
  Storage(monkeypatch, 100, {0, 3, 6})
  for step, batch in enumerate(drain(source)):
    same(batch, sound[step])
  assert not str(source.trouble)


def test_a_folder_that_cannot_be_listed_is_asked_again(config, sound, folder, monkeypatch):
  monkeypatch.setattr(patience, 'WAIT_S', 0.01)
  real, failed = index.os.scandir, []

  def fail_once(path):
    if not failed:
      failed.append(path)
      raise OSError(116, 'Stale file handle')
    return real(path)

  monkeypatch.setattr(index.os, 'scandir', fail_once)
  same(opened(config, folder).batch(0), sound[0])
  assert failed


# A run.


def train(root, name, folder, tokenizer, *settings, code=0) -> str:
  """What it says."""
  arguments = [
    *(f'--config=configs/demo.py:steps={RUN}', f'--workdir={root}/{name}'),
    *(f'--config.input.folder={folder}', f'--config.input.tokenizer={tokenizer}', '--config.init.text='),
    *('--config.model.text.vocab_size=300', '--config.model.video.image_size=16', '--config.model.video.frames=4'),
    *('--config.input.batch=4', '--config.evals={}', '--config.log_every=1', '--config.checkpoint.every_steps=2'),
    *('--config.model.video.depth=1', '--config.model.text.n_layers=1', '--config.input.seconds=(3.0,)', *settings),
  ]
  return runs.finish(runs.Fork(root, name, arguments), code)


@pytest.mark.long
def test_a_run_goes_on_over_damage_and_tells(folder, tokenizer, tmp_path):
  """It may skip nothing and stops; the same run, told that it may, ends like one that was never stopped."""
  flip(folder, BAD)
  undisturbed, stopped = tmp_path / 'undisturbed', tmp_path / 'stopped'
  said = train(tmp_path, 'undisturbed', folder, tokenizer)
  assert f'{SHARDS[1]}: record {BAD - 10} at byte' in said and 'skipped as damaged: 1' in said
  said = train(tmp_path, 'stopped', folder, tokenizer, '--config.input.max_bad=0.0', code=1)
  assert 'Traceback' not in said and f'{SHARDS[1]}: record {BAD - 10} at byte' in said.splitlines()[-1], said[-3000:]
  assert 'resuming' in train(tmp_path, 'stopped', folder, tokenizer)
  assert runs.rows(stopped) == runs.rows(undisturbed)
  for workdir in (undisturbed, stopped):
    assert history.read(workdir).skipped[0]['record'] == BAD - 10
    assert '1 could not be used' in (workdir / 'report.html').read_text()
