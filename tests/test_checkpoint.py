"""Checkpoints: exact on any mesh, whole or not there, refused when they do not fit. With real processes and faults."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import saved
from tvts_jax import checkpoint, sharding
from tvts_jax.checkpoint import CheckpointConfig, CheckpointError, Checkpoints, differences, restore_params
from tvts_jax.errors import UserError
from tvts_jax.preemption import EXIT_CODE, WorkdirLock

# Libraries below orbax that are interrupted by an error complain to nobody in particular.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

ROOT = Path(__file__).parents[1]
MESH = {'data': 2, 'fsdp': -1}


def spec(devices: int = 8, **changed):
  sizes = MESH if devices > 1 else {}
  return saved.abstract(sharding.make_mesh(sizes, jax.devices()[:devices]), **changed)


def save(folder, *steps, keep=3, ema=True):
  with Checkpoints(folder, CheckpointConfig(keep=keep)) as checkpoints:
    for step in steps:
      checkpoints.save(step, saved.state(step, spec(ema=ema)), {'step': step})


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
  checkpoints = Checkpoints(ready / 'checkpoints', None)
  restored, meta = checkpoints.restore(spec(devices), step)
  assert saved.exact(restored, step, spec(devices)) and meta == {'step': step} == checkpoints.read_meta(step)


def test_without_a_mean_of_the_parameters(tmp_path):
  save(tmp_path, 3, ema=False)
  restored, _ = Checkpoints(tmp_path, None).restore(spec(ema=False))
  assert restored.ema is None and saved.exact(restored, 3, spec(ema=False))
  with pytest.raises(CheckpointError, match='ema/dense/bias is missing there'):
    Checkpoints(tmp_path, None).restore(spec())


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


def test_the_newest_are_kept(tmp_path):
  save(tmp_path, 1, 5, 9, 10, keep=2)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['10', '9']
  before = listing(tmp_path)
  save(tmp_path, 10, keep=2)
  assert listing(tmp_path) == before


def test_another_model_is_refused_by_name(ready):
  checkpoints = Checkpoints(ready / 'checkpoints', None)
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
  (tmp_path / '2.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
  assert Checkpoints(tmp_path, None).latest() == 1
  assert (tmp_path / '2.orbax-checkpoint-tmp').exists()
  save(tmp_path, 2)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['1', '2']


def test_what_is_missing_or_damaged_is_said(tmp_path):
  with pytest.raises(CheckpointError, match=f'there is no checkpoint in {tmp_path / "none"}'):
    Checkpoints(tmp_path / 'none', None).restore(spec())
  assert not (tmp_path / 'none').exists()
  save(tmp_path, 1, 2)
  with pytest.raises(CheckpointError, match='no checkpoint of step 3 in .*; there are 1, 2'):
    Checkpoints(tmp_path, None).read_meta(3)
  for file in (tmp_path / '2' / 'state').rglob('d/*'):
    os.truncate(file, file.stat().st_size // 2)
  (tmp_path / '1' / 'meta' / 'metadata').write_text('{"format": 1, ')
  for step in (1, 2):
    with pytest.raises(CheckpointError, match=f'{tmp_path / str(step)} can not be read: ') as error:
      Checkpoints(tmp_path, None).restore(spec(), step)
    assert '\n' not in str(error.value)
  (tmp_path / 'file').write_text('')
  with pytest.raises(CheckpointError, match='file/checkpoints can not hold checkpoints: Not a directory'):
    Checkpoints(tmp_path / 'file' / 'checkpoints', CheckpointConfig())


def test_a_later_format_is_refused(tmp_path):
  save(tmp_path, 1)
  meta = tmp_path / '1' / 'meta' / 'metadata'
  meta.write_text(meta.read_text().replace(f'"format": {checkpoint.FORMAT}', '"format": 99'))
  with pytest.raises(CheckpointError, match='has the format 99, and this version reads 1'):
    Checkpoints(tmp_path, None).read_meta()


def test_due_by_steps_and_minutes(tmp_path, monkeypatch):
  now = 0.0
  monkeypatch.setattr(checkpoint.time, 'monotonic', lambda: now)
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


@pytest.mark.parametrize('bad', [dict(every_steps=0), dict(keep=0), dict(every_minutes=0.0), dict(every_minutes=-1)])
def test_impossible_settings_are_refused(bad):
  with pytest.raises(UserError, match=f'checkpoint.{next(iter(bad))} is {next(iter(bad.values()))}'):
    CheckpointConfig(**bad)


KEYS = st.dictionaries(
  st.from_regex(r'[a-z]{1,3}(\.[a-z]{1,3})?', fullmatch=True), st.sampled_from('012: ab'), max_size=5
)


@settings(max_examples=50, deadline=None)
@given(KEYS, KEYS)
def test_differences_name_each_changed_key_once(old, new):
  text = lambda values: ''.join(f'{k}: {v!r}\n' for k, v in values.items())
  changed = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
  assert [line.partition(':')[0] for line in differences(text(old), text(new))] == sorted(changed)


def test_differences_read_as_lines():
  old, new = 'optim.lr: 0.1\nseed: 1\nname: a: b\n', 'optim.lr: 0.2\nname: a: b\nema: 0.9\n'
  assert differences(old, new) == ['ema: (absent) → 0.9', 'optim.lr: 0.1 → 0.2', 'seed: 1 → (absent)']


def until(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'it did not happen in time'
    time.sleep(0.005)


def test_a_full_disk_and_a_death_amid_a_save_lose_nothing(tmp_path):
  out = tmp_path / 'out'
  with open(out, 'w') as file:
    child = subprocess.Popen(
      [sys.executable, '-m', 'tests.saved', 'faults', tmp_path / 'run'], stdout=file, stderr=file, cwd=ROOT
    )
  try:
    until(lambda: (tmp_path / 'run' / '6.orbax-checkpoint-tmp').exists() or child.poll() is not None)
  finally:
    child.kill()
  assert child.wait() == -signal.SIGKILL, out.read_text()
  said = out.read_text()
  refusal = f'refused: step 3 could not be saved in {tmp_path / "run"}: File too large; the newest complete one is 2\n'
  assert said.count(refusal) == 2 and said.count('left: 2\n') == 2 and 'after: 5\n' in said, said

  names = {p.name for p in (tmp_path / 'run').iterdir()}
  assert names == {'4', '5', '6.orbax-checkpoint-tmp'}
  with Checkpoints(tmp_path / 'run', CheckpointConfig(keep=2)) as checkpoints:
    assert checkpoints.latest() == 5
    for step in (4, 5):
      restored, meta = checkpoints.restore(spec(), step)
      assert saved.exact(restored, step, spec()) and meta == {'step': step}
    checkpoints.save(6, saved.state(6, spec()), {'step': 6})
  assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == ['5', '6']


def pod(name, folder, *options, **files):
  command = [sys.executable, '-m', 'tests.saved', name, folder]
  return subprocess.Popen(
    [sys.executable, 'launch/local_pod.py', '--devices', '2', *options, '--', *command], cwd=ROOT, **files
  )


def test_a_disk_full_for_one_of_two_processes_stops_both_and_keeps_the_last(tmp_path):
  failed = pod('full', tmp_path, '--grace', '1', stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  said = failed.communicate(timeout=60)[0].decode()
  error = f'[1] tvts_jax.checkpoint.CheckpointError: step 2 could not be saved in {tmp_path}: File too large; '
  assert failed.returncode == 1 and error + 'the newest complete one is 1\n' in said, said
  restored, _ = Checkpoints(tmp_path, None).restore(spec())
  assert saved.exact(restored, 1, spec())


def test_two_processes_and_one_are_the_same_run(tmp_path):
  save(tmp_path / 'given', 7)
  out = tmp_path / 'out'
  with open(out, 'w') as file:
    run = pod('pod', tmp_path, stdout=file, stderr=file)
  lines = lambda start: [line.split() for line in out.read_text().splitlines() if line[4:].startswith(start)]
  try:
    until(lambda: len(lines('ready')) == 2 or run.poll() is not None)
    assert run.poll() is None, out.read_text()
    pids = {int(words[2]): int(words[3]) for words in lines('ready')}
    with pytest.raises(UserError, match=f'{tmp_path} is in use by process {pids[0]} on '):
      WorkdirLock(tmp_path).__enter__()
    os.kill(pids[1], signal.SIGTERM)  # One of the two, and not the one that leads.
    assert run.wait(60) == EXIT_CODE, out.read_text()
  finally:
    run.kill()

  said = out.read_text()
  assert said.count("restored True {'step': 7}") == 2
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
    checkpoints = Checkpoints(tmp_path / 'checkpoints', None)
    for step in (last, steps[-1]):
      restored, meta = checkpoints.restore(spec(devices), step)
      assert saved.exact(restored, step, spec(devices)) and meta == {'by': 0}
  with WorkdirLock(tmp_path):
    pass


def eval_list(line: str) -> list[int]:
  return [int(word.strip('[],')) for word in line.split()[1:]]
