"""Published datasets as they lie on people's disks: TVTS, YT-Temporal-180M, CC3M, WebVid, webdataset tars.

The finders have the shape of those in `data.sources.folders`.
"""

import os
import re

from data import archives
from data.outcomes import ItemError
from data.sources import folders, items, tables
from data.sources.folders import Found
from data.sources.items import Item, SourceError
from data.transcripts import formats
from tvts_jax.media import paths
from tvts_jax.media.paths import IMAGES, VIDEOS
from tvts_jax.shards import storage

MAX_CAPTION_BYTES = 1 << 20

SPLIT = re.compile(r'(?:^|[^a-z])(train|training|val|validation|test)(?:[^a-z]|$)', re.IGNORECASE)
CAPTION_COLUMNS = ('caption', 'text', 'name', 'title')
PATH_COLUMNS = ('path', 'filepath', 'image', 'video', 'file')
UNNAMED = ('caption', 'path', ['caption', 'path'])
WEBVID = {'videoid', 'page_dir', 'name'}


def tvts(path: str, media: str | None, lang: str | None) -> Found:
  """The tree that TVTS trains on: a csv of Name = subset_N/data/ID.mp4, with subset_N/annotations/ID.json."""
  for table in tvts_tables(path):
    videos = tvts_videos(table, media)
    for where, row in tables.rows(table):
      name = tables.text(row, 'Name', where) or ''
      parts = name.split('/')
      if len(parts) != 3 or '..' in parts or '' in parts:
        raise SourceError('bad_table', f'{where}: Name should look like subset_0/data/ID.mp4, not {name[:80]!r}')
      subset, id = parts[0], os.path.splitext(parts[2])[0]
      transcript = f'{videos}/{subset}/annotations/{id}.json'
      yield where, Item(id, f'{videos}/{name}', transcript, 'merlot', 'en', split_of(table), None)


def merlot(path: str, media: str | None, lang: str | None) -> Found:
  """yttemporal180m_*.jsonl(.gz) and a folder of videos named by id: the videos that are there are the items."""
  folder = media or (path if is_folder(path) else os.path.dirname(path))
  videos = {}
  for file in paths.videos_under(folder):
    id = os.path.splitext(os.path.basename(file))[0]
    if id in videos:
      raise SourceError('duplicate_id', f'{videos[id]} and {file} are both called {id!r}')
    videos[id] = file
  seen = set()
  for source in merlot_files(path):
    for offset, line in archives.lines(source, tables.MAX_LINE_BYTES):
      if not line.strip():
        continue
      where = f'{source}, byte {offset}'
      info = tables.parse_object(line, where).get('info')
      id = tables.text(info, 'id', where) if isinstance(info, dict) else None
      if not id:
        raise SourceError('bad_table', f'{where}: has no info.id')
      if id in videos:
        seen.add(id)
        yield where, Item(id, videos[id], f'{source}::{offset}', 'merlot', 'en', '', None)
  for id in videos.keys() - seen:
    yield videos[id], Item(id, videos[id], None, 'merlot', 'en', '', None)


def webdataset(path: str, media: str | None, lang: str | None) -> Found:
  """Tar files, uncompressed: KEY.mp4 or .jpg, with a caption (KEY.txt, KEY.json) or a transcript."""
  for tar in tars(path):
    samples = {}
    for name in paths.members(tar):
      folder, _, file = name.rpartition('/')
      if file.startswith('._'):  # As macOS packs what it keeps of a file apart from it.
        continue
      stem, _, ending = file.partition('.')
      samples.setdefault(f'{folder}/{stem}'.lstrip('/'), {})['.' + ending.lower()] = name
    prefix = os.path.splitext(os.path.basename(tar))[0]  # Keys often start anew in every tar.
    for key, parts in samples.items():
      name = next((parts[ending] for ending in (*VIDEOS, *IMAGES) if ending in parts), f'{key}.mp4')
      transcript, caption, spoken = described(tar, key, parts, lang)
      yield f'{tar}, {key}', Item(f'{prefix}/{key}', f'{tar}::{name}', transcript, None, spoken, '', caption)


def tvts_tables(path):
  """The tables of a TVTS tree, or the one that is given."""
  if is_folder(path):
    return inside(f'{path}/meta_data', 'yttemporal_*.csv') or inside(path, 'yttemporal_*.csv')
  return [path] if tables.is_table(path) and 'Name' in tables.head(path) else []


def is_folder(path):
  return storage.path(path).is_dir()


def inside(folder, *patterns):
  files = (str(file) for pattern in patterns for file in storage.path(folder).glob(pattern))
  return sorted(file for file in files if not os.path.basename(file).startswith('.'))


