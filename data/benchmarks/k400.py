"""Kinetics-400. Labels number the classes by name, as everybody's do, over all lists that are there.

Clips are named ID_FFFFFF_TTTTTT after their seconds, in folders of their classes, with blanks or underscores.
"""

from data.benchmarks.clips import Benchmark, Clip, Files, Found, whole
from data.sources import tables
from data.sources.items import SourceError

SPLITS = {'train': 'train', 'val': 'val', 'validate': 'val', 'test': 'test'}
LIST = r'(?:kinetics[_-]?(?:400)?[_-])?(train|val|validate|test)\.csv'


def read(files: Files, number: int) -> Found:
  lists = files.matching(LIST)
  if not lists:
    raise SourceError('no_source', f'{files.path} holds no kinetics_train.csv, kinetics_val.csv or the like')
  rows = [(split, where, row) for split, path in lists.items() for where, row in tables.rows(path)]
  labels = {name: i for i, name in enumerate(sorted({row['label'] for _, _, row in rows if 'label' in row}))}
  for split, where, row in rows:
    for column in ('youtube_id', 'time_start', 'time_end'):
      if column not in row:
        raise SourceError('bad_table', f'{where}: {column} is missing')
    start, end = (whole(row[column], where) for column in ('time_start', 'time_end'))
    id, name = f'{row["youtube_id"]}_{start:06d}_{end:06d}', row.get('label')
    yield where, Clip(id, SPLITS[split], f'{name}/{id}' if name else id, labels.get(name), name)


BENCHMARK = Benchmark(
  layout='kinetics_{train,val,test}.csv: label, youtube_id, time_start, time_end',
  read=read,
  sizes=({'train': 240_436, 'val': 19_796},),
  classes=400,
)
