"""Runs that are steered: settings change on the way, some go back, and some pass what is not finite."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.faults import small
from tests.support import runs
from tvts_jax import report, sharding, train
from tvts_jax import step as step_lib
from tvts_jax.convert import __main__ as convert
from tvts_jax.errors import UserError
from tvts_jax.input import pipeline
from tvts_jax.input.examples import Examples
from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.run.checkpoint_folder import named

pytestmark = pytest.mark.long

HALF = small.STEPS // 2
CHANGES = {
  'optim.lr': 0.01,
  'optim.clip': 0.1,
  'optim.schedule': 'cosine',
  'input.batch': 4,
  'seed': 5,
  'steps': small.STEPS,
  'ema': 0.9,
  'spike_sigmas': 6.0,
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Where runs, which share what they compile, are in this process."""
  root = small.make(tmp_path_factory.mktemp('steering'))
  options = {'jax_compilation_cache_dir': f'{root}/compiled', 'jax_persistent_cache_min_compile_time_secs': 0.0}
  before = {name: getattr(jax.config, name) for name in options}
  for values in (options, before):
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    if values is options:
      yield root


def settings(**changes) -> list[str]:
  always = {'checkpoint.every_steps': 1, 'checkpoint.keep': 100, 'input.workers': 0, 'input.decoder': 'cv'}
  return [f'--config.{name}={value}' for name, value in {**always, **changes}.items()]


def run(root, name, may_change=(), back_to=None, **changes) -> bool:
  return train.train(small.config(root, *settings(**changes)), root / name, may_change, back_to)


def by_hand(config, state, first: int, stop: int):
  """The state after steps first, ... of a config; `state` of the step before, or None."""
  mesh, source = sharding.make_mesh(config.mesh), pipeline.open(config.input)
  parts = step_lib.describe(config, config.steps)
  place = sharding.state_layout(parts.shapes, config.sharding, mesh)
  with jax.set_mesh(mesh):
    begin = jax.jit(parts.init, out_shardings=place)
    if state is None:
      state = begin(jax.random.key(config.seed))
    state = state._replace(ema=state.ema or (config.ema and jax.tree.map(jax.numpy.copy, state.params)) or None)
    state = state._replace(spikes=state.spikes or (config.spike_sigmas and begin(jax.random.key(0)).spikes) or None)
    rng = jax.device_put(jax.random.key(config.seed), jax.NamedSharding(mesh, jax.P()))
    (step_fn,) = step_lib.compile_steps(parts.train_step, state, step_lib.specs_of(source), rng, place, mesh)
    for s in range(first, stop):
      batch = {name: value for name, value in source.batch(s).items() if name != 'example_id'}
      state, _ = step_fn(state, sharding.put(batch, mesh), rng)
  return state


def test_a_resume_with_changes_is_a_run_that_was_given_them_at_that_step(root):
  """Which here extends a run that was finished. What changed is in the checkpoint, the report and the model card."""
  folder, before, after = root / 'steered', {'steps': HALF}, CHANGES
  assert run(root, 'steered', **before)
  with pytest.raises(UserError, match='input.batch: 8 → 4.*, or go on with the change by --resume_with_changes=ema,'):
    run(root, 'steered', **after)
  assert run(root, 'steered', ['optim', 'input.batch', 'seed', 'steps', 'ema', 'spike_sigmas'], **after)

  state = by_hand(small.config(root, *settings(**before)), None, 0, HALF)
  state = by_hand(small.config(root, *settings(**after)), state, HALF, small.STEPS)
  expected, saved = named(state), runs.end(folder)
  assert expected.keys() == saved.keys() and {'ema/text/word', 'spikes/seen'} <= expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(value, saved[name], err_msg=name)

  (row,) = map(json.loads, (folder / 'changes.jsonl').read_text().splitlines())
  assert row['step'] == HALF and [line.partition(':')[0] for line in row['changed']] == sorted(CHANGES)
  assert json.loads((folder / f'checkpoints/{small.STEPS}/meta.json').read_text())['meta']['changes'] == [row]
  assert 'input.batch: 8 → 4' in report.write(folder).read_text()
  convert.main(['export', str(folder), '--format', 'folder', '--out', str(root / 'exported')])
  assert f'step {HALF}: ema: 0.0 → 0.9; input.batch: 8 → 4' in (root / 'exported' / 'README.md').read_text()

  with pytest.raises(UserError, match='is of another model: params/video/.* is float32') as error:
    run(root, 'steered', may_change=['model', *after], **{**after, 'model.video.depth': 2})
  assert '\n' not in str(error.value)
  with pytest.raises(UserError, match=f'trained for {small.STEPS} steps, and this config asks for 3; ask for more'):
    run(root, 'steered', may_change=['steps'], **{**after, 'steps': 3})


