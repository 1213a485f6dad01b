"""A table of one's own, JSONL, CSV or TSV: id, and as far as they are there video, split, label, class, caption.

video: path below the folder of the media; without one, the id. split: 'test' where none is given. label: a number from
0, or the name of the class. class: its name; without labels, classes are numbered by name. captions: several, in JSONL.
"""

from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources import tables
from data.sources.items import SourceError
from data.sources.tables import text


def read(files: Files, number: int) -> Found:
  rows = []
  for where, row in tables.rows(files.ending('.jsonl', '.jsonl.gz', '.csv', '.tsv')):
    fields = {key: text(row, key, where) for key in ('id', 'video', 'split', 'label', 'class', 'caption')}
    if not fields['id']:
      raise SourceError('bad_table', f'{where}: id is missing')
    several = row.get('captions', [])
    if not isinstance(several, list) or not all(isinstance(caption, str) for caption in several):
      raise SourceError('bad_table', f'{where}: captions must be a list of texts, not {str(several)[:60]!r}')
    rows.append((where, fields, ((fields['caption'],) if fields['caption'] else ()) + tuple(several)))
  numbered = any((fields['label'] or '').isdecimal() for _, fields, _ in rows)
  names = {fields['class'] or fields['label'] for _, fields, _ in rows} - {None}
  numbers = {name: i for i, name in enumerate(sorted(names))}
  for where, fields, captions in rows:
    label, name = fields['label'], fields['class']
    if not numbered:
      name = name or label
      label = numbers.get(name)
    elif label is not None:
      if not label.isdecimal():
        raise SourceError('bad_table', f'{where}: label is {label[:60]!r}, and those of other lines are numbers')
      label = int(label)
    yield where, Clip(fields['id'], fields['split'] or 'test', fields['video'] or fields['id'], label, name, captions)


BENCHMARK = Benchmark(
  layout='one .jsonl, .csv or .tsv: id, video, split, label or class, caption', read=read, sizes=({},)
)
