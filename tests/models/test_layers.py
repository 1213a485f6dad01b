"""Norms and activations, whose gradients are written out: against Flax's and JAX's own, and what they keep."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tvts_jax.models import layers

OWN = {'gelu': lambda x: jax.nn.gelu(x, approximate=False), 'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x)}
SHAPE = 3, 7, 48


def draw(seed, shape=SHAPE, scale=3.0):
  return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def with_gradient(function, *given, toward):
  def run(*given):
    out, pull = jax.vjp(function, *given)
    return out, pull(toward.astype(out.dtype))

  return jax.device_get(jax.jit(run)(*given))


def error(found, expected) -> float:
  found, expected = (np.concatenate([np.float64(x).ravel() for x in jax.tree.leaves(y)]) for y in (found, expected))
  return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def norms(dtype, eps=1e-6):
  types = dict(dtype=dtype, param_dtype=jnp.float32)
  ours, theirs = layers.LayerNorm(eps, **types), nn.LayerNorm(eps, use_fast_variance=False, **types)
  apply = lambda module: lambda x, scale, bias: module.apply({'params': {'scale': scale, 'bias': bias}}, x)
  return apply(ours), apply(theirs)


@pytest.mark.parametrize('eps', [1e-12, 1e-5])
def test_a_norm_is_that_of_flax(eps):
  given = draw(0) + 5, draw(1, SHAPE[-1:]), draw(2, SHAPE[-1:])
  ours, theirs = (with_gradient(norm, *given, toward=draw(3)) for norm in norms(jnp.float32, eps))
  np.testing.assert_array_equal(ours[0], theirs[0])
  assert [x.shape for x in ours[1]] == [x.shape for x in theirs[1]] and error(ours[1], theirs[1]) < 1e-6
  made = layers.LayerNorm(eps, jnp.float32, jnp.float32).init(jax.random.key(0), given[0])
  jax.tree.map(np.testing.assert_array_equal, made['params'], {'scale': np.ones(48), 'bias': np.zeros(48)})


@pytest.mark.parametrize('name', layers.ACTIVATIONS)
def test_an_activation_is_that_of_jax(name):
  ours, theirs = (with_gradient(f, draw(0), toward=draw(1)) for f in (layers.ACTIVATIONS[name], OWN[name]))
  np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
  assert error(ours[1], theirs[1]) < 1e-6


def in_bfloat16(function, exact, *given):
  """Errors of the gradient, of ours and of what autodiff makes."""
  low = [jnp.asarray(x, jnp.bfloat16) for x in given[:1]] + list(given[1:])
  toward = jnp.asarray(draw(9), jnp.bfloat16)
  expected = with_gradient(exact, *(np.float32(x) for x in low), toward=toward)
  return [error(with_gradient(f, *low, toward=toward)[1], expected[1]) for f in function]


def test_bfloat16_loses_no_more_than_by_autodiff():
  """Against float32, of inputs that bfloat16 holds."""
  ours, theirs = in_bfloat16(norms(jnp.bfloat16), norms(jnp.float32)[1], draw(0) + 5, draw(1, (48,)), draw(2, (48,)))
  assert ours <= theirs * 1.01 < 0.01
  for name, own in OWN.items():
    ours, theirs = in_bfloat16((layers.ACTIVATIONS[name], own), own, draw(0))
    assert ours < theirs and ours < 3e-3, name


def kept(function, *given) -> list:
  """Shapes and types of what the backward pass keeps beside what it is given."""
  of = lambda *given: [x for x in jax.tree.leaves(jax.vjp(function, *given)[1]) if not any(x is y for y in given)]
  return [(x.shape, x.dtype.name) for x in jax.eval_shape(of, *given)]


def test_nothing_is_kept_but_the_input_and_a_few_numbers_of_each_row():
  x, row = jnp.zeros(SHAPE, jnp.bfloat16), jnp.zeros(SHAPE[-1:])
  large = lambda function, *given: [each for each in kept(function, *given) if np.prod(each[0]) >= x.size]
  ours, theirs = norms(jnp.bfloat16)
  assert not large(ours, x, row, row) and large(theirs, x, row, row)
  for name, own in OWN.items():
    assert not large(layers.ACTIVATIONS[name], x) and large(own, x)


def test_a_block_keeps_half_of_what_it_would():
  block = layers.PreNormBlock(4, 4 * 48, layers.normal_init, jnp.bfloat16, jnp.float32, parent=None)
  x = jnp.zeros((2, 33, 48), jnp.bfloat16)
  params = jax.jit(block.init)(jax.random.key(0), x)
  size = lambda found: sum(np.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in found if len(shape) > 1)
  before = 0
  with pytest.MonkeyPatch.context() as patch:
    for name, own in OWN.items():
      patch.setitem(layers.ACTIVATIONS, name, own)
    plain = lambda eps, dtype, param_dtype, name: nn.LayerNorm(eps, dtype=dtype, param_dtype=param_dtype, name=name)
    patch.setattr(layers, 'LayerNorm', plain)
    before = size(kept(block.apply, params, x))
  assert size(kept(block.apply, params, x)) < 0.65 * before
