"""DiDeMo as paragraph retrieval: all sentences of a video joined, in the order of the file, for the whole video.

The lists name some videos twice, with two endings (and some with none): only without their endings are there as many
as the paper counts.
"""

from collections import defaultdict

from data.benchmarks import clips
from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources.items import SourceError
from data.sources.tables import text


def read(files: Files, number: int) -> Found:
  found = {split: files.find(f'{split}_data.json') for split in ('train', 'val', 'test')}
  if not any(found.values()):
    raise SourceError('no_source', f'{files.path} holds no train_data.json, val_data.json or test_data.json')
  for split, path in found.items():
    sentences, places = defaultdict(list), {}
    for where, entry in clips.entries(path) if path else ():
      id, sentence = text(entry, 'video', where), text(entry, 'description', where)
      if not id or not sentence:
        raise SourceError('bad_table', f'{where}: {"description" if id else "video"} is missing')
      sentences[video(id)].append(sentence.strip())
      places.setdefault(video(id), where)
    # Lists leave out videos that were lost before others agreed on them.
    listed = files.find(f'{split}_list.txt')
    kept = {video(id) for _, id in clips.lines(listed)} if listed else sentences
    for id, of_video in sentences.items():
      if id in kept:
        yield places[id], Clip(id, split, id, captions=(' '.join(of_video),))


def video(name):
  return name.rpartition('.')[0] or name


BENCHMARK = Benchmark(
  layout='{train,val,test}_data.json, and {train,val,test}_list.txt if need be',
  read=read,
  sizes=({'train': 8_395, 'val': 1_065, 'test': 1_004},),
)
