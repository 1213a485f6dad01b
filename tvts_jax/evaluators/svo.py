"""SVO-Probes (Table 11): does a sentence fit its image better than one of another subject, verb or object?

The clips are images, and `pairs` in annotations.jsonl says which sentence goes with which two of them. Sentences whose
images differ in more than one of the three are left out, as the official score does.
"""

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.evaluators import answers, ranks
from tvts_jax.evaluators.features import STORE, pooled
from tvts_jax.evaluators.frozen import Frozen
from tvts_jax.evaluators.results import Result
from tvts_jax.shards.annotations import NEGATED

IMAGES = ('positive', 'negative')


class SVO(Frozen):
  """For each threshold rho and each kind of negation:

  precision  of all images, right or wrong, whose cosine exceeds rho, the share of right ones (the paper)
  recall     the share of right images whose cosine exceeds rho: without it a precision says little
  accuracy   the mean of how many right images exceed rho and how many wrong ones don't, each sentence and image
             counted once (SVO-Probes)

  Images are gone from the web, so both are of the pairs whose two images are there, and `coverage` is their share.
  """

  OWN = {'thresholds': (0.2, 0.25, 0.3)}
  EMBEDS_TEXTS = True

  @classmethod
  def settings_of(cls, config, settings):
    values, input = super().settings_of(config, settings)
    rhos = values['thresholds']
    if not isinstance(rhos, tuple) or not rhos or not all(isinstance(rho, int | float) for rho in rhos):
      raise UserError(f'thresholds={rhos!r} should be cosines, such as (0.2, 0.25, 0.3)')
    return values, input

  def read(self, splits):
    found = super().read(splits)
    self.pairs = [
      {'positive': row['id'], **pair, 'negated': pair['negated'][0]}
      for row in found.rows[splits[0]]
      for pair in row.get('pairs', ())
      if len(pair['negated']) == 1
    ]
    if not self.pairs:
      raise UserError(f'{found.path} has no pairs in split {splits[0]!r} that differ in one of {", ".join(NEGATED)}')
    return found

  @property
  def ids(self):
    return {pair[name] for pair in self.pairs for name in IMAGES}

  def result(self, params):
    pairs, found = self.pairs, STORE.features(self.clips, params)
    images = [pair[name] for pair in pairs for name in IMAGES]
    place_Px2 = answers.where(images, self.clips, found['valid'].all(axis=1)).reshape(-1, 2)
    there_P = (place_Px2 >= 0).all(axis=1)
    if not there_P.any():
      raise UserError(f'not one of {len(pairs)} pairs has both of its images in {self.clips}')
    sentences = sorted({pair['sentence'] for pair in pairs})
    number = {sentence: n for n, sentence in enumerate(sentences)}
    text_TxC = ranks.unit(self.embed(params, sentences))
    text_PxC = text_TxC[[number[pair['sentence']] for pair in pairs]]
    image_Px2xC = ranks.unit(pooled(found['embed'])[place_Px2])
    cosine_Px2 = np.einsum('pc,pic->pi', text_PxC, image_Px2xC).astype(np.float32)
    metrics = {'coverage': float(there_P.mean())}
    kind_P = np.array([pair['negated'] for pair in pairs])
    for name in (*NEGATED, 'all'):
      kept_P = there_P & ((kind_P == name) | (name == 'all'))
      kept = [pair for pair, there in zip(pairs, kept_P) if there]
      metrics[f'{name}/pairs'] = len(kept)
      if kept:
        metrics |= {f'{name}/{key}': value for key, value in self.scores(kept, cosine_Px2[kept_P]).items()}
    items = [
      {**pair, 'cosine_positive': float(positive), 'cosine_negative': float(negative)}
      for pair, (positive, negative), there in zip(pairs, cosine_Px2, there_P)
      if there
    ]
    protocol = [
      type(self).__name__,
      f'{len(pairs)} pairs of {self.clips}{self.bounded}, {int(there_P.sum())} with both images',
      self.embed.says(sentences),
      'cosine > rho',
      str(self.clips.views),
    ]
    missing = tuple(sorted({image for image, place in zip(images, place_Px2.ravel()) if place < 0}))
    return Result(metrics, len(pairs), int(there_P.sum()), '; '.join(protocol), items, missing)

  def scores(self, pairs: list[dict], cosine_Px2: np.ndarray) -> dict[str, float]:
    """Of pairs whose images are all there."""
    found = {}
    # The first pair of each sentence and image.
    asked = [[(pair['sentence'], pair[name]) for pair in pairs] for name in IMAGES]
    once = [np.unique(np.array(keys), axis=0, return_index=True)[1] for keys in asked]
    for rho in self.settings['thresholds']:
      above_Px2 = cosine_Px2 > rho
      if above_Px2.any():
        found[f'precision_{rho:g}'] = float(above_Px2[:, 0].sum() / above_Px2.sum())
      found[f'recall_{rho:g}'] = float(above_Px2[:, 0].mean())
      right, wrong = (above_Px2[once[i], i].mean() for i in (0, 1))
      found[f'accuracy_{rho:g}'] = float((right + 1 - wrong) / 2)
    return found
