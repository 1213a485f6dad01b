"""Recognition by the nearest clips of a training split."""

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.evaluators import answers, ranks
from tvts_jax.evaluators.features import FEATURES, pooled
from tvts_jax.evaluators.frozen import Frozen, classified


class KNN(Frozen):
  """top1, top5 and the mean over classes; each of the k nearest votes for its class with exp(cosine / temperature)."""

  OWN = {'train_split': 'train', 'features': 'cls', 'k': 20, 'temperature': 0.07}
  CHOICES = {'features': FEATURES}

  @classmethod
  def settings_of(cls, config, settings):
    values, input = super().settings_of(config, settings)
    if type(values['k']) is not int or values['k'] < 1 or not values['temperature'] > 0:
      raise UserError(f'k={values["k"]!r} must be a number of clips, and temperature={values["temperature"]!r} above 0')
    return values, input

  def result(self, params):
    kind, k = self.settings['features'], self.settings['k']
    train = answers.look(self.train_clips, self.answers.rows[self.settings['train_split']], params)
    seen = self.look(params)
    feature_RxD, train_NxD = (pooled(split.features[kind]) for split in (seen, train))
    label_N, classes = self.answers.labels(train.rows), len(self.answers.classes)
    votes_RxK = vote(feature_RxD, train_NxD, label_N, classes, k, self.settings['temperature'])
    metrics, items = classified(votes_RxK, self.answers, seen)
    protocol = [
      f'{k} nearest of {len(train.rows)} clips of split {self.settings["train_split"]} by cosine of {kind}',
      f'votes weighted by exp(cosine / {self.settings["temperature"]})',
    ]
    return self.make(metrics, seen, protocol, items)


def vote(feature_RxD, train_NxD, label_N, classes: int, k: int, temperature: float) -> np.ndarray:
  """Votes, float64 [R, K]. Clips that tie for the last of the k places share what is left of them."""
  of_class_NxK, k = np.eye(classes)[label_N], min(k, len(train_NxD))
  parts = []
  for _, scores_QxN in ranks.similarities(feature_RxD, train_NxD):
    last_Qx1 = np.partition(scores_QxN, -k, axis=1)[:, -k, None]
    above_QxN, level_QxN = scores_QxN > last_Qx1, scores_QxN == last_Qx1
    share_Qx1 = (k - above_QxN.sum(1, keepdims=True)) / level_QxN.sum(1, keepdims=True)
    weight_QxN = above_QxN + share_Qx1 * level_QxN
    parts.append((weight_QxN * np.exp((scores_QxN - 1.0) / temperature)) @ of_class_NxK)
  return np.concatenate(parts)