def tvts_videos(table, media):
  folder = os.path.dirname(table)
  places = [media] if media else [f'{os.path.dirname(folder)}/data/YTTemporal', os.path.dirname(folder), folder]
  for place in places:
    if is_folder(f'{place}/videos'):
      return f'{place}/videos'
  if media:
    return media
  raise SourceError('no_source', f'{table} has no folder "videos" near it; say where it is with --media')


def split_of(path):
  found = SPLIT.search(os.path.basename(path))
  return {'training': 'train', 'validation': 'val'}.get(found[1].lower(), found[1].lower()) if found else ''


def merlot_files(path):
  if is_folder(path):
    return inside(path, 'yttemporal*.jsonl', 'yttemporal*.jsonl.gz')
  return [path] if tables.is_table(path) and {'subtitles', 'info'} <= set(tables.head(path)) else []


def tars(path):
  if is_folder(path):
    return inside(path, '*.tar')
  return [path] if path.endswith('.tar') else []


def columns_of(path):
  """(Caption column, path column, names for a table without a header)."""
  names = tables.head(path)
  caption = next((name for name in CAPTION_COLUMNS if name in names), None)
  place = next((name for name in PATH_COLUMNS if name in names), None)
  if caption and place:
    return caption, place, None
  return UNNAMED if len(names) == 2 else None


def captioned(path):
  """Whether a table lists captioned images, videos, or paths that don't tell; None where it is another table."""
  if not tables.is_table(path) or folders.is_index(path) or tvts_tables(path) or merlot_files(path):
    return None
  if set(tables.head(path)) >= WEBVID:
    return 'video'
  columns = columns_of(path)
  if columns is None:
    return None
  _, row = next(tables.rows(path, columns[2]), ('', {}))
  file = str(row.get(columns[1], '')).lower().split('?')[0]
  if 'webvid' in os.path.basename(path).lower() or file.endswith(VIDEOS):
    return 'video'
  return 'image' if 'cc3m' in os.path.basename(path).lower() or file.endswith(IMAGES) else 'either'


def captions(path: str, media: str | None, lang: str | None, ending: str) -> Found:
  """A table of caption and path, with column names or without, or WebVid's own csv; `ending`: of a path without one."""
  folder = media or os.path.dirname(path)
  own = set(tables.head(path)) >= WEBVID
  caption, *place, names = ('name', 'page_dir', 'videoid', None) if own else columns_of(path) or UNNAMED
  for where, row in tables.rows(path, names):
    parts = [tables.text(row, column, where) for column in (caption, *place)]
    if not all(parts):
      raise SourceError('bad_table', f'{where}: {(caption, *place)[parts.index(None)]} is missing')
    said, file = parts[0], '/'.join(parts[1:])
    stem, own_ending = os.path.splitext(file)
    known = own_ending.lower() in (*VIDEOS, *IMAGES)
    id = parts[-1] if own else stem if known else file
    video = items.resolve(folder, file if known else file + ending, where)
    yield where, Item(id, video, None, None, '', split_of(path), said)


def described(tar, key, parts, lang):
  """(Transcript, caption, language) of a sample whose files are {ending: name}."""
  found = [(ending[1:].rpartition('.'), name) for ending, name in parts.items()]
  timed = [(tag, f'.{kind}', name) for (tag, _, kind), name in found if f'.{kind}' in formats.endings()]
  timed = [(tag, kind, name) for tag, kind, name in timed if tag or kind != '.json']  # KEY.json may be anything.
  name, spoken = folders.choose(timed, lang, f'{tar}, {key}')
  if name:
    return f'{tar}::{name}', None, spoken
  readers = {'.txt': text_caption, '.json': json_caption}
  refs = {kind: f'{tar}::{parts[kind]}' for kind in readers if kind in parts}
  for kind, ref in refs.items():
    if (caption := readers[kind](ref)) is not None:
      return None, caption, ''
  # What holds no caption is left to its item: reading it as a transcript will say what is wrong with it.
  return next(iter(refs.values()), None), None, ''


def text_caption(ref):
  try:
    return archives.open_bytes(ref, MAX_CAPTION_BYTES, 'transcript').decode()
  except (ItemError, UnicodeDecodeError):
    return None


def json_caption(ref):
  """The caption in a sample's metadata; None if it is no such thing, but a transcript, or tries to be one."""
  try:
    content = formats.load(archives.open_bytes(ref, formats.MAX_BYTES, 'transcript'))[0]
  except ItemError:
    return None
  caption = content.get('caption') if isinstance(content, dict) else None
  return caption if isinstance(caption, str) and formats.matching(content) is None else None
