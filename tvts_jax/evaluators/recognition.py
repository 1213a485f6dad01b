"""Recognition by the classifier that the run itself trains (Tables 5 and 7): the objective `classify`."""

import jax
import jax.numpy as jnp

from tvts_jax.errors import UserError
from tvts_jax.evaluators import answers
from tvts_jax.evaluators.features import everywhere
from tvts_jax.evaluators.frozen import Frozen, classified
from tvts_jax.evaluators.probes import AVERAGES, averaged
from tvts_jax.models import tvts
from tvts_jax.shards import annotations


class Recognition(Frozen):
  """top1, top5 and the mean over classes. Annotations and label are those that the run is trained with."""

  OWN = {'average': 'softmax'}
  CHOICES = {'average': AVERAGES}

  @classmethod
  def settings_of(cls, config, settings):
    if 'classify' not in config.objectives:
      raise UserError('the evaluator Recognition asks the classifier of the objective classify, which the run lacks')
    given = config.input
    return super().settings_of(config, {'annotations': given.annotations, 'label': given.label, **settings})

  def __init__(self, config, settings, model, mesh):
    self.trained_on, self.classes = config.input.split, config.objectives['classify'].get('classes', 0)
    super().__init__(config, settings, model, mesh)

    def score(params, batch):
      # Of the rest of the model nothing is read, so nothing is computed; but it has to have something to read.
      absent = tvts.batch_spec(model.config, *batch['positions'].shape, 1)
      batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in absent.items()} | batch
      return {'logits': model.apply(params, batch)['class_logits'], 'valid': batch['valid']}

    self.score = jax.jit(score, out_shardings=everywhere(mesh))

  def read(self, splits):
    found = super().read((self.trained_on, *splits))
    known = annotations.answers(found.path, (self.trained_on,), self.settings['label']).classes
    if found.classes != known:
      strange = sorted(set(found.classes) - set(known))
      raise UserError(
        f'{found.path}: {len(strange)} classes of split {splits[-1]!r}, {strange[0]!r} the first, are none of those of '
        f'split {self.trained_on!r}, which the run is trained on'
      )
    if len(known) != self.classes:
      raise UserError(
        f'{found.path} has {len(known)} classes, but objectives.classify.classes={self.classes}; set it to {len(known)}'
      )
    return found

  def result(self, params):
    found, how = self.clips.see(self.score, params, 'logits'), self.settings['average']
    seen = answers.pick(found, self.clips, self.rows)
    scores_RxK = averaged(seen.features['logits'], how)
    metrics, items = classified(scores_RxK, self.answers, seen)
    protocol = [f'classifier of {self.classes} classes', f'views averaged in {how}']
    return self.make(metrics, seen, protocol, items)
