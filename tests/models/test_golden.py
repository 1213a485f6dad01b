"""The whole model against numbers that the authors' own code gave, in float64, on random weights.

What the tolerance means: the same computation in float32 is within 2e-5 of the float64 oracle, and ours in float64
within 1e-9. It covers every intermediate result, the losses, the gradients and three optimizer steps.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange

from tests.support.paths import GOLDEN
from tvts_jax import objectives, optim
from tvts_jax.convert import load
from tvts_jax.convert.families import tvts as tvts_family
from tvts_jax.models import layers, tvts
from tvts_jax.models.encoders import encoder, vit

TOLERANCE = {'float32': 2e-5, 'float64': 1e-9}
LOSS = objectives.build({'contrastive': {}, 'sort': {'weight': 2.0}})


@pytest.fixture(params=['float64', pytest.param('float32', marks=pytest.mark.long)], autouse=True)
def dtype(request):
  with jax.enable_x64(request.param == 'float64'):
    yield request.param


@functools.cache
def oracle():
  return dict(np.load(GOLDEN / 'tvts_v1_tiny_f64.npz'))


@functools.cache
def setting(dtype):
  """Config, parameters and batch in one precision."""
  config, params, _ = load.import_model(
    GOLDEN / 'tvts_v1_tiny_state_dict.pth', {'video': {'heads': 4}, 'text': {'n_heads': 4}, 'dtype': 'float32'}
  )
  params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
  config = tvts.TVTSConfig.from_dict({**config.to_dict(), 'dtype': dtype, 'param_dtype': dtype})
  gold = oracle()
  patches = encoder.patchify(rearrange(gold['in/video'].astype(dtype), 'b t c h w -> b t h w c'), config.video)
  slots = np.arange(config.video.slots)[None, :, None]
  positions = rearrange(gold['in/keep_ind'] + slots * config.video.places, 'b t n -> b (t n)')
  by_clip = lambda x: rearrange(x, '(k b) l -> b k l', b=len(patches))
  batch = {
    'patches': np.take_along_axis(patches, positions[..., None], 1),
    'positions': positions.astype(np.int32),
    'tokens': by_clip(gold['in/input_ids']).astype(np.int32),
    'token_mask': by_clip(gold['in/attention_mask']).astype(bool),
    'order': gold['in/label'].astype(np.int32),
  }
  return config, params, batch, patches


def check(dtype, ours, key):
  close(dtype, ours, oracle()[key], key)


def close(dtype, ours, theirs, name):
  """Absolute for values up to one, relative above."""
  gap = np.abs(np.asarray(ours, np.float64) - theirs) / np.maximum(1, np.abs(theirs))
  assert gap.shape == theirs.shape and gap.max() <= TOLERANCE[dtype], f'{name}: {gap.max()}'


def of_layer(index, stacked):
  return jax.tree.map(lambda leaf: leaf[index], stacked)


def test_every_intermediate_of_the_video_encoder(dtype):
  config, params, batch, patches = setting(dtype)
  tubelets = config.video.slots * config.video.places
  encoder = vit.ViT(config.video, jnp.dtype(dtype), jnp.dtype(dtype))
  call = lambda params, *inputs: encoder.apply({'params': params}, *inputs, method='embed')
  everywhere = np.tile(np.arange(tubelets, dtype=np.int32), (3, 1))
  check(dtype, call(params['video'], patches, everywhere), 'mid/video/tokens_with_pos')
  bare = params['video'] | {name: 0 * params['video'][name] for name in ('space_position', 'time_position')}
  check(dtype, call(bare, patches, everywhere)[:, 1:], 'mid/video/patch_embed')
  tokens = call(params['video'], batch['patches'], batch['positions'])
  check(dtype, tokens, 'mid/video/tokens_masked')

  block = layers.PreNormBlock(4, 256, layers.normal_init, jnp.dtype(dtype), jnp.dtype(dtype))
  for i, key in enumerate(('mid/video/block00', 'mid/video/block01')):
    one = of_layer(i, params['video']['blocks'])
    if i == 0:
      normed = layers.LayerNorm(1e-6, dtype, dtype, name=None).apply({'params': one['norm1']}, tokens)
      attention = layers.Attention(4, layers.normal_init, jnp.dtype(dtype), jnp.dtype(dtype))
      check(dtype, attention.apply({'params': one['attn']}, normed), 'mid/video/block0_attn')
    tokens = block.apply({'params': one}, tokens)
    check(dtype, tokens, key)


def test_every_intermediate_of_the_text_encoder(dtype):
  config, params, batch, _ = setting(dtype)
  flat = lambda x: rearrange(x, 'b k l -> (k b) l')
  tokens, mask = flat(batch['tokens']), flat(batch['token_mask'])
  for depth, key in ((0, 'embeddings'), (1, 'layer0'), (2, 'layer1')):
    cut = params['text'] | {'blocks': of_layer(slice(depth), params['text']['blocks'])}
    types = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    shallow = dataclasses.replace(config.text, n_layers=depth).module(**types)
    if depth:
      check(dtype, shallow.apply({'params': cut}, tokens, mask, method='states'), f'mid/text/{key}')
    else:
      embed = config.text.module(**types)
      check(dtype, embed.apply({'params': params['text']}, tokens, method='embed'), f'mid/text/{key}')


def test_every_intermediate_of_the_sorter(dtype):
  config, params, batch, _ = setting(dtype)
  gold = oracle()
  text = rearrange(gold['mid/text/layer1'][:, 0], '(k b) d -> b k d', b=3).astype(dtype)
  vision = gold['mid/video/encoder_out'].astype(dtype)
  types = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
  sorter = tvts.Sorter(4, 64, 4, **types)
  # Theirs puts the video first; that is immaterial, since no token of the sorter has a position.
  video_first = lambda x: np.concatenate([x[:, 4:], x[:, :4]], axis=1)
  x = sorter.apply({'params': params['sorter']}, vision, text, method='embed')
  check(dtype, video_first(x), 'mid/sort/tokens_in')
  block = layers.PreNormBlock(4, 256, layers.uniform_init, **types)
  for i in range(2):
    x = block.apply({'params': of_layer(i, params['sorter']['blocks'])}, x)
    check(dtype, video_first(x), f'mid/sort/block{i}')
  norm = layers.LayerNorm(1e-6, *types.values(), name=None)
  check(dtype, norm.apply({'params': params['sorter']['norm']}, x[:, :4]), 'mid/sort/norm_text')
  logits = lambda sorter: sorter.place(sorter.tokens(vision, text))
  check(dtype, sorter.apply({'params': params['sorter']}, method=logits), 'mid/sort/logits')


def test_outputs_and_losses(dtype):
  config, params, batch, _ = setting(dtype)
  outputs = tvts.build(config).apply(params, batch)
  check(dtype, outputs['video_tokens'], 'mid/video/encoder_out')
  check(dtype, outputs['video_embed'], 'mid/video/proj')
  check(dtype, outputs['text_embed'], 'out/text')
  check(dtype, outputs['sort_logits'], 'out/order')
  loss, metrics = LOSS(outputs, batch)
  check(dtype, metrics['contrastive/loss'], 'out/loss_align')
  check(dtype, metrics['sort/loss'], 'out/ce_sort')
  check(dtype, loss, 'out/loss')
  unit = objectives.contrastive.unit
  check(dtype, unit(outputs['video_embed']) @ unit(outputs['text_embed']).T, 'out/sim')


PARTS = [pytest.param(*part, marks=pytest.mark.long) for part in (('contrastive', 'align'), ('sort', 'sort'))]


@pytest.mark.parametrize('terms, key', [*PARTS, ('contrastive sort', 'total')])
def test_gradients(dtype, terms, key):
  config, params, batch, _ = setting(dtype)
  loss = objectives.build({name: {'weight': 2.0 if name == 'sort' else 1.0} for name in terms.split()})
  model = tvts.build(config)
  gradient = jax.jit(jax.grad(lambda params: loss(model.apply(params, batch), batch)[0]))(params)
  gradient = tvts_family.state_dict(config, gradient)
  gold = oracle()
  for name, norm in zip(gold['param_names'], gold[f'gradnorm_{key}'], strict=True):
    ours = np.linalg.norm(gradient[str(name)].astype(np.float64))
    # No gradient of theirs is a zero of ours.
    close(dtype, ours, np.nan_to_num(norm), name)
    if key == 'total' and f'grad/{name}' in gold:
      check(dtype, gradient[str(name)], f'grad/{name}')


def test_the_shuffle_of_the_paper_gives_the_same_losses(dtype):
  config, params, batch, _ = setting(dtype)
  shuffled = oracle()['shuffled/perm']
  mix = lambda x: np.take_along_axis(x, shuffled.reshape(shuffled.shape + (1,) * (x.ndim - 2)), 1)
  batch = batch | {name: mix(batch[name]) for name in ('tokens', 'token_mask', 'order')}
  loss, metrics = LOSS(tvts.build(config).apply(params, batch), batch)
  check(dtype, metrics['contrastive/loss'], 'shuffled/loss_align')
  check(dtype, 2 * metrics['sort/loss'], 'shuffled/loss_sort')


def test_three_steps_of_the_reference_optimizer(dtype):
  config, params, batch, _ = setting(dtype)
  model, gold = tvts.build(config), oracle()
  tx = optax.chain(optim.scale_by_reference_adam(0.9, 0.999, 1e-6), optax.scale_by_learning_rate(1e-4))

  @jax.jit
  def step(params, state):
    loss = lambda params: LOSS(model.apply(params, batch), batch)
    (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, metrics

  start, state = params, tx.init(params)
  for align, sort, total in gold['traj_align_sort_total']:
    params, state, metrics = step(params, state)
    got = metrics['contrastive/loss'], 2 * metrics['sort/loss'], metrics['loss']
    close(dtype, got, np.array([align, sort, total]), 'losses')
  moved = tvts_family.state_dict(config, jax.tree.map(lambda a, b: np.asarray(a - b), params, start))
  for name, norm in zip(gold['param_names'], gold['traj_delta_norm'], strict=True):
    close(dtype, np.linalg.norm(moved[str(name)]), norm, name)
