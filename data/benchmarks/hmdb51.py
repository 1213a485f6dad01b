"""HMDB-51. A file for each class and split: the clips with 1 are for training, 2 for the test, 0 for neither.

Labels number the classes by name. Names of clips hold blanks, #, &, ( and ;.
"""

from data.benchmarks import clips
from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources.items import SourceError

SPLITS = {'1': 'train', '2': 'test', '0': None}


def read(files: Files, number: int) -> Found:
  lists = files.matching(rf'(.+)_test_split{number}\.txt')
  if not lists:
    raise SourceError('no_source', f'{files.path} holds no CLASS_test_split{number}.txt')
  for label, (name, path) in enumerate(lists.items()):
    for where, line in clips.lines(path):
      video, _, use = line.rpartition(' ')
      if use not in SPLITS:
        raise SourceError('bad_table', f'{where}: ends in {use[:60]!r}, not in 0, 1 or 2')
      if split := SPLITS[use]:
        video = f'{name}/{video.strip()}'
        yield where, Clip(f'{name}/{clips.stem(video)}', split, video, label, name.replace('_', ' '))


BENCHMARK = Benchmark(
  layout='CLASS_test_splitN.txt for each class', read=read, sizes=3 * ({'train': 3_570, 'test': 1_530},), classes=51
)
