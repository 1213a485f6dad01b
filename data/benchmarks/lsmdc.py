"""LSMDC: six columns without a header, between tabs, in which a quote is a quote. A clip may have several sentences."""

from collections import defaultdict

from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources import tables
from data.sources.items import SourceError

LISTS = {
  'train': 'LSMDC16_annos_training.csv',
  'val': 'LSMDC16_annos_val.csv',
  'test': 'LSMDC16_challenge_1000_publictect.csv',
}
COLUMNS = ['clip', 'start_aligned', 'end_aligned', 'start_extracted', 'end_extracted', 'sentence']


def read(files: Files, number: int) -> Found:
  found = {split: files.find(name) for split, name in LISTS.items()}
  if not any(found.values()):
    raise SourceError('no_source', f'{files.path} holds no {" or ".join(LISTS.values())}')
  for split, path in found.items():
    sentences, places = defaultdict(list), {}
    for where, row in tables.rows(path, COLUMNS) if path else ():
      if 'clip' not in row or 'sentence' not in row:
        raise SourceError('bad_table', f'{where}: {"sentence" if "clip" in row else "clip"} is missing')
      sentences[row['clip']].append(row['sentence'])
      places.setdefault(row['clip'], where)
    for id, of_clip in sentences.items():
      # Clips lie in folders of their movies: what is before the times in their names.
      yield places[id], Clip(id, split, f'{id.rpartition("_")[0]}/{id}'.lstrip('/'), captions=tuple(of_clip))


BENCHMARK = Benchmark(
  layout=', '.join(LISTS.values()), read=read, sizes=({'train': 101_079, 'val': 7_408, 'test': 1_000},)
)
