"""The model's own promises: geometry, masking, invariances, and options that change no number."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.paths import GOLDEN
from tvts_jax import objectives
from tvts_jax.errors import UserError
from tvts_jax.models import tvts
from tvts_jax.models.encoders.vit import ViTConfig
from tvts_jax.models.texts.distilbert import DistilBertConfig

DEVICES = 8

TINY = {
  'video': {'width': 32, 'depth': 2, 'heads': 2, 'patch': 8, 'image_size': 32, 'frames': 4},
  'text': {'vocab_size': 50, 'dim': 32, 'hidden_dim': 64, 'n_layers': 2, 'n_heads': 2},
  'common': 16,
  'dtype': 'float32',
}
LOSS = objectives.build({'contrastive': {'weight': 1.0}, 'sort': {'weight': 2.0}})


@functools.cache
def compiled(config, train=False):
  """Parameters and batch → outputs, compiled once for all tests that share the config."""
  return jax.jit(lambda params, batch, rng=None: tvts.build(config).apply(params, batch, rng, train))


def make(B=4, visible=None, seed=0, **changes):
  """A small model, parameters whose every leaf is random, and a batch for it."""
  config = tvts.TVTSConfig.from_dict({**TINY, **changes})
  rng = np.random.default_rng(seed)
  grid, K, L = config.video.slots * config.video.places, config.transcripts, 6
  N = visible or grid
  model = tvts.build(config)
  shapes = jax.eval_shape(lambda key: model.init(key, tvts.batch_spec(config, B, N, L)), jax.random.key(0))
  draw = lambda path, leaf: (path[-1].key == 'scale') + 0.1 * rng.standard_normal(leaf.shape).astype(leaf.dtype)
  params = jax.tree.map_with_path(draw, shapes)
  lengths = rng.integers(2, L + 1, (B, K))
  batch = {
    'patches': rng.integers(0, 256, (B, N, config.video.pixels), np.uint8),
    'positions': np.sort(np.stack([rng.permutation(grid)[:N] for _ in range(B)])).astype(np.int32),
    'tokens': rng.integers(0, config.text.vocab_size, (B, K, L)).astype(np.int32),
    'token_mask': np.arange(L) < lengths[..., None],
    'order': np.stack([rng.permutation(K) for _ in range(B)]).astype(np.int32),
  }
  return model, params, jax.tree.map(jnp.asarray, batch)


def loss_and_gradient(model, params, batch, rng=None):
  train = rng is not None
  return jax.jit(jax.value_and_grad(lambda params: LOSS(model.apply(params, batch, rng, train), batch)[0]))(params)


def assert_close(a, b, tolerance):
  for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def test_outputs_are_what_the_contract_says():
  model, params, batch = make(B=3, visible=10)
  outputs = compiled(model.config)(params, batch)
  shapes = {name: value.shape for name, value in outputs.items()}
  assert shapes == {
    'video_tokens': (3, 11, 32),
    'video_embed': (3, 16),
    'text_cls': (3, 4, 32),
    'text_embed': (3, 16),
    'transcript_embed': (3, 4, 16),
    'sort_tokens': (3, 4, 32),
    'sort_logits': (3, 4, 4),
  }


def test_parameter_paths_are_an_api():
  """Checkpoints, regex rules and exports address parameters by path: change this list only with a migration."""
  config = tvts.TVTSConfig()
  model = tvts.build(config)
  shapes = jax.eval_shape(lambda key: model.init(key, tvts.batch_spec(config, 1, 392, 32)), jax.random.key(0))
  lines = [
    f'{jax.tree_util.keystr(path, simple=True, separator="/")} {"x".join(map(str, leaf.shape))}'
    for path, leaf in jax.tree.leaves_with_path(shapes)
  ]
  assert '\n'.join(lines) + '\n' == (GOLDEN / 'parameter_paths.txt').read_text()
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 167_333_124  # The reference's count.


def test_initial_parameters_follow_the_reference():
  config = tvts.TVTSConfig.from_dict({**TINY, 'text': {**TINY['text'], 'dim': 64}})
  params = jax.jit(lambda key: tvts.build(config).init(key, tvts.batch_spec(config, 1, 4, 6)))(jax.random.key(0))
  std = lambda leaf: float(jnp.std(leaf))
  assert std(params['video']['blocks']['attn']['q']['kernel']) == pytest.approx(0.02, rel=0.1)
  assert std(params['text']['word']) == pytest.approx(0.02, rel=0.1)
  # Layers that the reference leaves to PyTorch start uniform, kernels and biases alike.
  for layer, fan_in in (('sorter/blocks/mlp/down', 128), ('video/embed', 384), ('text_projection', 64)):
    leaves = functools.reduce(lambda tree, key: tree[key], layer.split('/'), params)
    for leaf in leaves.values():
      assert 0.8 * fan_in**-0.5 < float(jnp.abs(leaf).max()) <= fan_in**-0.5
  for zero in (
    params['video']['time_position'],
    params['sorter']['text_type'],
    params['text']['blocks']['mlp']['up']['bias'],
  ):
    assert not jnp.any(zero)
  # Layers of a stack are drawn apart.
  first, second = params['video']['blocks']['mlp']['up']['kernel']
  assert not np.array_equal(first, second)


def test_masking_before_embedding_equals_masking_after():
  model, params, batch = make()
  module = tvts.TVTS(model.config)
  encode = lambda patches, positions: module.apply(
    {'params': params}, patches, positions, method=lambda m, *inputs: m.video.embed(*inputs)
  )
  everything = encode(batch['patches'], batch['positions'])
  keep = np.array([1, 4, 5, 30])
  visible = encode(batch['patches'][:, keep], batch['positions'][:, keep])
  np.testing.assert_allclose(visible[:, 1:], everything[:, 1 + keep], atol=1e-5)
  np.testing.assert_array_equal(visible[:, 0], everything[:, 0])


def test_the_order_of_visible_tubelets_is_immaterial():
  model, params, batch = make(visible=12)
  mixed = np.random.default_rng(0).permutation(12)
  shuffled = {**batch, 'patches': batch['patches'][:, mixed], 'positions': batch['positions'][:, mixed]}
  a, b = compiled(model.config)(params, batch), compiled(model.config)(params, shuffled)
  np.testing.assert_allclose(a['video_embed'], b['video_embed'], atol=1e-5)
  np.testing.assert_allclose(a['sort_logits'], b['sort_logits'], atol=1e-5)


@pytest.mark.parametrize('K', [pytest.param(2, marks=pytest.mark.long), 4, pytest.param(5, marks=pytest.mark.long)])
def test_permuted_transcripts_give_permuted_logits_and_the_same_loss(K):
  model, params, batch = make(transcripts=K)
  mixed = np.random.default_rng(1).permutation(K)
  permuted = {**batch, **{name: batch[name][:, mixed] for name in ('tokens', 'token_mask', 'order')}}
  a, b = compiled(model.config)(params, batch), compiled(model.config)(params, permuted)
  np.testing.assert_allclose(a['sort_logits'][:, mixed], b['sort_logits'], atol=1e-5)
  np.testing.assert_allclose(LOSS(a, batch)[0], LOSS(b, permuted)[0], rtol=1e-5)


def test_padding_is_invisible():
  model, params, batch = make()
  other = jnp.where(batch['token_mask'], batch['tokens'], 7)
  a, b = compiled(model.config)(params, batch), compiled(model.config)(params, {**batch, 'tokens': other})
  np.testing.assert_array_equal(a['text_cls'], b['text_cls'])


@pytest.mark.parametrize('stop', [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_sort_loss_reaches_the_text_encoder_only_without_the_stop(stop):
  model, params, batch = make(stop_gradient=stop)
  sort_loss = objectives.build({'sort': {}})
  gradient = jax.jit(jax.grad(lambda params: sort_loss(model.apply(params, batch), batch)[0]))(params)
  size = lambda tree: sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(tree))
  assert size(gradient['video']) > 0
  assert (size(gradient['text']) == 0) == stop
  assert size(gradient['text_projection']) == size(gradient['video_projection']) == 0


@pytest.mark.parametrize(
  'how',
  [
    pytest.param({'scan': False}, marks=pytest.mark.long),
    pytest.param({'remat': 'attention'}, marks=pytest.mark.long),
    pytest.param({'remat': 'full'}, marks=pytest.mark.long),
    {'remat': 'matmuls', 'scan': False},
  ],
)
def test_scan_and_remat_change_no_number(how):
  """With dropout on: the loop and the recomputation must draw what the plain pass drew."""
  model, params, batch = make()
  other = tvts.build(dataclasses.replace(model.config, **how))
  rng = jax.random.key(3)
  a, b = loss_and_gradient(model, params, batch, rng), loss_and_gradient(other, params, batch, rng)
  assert_close(a, b, 1e-5)


def test_dropout_acts_in_training_only_and_follows_its_key():
  model, params, batch = make()
  run = lambda seed: compiled(model.config, True)(params, batch, jax.random.key(seed))['text_embed']
  assert not np.array_equal(run(0), run(1))
  np.testing.assert_array_equal(run(0), run(0))
  np.testing.assert_array_equal(
    compiled(model.config)(params, batch)['text_embed'], compiled(model.config)(params, batch)['text_embed']
  )


@pytest.mark.long
def test_eight_devices_give_the_loss_and_gradient_of_one():
  model, params, batch = make(B=16)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.device_put(batch, jax.NamedSharding(mesh, jax.P('data')))
  whole = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
  assert_close(loss_and_gradient(model, params, batch), loss_and_gradient(model, whole, split), 2e-5)


def test_bfloat16_stays_within_its_bounds():
  """bfloat16 keeps 8 bits: two blocks deep, embeddings agree to a few parts in a hundred and losses to one."""
  model, params, batch = make()
  half = tvts.build(dataclasses.replace(model.config, dtype='bfloat16'))
  a, b = compiled(model.config)(params, batch), compiled(half.config)(params, batch)
  assert b['sort_logits'].dtype == b['video_embed'].dtype == jnp.float32
  cosine = (objectives.contrastive.unit(a['video_embed']) * objectives.contrastive.unit(b['video_embed'])).sum(-1)
  assert cosine.min() > 0.999
  np.testing.assert_allclose(LOSS(a, batch)[0], LOSS(b, batch)[0], rtol=0.01)


def test_fewer_time_slots_than_trained_read_the_first_embeddings():
  model, params, batch = make()
  first = batch['positions'] < model.config.video.places
  assert bool((first.sum(1) == 16).all())
  short = {**batch, 'patches': batch['patches'][:, :16], 'positions': batch['positions'][:, :16]}
  config = dataclasses.replace(model.config, video=dataclasses.replace(model.config.video, frames=2))
  cut = {**params, 'video': {**params['video'], 'time_position': params['video']['time_position'][:1]}}
  a, b = compiled(model.config)(params, short), compiled(config)(cut, short)
  np.testing.assert_allclose(a['video_embed'], b['video_embed'], atol=1e-6)


def test_resized_positions():
  old = ViTConfig(width=8, depth=1, heads=1, patch=8, image_size=32, frames=8)
  rng = np.random.default_rng(0)
  params = {'space_position': rng.normal(size=(16, 8)), 'time_position': rng.normal(size=(4, 8)), 'cls': 0}
  same = old.resized(params, old)
  assert same['space_position'] is params['space_position'] and same['cls'] == 0
  new = dataclasses.replace(old, image_size=64, frames=16).resized(params, old)
  assert new['space_position'].shape == (64, 8) and new['time_position'].shape == (8, 8)
  # Doubling by linear interpolation puts new points a quarter of a step to either side of the old ones.
  t = params['time_position']
  np.testing.assert_allclose(new['time_position'][3], 0.75 * t[1] + 0.25 * t[2], rtol=1e-5)
  flat = {**params, 'space_position': np.ones((16, 8)), 'time_position': np.ones((4, 8))}
  flat = dataclasses.replace(old, image_size=48, frames=12).resized(flat, old)
  np.testing.assert_allclose(flat['space_position'], 1, rtol=1e-5)


def test_a_position_outside_the_grid_or_vocabulary_is_not_silent():
  model, params, batch = make()
  outside = compiled(model.config)(params, {**batch, 'positions': batch['positions'].at[0, 0].set(32)})
  assert np.isnan(outside['video_embed'][0]).all() and not np.isnan(outside['video_embed'][1]).any()
  unknown = compiled(model.config)(params, {**batch, 'tokens': batch['tokens'].at[0, 0, 0].set(50)})
  assert np.isnan(unknown['text_embed'][0]).all()


@pytest.mark.parametrize('projection, common', [('relu_linear', 16), ('linear', 16), ('none', 32)])
def test_projections(projection, common):
  model, params, batch = make(projection=projection)
  outputs = compiled(model.config)(params, batch)
  assert outputs['video_embed'].shape == outputs['text_embed'].shape == (4, common)
  text = np.asarray(outputs['text_cls'], np.float64)
  if projection == 'relu_linear':
    text = np.maximum(text, 0)
  expected = text.mean(1)
  if projection != 'none':
    expected = expected @ params['text_projection']['kernel'] + params['text_projection']['bias'][None]
  np.testing.assert_allclose(outputs['text_embed'], expected, atol=1e-5)


def test_another_text_width_is_projected_into_the_sorter():
  model, params, batch = make(text={**TINY['text'], 'dim': 16})
  assert params['sorter']['text_in']['kernel'].shape == (16, 32)
  assert compiled(model.config)(params, batch)['sort_logits'].shape == (4, 4, 4)
  assert 'text_in' not in make()[1]['sorter']


@pytest.mark.parametrize(
  'change, words',
  [
    ({'video': {'size': 'B/17'}}, ['B/17', 'B/16']),
    ({'video': {'size': 'B/16', 'image_size': 230}}, ['230', 'patch=16']),
    ({'video': {'size': 'B/16', 'frames': 15}}, ['15', 'tubelet=2']),
    ({'video': {'size': 'B/16', 'heads': 7}}, ['768', 'heads=7']),
    ({'video': {'size': 'B/16', 'framse': 15}}, ['framse', 'frames']),
    ({'text': {'n_heads': 5}}, ['768', 'n_heads=5']),
    ({'projection': 'mlp'}, ['mlp', 'relu_linear']),
    ({'remat': 'some'}, ['some', 'full']),
    ({'lambda': 2}, ['lambda', 'transcripts']),
    ({'projection': 'none', 'video': {'size': 'S/16'}}, ['384', '768']),
    ({'sort_heads': 5}, ['sort_heads=5']),
  ],
)
def test_a_wrong_config_is_refused_by_name(change, words):
  with pytest.raises(UserError) as error:
    tvts.TVTSConfig.from_dict(change)
  assert all(word in str(error.value) for word in words), error.value


def test_a_text_config_of_another_model_is_refused():
  with pytest.raises(UserError, match='relu'):
    DistilBertConfig.from_hf({'model_type': 'distilbert', 'activation': 'relu'})
  assert DistilBertConfig.from_hf({'model_type': 'distilbert', 'dim': 64, 'n_heads': 4, 'qa_dropout': 0.1}).dim == 64


def test_a_wrong_batch_is_refused_in_one_sentence():
  model, params, batch = make()
  with pytest.raises(UserError, match='384'):
    model.apply(params, {**batch, 'patches': batch['patches'][:, :, :-1]})
  with pytest.raises(UserError, match='64 tubelets'):
    twice = {name: jnp.concatenate([batch[name]] * 2, axis=1) for name in ('patches', 'positions')}
    compiled(model.config)(params, {**batch, **twice})
  with pytest.raises(UserError, match='transcripts'):
    LOSS(compiled(model.config)(params, batch), {**batch, 'order': batch['order'][:, :3]})
  with pytest.raises(UserError, match='word pieces'):
    long = {name: jnp.repeat(batch[name], 100, axis=-1) for name in ('tokens', 'token_mask')}
    compiled(model.config)(params, {**batch, **long})


def test_model_and_objectives_need_no_tensorflow():
  blocked = (
    'import sys; sys.modules["tensorflow"] = None; '
    'import tvts_jax.models.tvts, tvts_jax.objectives, tvts_jax.optim; '
    'from tvts_jax.convert import folder, load, vivit; '
    'assert "torch" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', blocked], check=True)
