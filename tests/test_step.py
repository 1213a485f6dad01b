"""The step: accumulation, meshes, non-finite numbers, and a golden step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.test_model import LOSS, assert_close, make
from tvts_jax import optim, sharding
from tvts_jax import step as step_lib
from tvts_jax.models import tvts

# Without dropout, because a batch cut in other pieces draws other dropout masks.
PLAIN = {
  'text': {
    'vocab_size': 50,
    'dim': 32,
    'hidden_dim': 64,
    'n_layers': 2,
    'n_heads': 2,
    'dropout': 0.0,
    'attention_dropout': 0.0,
  }
}

GOLDEN_STEP = {'loss': 10.044304, 'sort/loss': 1.531592, 'gradient_norm': 40.098099, 'update_norm': 2.893365}


def start(model, params, **settings):
  tx = optim.build(optim.OptimConfig(**{'lr': 1e-2, 'clip': 1.0, 'weight_decay': 0.1, **settings}), params, 10)
  return tx, step_lib.State(jnp.zeros((), jnp.int32), params, tx.init(params), None)


def test_golden_step():
  """If this fails and the model, an objective or the optimizer was changed on purpose, print the new numbers and
  check that their change is of the size expected; if nothing of the kind was changed, something broke."""
  model, params, batch = make(B=8, visible=12, **PLAIN)
  tx, state = start(model, params)
  _, metrics = jax.jit(step_lib.make_train_step(model, LOSS, tx))(state, batch, jax.random.key(0))
  got = {name: float(metrics[name]) for name in ('loss', 'sort/loss', 'gradient_norm', 'update_norm')}
  assert got == pytest.approx(GOLDEN_STEP, rel=1e-4)


@pytest.mark.parametrize('parts', [2, 4])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts):
  model, params, batch = make(B=8, visible=12, **PLAIN)
  key = jax.random.key(0)
  whole = jax.jit(functools.partial(step_lib.whole_gradient, model, LOSS))(params, batch, key)
  cut = jax.jit(functools.partial(step_lib.accumulated_gradient, model, LOSS, parts=parts))(params, batch, key)
  assert_close(whole, cut, 2e-5)


@pytest.mark.parametrize('sizes', [{'data': 8}, {'fsdp': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}])
def test_a_step_on_any_mesh_equals_that_on_one_device(sizes):
  model, params, batch = make(B=16, visible=12, **PLAIN)
  tx, state = start(model, params)
  step = step_lib.make_train_step(model, LOSS, tx)
  alone, alone_metrics = jax.jit(step)(state, batch, jax.random.key(0))

  mesh = sharding.make_mesh(sizes)
  place = sharding.state_layout(state, sharding.RULES, mesh)
  with jax.set_mesh(mesh):
    spread, metrics = jax.jit(step, out_shardings=(place, None))(
      jax.device_put(state, place), jax.device_put(batch, jax.NamedSharding(mesh, sharding.BATCH)), jax.random.key(0)
    )
  # Adam's first step is the sign of the gradient, so compare what it is made of and not the parameters.
  assert_close(alone_metrics, metrics, 2e-5)
  assert_close(alone.opt_state[1].mu, spread.opt_state[1].mu, 2e-5)
  kernel = spread.params['video']['blocks']['mlp']['up']['kernel']
  assert kernel.sharding.spec == jax.P(None, 'fsdp', 'tensor')
  assert kernel.addressable_shards[0].data.size * mesh.shape['fsdp'] * mesh.shape['tensor'] == kernel.size


def test_a_step_without_a_number_changes_nothing():
  model, params, batch = make(B=4, visible=12)
  tx, state = start(model, params)
  bad = {**batch, 'positions': batch['positions'].at[0, 0].set(10_000)}
  after, metrics = jax.jit(step_lib.make_train_step(model, LOSS, tx))(state, bad, jax.random.key(0))
  assert not metrics['finite'] and not np.isfinite(metrics['loss'])
  jax.tree.map(np.testing.assert_array_equal, state, after)


def test_ema_follows_the_parameters():
  model, params, batch = make(B=4, visible=12)
  tx, state = start(model, params)
  state = state._replace(ema=jax.tree.map(jnp.copy, params))
  after, _ = jax.jit(step_lib.make_train_step(model, LOSS, tx, ema=0.9))(state, batch, jax.random.key(0))
  expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, params, after.params)
  assert_close(expected, after.ema, 1e-6)


def test_dropout_differs_from_step_to_step():
  model, params, batch = make(B=4, visible=12)
  tx, state = start(model, params, lr=0.0)
  step = jax.jit(step_lib.make_train_step(model, LOSS, tx))
  once, a = step(state, batch, jax.random.key(0))
  _, b = step(once, batch, jax.random.key(0))
  _, again = step(state, batch, jax.random.key(0))
  assert a['loss'] != b['loss'] and a['loss'] == again['loss']


def test_the_step_embeds_visible_tubelets_only():
  """No array of the compiled step has as many rows as the full grid has tubelets."""
  config = tvts.TVTSConfig.from_dict(
    {**make()[0].config.to_dict(), 'video': dict(size='tiny', image_size=112, frames=4)}
  )
  model = tvts.build(config)  # A grid of 7×7 in 2 slots: 98 tubelets, of which 26 are visible.
  spec = tvts.batch_spec(config, 8, 26, 6) | {'order': jax.ShapeDtypeStruct((8, 4), jnp.int32)}
  tx = optax.sgd(0.1)
  state = jax.eval_shape(lambda rng: step_lib.init_state(model, tx, spec, False, rng), jax.random.key(0))
  step = jax.jit(step_lib.make_train_step(model, LOSS, tx))
  text = step.lower(state, spec, jax.random.key(0)).as_text()
  assert '26x' in text and '98x' not in text
