"""Checkpoints: exact on any mesh, whole or not there, refused when they do not fit. With real processes and faults."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import bucket, saved
from tests.support.paths import ROOT
from tvts_jax import sharding
from tvts_jax.errors import UserError
from tvts_jax.run import checkpoint, checkpoint_folder, checksums, save_times
from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.run.checkpoint_folder import CheckpointError
from tvts_jax.run.checkpoint_reader import CheckpointReader, of_run
from tvts_jax.run.stop import EXIT_CODE
from tvts_jax.run.workdir_lock import hold
from tvts_jax.shards import storage

DEVICES = 8

# Libraries below orbax that are interrupted by an error complain to nobody in particular.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

MESH = {'data': 2, 'fsdp': -1}


def spec(devices: int = 8, **changed):
  sizes = MESH if devices > 1 else {}
  return saved.abstract(sharding.make_mesh(sizes, jax.devices()[:devices]), **changed)


def save(folder, *steps, keep=3, ema=True):
  with Checkpoints(folder, CheckpointConfig(keep=keep)) as checkpoints:
    for step in steps:
      checkpoints.save(step, saved.state(step, spec(ema=ema)), {'step': step})


def restore_params(folder, abstract, part='params', step=None):
  return of_run(folder).restore_part(part, abstract, step)


def until(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'it did not happen in time'
    time.sleep(0.005)


def listing(folder) -> dict:
  return {str(p): p.stat().st_mtime_ns for p in sorted(Path(folder).rglob('*'))}


@pytest.fixture(scope='module')
def ready(tmp_path_factory):
  """Steps 1 and 2, to be read only."""
  folder = tmp_path_factory.mktemp('work')
  save(folder / 'checkpoints', 1, 2)
  return folder


@pytest.mark.parametrize('devices', [8, 4, 1])
@pytest.mark.parametrize('step', [1, 2])
def test_every_bit_returns_on_any_mesh(ready, devices, step):
  checkpoints = CheckpointReader(ready / 'checkpoints')
  restored, meta = checkpoints.restore(spec(devices), step)
  assert saved.exact(restored, step, spec(devices)) and meta == {'step': step} == checkpoints.read_meta(step)


def test_without_a_mean_of_the_parameters(tmp_path):
  save(tmp_path, 3, ema=False)
  restored, _ = CheckpointReader(tmp_path).restore(spec(ema=False))
  assert restored.ema is None and saved.exact(restored, 3, spec(ema=False))
  with pytest.raises(CheckpointError, match='ema/dense/bias is missing there'):
    CheckpointReader(tmp_path).restore(spec())


def test_the_state_may_be_donated_while_it_is_saved(tmp_path):
  place = jax.NamedSharding(sharding.make_mesh({'fsdp': -1}), jax.P('fsdp'))
  x = jax.device_put(np.arange(2**18, dtype=np.float32), place)
  step_fn = jax.jit(lambda x: x * 1.5 + 1, donate_argnums=0)
  seen = {}
  with Checkpoints(tmp_path, CheckpointConfig(keep=9)) as checkpoints:
    for step in range(1, 6):
      seen[step] = np.array(x)
      checkpoints.save(step, {'x': x}, {})
      middle = step_fn(x)
      x = step_fn(middle)
      assert middle.is_deleted()
    for step, value in seen.items():
      restored, _ = checkpoints.restore({'x': jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)}, step)
      np.testing.assert_array_equal(restored['x'], value)


def test_a_folder_may_be_named_from_here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save('work', 1)
  assert CheckpointReader('work').latest() == 1 and (tmp_path / 'work' / '1').exists()


def test_the_newest_are_kept(tmp_path):
  save(tmp_path, 1, 5, 9, 10, keep=2)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['10', '9']
  before = listing(tmp_path)
  save(tmp_path, 10, keep=2)
  assert listing(tmp_path) == before


@pytest.mark.parametrize('where', ['disk', 'bucket'])
def test_some_are_kept_for_good(tmp_path, where):
  """They are saved because of that, and set aside like others where they are damaged."""
  with bucket.server() if where == 'bucket' else contextlib.nullcontext():
    folder = storage.path('gs://bucket/checkpoints') if where == 'bucket' else tmp_path
    config = CheckpointConfig(every_steps=7, every_minutes=None, keep=1, keep_every_steps=4)
    with Checkpoints(folder, config) as checkpoints:
      for step in range(1, 16):
        if checkpoints.due(step):
          checkpoints.save(step, {'x': np.full(3, step)}, {'step': step})
    names = lambda: sorted(path.name for path in folder.iterdir())
    assert names() == ['12', '14', '4', '8']
    for step in (14, 12):
      (folder / str(step) / checkpoint_folder.META).unlink()
    spec = {'x': jax.ShapeDtypeStruct((3,), 'int64')}
    with Checkpoints(folder, config) as checkpoints:
      step, restored, _ = checkpoints.resume(spec, lambda meta: None)
      assert step == 8 and (restored['x'] == 8).all() and names() == ['12.damaged', '14.damaged', '4', '8']


@pytest.mark.parametrize('where', ['disk', 'bucket'])
def test_a_run_goes_back_once(tmp_path, where):
  with bucket.server() if where == 'bucket' else contextlib.nullcontext():
    folder = storage.path('gs://bucket/checkpoints') if where == 'bucket' else tmp_path
    spec = {'x': jax.ShapeDtypeStruct((3,), 'int64')}
    followed = lambda meta: meta.get('back', False)
    names = lambda: sorted(path.name for path in folder.iterdir())
    with Checkpoints(folder, CheckpointConfig(keep=9)) as checkpoints:
      for step in (1, 2, 3):
        checkpoints.save(step, {'x': np.full(3, step)}, {})
    with Checkpoints(folder, CheckpointConfig(keep=9)) as checkpoints:
      with pytest.raises(CheckpointError, match='no checkpoint of step 5 in .*; there are 1, 2, 3'):
        checkpoints.go_back(5, followed)
      checkpoints.go_back(1, followed)
      assert checkpoints.resume(spec, lambda meta: None)[0] == 1 and names() == ['1', '2.aside', '3.aside']
      checkpoints.save(2, {'x': np.full(3, -2)}, {'back': True})
    with Checkpoints(folder, CheckpointConfig(keep=9)) as checkpoints:
      checkpoints.go_back(1, followed)
      step, restored, _ = checkpoints.resume(spec, lambda meta: None)
      assert step == 2 and (restored['x'] == -2).all() and names() == ['1', '2', '2.aside', '3.aside']


def test_what_not_every_run_keeps_may_come_and_go(tmp_path):
  save(tmp_path / 'without', 3, ema=False)
  save(tmp_path / 'with', 3)
  for folder, ema in (('without', True), ('with', False)):
    state = Checkpoints(tmp_path / folder, CheckpointConfig()).resume(spec(ema=ema), lambda meta: None, ('ema',))[1]
    expected = saved.bits(3, spec(ema=not ema))._replace(ema=None)
    same = lambda leaf, bits: np.asarray(leaf).tobytes() == bits.tobytes()
    assert all(jax.tree.leaves(jax.tree.map(same, state, expected)))


def test_another_model_is_refused_by_name(ready):
  checkpoints = CheckpointReader(ready / 'checkpoints')
  for changed, text in [
    ({'embed': ((6, 16), 'float32')}, r'params/embed is float32 \[6, 8\] there and float32 \[6, 16\] here'),
    ({'embed': ((6, 8), 'bfloat16')}, r'params/embed is float32 \[6, 8\] there and bfloat16 \[6, 8\] here'),
    ({'more': ((3,), 'float32')}, 'params/more is missing there'),
    (
      {'dense': {'kernel': ((8, 16), 'float32'), 'offset': ((16,), 'bfloat16')}},
      'params/dense/bias is only there; params/dense/offset is missing there',
    ),
  ]:
    with pytest.raises(CheckpointError, match='2 is of another model: ' + text):
      checkpoints.restore(spec(**changed))
  with pytest.raises(CheckpointError, match='and 1 more'):
    checkpoints.restore(spec(embed=((6, 16), 'float32')))


def test_parameters_start_another_run(ready):
  before = listing(ready)
  params = spec(4).params
  whole = saved.bits(2, spec(4))
  for folder, part in [(ready, 'params'), (ready / 'checkpoints', 'ema')]:
    restored = restore_params(folder, params, part)
    for (path, leaf), array in zip(jax.tree.leaves_with_path(restored), jax.tree.leaves(getattr(whole, part))):
      assert np.asarray(leaf).tobytes() == array.tobytes(), path
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda s: s.sharding, params)
  with pytest.raises(CheckpointError, match="holds no 'mean'; it holds ema, opt_state, params, step"):
    restore_params(ready, params, 'mean')
  with pytest.raises(CheckpointError, match='params/embed is float32'):
    restore_params(ready, {**params, 'embed': jax.ShapeDtypeStruct((6, 8), 'float16')})
  assert listing(ready) == before


def test_only_the_owner_cleans_up(tmp_path):
  save(tmp_path, 1)
  (tmp_path / '2-0.unfinished' / 'state').mkdir(parents=True)
  assert CheckpointReader(tmp_path).latest() == 1
  assert (tmp_path / '2-0.unfinished').exists()
  save(tmp_path, 2)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['1', '2']


def test_in_a_bucket_only_the_list_makes_it_complete():
  """What a save leaves that is killed there is all but the list."""
  with bucket.server():
    folder = storage.path('gs://bucket/checkpoints')
    save(folder, 1, 2)
    (folder / '2' / checksums.LIST).unlink()
    assert CheckpointReader(folder).latest() == 1
    with Checkpoints(folder, CheckpointConfig()) as checkpoints:
      step, restored, _ = checkpoints.resume(spec(), lambda meta: None)
      assert step == 1 and saved.exact(restored, 1, spec())
      assert [p.name for p in folder.iterdir()] == ['1']
      checkpoints.save(2, saved.state(2, spec()), {})
    assert saved.exact(CheckpointReader(folder).restore(spec())[0], 2, spec())


def test_in_a_bucket_a_damaged_one_that_keeps_its_name_is_removed_before_that_step_is_saved(caplog):
  with bucket.server() as server:
    folder = storage.path('gs://bucket/checkpoints')
    save(folder, 1, 2)
    bad = next(path for path in storage.files_below(folder / '2') if '/d/' in str(path))
    bad.write(flip(bad.read_bytes(), 80))
    refuse = lambda what: {'match': f'{what} bucket/checkpoints/2', 'do': 'status', 'status': 403}
    server.set(rules=[refuse('copy'), refuse('delete')])
    with Checkpoints(folder, CheckpointConfig()) as checkpoints:
      assert checkpoints.resume(spec(), lambda meta: None)[0] == 1 and bad.is_file()
      assert '2 is damaged: state/' in caplog.text and 'it could not be renamed to 2.damaged' in caplog.text
      checkpoints.save(2, saved.state(2, spec()), {})
      assert checkpoints.latest() == 1 and bad.is_file()
      assert f'step 2 could not be saved in {folder}: {folder / "2"} could not be removed: ' in caplog.text
      server.set(rules=[])
      checkpoints.save(2, saved.state(2, spec()), {})
      assert checkpoints.latest() == 2 and not bad.is_file()
    assert saved.exact(CheckpointReader(folder).restore(spec())[0], 2, spec())


def test_what_is_missing_is_said(tmp_path):
  with pytest.raises(CheckpointError, match=f'there is no checkpoint in {tmp_path / "none"}'):
    CheckpointReader(tmp_path / 'none').restore(spec())
  assert not (tmp_path / 'none').exists()
  assert Checkpoints(tmp_path, CheckpointConfig()).resume(spec(), None) is None
  save(tmp_path, 1, 2)
  with pytest.raises(CheckpointError, match='no checkpoint of step 3 in .*; there are 1, 2'):
    CheckpointReader(tmp_path).read_meta(3)
  (tmp_path / 'file').write_text('')
  with pytest.raises(CheckpointError, match='file/checkpoints cannot hold checkpoints: Not a directory'):
    Checkpoints(tmp_path / 'file' / 'checkpoints', CheckpointConfig())


def test_a_later_format_is_refused(tmp_path):
  save(tmp_path, 1)
  meta = tmp_path / '1' / checkpoint_folder.META
  meta.write_text(meta.read_text().replace(f'"format": {checkpoint.FORMAT}', '"format": 99'))
  checksums.write(meta.parent)
  with pytest.raises(CheckpointError, match='has the format 99, and this version reads 2'):
    CheckpointReader(tmp_path).read_meta()


def flip(data: bytes, bit: int) -> bytes:
  flipped = bytearray(data)
  flipped[bit // 8] ^= 1 << bit % 8
  return bytes(flipped)


def test_each_change_of_each_file_is_seen_and_named(ready, tmp_path):
  folder, rng = tmp_path / 'copy', np.random.default_rng(0)
  shutil.copytree(ready / 'checkpoints' / '1', folder)
  files = {path: path.read_bytes() for path in storage.files_below(folder)}
  assert len(files) >= 10 and folder / checksums.LIST in files
  assert checksums.damage(folder) is None
  tried = 0
  for path, data in files.items():
    size, name = len(data), path.relative_to(folder).as_posix()
    bits = {0, 8 * size - 1, *rng.integers(8 * size, size=20).tolist()}
    changed = [flip(data, bit) for bit in bits] + [data[:-1], data[1:], data[: size // 2], b'', data + b'\n', None]
    for content in changed:
      path.unlink() if content is None else path.write_bytes(content)
      assert (checksums.damage(folder) or '').startswith(name + ' '), (name, content)
      tried += 1
    path.write_bytes(data)
    for added in (path.parent / 'added', path.with_name(path.name + '~')):
      added.write_bytes(b'')
      assert checksums.damage(folder) == f'{added.relative_to(folder)} does not belong there'
      added.unlink()
  assert tried > 250 and checksums.damage(folder) is None


def test_the_list_is_one_for_sha256sum(ready):
  folder = ready / 'checkpoints' / '2'
  done = subprocess.run(['sha256sum', '-c', checksums.LIST], cwd=folder, capture_output=True, text=True)
  files = [path for path in folder.rglob('*') if path.is_file()]
  assert done.returncode == 0 and done.stdout.count(': OK\n') == len(files) - 1


DAMAGE = {
  'flipped': ('state/d/*', lambda path: path.write_bytes(flip(path.read_bytes(), 8 * path.stat().st_size // 2))),
  'cut': ('state/manifest.ocdbt', lambda path: os.truncate(path, path.stat().st_size - 1)),
  'deleted': (checkpoint_folder.META, lambda path: path.unlink()),
  'emptied': (checksums.LIST, lambda path: os.truncate(path, 0)),
  'no file': ('state/_METADATA', lambda path: (path.unlink(), path.mkdir())),
}


def damage(folder, kind: str) -> str:
  """-> what it was done to."""
  pattern, change = DAMAGE[kind]
  path = next(Path(folder).glob(pattern))
  change(path)
  return path.relative_to(folder).as_posix()


@pytest.mark.parametrize('kind', DAMAGE)
def test_the_newest_good_one_is_used_and_the_damaged_kept_aside(ready, tmp_path, kind, caplog):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(ready / 'checkpoints', folder)
  name = damage(folder / '2', kind)
  before = {path.relative_to(folder / '2'): path.is_file() and path.read_bytes() for path in (folder / '2').rglob('*')}
  with Checkpoints(folder, CheckpointConfig()) as checkpoints:
    step, restored, meta = checkpoints.resume(spec(), lambda meta: None)
    assert step == 1 and saved.exact(restored, 1, spec()) and meta == {'step': 1}
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert line.startswith(f'{folder}/2 is damaged: {name} ') and line.endswith('kept aside as 2.damaged')
    aside = folder / '2.damaged'
    assert before == {path.relative_to(aside): path.is_file() and path.read_bytes() for path in aside.rglob('*')}
    assert checkpoints.latest() == 1
    checkpoints.save(2, saved.state(2, spec()), {'again': True})
  again = Checkpoints(folder, CheckpointConfig())
  assert saved.exact(again.resume(spec(), lambda meta: None)[1], 2, spec())
  assert sorted(path.name for path in folder.iterdir()) == ['1', '2', '2.damaged']


def test_where_none_is_good_nothing_begins_anew(ready, tmp_path):
  shutil.copytree(ready / 'checkpoints', tmp_path / 'checkpoints')
  names = [damage(tmp_path / 'checkpoints' / step, 'flipped') for step in '21']
  before = listing(tmp_path)
  for _ in range(2):
    with pytest.raises(CheckpointError, match=f'2 is damaged: {names[0]} has changed; .*1 is damaged: {names[1]}'):
      Checkpoints(tmp_path / 'checkpoints', CheckpointConfig()).resume(spec(), lambda meta: None)
  assert listing(tmp_path) == before


@pytest.mark.parametrize('kind', ['other arrays', 'unreadable'])
def test_files_as_they_were_saved_are_not_enough(ready, tmp_path, kind, caplog):
  """What was listed may have been wrong already."""
  shutil.copytree(ready / 'checkpoints', tmp_path, dirs_exist_ok=True)
  if kind == 'unreadable':
    damage(tmp_path / '2', 'cut')
  else:
    shutil.rmtree(tmp_path / '2' / 'state')
    shutil.copytree(tmp_path / '1' / 'state', tmp_path / '2' / 'state')
  checksums.write(tmp_path / '2')
  told = {'other arrays': ' is not what was saved, though the files are', 'unreadable': '2 cannot be read: '}[kind]
  for devices in (8, 1):
    with pytest.raises(CheckpointError, match=told):
      CheckpointReader(tmp_path).restore(spec(devices))
  step, restored, _ = Checkpoints(tmp_path, CheckpointConfig()).resume(spec(), lambda meta: None)
  assert step == 1 and saved.exact(restored, 1, spec()) and told in caplog.text
  assert {path.name for path in tmp_path.iterdir()} == {'1', '2.damaged'}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_fingerprint_depends_on_each_bit_and_its_place_but_on_no_mesh(data):
  dtype = data.draw(st.sampled_from(['float32', 'int32', 'uint32', 'bfloat16', 'int8', 'bool']))
  shape = data.draw(st.sampled_from([(), (8,), (16, 3), (2, 8, 4)]))
  size, itemsize = math.prod(shape), jnp.dtype(dtype).itemsize
  raw = data.draw(st.binary(min_size=size * itemsize, max_size=size * itemsize))
  raw = bytes(byte & 1 for byte in raw) if dtype == 'bool' else raw
  as_array = lambda raw: np.frombuffer(raw, jnp.dtype(dtype)).reshape(shape)
  prints = lambda array: checksums.fingerprints({'x': array})['x']
  own = prints(as_array(raw))
  mesh = sharding.make_mesh({'fsdp': -1})
  split = [axis for axis, n in enumerate(shape) if n % 8 == 0]
  for axis in split:
    place = jax.NamedSharding(mesh, jax.P(*[None] * axis, 'fsdp'))
    assert prints(jax.device_put(as_array(raw), place)) == own
  element, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 8 * itemsize - 1))
  bit = 0 if dtype == 'bool' else bit
  assert prints(as_array(flip(raw, 8 * itemsize * element + bit))) != own
  swapped, other = as_array(raw).copy().ravel(), data.draw(st.integers(0, size - 1))
  swapped[[element, other]] = swapped[[other, element]]
  assert (prints(swapped.reshape(shape)) == own) == (swapped.tobytes() == raw)


def test_a_reader_is_told_and_changes_nothing(ready, tmp_path):
  shutil.copytree(ready / 'checkpoints', tmp_path / 'checkpoints')
  name = damage(tmp_path / 'checkpoints' / '2', 'flipped')
  before, told = listing(tmp_path), f'2 is damaged: {name} has changed; move it away to use 1, the newest that is whole'
  with pytest.raises(CheckpointError, match=told) as error:
    restore_params(tmp_path, spec().params)
  assert '\n' not in str(error.value)
  with pytest.raises(CheckpointError, match=told):
    CheckpointReader(tmp_path / 'checkpoints').read_meta()
  assert restore_params(tmp_path, spec().params, step=1) is not None
  assert listing(tmp_path) == before
  damage(tmp_path / 'checkpoints' / '1', 'deleted')
  with pytest.raises(CheckpointError, match='no other is whole'):
    restore_params(tmp_path, spec().params)


def test_only_good_ones_count_as_kept(tmp_path, caplog):
  save(tmp_path, 1, 2, 3)
  damage(tmp_path / '2', 'cut')
  with Checkpoints(tmp_path, CheckpointConfig(keep=3)) as checkpoints:
    assert checkpoints.resume(spec(), lambda meta: None)[0] == 3
    checkpoints.save(4, saved.state(4, spec()), {})
    assert checkpoints.latest() == 4
    assert {path.name for path in tmp_path.iterdir()} == {'1', '2.damaged', '3', '4'}
    assert f'{tmp_path}/2 is damaged: state/manifest.ocdbt has changed' in caplog.text
    checkpoints.save(5, saved.state(5, spec()), {})
  assert {path.name for path in tmp_path.iterdir()} == {'2.damaged', '3', '4', '5'}


class Outage:
  """Takes the folder away, and puts a file there, so that nothing can be written."""

  def __init__(self, folder):
    self.folder, self.elsewhere = folder, folder.with_name('elsewhere')

  def __enter__(self):
    self.folder.rename(self.elsewhere)
    self.folder.write_text('')
    return self

  def __exit__(self, *error):
    self.end()

  def end(self):
    if self.folder.is_file():
      self.folder.unlink()
      self.elsewhere.rename(self.folder)


def test_a_save_that_fails_is_tried_again_soon(tmp_path, monkeypatch, caplog):
  now, folder = 0.0, tmp_path / 'run'
  monkeypatch.setattr(save_times, 'time', SimpleNamespace(monotonic=lambda: now))
  state = saved.state(1, spec())
  config = CheckpointConfig(every_steps=None, every_minutes=15, keep=1, failures=3)
  with Checkpoints(folder, config) as checkpoints:
    checkpoints.save(1, state, {})
    assert checkpoints.latest() == 1
    saves = []
    with Outage(folder) as outage:
      for step in range(2, 300):
        now = step * 10.0  # seconds
        if checkpoints.due(step):
          checkpoints.save(step, state, {})
          saves.append(step)
          until(lambda: checkpoints._saving[1].done())
        if len(saves) == 2:
          outage.end()
    assert saves == [90, 96, 102, 192, 282]  # After 15 minutes; twice one minute after a failure; again after 15.
    left = f'could not be saved in {folder}: Not a directory; the newest complete one is 1'
    assert [text for text in caplog.messages if ' saved ' in text] == [f'step 90 {left}', f'step 96 {left}']
    assert checkpoints.latest() == 282


def test_saves_that_fail_in_a_row_stop_the_run(tmp_path):
  folder, state = tmp_path / 'run', saved.state(1, spec())
  checkpoints = Checkpoints(folder, CheckpointConfig(every_steps=10, every_minutes=None, keep=1, failures=2))
  checkpoints.save(10, state, {})
  assert checkpoints.latest() == 10
  steps = []
  with Outage(folder), pytest.raises(CheckpointError) as error:
    for step in range(11, 1000):
      if checkpoints.due(step):
        steps.append(step)
        checkpoints.save(step, state, {})
      if checkpoints._saving:
        until(lambda: checkpoints._saving[1].done())
  assert steps == [20, 30, 31]  # Two fail, and it stops at once.
  assert 'step 30 could not be saved in' in str(error.value) and 'in a row: 2, so the run stops' in str(error.value)
  assert '\n' not in str(error.value) and saved.exact(CheckpointReader(folder).restore(spec(), 10)[0], 1, spec())


def test_the_last_save_is_tried_until_it_stands(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint, 'LAST_RETRIES', (0.05, 0.05))
  folder = tmp_path / 'run'
  with Checkpoints(folder, CheckpointConfig(failures=1)) as checkpoints:
    checkpoints.save(1, saved.state(1, spec()), {})
    assert checkpoints.latest() == 1
    with Outage(folder) as outage:
      with pytest.raises(CheckpointError, match='2 could not be saved .*complete one is 1; it was tried 3 times'):
        checkpoints.save_last(2, saved.state(2, spec()), {})
      pauses = []
      sleep = lambda seconds: (pauses.append(seconds), outage.end())
      monkeypatch.setattr(checkpoint, 'time', SimpleNamespace(sleep=sleep))
      checkpoints.save_last(3, saved.state(3, spec()), {})
      assert pauses == [0.05]
  assert saved.exact(CheckpointReader(folder).restore(spec())[0], 3, spec())


def test_due_by_steps_and_minutes(tmp_path, monkeypatch):
  now = 0.0
  monkeypatch.setattr(save_times.time, 'monotonic', lambda: now)
  checkpoints = Checkpoints(tmp_path, CheckpointConfig(every_steps=10, every_minutes=2))
  due = []
  for step in range(40):
    now = step * 20.0  # seconds
    if checkpoints.due(step):
      due.append(step)
      checkpoints.save(step, {'x': np.zeros(3)}, {})
  assert due == [6, 10, 16, 20, 26, 30, 36]
  checkpoints.close()
  again = Checkpoints(tmp_path, CheckpointConfig(every_steps=12, every_minutes=None))
  again.restore({'x': jax.ShapeDtypeStruct((3,), 'float64')})
  now += 1e6
  assert [s for s in range(36, 70) if again.due(s)] == [48, 60]
  assert not any(Checkpoints(tmp_path, CheckpointConfig(None, None)).due(s) for s in range(99))


IMPOSSIBLE = {'every_steps': [0], 'keep': [0], 'keep_every_steps': [0], 'failures': [0], 'every_minutes': [0.0, -1]}


@pytest.mark.parametrize('bad', [{name: value} for name, values in IMPOSSIBLE.items() for value in values])
def test_impossible_settings_are_refused(bad):
  with pytest.raises(UserError, match=f'checkpoint.{next(iter(bad))} is {next(iter(bad.values()))}'):
    CheckpointConfig(**bad)


def test_a_full_disk_and_a_death_amid_a_save_lose_nothing(tmp_path):
  out, run = tmp_path / 'out', tmp_path / 'run'
  with open(out, 'w') as file:
    child = subprocess.Popen(
      [sys.executable, '-m', 'tests.support.saved', 'faults', run], stdout=file, stderr=file, cwd=ROOT
    )
  stopped = lambda: Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()[0] == 'T'
  try:
    until(lambda: child.poll() is not None or stopped())
  finally:
    child.kill()
  assert child.wait() == -signal.SIGKILL, out.read_text()
  said = out.read_text()
  told = f'heard: step 3 could not be saved in {run}: File too large; the newest complete one is 2\n'
  assert said.count(told) == 2 and 'left: 2 2 after: 5\n' in said, said

  unfinished = {path.name for path in run.iterdir()} - {'4', '5'}
  assert len(unfinished) == 1 and unfinished.pop().startswith('6-')
  with Checkpoints(run, CheckpointConfig(keep=2)) as checkpoints:
    assert checkpoints.latest() == 5
    for step in (4, 5):
      restored, meta = checkpoints.restore(spec(), step)
      assert saved.exact(restored, step, spec()) and meta == {'step': step}
    checkpoints.save(6, saved.state(6, spec()), {'step': 6})
  assert sorted(p.name for p in run.iterdir()) == ['5', '6']


def pod(name, folder, *options, **files):
  command = [sys.executable, '-m', 'tests.support.saved', name, folder]
  return subprocess.Popen(
    [sys.executable, 'launch/local_pod.py', '--devices', '2', *options, '--', *command], cwd=ROOT, **files
  )


@pytest.mark.long
def test_a_disk_full_for_one_of_two_processes_is_one_for_both(tmp_path):
  """Once: both try again. For good: both stop, at the same step."""
  run = pod('full', tmp_path, '--grace', '1', stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  try:
    said = run.communicate(timeout=200)[0].decode()
  finally:
    run.kill()
  assert run.returncode == 1, said
  lines = lambda start: [line[4:] for line in said.splitlines() if line[4:].startswith(start)]
  assert len(lines('tries')) == 2 and len(set(lines('tries'))) == 1, said
  first, *failed = map(int, lines('tries')[0].split()[1:])
  assert len(failed) == 3
  assert lines('stopped') == 2 * [
    f'stopped: step {failed[-1]} could not be saved in {tmp_path}: File too large (process 1); the newest complete one '
    f'is {first}; saves that failed in a row: 3, so the run stops; make room or mend it there, then run the same '
    'command again'
  ], said
  assert 'step 2 could not be saved' in said
  assert [path.name for path in tmp_path.iterdir()] == [str(first)]
  assert saved.exact(CheckpointReader(tmp_path).restore(spec())[0], first, spec())


def test_two_processes_and_one_are_the_same_run(tmp_path):
  save(tmp_path / 'given', 7)
  save(tmp_path / 'checkpoints', 1, 2)
  damage(tmp_path / 'checkpoints' / '2', 'flipped')
  out = tmp_path / 'out'
  with open(out, 'w') as file:
    run = pod('pod', tmp_path, stdout=file, stderr=file)
  lines = lambda start: [line.split() for line in out.read_text().splitlines() if line[4:].startswith(start)]
  try:
    until(lambda: len(lines('ready')) == 2 or run.poll() is not None)
    assert run.poll() is None, out.read_text()
    pids = {int(words[2]): int(words[3]) for words in lines('ready')}
    with pytest.raises(UserError, match=f'{tmp_path} is in use by process {pids[0]} on '):
      hold(tmp_path).__enter__()
    os.kill(pids[1], signal.SIGTERM)  # One of the two, and not the one that leads.
    assert run.wait(60) == EXIT_CODE, out.read_text()
  finally:
    run.kill()

  said = out.read_text()
  assert said.count("restored True {'step': 7}") == 2 and said.count("resumed True 1 {'step': 1}") == 2
  assert said.count('2 is damaged: state/d/') == 1 and (tmp_path / 'checkpoints' / '2.damaged').exists()
  assert said.count(f'refused: {tmp_path} is in use by ') == 2 and 'both run' not in said
  due = {line[4:] for line in said.splitlines() if line[4:].startswith('due')}
  assert len(due) == 1, said
  steps = eval_list(due.pop())
  gaps = np.diff([0, *steps])
  assert len(gaps) >= 5 and gaps.min() >= 60 and gaps.max() <= 62, steps  # One step is one second of process 0.
  stops = {words[-1] for words in lines('stopped at')}
  assert len(lines('stopped at')) == 2 and len(stops) == 1, said

  last = int(stops.pop())
  for devices in (8, 4, 1):
    checkpoints = CheckpointReader(tmp_path / 'checkpoints')
    for step in (last, steps[-1]):
      restored, meta = checkpoints.restore(spec(devices), step)
      assert saved.exact(restored, step, spec(devices)) and meta == {'by': 0}
  with hold(tmp_path):
    pass


def eval_list(line: str) -> list[int]:
  return [int(word.strip('[],')) for word in line.split()[1:]]
