"""Something-Something V2. The class is the template without its brackets, the caption what a clip was asked to show.

Labels are the numbers in labels.json, which does not list them in order. The test split has none.
"""

import os

from data.benchmarks import clips
from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources.items import SourceError
from data.sources.tables import text

SPLITS = {'train': 'train', 'validation': 'val', 'test': 'test'}
PREFIX = 'something-something-v2-'
LIST = r'(?:.*[_-])?(train|val|validation|test)(?:[_-].*)?\.txt'


def read(files: Files, number: int) -> Found:
  lists = {split: files.find(f'{name}.json', f'{PREFIX}{name}.json') for name, split in SPLITS.items()}
  if any(lists.values()):
    path = files.get('labels.json', f'{PREFIX}labels.json')
    labels = read_labels(path)
    for split, at in lists.items():
      for where, entry in clips.entries(at) if at else ():
        yield where, clip(entry, split, labels, where, path)
    return
  found = files.matching(LIST)
  if os.path.isfile(files.path) and not found:
    raise SourceError('no_source', f'{files.path} does not say in its name whether it is train, val or test')
  if not found:
    raise SourceError('no_source', f'{files.path} holds no train.json, {PREFIX}train.json or list like val.txt')
  path = files.find('labels.json', f'{PREFIX}labels.json')
  names = {number: name for name, number in read_labels(path).items()} if path else {}
  for split, at in found.items():
    for where, line in clips.lines(at):
      video, label = path_and_label(line, where)
      if names and label not in names:
        raise SourceError('bad_table', f'{where}: {path} has no label {label}')
      yield where, Clip(clips.stem(video), SPLITS.get(split, split), video, label, names.get(label))


def clip(entry, split, labels, where, path):
  id, template = text(entry, 'id', where), text(entry, 'template', where)
  if not id:
    raise SourceError('bad_table', f'{where}: has no id')
  if not template:
    return Clip(id, split, id)
  name = template.replace('[', '').replace(']', '')
  if name not in labels:
    raise SourceError('bad_table', f'{where}: the class {name!r} of clip {id} is not in {path}')
  caption = text(entry, 'label', where)
  return Clip(id, split, id, labels[name], name, (caption,) if caption else ())


def read_labels(path) -> dict[str, int]:
  """Name → number."""
  content = clips.load(path)
  if not isinstance(content, dict):
    raise SourceError('bad_table', f'{path} holds no classes with their numbers')
  return {name: clips.whole(str(number), f'{path}, {name!r}') for name, number in content.items()}


def path_and_label(line, where):
  fields = line.replace(',', ' ').split()
  if len(fields) != 2:
    raise SourceError('bad_table', f'{where}: {len(fields)} fields where a video and a label are expected')
  return fields[0], clips.whole(fields[1], where)


BENCHMARK = Benchmark(
  layout=f'{{train,validation,test}}.json and labels.json, with {PREFIX} before each or without, or lists *train*.txt, '
  '*val*.txt of a path and a label a line',
  read=read,
  sizes=({'train': 168_913, 'val': 24_777, 'test': 27_157},),
  classes=174,
)
