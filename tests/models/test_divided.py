"""Divided attention beside the authors' own: Frozen (as MILES), MCQ (no time), and TVTSv2 (CLIP's norms and masks)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support.paths import GOLDEN
from tvts_jax import config as config_lib
from tvts_jax.convert import pth
from tvts_jax.errors import UserError
from tvts_jax.models import flops, layers
from tvts_jax.models.encoders.divided import DividedConfig
from tvts_jax.models.encoders.encoder import patchify

ZOO = GOLDEN / 'zoo'
TOLERANCE = {'float32': 2e-5, 'float64': 1e-12}
TINY = dict(width=64, depth=2, heads=4, patch=16, image_size=48, frames=4)
CLIP = dict(pre_norm=True, patch_bias=False, activation='quick_gelu', eps=1e-5)

# Each family has a file, a config of ours, and names for the parameters of the whole and of a block.
FROZEN = {
  **{'cls': 'cls_token', 'positions': 'pos_embed', 'time': 'temporal_embed', 'patch': 'patch_embed.proj'},
  **{'norm': 'norm', 'block': 'blocks.{}.', 'time_norm': 'norm3', 'norm1': 'norm1', 'norm2': 'norm2'},
  **{'up': 'mlp.fc1', 'down': 'mlp.fc2'},
}
TVTSV2 = {
  **{'cls': 'class_embedding', 'positions': 'positional_embedding', 'time': 'temporal_embedding', 'patch': 'conv1'},
  **{'norm': 'ln_post', 'block': 'transformer.resblocks.{}.', 'time_norm': 'ln_3', 'norm1': 'ln_1', 'norm2': 'ln_2'},
  **{'up': 'mlp.c_fc', 'down': 'mlp.c_proj'},
}
FAMILIES = {
  'frozen': ('frozen_tiny.pth.tar', DividedConfig(**TINY), FROZEN),
  'mcq': ('mcq_tiny.pth', DividedConfig(**TINY, time=False), {**FROZEN, 'norm': 'norm1'}),
  'tvtsv2_b': ('tvtsv2_b_tiny.pth', DividedConfig(**TINY, **CLIP), TVTSV2),
}


@functools.cache
def gold(family):
  return dict(np.load(ZOO / f'{family}_tiny.npz'))


@functools.cache
def parameters(family):
  """Those of the family's file, as ours."""
  file, config, names = FAMILIES[family]
  state = pth.read(ZOO / file).root['state_dict']
  read = lambda name: state[f'module.video_model.{name}'].read().astype(np.float64)
  linear = lambda name: {'kernel': read(f'{name}.weight').T, 'bias': read(f'{name}.bias')}
  norm = lambda name: {'scale': read(f'{name}.weight'), 'bias': read(f'{name}.bias')}

  def attention(name):
    to_heads = lambda kernel: rearrange(kernel, '(p h c) ... -> p ... h c', p=3, h=config.heads)
    kernels, biases = to_heads(read(f'{name}.qkv.weight')), to_heads(read(f'{name}.qkv.bias'))
    out = linear(f'{name}.proj')
    out['kernel'] = rearrange(out['kernel'], '(h c) d -> h c d', h=config.heads)
    return {**{p: {'kernel': k, 'bias': b} for p, k, b in zip('qkv', kernels, biases)}, 'out': out}

  def block(nth):
    at = names['block'].format(nth)
    own = {key: norm(at + names[key]) for key in ('norm1', 'norm2')}
    own |= {'attn': attention(f'{at}attn'), 'mlp': {key: linear(at + names[key]) for key in ('up', 'down')}}
    if config.time:
      own |= {'time_attn': attention(f'{at}timeattn'), 'time_norm': norm(at + names['time_norm'])}
    return own

  cls_position, space = np.split(read(names['positions']).reshape(-1, config.width), [1])
  params = {
    'cls': read(names['cls']).ravel(),
    'cls_position': cls_position[0],
    'space_position': space,
    'embed': {'kernel': rearrange(read(f'{names["patch"]}.weight'), 'd r y x -> (y x r) d')},
    'blocks': jax.tree.map(lambda *leaves: np.stack(leaves), *map(block, range(config.depth))),
    'norm': norm(names['norm']),
  }
  if config.patch_bias:
    params['embed']['bias'] = read(f'{names["patch"]}.bias')
  if config.time:
    params['time_position'] = read(names['time']).reshape(-1, config.width)
  if config.pre_norm:
    params['pre_norm'] = norm('ln_pre')
  return params


