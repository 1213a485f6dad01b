"""The step: accumulation, meshes, non-finite numbers, and a golden step."""

import functools
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.models.test_tvts import LOSS, TINY, assert_close, loss_and_gradient, make
from tests.support import meshes
from tests.support.paths import ROOT
from tvts_jax import config as config_lib
from tvts_jax import objectives, optim
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError
from tvts_jax.models import flops, layers, tvts

DEVICES = 8

GOLDEN_STEP = {'loss': 10.044304, 'sort/loss': 1.531592, 'gradient_norm': 40.098099, 'update_norm': 2.893365}


def start(model, params, **settings):
  tx = optim.build(optim.OptimConfig(**{'lr': 1e-2, 'clip': 1.0, 'weight_decay': 0.1, **settings}), params, 10)
  return tx, step_lib.State(jnp.zeros((), jnp.int32), params, tx.init(params), None)


def test_golden_step():
  model, params, batch = make(B=8, visible=12, **meshes.PLAIN)
  tx, state = start(model, params)
  _, metrics = jax.jit(step_lib.make_train_step(model, LOSS, tx))(state, batch, jax.random.key(0))
  got = {name: float(metrics[name]) for name in GOLDEN_STEP}
  assert got == pytest.approx(GOLDEN_STEP, rel=1e-4), (
    'a train step gives other numbers than before; put the new ones into GOLDEN_STEP if the model, an objective or the '
    'optimizer was changed on purpose and each number moved as that change should move it; otherwise something broke'
  )


@pytest.mark.parametrize('parts', [2, pytest.param(4, marks=pytest.mark.long)])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts):
  model, params, batch = make(B=8, visible=12, **meshes.SHALLOW)
  key = jax.random.key(0)
  whole = jax.jit(functools.partial(step_lib.whole_gradient, model, LOSS))(params, batch, key)
  cut = jax.jit(functools.partial(step_lib.accumulated_gradient, model, LOSS, parts=parts))(params, batch, key)
  assert_close(whole, cut, 2e-5)


@pytest.mark.long
@pytest.mark.parametrize('micro_batches', [1, 2])
def test_what_is_frozen_costs_no_backward_pass_and_has_no_part_in_the_norm(micro_batches):
  model, params, batch = make(B=4, visible=8, **meshes.PLAIN)

  def describe(*groups):
    values = {
      'model': {**TINY, **meshes.PLAIN},
      'input': {'batch': 4, 'max_tokens': 6},
      'optim': {'groups': groups},
      'micro_batches': micro_batches,
      'steps': 1,
    }
    return step_lib.describe(config_lib.resolve(values), 1)

  free, frozen = describe(), describe(('^text/', {'frozen': True}))
  rng, text = jax.random.key(0), model.config.text
  work = [flops.products(jax.make_jaxpr(p.train_step)(p.shapes, p.spec, rng).jaxpr) for p in (free, frozen)]
  forward = batch['order'].size * layers.flops_of_blocks(6, text.dim, text.hidden_dim, text.n_layers, read=1)
  assert work[0] - work[1] == pytest.approx(2 * forward, rel=0.01)

  state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), frozen.shapes)._replace(params=params)
  after, metrics = jax.jit(frozen.train_step)(state, batch, rng)
  _, gradient = loss_and_gradient(model, params, batch)
  rest, whole = (float(optax.tree.norm(kept)) for kept in ({**gradient, 'text': None}, gradient))
  assert float(metrics['gradient_norm']) == pytest.approx(rest, rel=1e-4) and rest < 0.99 * whole
  jax.tree.map(np.testing.assert_array_equal, after.params['text'], params['text'])


@pytest.fixture(scope='module')
def alone():
  return meshes.run({}, jax.devices()[:1])


def test_steps_on_a_mesh_equal_those_on_one_device(alone):
  assert_same_run(alone, meshes.run({'data': 2, 'fsdp': 2, 'tensor': 2}))


