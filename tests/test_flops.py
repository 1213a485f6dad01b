"""FLOPs of any objectives: those of a model's parts that they need, by closed forms, and of their heads."""

import pytest

from tests.test_model import LOSS, make
from tvts_jax import flops, objectives

VISIBLE, LENGTH = 12, 6


def parts():
  """Forward and backward of each part of the tiny model, by the formula."""
  config = make()[0].config
  video, text, K = config.video, config.text, config.transcripts
  D, E, C = video.width, text.dim, config.common
  return {
    'video': 3 * flops.blocks(1 + VISIBLE, D, 4 * D, video.depth) + 2 * 2 * VISIBLE * video.pixels * D,
    'text': 3 * K * flops.blocks(LENGTH, E, text.hidden_dim, text.n_layers, read=1),
    'sorter': 3 * (flops.blocks(1 + VISIBLE + K, D, 4 * D, config.sort_depth, read=K) + 2 * K * D * K),
    'projections': 3 * 2 * C * (D + E),
  }


@pytest.mark.parametrize(
  'given, needed',
  [
    ({'contrastive': {}, 'sort': {}}, ('video', 'text', 'sorter', 'projections')),
    ({'contrastive': {}}, ('video', 'text', 'projections')),
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