def clip_of(family, config):
  """All tubelets of the golden clips, and their positions."""
  video = rearrange(gold(family)['in/video'].astype(np.float64), 'b t c h w -> b t h w c')[:, : config.frames]
  patches = np.asarray(patchify(video, config))
  return patches, np.tile(np.arange(patches.shape[1], dtype=np.int32), (len(patches), 1))


def run(family, dtype, config=None, places=None, **how):
  """Tokens of the golden clips; places: those that each clip shows, [B, n]."""
  config = config or FAMILIES[family][1]
  params = parameters(family)
  if config.time:
    params = {**params, 'time_position': params['time_position'][: config.slots]}
  patches, positions = clip_of(family, config)
  if places is not None:
    positions = np.concatenate([places + t * config.places for t in range(config.slots)], axis=1).astype(np.int32)
    patches = np.take_along_axis(patches, positions[..., None], 1)
  module = config.module(dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), **how)
  params, patches = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, patches))
  return jax.jit(lambda params: module.apply({'params': params}, patches, positions))(params)


def close(dtype, family, ours, key):
  theirs = gold(family)[f'f64/{key}' if dtype == 'float64' and f'f64/{key}' in gold(family) else key]
  exact = dtype == 'float64' and theirs.dtype == np.float64
  gap = np.abs(np.asarray(ours, np.float64) - theirs) / np.maximum(1, np.abs(theirs))
  assert gap.max() <= TOLERANCE['float64' if exact else 'float32'], f'{key}: {gap.max()}'


@pytest.fixture(params=['float32', 'float64'])
def dtype(request):
  with jax.enable_x64(request.param == 'float64'):
    yield request.param


@pytest.mark.parametrize('family', ['frozen', 'mcq'])
def test_tokens_are_those_of_the_authors(dtype, family):
  close(dtype, family, run(family, dtype), 'mid/video/norm')


def test_tokens_of_tvtsv2_with_and_without_its_mask(dtype):
  close(dtype, 'tvtsv2_b', run('tvtsv2_b', dtype), 'eval/mid/video/ln_post')
  places = gold('tvtsv2_b')['in/keep_ind']
  close(dtype, 'tvtsv2_b', run('tvtsv2_b', dtype, places=places), 'mid/video/ln_post')


@pytest.mark.parametrize('frames, key', [(2, 'out/video_2_frames'), (1, 'out/video_1_frame')])
def test_fewer_frames_read_the_first_times(frames, key):
  config = dataclasses.replace(FAMILIES['frozen'][1], frames=frames)
  state = pth.read(ZOO / 'frozen_tiny.pth.tar').root['state_dict']
  weight, bias = (state[f'module.vid_proj.0.{name}'].read() for name in ('weight', 'bias'))
  close('float32', 'frozen', np.asarray(run('frozen', 'float32', config))[:, 0] @ weight.T + bias, key)


@pytest.mark.parametrize('changes', [{'activation': 'quick_gelu'}, {'eps': 1e-5}, {'time': False}])
def test_the_tolerance_sees_what_is_commonly_done_wrong(changes):
  config = dataclasses.replace(FAMILIES['frozen'][1], **changes)
  with pytest.raises(AssertionError, match='mid/video/norm'):
    close('float32', 'frozen', run('frozen', 'float32', config), 'mid/video/norm')


@pytest.mark.parametrize('how', [dict(scan=False), dict(remat='full'), dict(remat='matmuls', scan=False)])
def test_scan_and_remat_change_no_number(how):
  np.testing.assert_allclose(run('frozen', 'float32', **how), run('frozen', 'float32'), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('grid, frames, kept', [(3, 4, 4), (4, 3, 7), (5, 1, 9), (2, 6, 1)])
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
  with pytest.raises(UserError, match="needs the same places in all time slots.*set input.mask='tube'"):
    config_lib.resolve(values)
  values['input']['mask'] = 'tube'
  assert config_lib.resolve(values).model.video == DividedConfig(**TINY)
  with pytest.raises(UserError, match='10 tubelets are not as many in each of 4 time slots'):
    module = DividedConfig(**TINY).module()
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 10, 768)), jnp.zeros((1, 10), jnp.int32))


@pytest.mark.parametrize('time', [True, False])
def test_the_formula_counts_its_products(time):
  config = DividedConfig(**TINY, time=time)
  clip = jnp.zeros((1, 36, config.pixels)), jnp.zeros((1, 36), jnp.int32)
  module = config.module(scan=False)
  program = jax.make_jaxpr(lambda params: module.apply({'params': params}, *clip))(config.shapes())
  embed = 2 * 36 * config.pixels * config.width
  assert config.flops(36) + embed == pytest.approx(flops.products(program.jaxpr), rel=0.03)