CLIP = {'text_encoder': 'clip', 'text': meshes.TEXT, 'projection': 'clip', 'sort_heads': 2}
VIDEO = {**TINY['video'], 'tubelet': 1}
MODELS = {
  'TVTSv2': {'encoder': 'divided', 'video': {**VIDEO, 'pre_norm': True, 'sorts': 'bare'}, **CLIP},
  'SVT with a BERT': {'encoder': 'timesformer', 'video': VIDEO, 'text_encoder': 'bert', **meshes.PLAIN},
  'CLIP': {'encoder': 'frames', 'video': VIDEO, **CLIP},
  'VideoMAE': {'video': {**TINY['video'], 'positions': 'sincos', 'pool': 'mean'}},
}


@pytest.mark.long
@pytest.mark.parametrize('name', MODELS)
def test_steps_of_each_encoder_on_a_mesh_equal_those_on_one_device(name):
  alone = meshes.run({}, jax.devices()[:1], **MODELS[name])
  assert_same_run(alone, meshes.run({'data': 2, 'fsdp': 2, 'tensor': 2}, **MODELS[name]))


@pytest.mark.long
def test_steps_of_two_processes_equal_those_on_one_device(alone, tmp_path):
  """Each has four of the eight devices, every other one of the mesh, and the parameters are split over both."""
  pod = [sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '4', '--']
  own = {**os.environ, 'TVTS_HEARTBEAT_S': '300'}  # A loaded machine may leave a process without time for long.
  files = [tmp_path / 'fsdp.npz', tmp_path / 'tensor.npz']
  subprocess.run(
    [*pod, sys.executable, '-m', 'tests.support.meshes', *files], cwd=ROOT, env=own, check=True, timeout=500
  )
  for file in files:
    assert_same_run(alone, meshes.load(file))


def assert_same_run(a, b):
  """Within 1e-5 of float32, relative above one: sums in another order differ by a tenth of that after three steps."""
  assert a.keys() == b.keys() and {'loss of step 2', 'video/blocks/mlp/up/kernel'} <= a.keys()
  for name in a:
    np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name)


DROPPING = {**meshes.SHALLOW, 'text': {**meshes.TEXT, 'n_layers': 1}}


@pytest.fixture(scope='module')
def once():
  """(step, state, batch), compiled for all tests that ask for no more than a step."""
  model, params, batch = make(B=4, visible=12, **DROPPING)
  tx, state = start(model, params)
  step = jax.jit(step_lib.make_train_step(model, LOSS, tx, ema=0.9))
  return step, state._replace(ema=jax.tree.map(jnp.copy, params)), batch


def test_a_step_without_a_number_changes_nothing_but_the_count_and_names_the_clip(once):
  step, state, batch = once
  bad = {**batch, 'positions': batch['positions'].at[2, 0].set(10_000)}
  after, metrics = step(state, bad, jax.random.key(0))
  assert not metrics['finite'] and not np.isfinite(metrics['loss']) and metrics['bad_clip'] == 2
  jax.tree.map(np.testing.assert_array_equal, state._replace(step=1), after)
  _, metrics = step(state, batch, jax.random.key(0))
  assert metrics['finite'] and metrics['bad_clip'] == -1


@pytest.mark.long
@pytest.mark.parametrize('good', [True, False])
def test_accelerators_choose_what_cpus_branch_for(once, monkeypatch, good):
  """Whether a step gives numbers or none."""
  step, state, batch = once
  batch = batch if good else {**batch, 'positions': batch['positions'].at[0, 0].set(10_000)}
  branched, _ = step(state, batch, jax.random.key(0))
  monkeypatch.setattr(jax.lax, 'platform_dependent', lambda state, cpu, default: default(state))
  traced_again = jax.jit(lambda *given: step.__wrapped__(*given))
  chosen, _ = traced_again(state, batch, jax.random.key(0))
  assert_close(chosen, branched, 1e-6)
  moved = lambda leaf, before: not np.array_equal(leaf, before)
  assert int(chosen.step) == 1 and any(jax.tree.leaves(jax.tree.map(moved, chosen.params, state.params))) == good


