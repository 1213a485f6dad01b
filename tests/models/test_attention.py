"""Attention: one result whichever kernel gives it, and the kernel that each kind of device is given.

No accelerator is needed: what is meant for cuDNN is lowered for it and read, and computed by the same call's own XLA
version. test_short_attention.py has the kernel for TPUs.
"""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_tvts import LOSS, assert_close, make
from tvts_jax.errors import UserError
from tvts_jax.models import attention, layers
from tvts_jax.models.encoders import encoder, vit

B, N, H, C = 3, 6, 2, 8


def draw(*shape):
  return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture
def as_xla(monkeypatch):
  """Whatever is meant for cuDNN, computed here."""
  real = jax.nn.dot_product_attention

  def swapped(*args, implementation, **kwargs):
    assert implementation == 'cudnn'
    return real(*args, implementation='xla', **kwargs)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', swapped)


def by_hand(q, k, v, length_B=None, causal=False):
  """A softmax, in the type of its inputs."""
  shown_BxN = np.arange(k.shape[1]) < (length_B if length_B is not None else np.full(len(k), k.shape[1]))[:, None]
  shown = shown_BxN[:, None, None] & (np.tri(q.shape[1], k.shape[1], dtype=bool) if causal else True)
  logits = jnp.einsum('bqhc,bnhc->bhqn', q, k) / np.sqrt(q.shape[-1])
  weights = jax.nn.softmax(jnp.where(shown, logits, -jnp.inf))
  return jnp.einsum('bhqn,bnhc->bqhc', weights, v)


