"""FLOPs of any objectives: those of a model's parts that they need, by closed forms, and of their heads."""

import jax
import pytest

from tests.models.test_tvts import LOSS, make
from tvts_jax import config as config_lib
from tvts_jax import objectives
from tvts_jax import step as step_lib
from tvts_jax.models import flops, layers

VISIBLE, LENGTH = 12, 6


def parts():
  """Forward and backward of each part of the tiny model, by the formula."""
  config = make()[0].config
  video, text, K = config.video, config.text, config.transcripts
  D, E, C = video.width, text.dim, config.common
  return {
    'video': 3 * layers.flops_of_blocks(1 + VISIBLE, D, 4 * D, video.depth) + 2 * 2 * VISIBLE * video.pixels * D,
    'text': 3 * K * layers.flops_of_blocks(LENGTH, E, text.hidden_dim, text.n_layers, read=1),
    'sorter': 3 * (layers.flops_of_blocks(1 + VISIBLE + K, D, 4 * D, config.sort_depth, read=K) + 2 * K * D * K),
    'projections': 3 * 2 * C * (D + E),
  }


@pytest.mark.parametrize(
  'given, needed',
  [
    pytest.param({'contrastive': {}, 'sort': {}}, ('video', 'text', 'sorter', 'projections'), marks=pytest.mark.long),
    pytest.param({'contrastive': {}}, ('video', 'text', 'projections'), marks=pytest.mark.long),
    ({'classify': {'classes': 10}}, ('video',)),
  ],
)
def test_what_objectives_do_not_need_is_not_counted(given, needed):
  model, _, batch = make(visible=VISIBLE, remat='full')
  loss_fn = objectives.build(given)
  if 'classify' in given:
    batch['label'] = batch['order'][:, 0]
  head = 3 * 2 * 32 * 10 if 'classify' in given else 0
  expected = sum(parts()[name] for name in needed) + head
  count = flops.counted if 'sort' in given else flops.of_clip
  # Within the cosines of the batch, which the formula leaves out.
  assert count(model.config, loss_fn, batch) == pytest.approx(expected, rel=0.01)


def test_the_formula_is_taken_where_it_holds(monkeypatch):
  monkeypatch.setattr(flops, 'counted', None)
  model, _, batch = make(visible=VISIBLE)
  assert flops.of_clip(model.config, LOSS, batch) == pytest.approx(sum(parts().values()))


def test_the_formula_is_within_three_percent_of_what_xla_counts_of_an_unrolled_step():
  """Layers are as wide as the paper's, beside whose products all else is little; two of each tell what scales."""
  values = config_lib.base().unlock()
  values.update(epochs=1.0)
  values.model.update(scan=False, dtype='float32')
  values.model.video.depth = values.model.text.n_layers = values.input.batch = 2
  config = config_lib.resolve(values)
  model, loss_fn, spec = step_lib.build(config)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(lambda rng: model.init(rng, spec), rng)
  loss = lambda params, batch, rng: loss_fn(model.apply(params, batch, rng, True), batch)[0]
  counted = jax.jit(jax.grad(loss)).lower(params, spec, rng).compile().cost_analysis()['flops']
  assert 2 * flops.of_clip(config.model, loss_fn, spec) == pytest.approx(counted, rel=0.03)
