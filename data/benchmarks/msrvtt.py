"""MSR-VTT, split 1k-A: 9000 videos with all their captions to train on, 1000 with one given caption each to test on.

There is no validation split: what other code calls so is the test split.
"""

from collections import defaultdict

from data.benchmarks import clips, pickles
from data.benchmarks.clips import Benchmark, Clip, Files, Found
from data.sources import tables
from data.sources.items import SourceError
from data.sources.tables import text


def read(files: Files, number: int) -> Found:
  if path := files.find('MSRVTT_data.json'):
    captions = read_captions(path, 'sentences', 'video_id')
    for where, row in tables.rows(files.get('MSRVTT_train.9k.csv')):
      yield clip('train', where, text(row, 'video_id', where), captions, path)
    for where, row in tables.rows(files.get('MSRVTT_JSFUSION_test.csv')):
      id, sentence = text(row, 'video_id', where), text(row, 'sentence', where)
      if not sentence:
        raise SourceError('bad_table', f'{where}: sentence is missing')
      yield clip('test', where, id, {id: [sentence]}, path)
    return
  path = files.get('MSR_VTT.json')
  captions = read_captions(path, 'annotations', 'image_id')
  for where, id in clips.lines(files.get('train_list_jsfusion.txt')):
    yield clip('train', where, id, captions, path)
  given = files.get('jsfusion_val_caption_idx.pkl')
  chosen = pickles.load(given)
  for where, id in clips.lines(files.get('val_list_jsfusion.txt')):
    which = chosen.get(id)
    if type(which) is not int or not 0 <= which < len(captions.get(id, ())):
      raise SourceError('bad_table', f'{where}: {given} chooses no caption of {id!r} that is in {path}')
    yield clip('test', where, id, {id: [captions[id][which]]}, path)


def read_captions(path, key, of) -> dict[str, list[str]]:
  """Of each video, in the order of the file, which the pickle counts by."""
  found = defaultdict(list)
  for where, entry in clips.entries(path, key):
    id, caption = text(entry, of, where), text(entry, 'caption', where)
    if not id or caption is None:
      raise SourceError('bad_table', f'{where}: {of} or caption is missing')
    found[id].append(caption)
  return found


def clip(split, where, id, captions, path):
  if not id:
    raise SourceError('bad_table', f'{where}: video_id is missing')
  if id not in captions:
    raise SourceError('bad_table', f'{where}: {path} has no caption of {id!r}')
  return where, Clip(id, split, id, captions=tuple(captions[id]))


BENCHMARK = Benchmark(
  layout='MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv; or MSR_VTT.json, '
  '{train,val}_list_jsfusion.txt, jsfusion_val_caption_idx.pkl',
  read=read,
  sizes=({'train': 9_000, 'test': 1_000},),
)