@pytest.mark.parametrize('name', ['dtype', 'param_dtype'])
def test_float16_does_not_train_but_embeds(name):
  values = {'model': {**TINY, name: 'float16'}, 'input': {'batch': 4, 'max_tokens': 6}, 'steps': 1}
  config = config_lib.resolve(values)
  with pytest.raises(UserError, match=f"model.{name}='float16' is not for training.*; set model.{name}='bfloat16', or"):
    step_lib.describe(config, 1)
  model, _, _ = step_lib.build(config)
  _, params, batch = make(B=4, visible=12)
  assert np.isfinite(jax.jit(model.embed_video)(params, batch)['video_embed']).all()


def test_what_is_a_spike():
  """Against plain numpy, over a run whose level rises for good in the middle."""
  rng, sigmas, look = np.random.default_rng(0), 4.0, jax.jit(step_lib.is_spike)
  values_Sx2 = rng.normal([5.0, 2.0], 0.1, (600, 2)).astype(np.float32)
  values_Sx2[[50, 200, 201]] += 3.0
  values_Sx2[250, 1] += 3.0
  values_Sx2[400:] += 0.8
  spikes, recent, found = step_lib.Spikes(jnp.zeros((2, step_lib.USUAL)), jnp.int32(0), jnp.int32(0)), [], []
  for s, now_2 in enumerate(values_Sx2):
    limit_2 = np.full(2, np.inf)
    if s >= step_lib.USUAL:
      last = np.array(recent[-step_lib.USUAL :])
      limit_2 = last.mean(axis=0) + sigmas * last.std(axis=0)
    recent.append(np.minimum(now_2, limit_2))
    spike, spikes = look(spikes, *now_2, sigmas)
    assert bool(spike) == bool((now_2 > limit_2).any())
    found += [s] if spike else []
  assert int(spikes.seen) == 600 and int(spikes.skipped) == len(found)
  assert found[:3] == [200, 201, 250], 'one before enough is known is none'
  assert 400 in found and max(found) < 500, 'a level that has risen is usual some time later'


@pytest.mark.parametrize('rule', ['nan', 'spike'])
def test_steps_that_are_skipped_advance_the_schedule(rule):
  params = {'kernel': jnp.ones((2, 2))}
  tx = optim.build(optim.OptimConfig(lr=1.0, schedule='linear', decay_at=(0.0,), no_decay='kernel'), params, 4)
  usual = jnp.tile(1.0 + jnp.arange(step_lib.USUAL) % 2, (2, 1))
  spikes = step_lib.Spikes(usual, jnp.int32(step_lib.USUAL), jnp.int32(0))
  state = step_lib.State(jnp.int32(0), params, tx.init(params), None, spikes)
  update = jax.jit(step_lib.without_nan(step_lib.without_spikes(step_lib.plain_update(tx), 6.0)))
  norms = []
  for s in range(4):
    loss = 1.0 if s in (0, 3) else {'nan': jnp.nan, 'spike': 100.0}[rule]
    state, metrics = update(state, params, {'loss': jnp.float32(loss), 'gradient_norm': jnp.float32(1.0)})
    norms.append(float(metrics['update_norm']))
  assert int(state.step) == 4 and norms == pytest.approx([2.0, 0.0, 0.0, 0.5], rel=1e-4)


def precisions(lowered) -> list[tuple[set[str], bool]]:
  """The types that each matmul multiplies, and whether it is to do so in full."""
  lines = [line for line in lowered.as_text().splitlines() if 'stablehlo.dot_general' in line]
  types = [re.findall(r'x?(bf16|f32|i32)>', line.rpartition(':')[2].partition('->')[0]) for line in lines]
  return [(set(kinds), 'precision = [HIGHEST, HIGHEST]' in line) for kinds, line in zip(types, lines, strict=True)]


