"""Video-to-video retrieval (Table 4): every clip asks for the others of its class."""

from tvts_jax.evaluators import ranks
from tvts_jax.evaluators.features import FEATURES, pooled
from tvts_jax.evaluators.frozen import Frozen


class VideoRetrieval(Frozen):
  """r1, r5, r10: is a clip of the query's class among the first k by cosine, the query itself left out?"""

  OWN = {'features': 'cls'}
  CHOICES = {'features': FEATURES}

  def result(self, params):
    seen, kind = self.look(params), self.settings['features']
    label_R, feature_RxD = self.answers.labels(seen.rows), pooled(seen.features[kind])
    found = ranks.of_features(feature_RxD, feature_RxD, label_R, label_R, itself=True)
    items = [
      {'id': row['id'], 'label': row['label'], 'rank': float(rank), 'hit': float(hit)}
      for row, rank, hit in zip(seen.rows, found.ranks, found.hits(1))
    ]
    protocol = [
      f'cosine of {kind}',
      'all clips are queries and gallery, the query itself left out',
      'hit if of its class',
    ]
    return self.make(ranks.recalls(found.with_missing(len(seen.missing))), seen, protocol, items)
