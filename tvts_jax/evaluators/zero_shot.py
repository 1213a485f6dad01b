"""Zero-shot recognition: which class is named by the text that is nearest to a clip?"""

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.evaluators import ranks
from tvts_jax.evaluators.features import pooled
from tvts_jax.evaluators.frozen import Frozen, classified


class ZeroShot(Frozen):
  """top1, top5 and the mean over classes. A class is the mean direction of its texts: every name in every prompt."""

  OWN = {
    'prompts': ('{}',),  # Each has a place for the name.
    'names': {},  # Other names for some classes: a text or several.
  }
  EMBEDS_TEXTS = True

  @classmethod
  def settings_of(cls, config, settings):
    values, input = super().settings_of(config, settings)
    values['prompts'] = as_tuple(values['prompts'])
    if bad := next((prompt for prompt in values['prompts'] if prompt.count('{}') != 1), None):
      raise UserError(f'the prompt {bad!r} should have one {{}}, where the name of the class goes')
    if not values['prompts']:
      raise UserError('prompts is empty; leave it out for the bare names')
    return values, input

  def __init__(self, config, settings, model, mesh):
    super().__init__(config, settings, model, mesh)
    if unknown := sorted(set(self.settings['names']) - set(self.answers.classes)):
      raise UserError(
        f'names has {unknown[0]!r}, which is no class; classes are {", ".join(self.answers.classes[:20])}'
      )
    self.texts_of = class_texts(self.answers.classes, self.settings['names'], self.settings['prompts'])

  def result(self, params):
    seen = self.look(params)
    texts = [text for given in self.texts_of for text in given]
    text_TxC, first = ranks.unit(self.embed(params, texts)), np.cumsum([0, *map(len, self.texts_of)])[:-1]
    class_KxC = np.add.reduceat(text_TxC, first)
    scores_RxK = np.concatenate([s for _, s in ranks.similarities(pooled(seen.features['embed']), class_KxC)])
    prompts = ', '.join(map(repr, self.settings['prompts'][:3]))
    protocol = [f'{len(first)} classes', f'prompts {prompts}', self.embed.says(texts), 'cosine in the common space']
    metrics, items = classified(scores_RxK, self.answers, seen)
    return self.make(metrics, seen, protocol, items)


def as_tuple(texts) -> tuple[str, ...]:
  return (texts,) if isinstance(texts, str) else tuple(texts)


def class_texts(classes: list[str], names: dict, prompts: tuple[str, ...]) -> list[list[str]]:
  """What is said for each class."""
  said = [as_tuple(names.get(name, name)) for name in classes]
  if nameless := next((k for k, given in enumerate(said) if not all(given)), None):
    raise UserError(f'class {nameless} has no name; give the annotations "class"')
  return [[prompt.replace('{}', name) for name in given for prompt in prompts] for given in said]
