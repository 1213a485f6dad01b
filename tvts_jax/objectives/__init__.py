"""Objectives by name: pure functions (outputs, batch, **settings) → (loss, metrics). One file, and one line here."""

import inspect
from collections.abc import Callable, Mapping

from tvts_jax.errors import UserError
from tvts_jax.objectives import contrastive, sorting

OBJECTIVES = {
  'contrastive': contrastive.contrastive,
  'sort': sorting.sort,
}


def build(config: Mapping[str, Mapping]) -> Callable:
  """From {name: {'weight': w, **settings}} to loss_fn(outputs, batch) → (loss, metrics), the weighted sum.

  Metrics are named 'objective/metric', each objective's own unweighted loss 'objective/loss'.
  """
  if not config:
    raise UserError(f'no objective is given; known: {", ".join(OBJECTIVES)}')
  for name, settings in config.items():
    if name not in OBJECTIVES:
      raise UserError(f'objective {name!r} is unknown; known: {", ".join(OBJECTIVES)}')
    known = ['weight', *list(inspect.signature(OBJECTIVES[name]).parameters)[2:]]
    if unknown := sorted(set(settings) - set(known)):
      raise UserError(f'objective {name!r} has no setting {unknown[0]!r}; it has {", ".join(known)}')

  def loss_fn(outputs, batch):
    total, metrics = 0.0, {}
    for name, settings in config.items():
      settings = dict(settings)
      weight = settings.pop('weight', 1.0)
      loss, own_metrics = OBJECTIVES[name](outputs, batch, **settings)
      total += weight * loss
      metrics |= {f'{name}/{key}': value for key, value in {'loss': loss, **own_metrics}.items()}
    return total, {'loss': total, **metrics}

  return loss_fn
