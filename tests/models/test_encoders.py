"""Video encoders: what all of them do alike, and that of docs/extend.md, which is a file and a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.docs.test_extend import line, module
from tests.models.test_tvts import LOSS, TINY, make
from tests.support import alternatives
from tvts_jax import objectives, optim
from tvts_jax.errors import UserError
from tvts_jax.models import flops, tvts

toy_module = module('tvts_jax/models/encoders/toy.py')


@pytest.fixture
def toy(monkeypatch):
  monkeypatch.setattr(tvts, 'ENCODERS', dict(tvts.ENCODERS))
  line('ENCODERS', toy_module, vars(tvts))
  small = {'text': {**TINY['text'], 'n_layers': 1}, 'sort_depth': 1}
  return make(visible=10, encoder='toy', video={'size': 'toy', 'gain': 0.5}, **small)


def test_its_config_is_checked_and_comes_back(toy):
  config = toy[0].config
  assert config.video == toy_module.ToyConfig(32, 3, 2, 8, image_size=32, frames=4, gain=0.5)
  assert tvts.TVTSConfig.from_dict(config.to_dict()) == config
  for changes, message in (
    ({'encoder': 'vi'}, "model.encoder='vi' is unknown; known: vit, divided, timesformer, frames, toy"),
    ({'encoder': 'toy', 'video': {'size': 'B/16'}}, "video.size='B/16' is unknown; known sizes: toy"),
    ({'encoder': 'vit', 'video': {'size': 'B/16', 'gain': 2}}, "video has no setting 'gain'"),
  ):
    with pytest.raises(UserError, match=message):
      tvts.TVTSConfig.from_dict({**TINY, **changes})


def test_it_gives_features_of_pixels_as_it_wants_them(toy):
  model, params, batch = toy
  features = jax.jit(model.embed_video)(params, batch)
  assert features['video_tokens'].shape == (4, 11, 32) and features['video_embed'].shape == (4, 16)
  floats = (np.asarray(batch['patches']) / 255 - 0.5) / 0.5
  same = jax.jit(model.embed_video)(params, {**batch, 'patches': floats.astype(np.float32)})
  np.testing.assert_allclose(features['video_embed'], same['video_embed'], rtol=1e-4, atol=1e-4)


def test_it_learns_layer_by_layer_and_keeps_what_is_frozen(toy):
  model, params, batch = toy
  params = jax.tree.map(jnp.asarray, params)
  config = optim.OptimConfig(lr=1e-3, layer_decay=0.5, groups=(('^video/embed/', {'frozen': True}),))
  tx = optim.build(config, params, 20)
  np.testing.assert_allclose(
    optim.groups_of(config, params)['video/blocks/kernel']['lr'].ravel(), [0.125, 0.25, 0.5], rtol=1e-6
  )

  @jax.jit
  def step(params, state, nth):
    loss, gradient = jax.value_and_grad(lambda params: LOSS(model.apply(params, batch), batch)[0])(params)
    updates, state = tx.update(gradient, state, params, step=nth)
    return jax.tree.map(jnp.add, params, updates), state, loss

  trained, state, losses = params, jax.jit(tx.init)(params), []
  for nth in range(20):
    trained, state, loss = step(trained, state, nth)
    losses.append(float(loss))
  assert losses[-1] < 0.8 * losses[0]
  moved = jax.tree.map(lambda new, old: bool((new != old).any()), *jax.device_get((trained['video'], params['video'])))
  assert moved == {'embed': {'kernel': False, 'bias': False}, 'blocks': {'kernel': True}, 'norm': moved['norm']}


def test_its_arithmetic_is_counted_by_its_own_formula(toy):
  model, _, batch = toy
  spec = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}
  assert flops.of_clip(model.config, LOSS, spec) == pytest.approx(flops.counted(model.config, LOSS, spec), rel=0.03)


SMALL = dict(width=32, depth=2, heads=2, patch=8, image_size=16, frames=4)


def clip(config):
  rng, tubelets = np.random.default_rng(0), config.slots * config.places
  patches = rng.standard_normal((2, tubelets, config.pixels)).astype(np.float32)
  return patches, np.tile(np.arange(tubelets, dtype=np.int32), (2, 1))


@pytest.mark.long
@pytest.mark.parametrize('name', tvts.ENCODERS)
def test_scan_and_remat_change_no_number(name):
  config = tvts.ENCODERS[name](**SMALL)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32) * 0.1, config.shapes())

  def result(**how):
    run = lambda params: config.module(**how).apply({'params': params}, *clip(config))[0]
    return jax.jit(jax.value_and_grad(lambda params: (run(params) ** 3).mean()))(params)

  plain = result()
  for how in (dict(scan=False), dict(remat='full'), dict(remat='matmuls', scan=False)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), result(**how), plain)


OPTIONS = (('vit', {'pool': 'mean'}), ('divided', {'time': False}))


@pytest.mark.parametrize('name, changes', [*((name, {}) for name in tvts.ENCODERS), *OPTIONS])
def test_formulas_count_their_products(name, changes):
  kind = tvts.ENCODERS[name]
  config = kind(**{**SMALL, 'width': 64, 'image_size': 32}, **changes)
  module = config.module(scan=False)
  program = jax.make_jaxpr(lambda params: module.apply({'params': params}, *clip(config)))(config.shapes())
  visible = config.slots * config.places
  embed = 2 * visible * config.pixels * config.width
  assert config.flops(visible) + embed == pytest.approx(flops.products(program.jaxpr) / 2, rel=0.03)


@pytest.mark.parametrize('name', [name for name in tvts.ENCODERS if name != 'vit'])
def test_any_encoder_can_start_any_objective(name):
  """As far as shapes tell: gradients of all losses are traced. Those of `vit` are computed in tests/objectives."""
  config = tvts.TVTSConfig.from_dict(
    {**alternatives.MODEL, 'encoder': name, 'video': {**alternatives.MODEL['video'], 'tubelet': 2}}
  )
  grid = np.tile(np.arange(config.video.slots * config.video.places, dtype=np.int32), (alternatives.B, 1))
  whole = {'patches': np.zeros((*grid.shape, config.video.pixels), np.uint8), 'positions': grid}
  label = {'label': np.zeros(alternatives.B, np.int32)}
  for asked, more in (
    (alternatives.ALL, {}),
    ({'svt': {'prototypes': 8}}, whole),
    ({'classify': {'classes': 3}}, label),
  ):
    loss_fn, batch = objectives.build(asked), alternatives.batch() | more
    model = tvts.build(config, loss_fn.heads)

    def loss(params, batch, rng, model=model, loss_fn=loss_fn):
      batch = batch | loss_fn.ask(model.apply, params, batch, rng)
      return loss_fn(model.apply(params, batch, rng, True), batch)[0]

    spec = jax.eval_shape(lambda batch=batch: jax.tree.map(jnp.asarray, batch))
    params = jax.eval_shape(lambda rng, model=model, spec=spec: model.init(rng, spec), jax.random.key(0))
    gradient = jax.eval_shape(jax.grad(loss), params, spec, jax.random.key(0))
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