def test_a_record_that_gives_nan_is_passed_and_named(root, monkeypatch, caplog):
  """By a run that had stopped at it, as by one that skips it from the start."""
  monkeypatch.setattr(Examples, 'load', runs.poisoned(Examples.load))
  with pytest.raises(UserError, match='NaN or inf in .*loss.* is clip 13 #0; .* of nan_skips=0; run the same'):
    run(root, 'stopped')
  assert run(root, 'stopped', nan_skips=1)
  skips = [message for message in caplog.messages if 'Such steps in a row: 1 of nan_skips=1' in message]
  assert len(skips) >= 2 and all('is clip 13 #0; look at them with' in message for message in skips)
  assert np.isfinite(runs.end(root / 'stopped')['params/text/word']).all()


def test_a_run_that_skips_nan_from_the_start_ends_like_one_that_stopped(root, monkeypatch):
  monkeypatch.setattr(Examples, 'load', runs.poisoned(Examples.load))
  assert run(root, 'skipping', nan_skips=1)
  with pytest.raises(UserError, match='nan_skips=0'):
    run(root, 'once')
  assert run(root, 'once', nan_skips=1)
  runs.assert_equal_ends(root / 'skipping', root / 'once')


def test_steps_that_are_not_finite_count_over_a_restart(root, monkeypatch, caplog):
  monkeypatch.setattr(runs, 'POISONED', [f'clip {n}' for n in range(40)])
  monkeypatch.setattr(Examples, 'load', runs.poisoned(Examples.load))
  for _ in range(2):
    caplog.clear()
    with pytest.raises(UserError, match='step 2 was skipped.* Such steps in a row: 3 of nan_skips=2; run the same'):
      run(root, 'endless', nan_skips=2)
    assert small.steps(root / 'endless') == [1, 2]
  assert not any('of nan_skips=2' in message for message in caplog.messages), 'steps 0 and 1 are not done again'


def test_a_parameter_that_is_nan_is_named_and_an_earlier_checkpoint_passes_it(root):
  assert run(root, 'sound', **{'checkpoint.every_steps': 3})
  folder = root / 'planted'
  shutil.copytree(root / 'sound', folder)
  for step in small.steps(folder):
    if step > HALF:
      shutil.rmtree(folder / 'checkpoints' / str(step))
  config = small.config(root, *settings())
  mesh, parts = sharding.make_mesh(config.mesh), step_lib.describe(config, config.steps)
  place = sharding.state_layout(parts.shapes, config.sharding, mesh)
  abstract = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), parts.shapes, place)
  with Checkpoints(folder / 'checkpoints', CheckpointConfig(keep=100)) as checkpoints:
    state, meta = checkpoints.restore(abstract)
    state.params['text']['word'] = state.params['text']['word'].at[7, 3].set(np.nan)
    checkpoints.save(8, state._replace(step=state.step + 2), meta)

  with pytest.raises(
    UserError, match='step 8, .* began with or made NaN or inf in text/word, 1 of .*--resume_step=STEP'
  ) as error:
    run(root, 'planted', nan_skips=9)
  assert '\n' not in str(error.value) and small.steps(folder)[-1] == 8
  for _ in range(2):  # A restart of the same command does not go back again.
    assert run(root, 'planted', back_to=HALF, **{'checkpoint.every_steps': 3})
  assert (folder / 'checkpoints' / '8.aside').exists() and small.steps(folder)[-1] == small.STEPS
  runs.assert_equal_ends(root / 'sound', folder)
  (row,) = map(json.loads, (folder / 'changes.jsonl').read_text().splitlines())
  assert row == {'step': HALF, 'changed': [], 'back': True}
  assert re.search(rf'step {HALF}: went back to this step', report.write(folder).read_text())
