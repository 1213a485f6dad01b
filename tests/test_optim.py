"""The optimizer chain: schedules, groups, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tvts_jax import optim, sharding
from tvts_jax.errors import UserError
from tvts_jax.optim import OptimConfig

DEVICES = 8

PARAMS = {'text': {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)}, 'video': {'kernel': jnp.ones((2, 2))}}
GRADIENT = jax.tree.map(lambda leaf: 0.5 * jnp.ones_like(leaf), PARAMS)


def updates(config, steps=10):
  tx = optim.build(config, PARAMS, steps)
  return tx.update(GRADIENT, tx.init(PARAMS), PARAMS, step=0)[0]


@pytest.mark.parametrize(
  'settings, at',
  [
    ({'schedule': 'constant'}, {0: 1, 99: 1}),
    ({'schedule': 'step'}, {59: 1, 60: 0.1, 79: 0.1, 80: 0.01}),
    ({'schedule': 'cosine'}, {0: 1, 50: 0.5, 100: 0}),
    ({'schedule': 'cosine', 'warmup_steps': 20}, {0: 0.05, 19: 1, 20: 1, 60: 0.5, 100: 0}),
    ({'schedule': 'linear', 'decay_at': (0.75,), 'warmup_steps': 4}, {0: 0.25, 3: 1, 75: 1, 100: 0}),
  ],
)
def test_schedules(settings, at):
  rate = optim.schedule(OptimConfig(lr=1.0, **settings), 100)
  for step, value in at.items():
    np.testing.assert_allclose(rate(jnp.int32(step)), value, atol=1e-6, err_msg=str(step))


def test_the_schedule_reads_the_step_of_the_run_and_not_the_number_of_updates():
  tx = optim.build(OptimConfig(lr=0.1, schedule='cosine', groups=(('^text', {'frozen': True}),)), PARAMS, 10)
  first, fifth, last = (tx.update(GRADIENT, tx.init(PARAMS), PARAMS, step=step)[0]['video'] for step in (0, 5, 10))
  np.testing.assert_allclose(fifth['kernel'], 0.5 * first['kernel'], rtol=1e-6)
  np.testing.assert_array_equal(last['kernel'], 0)


def test_adamw_is_that_of_optax():
  ours = updates(OptimConfig(lr=0.1, weight_decay=0.2, no_decay='bias$'))
  tx = optax.adamw(0.1, weight_decay=0.2, mask={'text': {'kernel': True, 'bias': False}, 'video': {'kernel': True}})
  theirs, _ = tx.update(GRADIENT, tx.init(PARAMS), PARAMS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_a_narrow_mean_rounds_and_takes_half_of_its_memory(name):
  rng, found = np.random.default_rng(0), {}
  draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32)
  gradients = [jax.tree.map(draw, PARAMS) for _ in range(5)]
  for dtype in (None, 'bfloat16'):
    tx = optim.build(OptimConfig(name=name, lr=0.1, mean_dtype=dtype), PARAMS, 10)
    state = tx.init(PARAMS)
    for step, gradient in enumerate(gradients):
      update, state = tx.update(gradient, state, PARAMS, step=step)
    adam = next(part for part in state if isinstance(part, optax.ScaleByAdamState))
    found[dtype] = update, sum(leaf.nbytes for leaf in jax.tree.leaves(adam.mu))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(adam.nu)} == {'float32'}
  assert found['bfloat16'][1] * 2 == found[None][1]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=2e-3), *(one for one, _ in found.values()))
  assert not np.array_equal(*(one['text']['kernel'] for one, _ in found.values()))


def test_groups_scale_and_freeze():
  plain = updates(OptimConfig())
  grouped = updates(OptimConfig(groups=(('text/kernel', {'lr': 0.1}), ('^text', {'frozen': True}))))
  np.testing.assert_allclose(grouped['text']['kernel'], 0.1 * plain['text']['kernel'], rtol=1e-6)
  np.testing.assert_array_equal(grouped['text']['bias'], 0)
  np.testing.assert_array_equal(grouped['video']['kernel'], plain['video']['kernel'])
  frozen = optim.build(OptimConfig(groups=(('^text', {'frozen': True}),)), PARAMS, 10).init(PARAMS)
  moments = [leaf for leaf in jax.tree.leaves(frozen) if leaf.ndim]
  assert [leaf.shape for leaf in moments] == [(2, 2), (2, 2)]  # Of video/kernel alone.


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'name': 'lion'}, 'adamw'),
    ({'mean_dtype': 'float16'}, 'bfloat16'),
    ({'schedule': 'polynomial'}, 'cosine'),
    ({'groups': (('txet', {'lr': 0.1}),)}, 'txet'),
    ({'groups': (('text', {'rate': 0.1}),)}, 'rate'),
    ({'groups': (('', {'frozen': True}),)}, 'every parameter'),
    ({'no_decay': 'biases'}, 'biases'),
  ],
)
def test_what_is_refused(settings, words):
  with pytest.raises(UserError, match=words):
    optim.build(OptimConfig(**settings), PARAMS, 10)


def test_a_chain_with_frozen_parameters_has_a_place_for_every_moment():
  mesh = sharding.make_mesh({'fsdp': 8})
  params = {'video': {'kernel': jnp.ones((2, 8))}, 'text': {'kernel': jnp.ones((2, 8))}}
  place = sharding.layout(params, ((r'kernel$', (None, 'fsdp')),), mesh)
  state = optim.build(OptimConfig(groups=(('^text', {'frozen': True}),), no_decay='text'), params, 10).init(params)
  layout = sharding.optimizer_layout(state, place, mesh)
  specs = {leaf.shape: where.spec for leaf, where in zip(jax.tree.leaves(state), jax.tree.leaves(layout), strict=True)}
  assert specs == {(): jax.P(), (2, 8): jax.P(None, 'fsdp')}
