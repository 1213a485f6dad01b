"""SVO-Probes: sentences with an image that they are true of and one that differs in subject, verb or object.

The clips are the images, named by their numbers: 17.jpg. One that no sentence is true of is described by its triplet.
"""

from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources import tables
from data.sources.items import SourceError
from data.sources.tables import text
from tvts_jax.media.paths import IMAGES

FLAGS = {'subj_neg': 'subj', 'verb_neg': 'verb', 'obj_neg': 'obj'}
SAYS = {'true': True, '1': True, 'false': False, '0': False, None: False}


def read(files: Files, number: int) -> Found:
  places, triplets, sentences, pairs = {}, {}, {}, {}
  for where, row in tables.rows(files.ending('.csv', '.tsv')):
    sentence, positive, negative, triplet = (
      text(row, column, where) for column in ('sentence', 'pos_image_id', 'neg_image_id', 'neg_triplet')
    )
    if not all((sentence, positive, negative, triplet)):
      raise SourceError('bad_table', f'{where}: sentence, pos_image_id, neg_image_id or neg_triplet is missing')
    for id in (positive, negative):
      places.setdefault(id, where)
    sentences.setdefault(positive, {})[sentence] = None
    triplets[negative] = triplet.replace(',', ' ')
    negated = [part for column, part in FLAGS.items() if flag(row, column, where)]
    pairs.setdefault(positive, []).append({'sentence': sentence, 'negative': negative, 'negated': negated})
  for id, where in places.items():
    captions = tuple(sentences.get(id) or (triplets[id],))
    yield where, Clip(id, 'test', id, captions=captions, pairs=tuple(pairs.get(id, ())))


def flag(row, column, where):
  value = row.get(column)
  key = value if value is None else str(value).lower()
  if key not in SAYS:
    raise SourceError('bad_table', f'{where}: {column} is {str(value)[:60]!r}, neither True nor False')
  return SAYS[key]


BENCHMARK = Benchmark(
  layout='svo_probes.csv; images as ID.jpg, ID.png or ID.webp', read=read, sizes=({'test': 14_102},), endings=IMAGES
)
