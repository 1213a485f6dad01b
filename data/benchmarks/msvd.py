"""MSVD, about 40 captions a video. All are kept, each apart: whether every one is a query, as CLIP4Clip has it, or all
of a video together are one, is a setting of the evaluator.
"""

from data.benchmarks import clips
from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources.items import SourceError


def read(files: Files, number: int) -> Found:
  from data.benchmarks import pickles  # Which brings JAX with it, and everybody else does without.

  path = files.get('raw-captions.pkl')
  captions = pickles.load(path)
  found = {split: files.find(f'{split}_list.txt') for split in ('train', 'val', 'test')}
  if not any(found.values()):
    raise SourceError('no_source', f'{files.path} holds no train_list.txt, val_list.txt or test_list.txt')
  for split, at in found.items():
    for where, id in clips.lines(at) if at else ():
      if not is_list_of(captions.get(id), list) or not all(is_list_of(words, str) for words in captions[id]):
        raise SourceError('bad_table', f'{where}: {path} has no captions of {id!r}, as lists of words')
      yield where, Clip(id, split, id, captions=tuple(' '.join(words) for words in captions[id]))


def is_list_of(value, kind):
  return isinstance(value, list) and bool(value) and all(isinstance(part, kind) for part in value)


BENCHMARK = Benchmark(
  layout='raw-captions.pkl, of which nothing is run, {train,val,test}_list.txt',
  read=read,
  sizes=({'train': 1_200, 'val': 100, 'test': 670},),
)
