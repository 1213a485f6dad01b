"""Text-to-video and video-to-text retrieval (Tables 6 and 10) without any training."""

import numpy as np

from tvts_jax.evaluators import ranks
from tvts_jax.evaluators.features import pooled
from tvts_jax.evaluators.frozen import Frozen

# What a clip's captions become.
TEXTS = {
  'first': 'the first caption of each clip',
  'each': 'each caption by itself',
  'paragraph': 'all captions of a clip as one text',
  'mean': 'the mean of the captions of a clip, as transcripts are averaged in pre-training',
}


class TextRetrieval(Frozen):
  """t2v and v2t, each r1, r5, r10 and the median rank; a clip with several texts is hit by any of them."""

  OWN = {'texts': 'first'}
  EMBEDS_TEXTS = True
  CHOICES = {'texts': TEXTS}

  def result(self, params):
    seen, how = self.look(params), self.settings['texts']
    # Texts of clips that are missing still stand in the way of the others.
    rows = [*seen.rows, *seen.missing]
    clip_of_T, texts, text_TxC = self.read_texts(params, self.answers.captions(rows), how)
    clip_GxC, clip_G = pooled(seen.features['embed']), np.arange(len(seen.rows))
    # A missing clip has a number that none in the gallery has, so its texts rank behind the last.
    to_video = ranks.of_features(text_TxC, clip_GxC, clip_of_T, clip_G)
    to_text = ranks.of_features(clip_GxC, text_TxC, clip_G, clip_of_T)
    ways = {'t2v': to_video, 'v2t': to_text.with_missing(len(seen.missing))}
    metrics = {f'{way}_{name}': value for way, found in ways.items() for name, value in ranks.recalls(found).items()}
    items = [
      {'id': rows[clip]['id'], 'query': 'text', 'rank': float(rank)} for clip, rank in zip(clip_of_T, to_video.ranks)
    ] + [{'id': row['id'], 'query': 'video', 'rank': float(rank)} for row, rank in zip(seen.rows, to_text.ranks)]
    protocol = [f'{TEXTS[how]}: {len(text_TxC)} queries', self.embed.says(texts), 'cosine in the common space']
    return self.make(metrics, seen, protocol, items)

  def read_texts(self, params, captions: list[list[str]], how: str):
    """(the clip of each query, int64 [T]; all texts; their embeddings, float32 [T, C])."""
    clips = np.arange(len(captions))
    if how == 'first':
      texts = [given[0] for given in captions]
    elif how == 'paragraph':
      texts = [' '.join(given) for given in captions]
    else:
      texts = [text for given in captions for text in given]
      clips = np.repeat(clips, [len(given) for given in captions])
    embedded = self.embed(params, texts)
    if how == 'mean':
      first = np.flatnonzero(np.diff(clips, prepend=-1))
      embedded = np.add.reduceat(embedded, first) / np.diff(first, append=len(clips))[:, None]
      clips = clips[first]
    return clips, texts, embedded
