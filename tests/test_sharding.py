"""Meshes and rules: what fits, and what is refused by name."""

import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.test_model import LOSS, make
from tvts_jax import sharding
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError


def test_a_mesh_takes_all_devices():
  assert sharding.make_mesh({'data': -1, 'fsdp': 2}).shape == {'data': 4, 'fsdp': 2, 'tensor': 1}
  assert sharding.make_mesh({'fsdp': 8}).shape == {'data': 1, 'fsdp': 8, 'tensor': 1}


@pytest.mark.parametrize(
  'sizes, words', [({'data': 3}, '8 devices'), ({'data': -1, 'fsdp': -1}, '-1'), ({'model': 2}, 'tensor')]
)
def test_a_mesh_that_does_not_fit(sizes, words):
  with pytest.raises(UserError, match=words):
    sharding.make_mesh(sizes)


def test_a_rule_must_decide_something_and_every_parameter_be_decided():
  params = make()[1]
  mesh = sharding.make_mesh({'fsdp': 8})
  with pytest.raises(UserError, match='attention/q'):
    sharding.layout(params, ((r'attention/q', ('fsdp',)), *sharding.RULES), mesh)
  with pytest.raises(UserError, match='no sharding rule matches'):
    sharding.layout(params, sharding.RULES[:-1], mesh)


def test_an_axis_that_does_not_divide_is_named():
  with pytest.raises(UserError, match=r"attn/k/bias.*'tensor'"):
    sharding.layout(make()[1], sharding.RULES, sharding.make_mesh({'tensor': 8}))


def test_a_rule_for_another_rank_is_named():
  with pytest.raises(UserError, match='video/cls.*names 2 axes'):
    sharding.layout(make()[1], ((r'video/cls$', (None, 'fsdp')), *sharding.RULES), sharding.make_mesh({'fsdp': 8}))


def test_shapes_alone_are_enough():
  params = make()[1]
  mesh = sharding.make_mesh({'fsdp': 8})
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
  assert sharding.layout(params, sharding.RULES, mesh) == sharding.layout(shapes, sharding.RULES, mesh)


def collectives(sizes):
  """(kind, elements that arrive) of each collective in the compiled train step, and the number of parameters."""
  model, params, batch = make(B=16, visible=12)
  tx = optax.adam(1e-3)
  state = jax.eval_shape(lambda params: step_lib.State(jnp.int32(0), params, tx.init(params), None), params)
  mesh = sharding.make_mesh(sizes)
  place = sharding.state_layout(state, sharding.RULES, mesh)
  everywhere = jax.NamedSharding(mesh, jax.P())
  batch_place = jax.NamedSharding(mesh, sharding.BATCH)
  step = step_lib.make_train_step(model, LOSS, tx)
  with jax.set_mesh(mesh):
    step = jax.jit(step, in_shardings=(place, batch_place, everywhere), out_shardings=(place, everywhere))
    text = step.lower(state, batch, jax.random.key(0)).compile().as_text()
  found = []
  for types, kind in re.findall(
    r'= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(', text
  ):
    found.append(
      (kind, sum(math.prod(map(int, filter(None, s.split(',')))) for s in re.findall(r'\[([\d,]*)\]', types)))
    )
  return found, sum(leaf.size for leaf in jax.tree.leaves(params))


def test_a_data_mesh_moves_gradients_and_embeddings_alone():
  found, parameters = collectives({'data': 8})
  assert {kind for kind, _ in found} == {'all-reduce', 'all-gather'}
  # Each gradient crosses once, as the sum over devices; the blocks' once for the loop, which holds it one layer deep.
  reduced = sum(size for kind, size in found if kind == 'all-reduce')
  assert 0.5 * parameters < reduced < 1.1 * parameters
  # What is gathered is the contrastive embeddings of 16 clips in 16 dimensions, and indices.
  assert max(size for kind, size in found if kind == 'all-gather') <= 16 * 16


def test_an_fsdp_mesh_moves_weights_and_no_activations():
  found, parameters = collectives({'fsdp': 8})
  largest = 32 * 384  # The embedding of tubelets is the largest weight; a device's activations are 2·13·32 a tensor.
  assert max(size for kind, size in found if kind == 'all-gather') <= largest
  # Forward and backward may each gather the weights once; an activation of every block would be far beyond.
  assert sum(size for kind, size in found if kind == 'all-gather') < 2 * parameters
  assert sum(size for kind, size in found if kind in ('all-to-all', 'collective-permute')) < 0.05 * parameters
