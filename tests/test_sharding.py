"""Meshes and rules: what fits, and what is refused by name."""

import jax
import pytest

from tests.test_model import make
from tvts_jax import sharding


def test_a_mesh_takes_all_devices():
  assert sharding.make_mesh({'data': -1, 'fsdp': 2}).shape == {'data': 4, 'fsdp': 2, 'tensor': 1}
  assert sharding.make_mesh({'fsdp': 8}).shape == {'data': 1, 'fsdp': 8, 'tensor': 1}


@pytest.mark.parametrize(
  'sizes, words', [({'data': 3}, '8 devices'), ({'data': -1, 'fsdp': -1}, '-1'), ({'model': 2}, 'tensor')]
)
def test_a_mesh_that_does_not_fit(sizes, words):
  with pytest.raises(ValueError, match=words):
    sharding.make_mesh(sizes)


def test_a_rule_must_decide_something_and_every_parameter_be_decided():
  params = make()[1]
  mesh = sharding.make_mesh({'fsdp': 8})
  with pytest.raises(ValueError, match='attention/q'):
    sharding.layout(params, ((r'attention/q', ('fsdp',)), *sharding.RULES), mesh)
  with pytest.raises(ValueError, match='no sharding rule matches'):
    sharding.layout(params, sharding.RULES[:-1], mesh)


def test_an_axis_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match=r"attn/k/bias.*'tensor'"):
    sharding.layout(make()[1], sharding.RULES, sharding.make_mesh({'tensor': 8}))


def test_a_rule_for_another_rank_is_named():
  with pytest.raises(ValueError, match='video/cls.*names 2 axes'):
    sharding.layout(make()[1], ((r'video/cls$', (None, 'fsdp')), *sharding.RULES), sharding.make_mesh({'fsdp': 8}))


def test_shapes_alone_are_enough():
  params = make()[1]
  mesh = sharding.make_mesh({'fsdp': 8})
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
  assert sharding.layout(params, sharding.RULES, mesh) == sharding.layout(shapes, sharding.RULES, mesh)
