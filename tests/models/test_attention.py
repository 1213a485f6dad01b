"""Attention: one result whichever kernel gives it, and the kernel that each kind of device is given.

No GPU is needed: what is meant for cuDNN is lowered for it and read, and computed by the same call's own XLA version.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_tvts import LOSS, assert_close, make
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


@pytest.mark.parametrize('masked', [False, True])
def test_both_kernels_give_what_numpy_gives(masked, as_xla):
  q, k, v = draw(B, H, 4, C), draw(B, H, N, C) * 2, draw(B, H, N, C) - 1
  length_B = np.array([2, 6, 1]) if masked else np.full(B, N)
  expected = np.empty((B, H, 4, C))
  for b, n in enumerate(length_B):
    logits = np.einsum('hqc,hnc->hqn', q[b], k[b, :, :n]).astype(np.float64) / np.sqrt(C)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected[b] = np.einsum('hqn,hnc->hqc', weights / weights.sum(-1, keepdims=True), v[b, :, :n])
  mask_BxN = jnp.arange(N)[None] < length_B[:, None] if masked else None
  for function in (attention.plain, attention.fused):
    np.testing.assert_allclose(function(q, k, v, mask_BxN), expected, atol=1e-5)


@pytest.mark.parametrize('masked', [False, True])
def test_the_gradient_is_that_of_a_softmax(masked):
  q, k, v, toward = draw(B, H, 4, C), draw(B, H, N, C) * 2, draw(B, H, N, C) - 1, draw(1, B, H, 4, C)[0]
  mask_BxN = jnp.arange(N)[None] < jnp.array([2, 6, 1])[:, None] if masked else jnp.ones((B, N), bool)

  def expected(q, k, v):
    logits = jnp.where(mask_BxN[:, None, None], q @ k.swapaxes(2, 3) / C**0.5, -jnp.inf)
    return (toward * (jax.nn.softmax(logits) @ v)).sum()

  found = lambda *qkv: (toward * attention.plain(*qkv, mask_BxN if masked else None)).sum()
  for a, b in zip(jax.grad(expected, (0, 1, 2))(q, k, v), jax.grad(found, (0, 1, 2))(q, k, v)):
    np.testing.assert_allclose(a, b, atol=1e-5)


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
  monkeypatch.setattr(attention, 'kernel', lambda dtype, width: 'cudnn')
  assert_close(expected, value(), 1e-4)


def test_cudnn_is_for_half_precision_and_narrow_heads_on_nvidia_alone(monkeypatch):
  assert attention.kernel('bfloat16', 64) == 'xla', 'this is no GPU'
  monkeypatch.setattr(attention, 'nvidia', lambda: True)
  given = [('bfloat16', 64), ('float16', 128), ('float32', 64), ('bfloat16', 136), ('bfloat16', 60)]
  assert [attention.kernel(*one) for one in given] == ['cudnn', 'cudnn', 'xla', 'xla', 'xla']


def test_the_step_for_nvidia_calls_cudnn_forward_and_backward(monkeypatch):
  """A scanned block of the video encoder counts once, and so do both of the sorter's. The text encoder drops out."""
  monkeypatch.setattr(attention, 'nvidia', lambda: True)
  monkeypatch.setattr('jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version', lambda: 91000)
  model, params, batch = make(B=2, dtype='bfloat16')
  gradient = jax.grad(lambda params: LOSS(model.apply(params, batch, jax.random.key(0), True), batch)[0])
  text = jax.jit(gradient).trace(params).lower(lowering_platforms=('cuda',)).as_text()
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
