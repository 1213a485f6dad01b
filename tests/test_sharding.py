"""Meshes and rules: what fits, and what is refused by name."""

import collections
import dataclasses
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.models.test_tvts import LOSS, make
from tvts_jax import sharding
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError

DEVICES = 8


def test_a_mesh_takes_all_devices():
  assert sharding.make_mesh({'data': -1, 'fsdp': 2}).shape == {'data': 4, 'fsdp': 2, 'tensor': 1}
  assert sharding.make_mesh({'fsdp': 8}).shape == {'data': 1, 'fsdp': 8, 'tensor': 1}


@pytest.mark.parametrize(
  'sizes, words', [({'data': 3}, '8 devices'), ({'data': -1, 'fsdp': -1}, '-1'), ({'model': 2}, 'tensor')]
)
def test_a_mesh_that_does_not_fit(sizes, words):
  with pytest.raises(UserError, match=words):
    sharding.make_mesh(sizes)


@dataclasses.dataclass(frozen=True)
class Gpu:
  id: int
  slice_index: int  # Which box it is in.
  platform: str = 'gpu'
  device_kind: str = 'NVIDIA H200'


@pytest.mark.parametrize(
  'shape, boxes',
  [
    ((8, 1, 1), [[0, 0, 0, 0, 1, 1, 1, 1]]),
    ((2, 4, 1), [[0, 0, 0, 0], [1, 1, 1, 1]]),
    ((4, 1, 2), [[0, 0], [0, 0], [1, 1], [1, 1]]),
    ((1, 8, 1), [[0, 0, 0, 0, 1, 1, 1, 1]]),
  ],
)
def test_boxes_of_gpus_and_slices_are_apart_along_data(shape, boxes):
  devices = [Gpu(n, n % 2) for n in range(8)]
  mesh = sharding.arrange(devices, shape)
  assert mesh.shape == shape and set(mesh.flat) == set(devices)
  assert [[device.slice_index for device in row] for row in mesh.reshape(len(boxes), -1)] == boxes


def test_a_process_holds_the_rows_of_its_devices():
  mesh = sharding.make_mesh({'data': 2, 'tensor': 2, 'fsdp': 2})
  assert sharding.rows(8, mesh).tolist() == list(range(8))
  assert sharding.rows(5, sharding.make_mesh({'tensor': 8})).tolist() == list(range(5))


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


BATCH = 16 * 11  # Eleven divides the size of no parameter, so what it divides has the batch in it.
EMBEDDINGS = BATCH * 16  # Those of one side of the contrastive loss: the most of a batch that may cross.


def collectives(sizes, micro_batches=1):
  """Of the compiled train step: (the kind of each collective instruction, the sizes of the arrays that arrive by kind);
  and of the model: (its number of parameters, how many arrays of them are split)."""
  model, params, batch = make(B=BATCH, visible=12)
  assert not any(leaf.size % 11 == 0 for leaf in jax.tree.leaves(params))
  tx = optax.adam(1e-3)
  state = jax.eval_shape(lambda params: step_lib.State(jnp.int32(0), params, tx.init(params), None), params)
  mesh = sharding.make_mesh(sizes)
  place = sharding.state_layout(state, sharding.RULES, mesh)
  step = step_lib.make_train_step(model, LOSS, tx, micro_batches=micro_batches)
  with jax.set_mesh(mesh):
    text = step_lib.compile_step(step, state, batch, jax.random.key(0), place, mesh).as_text()
  kinds = 'all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast'
  found = re.findall(rf'= (.+?) ({kinds})(?:-start)?\(', text)
  arrived = collections.defaultdict(list)
  for types, kind in found:
    arrived[kind] += [math.prod(map(int, filter(None, s.split(',')))) for s in re.findall(r'\[([\d,]*)\]', types)]
  split = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(place.params))
  return [kind for _, kind in found], arrived, sum(leaf.size for leaf in jax.tree.leaves(params)), split


@pytest.mark.long
@pytest.mark.parametrize('micro_batches', [1, 2])
def test_a_data_mesh_moves_gradients_and_embeddings_alone(micro_batches):
  kinds, arrived, parameters, _ = collectives({'data': 8}, micro_batches)
  assert set(kinds) == {'all-reduce', 'all-gather'}
  # The embeddings and which of them belong together.
  assert kinds.count('all-gather') == 2 and sorted(arrived['all-gather']) == [2 * BATCH, EMBEDDINGS]
  # Each gradient crosses once, as the sum over devices; the blocks' once for the loop, which holds it one layer deep.
  assert 0.5 * parameters < sum(arrived['all-reduce']) < parameters
  assert kinds.count('all-reduce') <= 8 and most_of_a_batch(arrived['all-reduce']) == EMBEDDINGS


@pytest.mark.long
def test_an_fsdp_mesh_moves_weights_and_no_activations():
  kinds, arrived, parameters, split = collectives({'fsdp': 8})
  assert set(kinds) <= {'all-reduce', 'reduce-scatter', 'all-gather'}
  # Forward and backward each gather a split weight at most once; one more is the bias that stands for the pixels' mean.
  weights = [size for size in arrived['all-gather'] if size % 11]
  assert len(weights) <= 2 * split + 1 and sum(weights) < parameters
  assert len(arrived['all-gather']) == len(weights) + 2 and most_of_a_batch(arrived['all-gather']) == EMBEDDINGS
  reduced = arrived['all-reduce'] + arrived['reduce-scatter']
  assert sum(reduced) < parameters and most_of_a_batch(reduced) == EMBEDDINGS


def most_of_a_batch(sizes):
  return max(size for size in sizes if size % 11 == 0)


@pytest.mark.parametrize('error', [AssertionError(), RuntimeError("Unable to initialize backend 'cuda': no GPU\nmore")])
def test_a_kind_of_device_that_is_not_here_is_one_sentence(error):
  with mock.patch.object(jax, 'devices', side_effect=error), pytest.raises(UserError, match='JAX_PLATFORMS') as told:
    sharding.make_mesh({'data': -1})
  assert '\n' not in str(told.value) and str(error).partition('\n')[0] in str(told.value)