def with_gradient(function, toward, *qkv):
  def run(*qkv):
    out, pull = jax.vjp(function, *qkv)
    return out, *pull(toward.astype(out.dtype))

  return jax.device_get(jax.jit(run)(*qkv))


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_xla_and_cudnn_are_a_softmax_with_its_gradient(masked, causal, as_xla):
  Q = N if causal else 4
  q, k, v, toward = draw(B, Q, H, C), draw(B, N, H, C) * 2, draw(B, N, H, C) - 1, draw(1, B, Q, H, C)[0]
  length_B = np.array([2, 6, 1]) if masked else None
  mask_BxN = np.arange(N) < length_B[:, None] if masked else None
  expected = with_gradient(lambda *qkv: by_hand(*qkv, length_B, causal), toward, q, k, v)
  plain = with_gradient(lambda *qkv: attention.plain(*qkv, mask_BxN, causal=causal), toward, q, k, v)
  fused = with_gradient(lambda *qkv: attention.fused(*qkv, length_B, causal), toward, q, k, v)
  for found in (plain, fused):
    for ours, theirs in zip(found, expected, strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(('remat', 'again'), [('none', 0), ('matmuls', 0), ('attention', 0), ('full', 1)])
def test_what_is_kept_of_attention_is_not_summed_again(remat, again):
  block = layers.PreNormBlock(H, 32, layers.normal_init, jnp.float32, jnp.float32)
  params = layers.init_blocks(jax.random.key(0), block, 1, H * C)
  run = lambda params: layers.apply_blocks(block, params, jnp.ones((B, N, H * C)), remat=remat, scan=False).sum()
  assert str(jax.make_jaxpr(jax.grad(run))(params)).count(' reduce_max[') == 1 + again


def test_a_token_of_padding_changes_no_token_and_no_gradient(as_xla, monkeypatch):
  block = layers.PreNormBlock(H, 32, layers.normal_init, jnp.float32, jnp.float32)
  shapes = jax.eval_shape(lambda key: layers.init_blocks(key, block, 2, H * C), jax.random.key(0))
  params = jax.tree.map(lambda leaf: 0.3 * draw(*leaf.shape), shapes)

  def run(params, x_BxNxD):
    every, few = (layers.apply_blocks(block, params, x_BxNxD, read=read) for read in (None, 2))
    return jnp.sin(every).sum() + jnp.cos(few).sum(), (every, few)

  value = lambda: jax.jit(jax.value_and_grad(run, has_aux=True, argnums=(0, 1)))(params, draw(B, 5, H * C))
  expected = value()
  monkeypatch.setattr(attention, 'cudnn_takes', lambda dtype, width: True)
  with attention.compiling_for(H200):
    assert_close(expected, value(), 1e-4)


device = types.SimpleNamespace
CPU, TPU = device(platform='cpu', device_kind='cpu'), device(platform='tpu', device_kind='TPU v5 lite')
H200 = device(platform='gpu', device_kind='NVIDIA H200', compute_capability='9.0')
V100 = device(platform='gpu', device_kind='Tesla V100', compute_capability='7.0')


def test_each_kind_of_device_has_its_kernel():
  assert attention.wanted() == 'xla', 'this is a CPU'
  for one, own in ((CPU, 'xla'), (TPU, 'pallas'), (H200, 'cudnn'), (V100, 'xla')):
    with attention.compiling_for(one):
      assert attention.wanted() == own
      with attention.using('xla'):
        assert attention.wanted() == 'xla'
  for kernel, one in (('pallas', H200), ('cudnn', V100), ('pallas', CPU)):
    with attention.compiling_for(one), attention.using(kernel):
      with pytest.raises(UserError, match=f"model.attention='{kernel}' cannot run on {one.device_kind}; set .*'auto'"):
        attention.wanted()


def test_a_kernel_takes_what_it_can():
  half = ('bfloat16', 64, 200), ('float16', 128, 200)
  other = ('float32', 64, 200), ('bfloat16', 136, 200), ('bfloat16', 60, 200), ('bfloat16', 64, 201)
  kernels = lambda given: {attention.kernel_for((2, N, 4, C), N, dtype) for dtype, C, N in given}
  with attention.compiling_for(H200):
    assert kernels(half) == {'cudnn'} and kernels(other) == {'xla'}
  with attention.compiling_for(TPU):
    assert kernels(half + other) == {'pallas'}
    assert kernels([('float64', 64, 200), ('bfloat16', 64, 20), ('bfloat16', 64, 4000)]) == {'xla'}
    assert attention.kernel_for((2, 1, 4, 64), 200, 'bfloat16') == 'xla'


def test_the_step_for_nvidia_calls_cudnn_forward_and_backward(monkeypatch):
  """A scanned block of the video encoder counts once, and so do both of the sorter's. The text encoder drops out."""
  monkeypatch.setattr('jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version', lambda: 91000)
  model, params, batch = make(B=2, dtype='bfloat16')
  gradient = jax.grad(lambda params: LOSS(model.apply(params, batch, jax.random.key(0), True), batch)[0])
  with attention.compiling_for(H200):
    traced = jax.jit(gradient).trace(params)
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  found = re.findall(r'custom_call @__cudnn\$fmha(\w+)', text)
  assert sorted(found) == ['Softmax'] * 3 + ['SoftmaxBackward'] * 3


VIDEO = vit.ViTConfig(16, 1, 2, 4, image_size=16)


@functools.cache
def embedded(dtype):
  """The same raw pixels by the folded weights and by normalised pixels, and in float64 by numpy."""
  embedding = encoder.Embedding(VIDEO, layers.uniform_init, jnp.dtype(dtype), jnp.float32)
  raw = np.random.default_rng(0).integers(0, 256, (4, 50, 96), np.uint8)
  raw[1], raw[2] = 0, 255
  params = jax.jit(embedding.init)(jax.random.key(0), raw)
  apply = lambda patches: np.asarray(jax.jit(embedding.apply)(params, patches), np.float64)
  given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params['params'])
  colours = np.arange(96) % 3
  pixels = (raw / 255 - np.array(VIDEO.pixel_mean)[colours]) / np.array(VIDEO.pixel_std)[colours]
  return apply(raw), apply(encoder.normalise(raw, VIDEO)), pixels @ given['kernel'] + given['bias']


def test_raw_pixels_are_normalised_by_the_weights():
  folded, normalised, exact = embedded('float32')
  np.testing.assert_allclose(folded, exact, atol=1e-5)
  np.testing.assert_allclose(normalised, exact, atol=1e-5)
  # In bfloat16 the raw pixels are exact and the normalised ones are rounded.
  folded, normalised, exact = embedded('bfloat16')
  errors = [np.sqrt(np.mean((found - exact) ** 2)) for found in (folded, normalised)]
  assert errors[0] < 1.2 * errors[1] < 0.02
