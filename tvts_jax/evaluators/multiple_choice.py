"""Multiple choice: which of the texts that a clip is offered fits it?"""

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.evaluators import ranks
from tvts_jax.evaluators.features import pooled
from tvts_jax.evaluators.frozen import Frozen, classified
from tvts_jax.evaluators.zero_shot import class_texts
from tvts_jax.shards import annotations


class MultipleChoice(Frozen):
  """top1: the right text has the highest cosine of those offered. `label` names the field with its number, from 0."""

  OWN = {
    'choices': '',  # A field with the texts that a clip is offered; without, all class names, as for SSV2.
  }
  EMBEDS_TEXTS = True

  def read(self, splits):
    found = super().read(splits)
    rows, name = found.rows[splits[0]], self.settings['choices']
    if not name:
      classes = [text for texts in class_texts(found.classes, {}, ('{}',)) for text in texts]
      self.offered = dict.fromkeys((row['id'] for row in rows), classes)
      return found
    self.offered = {row['id']: annotations.texts(row, name, found.path) for row in rows}
    for row, label in zip(rows, found.labels(rows)):
      if (count := len(self.offered[row['id']])) <= label:
        raise UserError(f'{found.path}: label {label} of {row["id"]!r} should count its {count} {name} from 0')
    return found

  def result(self, params):
    seen = self.look(params)
    texts = sorted({text for given in self.offered.values() for text in given})
    number, text_TxC = {text: n for n, text in enumerate(texts)}, self.embed(params, texts)
    most = max(map(len, self.offered.values()))
    scores_RxK = np.full((len(seen.rows), most), -np.inf, np.float32)
    for first, block in ranks.similarities(pooled(seen.features['embed']), text_TxC):
      for nth, scores_T in enumerate(block, first):
        offered = [number[text] for text in self.offered[seen.rows[nth]['id']]]
        scores_RxK[nth, : len(offered)] = scores_T[offered]
    metrics, items = classified(scores_RxK, self.answers, seen, self.offered)
    chance = float(np.mean([1 / len(self.offered[row['id']]) for row in self.rows]))
    said = f'one of up to {most} texts, by cosine in the common space; chance {chance:.4f}'
    return self.make({'top1': metrics['top1'], 'chance': chance}, seen, [said, self.embed.says(texts)], items)
