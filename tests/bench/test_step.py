"""The benchmark of the step: two steps that do the same, turns that are fair, and numbers that say what they are."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.support.paths import ROOT
from tvts_jax import config as config_lib
from tvts_jax import step as step_lib
from tvts_jax.bench import jax_step
from tvts_jax.bench import step as bench
from tvts_jax.bench import turns as turns_lib
from tvts_jax.errors import UserError
from tvts_jax.pages import measurements

bench_torch = pytest.importorskip('tvts_jax.bench.torch_step')


def make(**changes):
  values = config_lib.base().unlock()
  values.model.video.update(width=16, depth=1, heads=2, patch=8, image_size=16, frames=4)
  values.model.text.update(vocab_size=40, dim=16, hidden_dim=32, n_layers=1, n_heads=2, max_position_embeddings=8)
  # Without dropout, which no two libraries draw alike; a large eps, since Adam's first steps are signs of gradients.
  values.model.text.update(dropout=0.0, attention_dropout=0.0)
  values.model.update(common=8, dtype='float32', sort_depth=1)
  values.optim.update(lr=1e-2, eps=1e-3)
  values.input.update(batch=4, max_tokens=6)
  values.update(steps=10, **changes)
  return config_lib.resolve(values)


@pytest.fixture(scope='module')
def found():
  """A race, of which the two contestants' losses are kept."""
  losses = {'ours': [], 'theirs': []}
  patch = pytest.MonkeyPatch()
  for name, kind in (('ours', bench.Step), ('theirs', bench_torch.TorchStep)):
    take = kind.__call__
    patch.setattr(kind, '__call__', lambda self, take=take, name=name: losses[name].append(take(self)))
  try:
    result = bench.race_torch(make(), fused=True, compiled=False, rounds=1, steps=1)
  finally:
    patch.undo()
  return result, losses


@pytest.mark.long
def test_both_steps_learn_the_same_from_the_same_weights_and_batch(found):
  result, losses = found
  agree = result['loss_without_dropout']
  assert agree['ours'] == pytest.approx(agree['theirs'], rel=1e-5)
  # The first step of a warm-up, then two turns of a dropped and a timed step each.
  assert len(losses['ours']) == len(losses['theirs']) == 5
  assert losses['ours'][0] == pytest.approx(agree['ours'], rel=1e-5)
  np.testing.assert_allclose(losses['ours'], losses['theirs'], rtol=1e-3)
  assert abs(losses['ours'][-1] - losses['ours'][0]) > 0.05, 'these steps should move the loss'


@pytest.mark.long
def test_what_the_benchmark_says(found, tmp_path):
  result, _ = found
  for kind in ('wall', 'cpu'):
    ours, theirs = (result['seconds_a_step'][kind][who] for who in ('ours', 'theirs'))
    pairs = [b / a for a, b in zip(ours, theirs)]
    assert len(pairs) == 2 and result['ratio'][kind] == pytest.approx(
      {'median': np.median(pairs), 'min': min(pairs), 'max': max(pairs)}
    )
  assert result['void'] == turns_lib.is_void(result['other_load_cores'])
  assert result['cached_compile_s'] > 0 and result['compile_s'] > 0 and result['attention'] == 'xla'
  page = measurements.save(str(tmp_path / 'new' / 'step.json'), 'Step <1>', result, bench.parts(result))
  assert json.loads((tmp_path / 'new' / 'step.json').read_text()) == json.loads(json.dumps(result))
  html = page.read_text()
  assert page.name == 'step.html' and 'Step &lt;1&gt;' in html and 'turn 2' in html and 'PyTorch' in html
  assert ('VOID' in measurements.build('', {**result, 'void': True}, [])) and (
    'VOID' not in measurements.build('', {**result, 'void': False}, [])
  )


def test_other_weights_are_found_out(monkeypatch):
  monkeypatch.setattr(bench, 'Step', Other)
  with pytest.raises(UserError, match='do not do the same'):
    bench.race_torch(make(), fused=False, compiled=False, rounds=1, steps=1)


class Other:
  """What a race asks of our step before it compares losses."""

  def __init__(self, config, devices):
    model, _, spec = step_lib.build(config)
    params = jax.eval_shape(lambda key: model.init(key, spec), jax.random.key(0))
    self.state = step_lib.State(0, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), params), None)
    self.batch = jax_step.random_batch(config)

  def loss_without_dropout(self):
    return 3.0


def test_a_setting_is_measured_beside_another(monkeypatch):
  config = make()
  other = dataclasses.replace(config, model=dataclasses.replace(config.model, remat='full'))
  monkeypatch.setattr(bench, 'Step', lambda config: config)
  monkeypatch.setattr(bench, 'race', lambda *given: {'raced': given})
  found = bench.race_other(config, other, rounds=5, steps=1)
  assert found == {'raced': (config, other, 5, 1), 'against': "that with model.remat: 'none' → 'full'"}
  with pytest.raises(UserError, match='the same run'):
    bench.race_other(config, config, rounds=1, steps=1)


def test_turns_are_a_b_b_a_and_the_first_step_of_each_is_dropped(monkeypatch):
  taken = []
  turns = turns_lib.take_turns({'a': lambda: taken.append('a'), 'b': lambda: taken.append('b')}, 2)
  assert ''.join(taken) == 'abbaabba' and [len(of) for of in turns.values()] == [4, 4]
  clock, pace = {'now': 0.0}, iter([100.0, 1.0, 5.0, 2.0])
  monkeypatch.setattr(turns_lib.time, 'perf_counter', lambda: clock['now'])
  monkeypatch.setattr(turns_lib.time, 'process_time', lambda: 2 * clock['now'])
  step = lambda: clock.update(now=clock['now'] + next(pace))
  assert turns_lib.turn(step, 3) == (2.0, 4.0)


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(objectives={'classify': {'classes': 3}}), 'objectives.classify'),
    (dict(objectives={'contrastive': {'gradient_scale': 0.5}}), 'contrastive.gradient_scale'),
    (dict(ema=0.9), 'ema'),
  ],
)
def test_what_pytorch_is_not_written_for_is_refused(changes, words):
  config = dataclasses.replace(make(), **changes)
  with pytest.raises(UserError, match=words):
    bench_torch.check(config, False)


def test_compiling_needs_a_compiler(monkeypatch):
  monkeypatch.setenv('CXX', 'no-such-compiler')
  with pytest.raises(UserError, match='no-such-compiler'):
    bench_torch.check(make(), True)


def test_the_readme_quotes_the_race_that_is_kept():
  kept, text = json.loads((ROOT / 'docs/bench_step.json').read_text()), (ROOT / 'README.md').read_text()
  ratio = kept['ratio']['wall']
  quoted = f'{ratio["median"]:.2f} [{ratio["min"]:.2f} to {ratio["max"]:.2f}] (`docs/bench_step.json`)'
  assert quoted in ' '.join(text.split()) and not kept['void'] and kept['host']['cpu'].startswith('Intel(R) Xeon')
