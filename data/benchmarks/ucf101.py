"""UCF-101. Lists and classInd.txt number the classes from 1, and lists of test clips not at all: the folder tells."""

import os
import re

from data.benchmarks import clips
from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources.items import SourceError


def read(files: Files, number: int) -> Found:
  path = files.get('classInd.txt')
  numbers = {}
  for where, line in clips.lines(path):
    count, _, name = line.partition(' ')
    numbers[name.strip()] = clips.whole(count, where)
  if sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
    raise SourceError('bad_table', f'{path} does not number its classes from 1 without holes')
  for split in ('train', 'test'):
    for where, line in clips.lines(files.get(f'{split}list{number:02d}.txt')):
      # Names of clips have no blanks, so what is behind one is the number of the class.
      video, _, count = line.partition(' ')
      folder = os.path.dirname(video)
      if folder not in numbers:
        raise SourceError('bad_table', f'{where}: {path} has no class {folder!r}')
      if count and clips.whole(count.strip(), where) != numbers[folder]:
        raise SourceError('bad_table', f'{where}: class {folder} has the number {count}, in {path} {numbers[folder]}')
      yield where, Clip(f'{folder}/{clips.stem(video)}', split, video, numbers[folder] - 1, in_words(folder))


def in_words(name: str) -> str:
  """ApplyEyeMakeup → Apply Eye Makeup."""
  return re.sub('(?<=[a-z])(?=[A-Z])', ' ', name)


BENCHMARK = Benchmark(
  layout='classInd.txt, trainlist0N.txt, testlist0N.txt',
  read=read,
  sizes=tuple({'train': train, 'test': 13_320 - train} for train in (9_537, 9_586, 9_624)),
  classes=101,
)