def test_float32_is_multiplied_in_full():
  """On accelerators, which would round it: in all of a float32 model, and in the similarities of any."""
  values = {'model': {**TINY, **meshes.PLAIN}, 'input': {'batch': 4, 'max_tokens': 6}, 'steps': 1}
  parts = step_lib.describe(config_lib.resolve(values), 1)
  matmuls = precisions(jax.jit(parts.train_step).lower(parts.shapes, parts.spec, jax.random.key(0)))
  assert len(matmuls) > 40 and all(matmul == ({'f32'}, True) for matmul in matmuls), matmuls
  evaluated = precisions(jax.jit(parts.model.embed_video).lower(parts.shapes.params, parts.spec))
  assert evaluated and all(full for _, full in evaluated)

  outputs = jax.eval_shape(parts.model.apply, parts.shapes.params, parts.spec)
  for name in ('contrastive', 'sigmoid', 'contrastive_learned'):
    loss_fn = objectives.build({name: {}})
    given = outputs | {key: jax.ShapeDtypeStruct((4,), 'float32') for key in loss_fn.reads if key not in outputs}
    lowered = jax.jit(lambda *arguments, loss_fn=loss_fn: loss_fn(*arguments)).lower(given, parts.spec)
    assert precisions(lowered) == [({'f32'}, True)], name


@pytest.mark.long
def test_a_spike_changes_nothing_but_the_count(once):
  plain, state, batch = once
  model, params, _ = make(B=4, visible=12, **DROPPING)
  usual = jnp.tile(100.0 + jnp.arange(step_lib.USUAL) % 2, (2, 1))
  ruled = jax.jit(step_lib.make_train_step(model, LOSS, start(model, params)[0], ema=0.9, spike_sigmas=6.0))
  expected, _ = plain(state, batch, jax.random.key(0))
  for level, spike in ((1.0, False), (0.01, True)):
    spikes = step_lib.Spikes(level * usual, jnp.int32(step_lib.USUAL), jnp.int32(5))
    after, metrics = ruled(state._replace(spikes=spikes), batch, jax.random.key(0))
    assert bool(metrics['spike']) == spike and int(metrics['skipped']) == int(after.spikes.skipped) == 5 + spike
    assert int(after.step) == 1 and metrics['finite']
    made = after._replace(step=None, spikes=None)
    if spike:
      jax.tree.map(np.testing.assert_array_equal, made, state._replace(step=None))
    else:
      assert_close(made, expected._replace(step=None), 1e-6)


@pytest.mark.parametrize('number, decay', [(0, 0.1), (10, 0.55), (1000, 0.9)])
def test_ema_follows_the_parameters_and_closer_in_the_first_steps(once, number, decay):
  step, state, batch = once
  after, _ = step(state._replace(step=jnp.int32(number)), batch, jax.random.key(0))
  expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.params, after.params)
  assert_close(expected, after.ema, 1e-6)


def test_dropout_differs_from_step_to_step(once):
  step, state, batch = once
  loss = lambda s: step(state._replace(step=jnp.int32(s)), batch, jax.random.key(0))[1]['loss']
  assert loss(0) != loss(1) and loss(0) == loss(0)


@pytest.mark.long
def test_the_step_embeds_visible_tubelets_only():
  """A grid of 7×7 places, and no other size that seven divides: only the space embedding may have all places."""
  config = tvts.TVTSConfig.from_dict(
    {**make()[0].config.to_dict(), 'video': dict(size='tiny', image_size=112, frames=4)}
  )
  model = tvts.build(config)
  spec = tvts.batch_spec(config, 8, 26, 6) | {'order': jax.ShapeDtypeStruct((8, 4), jnp.int32)}
  params = jax.eval_shape(lambda rng: model.init(rng, spec), jax.random.key(0))
  opt_state = jax.eval_shape(optax.sgd(0.1).init, params)
  state = step_lib.State(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state)
  step = jax.jit(step_lib.make_train_step(model, LOSS, optax.sgd(0.1)))
  text = step.lower(state, spec, jax.random.key(0)).compile().as_text()
  sizes = {math.prod(map(int, filter(None, dims.split(',')))) for dims in re.findall(r'\w\[([\d,]*)\]', text)}
  assert 8 * 26 * 64 in sizes, 'the tokens of the visible tubelets should be there'
  assert {size for size in sizes if size % 49 == 0} == {49 * 64}
