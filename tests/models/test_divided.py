"""Divided attention: fewer frames, masks, and how its attention over time starts.

The numbers of Frozen, MILES, MCQ and TVTSv2 are in tests/convert/test_families.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support.paths import GOLDEN
from tvts_jax import config as config_lib
from tvts_jax import convert
from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.encoders.divided import DividedConfig
from tvts_jax.models.encoders.encoder import patchify
from tvts_jax.models.encoders.frames import FramesConfig
from tvts_jax.models.encoders.timesformer import TimeSformerConfig

LONG = [pytest.param(*sizes, marks=pytest.mark.long) for sizes in ((4, 3, 7), (2, 6, 1))]
TINY = dict(width=64, depth=2, heads=4, patch=16, image_size=48, frames=4)


@pytest.mark.parametrize('frames, key', [(2, 'out/video_2_frames'), (1, 'out/video_1_frame')])
def test_fewer_frames_read_the_first_times(frames, key):
  gold = np.load(GOLDEN / 'zoo' / 'frozen_tiny.npz')
  settings = {'video': {'heads': 4}, 'text': {'n_heads': 3}, 'dtype': 'float32'}
  config, params, _ = convert.import_model(GOLDEN / 'zoo' / 'frozen_tiny.pth.tar', settings)
  video = dataclasses.replace(config.video, frames=frames)
  patches = np.asarray(patchify(rearrange(gold['in/video'][:, :frames], 'b t c h w -> b t h w c'), video))
  positions = np.tile(np.arange(patches.shape[1], dtype=np.int32), (len(patches), 1))
  cut = params['video'] | {'time_position': params['video']['time_position'][:frames]}
  tokens, _ = jax.jit(lambda params: video.module().apply({'params': params}, patches, positions))(cut)
  projection = params['video_projection']
  ours = np.asarray(tokens)[:, 0] @ projection['kernel'] + projection['bias']
  np.testing.assert_allclose(ours, gold[key], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
  'config', [DividedConfig, *(pytest.param(c, marks=pytest.mark.long) for c in (TimeSformerConfig, FramesConfig))]
)
def test_a_part_of_a_clip_is_encoded_as_a_clip_of_so_many_slots(config):
  whole, part = config(16, 2, 2, 8, image_size=16, frames=6), config(16, 2, 2, 8, image_size=16, frames=2)
  patches = np.random.default_rng(0).integers(0, 256, (3, 8, whole.pixels), np.uint8)
  positions = np.tile(np.arange(8, dtype=np.int32), (3, 1))
  params = jax.jit(whole.module().init)(jax.random.key(0), patches[:, :6], positions[:, :6])['params']
  move = lambda x: x + np.float32(0.1) * np.random.default_rng(x.size).standard_normal(x.shape, np.float32)
  params = jax.tree.map(move, jax.device_get(params))
  of_part = {name: x[:2] if name == 'time_position' else x for name, x in params.items()}
  run = lambda config, slots: jax.jit(lambda p: config.module().apply({'params': p}, patches, positions, False, slots))
  np.testing.assert_array_equal(run(whole, 2)(params)[0], run(part, None)(of_part)[0])


@pytest.mark.parametrize('start, learns', [('silent', True), ('published', False)])
def test_the_attention_over_time_is_silent_at_first_and_then_learns_if_it_can(start, learns):
  """Published models start where the gradients of their queries and keys are products of the two, both zero."""
  config = DividedConfig(**TINY, time_start=start)
  block = config.block(layers.normal_init, jnp.float32, jnp.float32)
  without = DividedConfig(**TINY, time=False).block(layers.normal_init, jnp.float32, jnp.float32)
  x = np.random.default_rng(0).standard_normal((2, 1 + 4 * 3, 64)).astype(np.float32)
  params = jax.jit(block.init)(jax.random.key(0), x)['params']
  rest = {name: value for name, value in params.items() if not name.startswith('time_')}
  run = lambda block: jax.jit(lambda params: block.apply({'params': params}, x))
  np.testing.assert_allclose(run(block)(params), run(without)(rest), rtol=1e-6, atol=1e-6)
  slope = jax.jit(jax.grad(lambda params: (block.apply({'params': params}, x) ** 3).sum()))
  for _ in range(3):
    params = jax.tree.map(lambda p, g: p - np.float32(1e-3) * g, *jax.device_get((params, slope(params))))
  moved = np.asarray(slope(params)['time_attn']['q']['kernel'])
  assert bool(moved.any()) == learns


@pytest.mark.parametrize('grid, frames, kept', [(3, 4, 4), (5, 1, 9), *LONG])
def test_a_tube_mask_is_attention_among_those_that_are_left(grid, frames, kept):
  """The block of all tokens at which those that are masked are never looked, by plain softmax over pairs."""
  config = DividedConfig(16, 1, 2, 8, image_size=8 * grid, frames=frames)
  block = config.block(layers.fan_in_init(1), jnp.float32, jnp.float32)
  rng = np.random.default_rng(grid)
  x_BxNxD = rng.standard_normal((2, 1 + frames * kept, 16)).astype(np.float32)
  params = jax.device_get(jax.jit(block.init)(jax.random.key(0), x_BxNxD)['params'])
  time_N, place_N = np.divmod(np.arange(frames * kept), kept)
  see = {'time_attn': place_N[:, None] == place_N, 'attn': time_N[:, None] == time_N}

  def norm(x, own):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * own['scale'] + own['bias']

  def attend(x, name):
    own = params[name]
    q, k, v = (np.einsum('bnd,dhc->bhnc', x, own[p]['kernel']) + own[p]['bias'][:, None] for p in 'qkv')
    seen = np.ones((x.shape[1], x.shape[1]), bool)
    seen[1:, 1:] = see[name]
    logits = np.where(seen, q @ k.swapaxes(2, 3) * 8**-0.5, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    return np.einsum('bhnc,hcd->bnd', out, own['out']['kernel']) + own['out']['bias']

  t = x_BxNxD + attend(norm(x_BxNxD, params['time_norm']), 'time_attn')
  s = x_BxNxD + attend(norm(t, params['norm1']), 'attn')
  up, down = params['mlp']['up'], params['mlp']['down']
  expected = (
    s
    + np.asarray(jax.nn.gelu(norm(s, params['norm2']) @ up['kernel'] + up['bias'], approximate=False))
    @ (down['kernel'])
    + down['bias']
  )
  np.testing.assert_allclose(jax.jit(block.apply)({'params': params}, x_BxNxD), expected, rtol=2e-4, atol=2e-5)


def test_masks_that_it_cannot_take_are_refused_before_anything_else():
  values = config_lib.base().to_dict()
  values |= {'steps': 1}
  values['model'] |= {'encoder': 'divided', 'video': {**TINY}}
  with pytest.raises(UserError, match="input.mask='.*' shows other places in each .* set input.mask='tube'"):
    config_lib.resolve(values)
  values['input']['mask'] = 'tube'
  for own, words in (
    ({'mask_ratio': 0.5, 'mask': 'random'}, "evals.knn.mask='random' shows other places"),
    ({'frames': 2}, 'evals.knn asks for 2 frames'),
  ):
    values['evals'] = {'knn': {'annotations': 'a.jsonl', **own}}
    with pytest.raises(UserError, match=words):
      config_lib.resolve(values)
  values['evals'] = {}
  assert config_lib.resolve(values).model.video == DividedConfig(**TINY)
  with pytest.raises(UserError, match='10 tubelets are not as many in each of 4 time slots'):
    module = DividedConfig(**TINY).module()
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 10, 768)), jnp.zeros((1, 10), jnp.int32))
